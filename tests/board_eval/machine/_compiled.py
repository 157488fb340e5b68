"""What a compiled file holds of its program: as little of the protobuf format as that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Instruction, decode
from edgesearch.board_eval.targets import DPUS, Dpu, Fingerprint

_ROOT, _CHILDREN, _ATTRIBUTES = 10, 10, 5
_BYTES_MAP, _INT_MAP, _STRING_MAP = 27, 22, 26


@dataclass(frozen=True)
class Compiled:
    target: Dpu
    program: tuple[Instruction, ...]
    #: Register -> bytes.
    sizes: dict[int, int]
    parameters: npt.NDArray[np.uint8]

    def registers(self, seed: int, **contents: npt.NDArray[np.uint8]) -> dict[int, npt.NDArray[np.uint8]]:
        """Parameters in register 0, random bytes in all others, `rN` at the end of register N."""
        rng = np.random.default_rng(seed)
        found = {number: rng.integers(0, 256, size, dtype=np.uint8) for number, size in self.sizes.items()}
        found[0] = self.parameters
        for name, content in contents.items():
            found[int(name[1:])][-content.size :] = content.reshape(-1)
        return found


def read_compiled(path: Path) -> Compiled:
    root = dict(_fields(path.read_bytes()))[_ROOT]
    for number, child in _fields(root):
        if number == _CHILDREN:
            attributes = _attributes(child)
            if attributes.get("device") == b"DPU":
                break
    (parameters,) = attributes["reg_id_to_parameter_value"].values()
    return Compiled(
        target=DPUS[Fingerprint(attributes["dpu_fingerprint"]).size],
        program=decode(attributes["mc_code"]),
        sizes={int(name[4:]): size for name, size in attributes["reg_id_to_size"].items()},
        parameters=np.frombuffer(parameters, np.uint8),
    )


def _attributes(message: bytes) -> dict[str, Any]:
    entries = (dict(_fields(entry)) for number, entry in _fields(message) if number == _ATTRIBUTES)
    return {entry[1].decode(): _value(entry.get(2, b"")) for entry in entries}


def _value(message: bytes) -> Any:
    for number, content in _fields(message):
        if number in (_BYTES_MAP, _INT_MAP, _STRING_MAP):
            entries = [dict(_fields(entry)) for _, entry in _fields(content)]
            unwrap = (lambda value: dict(_fields(value))[1]) if number == _BYTES_MAP else (lambda value: value)
            return {entry[1].decode(): unwrap(entry[2]) for entry in entries}
        if number == 12:
            return dict(_fields(content)).get(1, b"")
        return content
    return None


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else varint()
        yield key >> 3, message[at : at + size]
        at += size
