"""One entry of a store on the disk: a folder with a manifest that holds the checksum of every other file, and of itself."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.errors import StoreError
from edgesearch.objectives.stages._artifact import Artifact

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "artifact.json"
_FORMAT = 2


def manifest_of(kind: str, key: str, about: Mapping[str, Any], files: Mapping[str, str], *, folder: str | None = None) -> bytes:
    """The manifest of an entry. `about`: figures, seconds, recipe, made_by; `files`: name -> checksum.

    folder: the one below the entry that its files lie in, where that is not the entry itself.
    """
    place = {} if folder is None else {"folder": folder}
    body = {"format": _FORMAT, "kind": kind, "key": key, **about, "files": dict(files), **place}
    return json.dumps({**body, "sha256": json_checksum(body)}, indent=1).encode()


def artifact_of(kind: str, key: str, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    """What a manifest tells. Raises LookupError where something is missing."""
    return Artifact(
        kind, key, folder, manifest["figures"], manifest["seconds"], manifest["recipe"], manifest.get("made_by", {})
    )


def damage(folder: Path) -> str | None:
    """What is wrong with an entry; None when every checksum is right.

    Raises OSError where the disk does not let it be read: it may be whole.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text())
        claimed = content.pop("sha256")
        if claimed != json_checksum(content):
            return f"{MANIFEST} does not match its checksum"
        for name, checksum in content["files"].items():
            if file_checksum(folder / name) != checksum:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (IsADirectoryError, NotADirectoryError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def state_of(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """(name, size, time of change, inode) of every file: the same as long as nobody touched the entry. Raises OSError."""
    return tuple(
        sorted((entry.name, s.st_size, s.st_mtime_ns, s.st_ino) for entry in os.scandir(folder) if (s := entry.stat()))
    )


def json_checksum(body: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values with sorted keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write and flush a safetensors file; returns its checksum."""
    save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
    return file_checksum(path)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write and flush a new safetensors file, which others may read as any other file: the package lets its owner alone."""
    from safetensors.torch import save_file

    path.touch(exist_ok=False)
    rights = path.stat().st_mode
    save_file(tensors, path, metadata=metadata)
    if path.stat().st_mode != rights:  # where the file system knows rights
        path.chmod(rights)
    sync(path)


def write_synced(path: Path, content: bytes) -> None:
    """Write and flush a file."""
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn what the disk refuses into StoreError: what could not be written, why, and what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space and run the same command again" if full else "check the path and its rights"
        raise StoreError(f"{what} could not be written: {error.strerror or error}; {hint}") from error
    except SafetensorError as error:  # how safetensors reports a failed write
        raise StoreError(f"{what} could not be written: {error}; free some space and run the same command again") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what the disk does not let be read into StoreError; files that are not there stay FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{what} cannot be read: {error.strerror or error}; check its rights and the disk") from error
