"""A stage: a pure function of its inputs' keys, its own settings, the data it reads, a seed, and the version of its code.

The key is the hash of exactly those; equal keys mean equal results, so a stage is computed once. Settings at their defaults are
not in it (see `edgesearch.spaces.identity`), nor is anything that a stage does not read: the seed of one that draws nothing,
the images of other splits, the place of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edgesearch.spaces import digest, without_paths

#: This program's kinds, in the order in which a candidate passes through them.
STAGE_KINDS = (
    *("teacher", "logits", "rung", "student", "sensitivity", "pruned"),
    *("quantized", "measured", "tested", "compiled", "on_board"),
)
#: Raised by one whenever several threads compute with other kernels, whose sums end in other last digits.
_KERNELS = 3  # 2: batch statistics of narrow layers by torch's kernel alone


@dataclass(frozen=True)
class Stage:
    """One step of a candidate's pipeline. `inputs` maps a role ("network", "teacher", ...) to the stage that fills it."""

    kind: str
    version: int  # of the kind's code: raised by one whenever it changes the result
    parameters: Mapping[str, Any]  # the kind's settings as JSON, without those at their defaults
    data: Mapping[str, str]  # part of the data set that is read (train, validation, ...) -> its fingerprint
    seed: int | None = None  # the study's; None where nothing is drawn
    threads: int = 1  # sums come out in another order, and so otherwise in the last digits, with another number of them
    inputs: Mapping[str, Stage] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """SHA-256, hexadecimal."""
        return digest(self.recipe())

    def recipe(self) -> dict[str, Any]:
        """What the key is the hash of."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "version": self.version,
            "inputs": {role: stage.key for role, stage in self.inputs.items()},
            "parameters": without_paths(dict(self.parameters)),
            "data": dict(self.data),
        }
        if self.seed is not None:
            content["seed"] = self.seed
        if self.threads != 1:
            content |= {"threads": self.threads, "kernels": _KERNELS}
        return content

    @property
    def random_seed(self) -> int:
        """The seed of this stage's random numbers, 0 .. 2**31 - 1: from the study's seed and the key, nothing else."""
        return int(hashlib.sha256(f"{self.seed} {self.key}".encode()).hexdigest()[:8], 16) & 0x7FFFFFFF

    def walk(self) -> Iterator[Stage]:
        """This stage and all it needs, inputs first, each once."""
        seen: set[str] = set()

        def visit(stage: Stage) -> Iterator[Stage]:
            if stage.key in seen:
                return
            for upstream in stage.inputs.values():
                yield from visit(upstream)
            seen.add(stage.key)
            yield stage

        return visit(self)

    def to_json(self) -> dict[str, Any]:
        """As JSON, to hand it to another process."""
        return {
            "kind": self.kind,
            "version": self.version,
            "parameters": dict(self.parameters),
            "data": dict(self.data),
            "seed": self.seed,
            "threads": self.threads,
            "inputs": {role: stage.to_json() for role, stage in self.inputs.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Stage:
        """The inverse of `to_json`."""
        inputs = {role: cls.from_json(stage) for role, stage in content["inputs"].items()}
        return cls(**{**content, "inputs": inputs})
