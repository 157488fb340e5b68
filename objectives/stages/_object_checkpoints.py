"""The checkpoints of one training in an object store: one object per epoch, of which the newest stays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgesearch.objectives.stages._checkpoints import decode_checkpoint, encode_checkpoint
from edgesearch.objectives.stages._objects import Objects

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"epoch-(\d+)-[0-9a-f]{64}\.safetensors")


class ObjectCheckpoints:
    """`StageCheckpoints` among objects, each named by its epoch and its SHA-256: none replaces a later one."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects, self._folder = objects, folder

    def part(self, name: str) -> ObjectCheckpoints:
        """Those of a training within the stage, before its own: they are forgotten with the stage's."""
        return ObjectCheckpoints(self._objects, f"{self._folder}/{name}")

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(epochs done, tensors, meta) of the newest checkpoint that is whole; None when there is none."""
        for epoch, name in sorted(self._kept(), reverse=True):
            content = self._objects.read(name)
            if content is None:  # a newer one came meanwhile, or the stage ended
                continue
            if _name(epoch, content) == name.rpartition("/")[2]:
                found = decode_checkpoint(content)
                if found is not None:
                    return found
            self._objects.remove(name)  # else `save` would wait for its epoch to be over
        return None

    def save(self, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep this epoch instead of those before; nothing happens where a later one is kept."""
        kept = self._kept()
        if any(known > epoch for known, _ in kept):
            return
        content = encode_checkpoint(epoch, tensors, meta)
        mine = f"{self._folder}/{_name(epoch, content)}"
        self._objects.replace(mine, content)
        for known, name in kept:
            if known <= epoch and name != mine:
                self._objects.remove(name)

    def clear(self) -> None:
        """Forget the training; its stage has finished."""
        for name in self._objects.names(self._folder):
            self._objects.remove(name)

    def _kept(self) -> list[tuple[int, str]]:
        """(epoch, name) of every object."""
        found = [(_NAME.fullmatch(name[len(self._folder) + 1 :]), name) for name in self._objects.names(self._folder)]
        return [(int(match[1]), name) for match, name in found if match is not None]


def _name(epoch: int, content: bytes) -> str:
    return f"epoch-{epoch:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"
