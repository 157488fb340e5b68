"""A stage: a pure function of its inputs' keys, its own parameters, a seed, the data and its version.

The key is the hash of exactly those; equal keys mean equal results, so a stage is computed once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

StageKind: TypeAlias = Literal["teacher", "logits", "student", "sensitivity", "pruned", "quantized", "measured", "tested"]

#: Raised by one whenever a stage's code changes its result; old artifacts are then no longer found.
VERSIONS: Mapping[StageKind, int] = {
    "teacher": 1,
    "logits": 1,
    "student": 1,
    "sensitivity": 1,
    "pruned": 1,
    "quantized": 3,
    "measured": 1,
    "tested": 1,
}


@dataclass(frozen=True)
class Stage:
    """One step of a candidate's pipeline. `inputs` maps a role ("student", "teacher", ...) to the stage that fills it."""

    kind: StageKind
    parameters: Mapping[str, Any]
    seed: int
    data: str  # the data set's fingerprint
    inputs: Mapping[str, Stage] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).hexdigest()

    def recipe(self) -> dict[str, Any]:
        """What the key is the hash of."""
        return {
            "kind": self.kind,
            "version": VERSIONS[self.kind],
            "inputs": {role: stage.key for role, stage in self.inputs.items()},
            "parameters": _identity(dict(self.parameters)),
            "seed": self.seed,
            "data": self.data,
        }

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
            "parameters": dict(self.parameters),
            "seed": self.seed,
            "data": self.data,
            "inputs": {role: stage.to_json() for role, stage in self.inputs.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Stage:
        """The inverse of `to_json`."""
        inputs = {role: cls.from_json(stage) for role, stage in content["inputs"].items()}
        return cls(content["kind"], content["parameters"], content["seed"], content["data"], inputs)


def _identity(parameters: Any) -> Any:
    """The parameters with every weights file named by its checksum instead of its path, so that it may be moved."""
    if not isinstance(parameters, Mapping):
        return parameters
    named = {name: _identity(value) for name, value in parameters.items()}
    if named.get("weights_sha256"):
        named["weights"] = ""
    return named
