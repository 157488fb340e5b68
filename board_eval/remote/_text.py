"""Words that come from a board, made fit for messages and records."""

from __future__ import annotations

__all__ = ["last_line", "printable"]

_MOST = 300


def printable(text: str, most: int = _MOST) -> str:
    """At most `most` characters without control characters, terminal sequences or broken Unicode."""
    plain = "".join(one if one.isprintable() else " " for one in text[: 4 * most])
    return " ".join(plain.split())[:most]


def last_line(output: bytes, *, otherwise: str = "no message") -> str:
    """The last line of an output that says something."""
    lines = [printable(line) for line in output.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), otherwise)
