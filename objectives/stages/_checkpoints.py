"""The checkpoints of one training, in a folder of the store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.objectives.stages._entries import reading, save_tensors, writing

if TYPE_CHECKING:
    from torch import Tensor


class StoredCheckpoints:
    """`StageCheckpoints` in a folder: the newest epoch is written beside the old one and renamed over it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "last.safetensors"

    def part(self, name: str) -> StoredCheckpoints:
        """Those of a training within the stage, before its own: they are forgotten with the stage's."""
        return StoredCheckpoints(self._file.parent / name)

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(epochs done, tensors, meta) of the newest checkpoint; None when there is none or it is damaged.

        Raises StoreError where the disk does not let it be read: the training goes on from it when it does.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with reading(f"the checkpoint {self._file}"), safe_open(self._file, framework="pt") as file:
                meta = json.loads(file.metadata()["meta"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, json.JSONDecodeError):
            return None
        if meta["sha256"] != _tensor_checksum(tensors):
            self._file.unlink(missing_ok=True)  # else `save` would wait for its epoch to be over
            return None
        return int(meta["epoch"]), tensors, dict(meta["meta"])

    def save(self, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep this epoch instead of the one before; nothing happens where a later one is kept."""
        if self._epoch() > epoch:
            return
        with writing(f"a checkpoint in {self._file.parent}"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_name(f"{uuid.uuid4().hex}.tmp")
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            text = json.dumps({"epoch": epoch, "meta": dict(meta), "sha256": _tensor_checksum(plain)})
            try:
                save_tensors(plain, temporary, {"meta": text})
                os.replace(temporary, self._file)
            finally:
                temporary.unlink(missing_ok=True)

    def _epoch(self) -> int:
        """The epoch that is kept; 0 where there is none, or it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with reading(f"the checkpoint {self._file}"), safe_open(self._file, framework="pt") as file:
                return int(json.loads(file.metadata()["meta"])["epoch"])
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return 0

    def clear(self) -> None:
        """Forget the training; its stage has finished."""
        shutil.rmtree(self._file.parent, ignore_errors=True)


def encode_checkpoint(epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """A checkpoint as safetensors; `decode_checkpoint` reads it."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={"meta": json.dumps({"epoch": epoch, "meta": dict(meta)})})


def decode_checkpoint(content: bytes) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """(epochs done, tensors, meta); None where that is no checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        meta = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["meta"])
        return int(meta["epoch"]), tensors, dict(meta["meta"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None


def _tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
