"""The store: artifacts under the key of the stage that made them, computed once, in this study or any other.

Layout below the root folder:

    artifacts/KIND/KEY/artifact.json     what it is: stage, inputs, parameters, figures, and the checksum of every file
    artifacts/KIND/KEY/*.safetensors     its tensors
    checkpoints/KEY/last.safetensors     the newest epoch of a training that has not finished
    corrupt/                             entries whose checksums failed, kept for a look; they are computed again

An artifact is written to a temporary folder, flushed to the disk and renamed: it is there whole or not at all, whatever is
killed when. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

_MANIFEST = "artifact.json"
_FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """What a stage made: figures as JSON, and files of tensors."""

    kind: str
    key: str
    path: Path
    figures: Mapping[str, Any]
    seconds: float
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of the file `name`.safetensors."""
        from safetensors.torch import load_file

        return load_file(self.path / f"{name}.safetensors")


class Store:
    """A folder of artifacts. Many processes may use one at the same time."""

    def __init__(self, root: Path, *, warn: Callable[[str], None] = lambda message: None) -> None:
        self.root = root
        self._warn = warn
        with _disk(f"the store at {root}"):
            for name in ("artifacts", "checkpoints", "tmp"):
                (root / name).mkdir(parents=True, exist_ok=True)

    def get(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None when it is not there. A damaged one is set aside, said so, and counts as not there."""
        folder = self._folder(kind, key)
        manifest = folder / _MANIFEST
        if not manifest.exists():
            return None
        problem = _damage(folder)
        if problem is not None:
            self._set_aside(kind, key, problem)
            return None
        content = json.loads(manifest.read_text())
        return Artifact(kind, key, folder, content["figures"], content["seconds"], content["recipe"])

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there; its checksums are not looked at."""
        return (self._folder(kind, key) / _MANIFEST).exists()

    def put(
        self,
        kind: str,
        key: str,
        *,
        figures: Mapping[str, Any],
        seconds: float,
        recipe: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Artifact:
        """Store an artifact; `tensors` maps a file's name to its tensors. The first of two writers of one key wins."""
        folder = self._folder(kind, key)
        temporary = self.root / "tmp" / uuid.uuid4().hex
        with _disk(f"artifact {kind}/{key[:12]}"):
            temporary.mkdir(parents=True)
            try:
                checksums = {f"{name}.safetensors": _write_tensors(temporary / f"{name}.safetensors", content)
                             for name, content in (tensors or {}).items()}  # fmt: skip
                body = {
                    "format": _FORMAT,
                    "kind": kind,
                    "key": key,
                    "figures": figures,
                    "seconds": seconds,
                    "recipe": recipe,
                    "files": checksums,
                }
                text = json.dumps({**body, "sha256": _json_checksum(body)}, indent=1)
                _write_synced(temporary / _MANIFEST, text.encode())
                folder.parent.mkdir(parents=True, exist_ok=True)
                _rename(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        stored = self.get(kind, key)
        if stored is None:
            raise StoreError(f"artifact {kind}/{key[:12]} was written to {folder} but cannot be read back; check the disk")
        return stored

    def checkpoints(self, key: str) -> StoredCheckpoints:
        """The checkpoints of the training whose stage has this key."""
        return StoredCheckpoints(self.root / "checkpoints" / key)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(kind, key) of every artifact."""
        for manifest in sorted((self.root / "artifacts").glob(f"*/*/{_MANIFEST}")):
            yield manifest.parent.parent.name, manifest.parent.name

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / "artifacts" / kind / key

    def _set_aside(self, kind: str, key: str, problem: str) -> None:
        target = self.root / "corrupt" / f"{kind}-{key}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        try:
            os.rename(self._folder(kind, key), target)
        except FileNotFoundError:  # another process set it aside first
            return
        self._warn(f"store entry {kind}/{key[:12]} is damaged ({problem}); it was moved to {target} and is computed again")


class StoredCheckpoints:
    """The newest epoch of one training: written beside the old one and renamed over it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "last.safetensors"

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(epochs done, tensors, meta) of the newest checkpoint; None when there is none or it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file, framework="pt") as file:
                meta = json.loads(file.metadata()["meta"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
            return None
        if meta["sha256"] != _tensor_checksum(tensors):
            return None
        return int(meta["epoch"]), tensors, dict(meta["meta"])

    def save(self, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep this epoch instead of the one before."""
        from safetensors.torch import save_file

        with _disk(f"a checkpoint in {self._file.parent}"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_name(f"{uuid.uuid4().hex}.tmp")
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            text = json.dumps({"epoch": epoch, "meta": dict(meta), "sha256": _tensor_checksum(plain)})
            try:
                save_file(plain, temporary, metadata={"meta": text})
                _sync(temporary)
                os.replace(temporary, self._file)
            finally:
                temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the training; its stage has finished."""
        shutil.rmtree(self._file.parent, ignore_errors=True)


@contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = (
            "free some space and run the same command again" if error.errno == errno.ENOSPC else "check the path and its rights"
        )
        raise StoreError(f"{what} could not be written: {error.strerror or error}; {hint}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # how safetensors reports a failed write
            raise
        raise StoreError(f"{what} could not be written: {error}; free some space and run the same command again") from error


def _damage(folder: Path) -> str | None:
    try:
        content = json.loads((folder / _MANIFEST).read_text())
        claimed = content.pop("sha256")
        if claimed != _json_checksum(content):
            return f"{_MANIFEST} does not match its checksum"
        for name, checksum in content["files"].items():
            if _file_checksum(folder / name) != checksum:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _json_checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
    _sync(path)
    return _file_checksum(path)


def _write_synced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return  # another process stored the same key first
    _sync(folder.parent)
