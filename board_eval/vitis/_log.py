"""What the compiler's log says of its own accord: operations that it gave to the CPU, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Given", "given_to_cpu", "unsupported"]

_GIVEN = re.compile(
    r"xir::Op\{name = (?P<name>[^,}\n]+), type = (?P<kind>[^}\n]+)\}+[^\n]*?assigned to CPU(?:\s*[:.]\s*(?P<why>[^\n]*))?"
)
#: Words of a fatal error that is the network's, whatever is tried.
_UNSUPPORTED = re.compile(
    r"OP_UNSUPPORTED|not been implemented by target|(?:does|do|is|are)(?: not|n't) support|only supports?\b"
)
_FATAL = re.compile(r"\[UNILOG\]\[(?:FATAL|ERROR)\]|Check failed", re.IGNORECASE)
#: Conversions that the compiler itself puts between devices.
_CONVERSIONS = frozenset({"fix2float", "float2fix"})
_WIDTH = 300


@dataclass(frozen=True)
class Given:
    """An operation that the compiler gave to the CPU; `why` is "" where the log does not say."""

    name: str
    kind: str
    why: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.kind})" + (f": {self.why}" if self.why else "")


def given_to_cpu(log: str) -> list[Given]:
    """Operations that the log says the CPU was given, in its order."""
    found = [
        Given(m["name"].strip()[:_WIDTH], m["kind"].strip()[:50], _plain(m["why"] or "")[:_WIDTH]) for m in _GIVEN.finditer(log)
    ]
    return [given for given in found if given.kind not in _CONVERSIONS]


def unsupported(log: str) -> str:
    """The line in which the compiler ended because the DPU lacks something; "" where it ended otherwise."""
    for line in log.splitlines():
        if _FATAL.search(line) and _UNSUPPORTED.search(line):
            return " ".join(line.split())[:_WIDTH]
    return ""


def _plain(why: str) -> str:
    """A reason without its brackets."""
    why = " ".join(why.split()).rstrip(".")
    return why[1:-1].rstrip(".") if why[:1] + why[-1:] in ("[]", "()") else why
