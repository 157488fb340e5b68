"""The store: artifacts under the key of the stage that made them, computed once, in this study or any other.

Layout below the root folder:

    artifacts/KIND/KEY/artifact.json     what it is: stage, inputs, settings, figures, what made it, every file's checksum
    artifacts/KIND/KEY/*.safetensors     its tensors
    checkpoints/KEY/last.safetensors     the newest epoch of a training that has not finished
    failures/KIND/KEY.json               why a stage fails, and would fail again
    leases/KEY                           who makes that stage now
    corrupt/                             entries whose checksums failed, kept for a look; they are computed again

An artifact is written to a temporary folder, flushed to the disk and renamed: it is there whole or not at all, whatever is
killed when. Nothing is pickled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.errors import StoreError
from edgesearch.files import write_atomically
from edgesearch.objectives.stages._artifact import Artifact
from edgesearch.objectives.stages._checkpoints import StoredCheckpoints
from edgesearch.objectives.stages._entries import (
    MANIFEST,
    artifact_of,
    damage,
    manifest_of,
    reading,
    state_of,
    sync,
    write_synced,
    write_tensors,
    writing,
)
from edgesearch.objectives.stages._leases import file_lease

if TYPE_CHECKING:
    from torch import Tensor


class Store:
    """A folder of artifacts. Many processes may use one at the same time."""

    def __init__(self, root: Path, *, warn: Callable[[str], None] = lambda message: None) -> None:
        self.root = root.resolve()  # a worker may run in another folder
        self._warn = warn
        self._verified: dict[Path, object] = {}  # entry -> its files as they were when their checksums were right
        with writing(f"the store at {root}"):
            for name in ("artifacts", "checkpoints", "tmp"):
                (root / name).mkdir(parents=True, exist_ok=True)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    def get(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None when it is not there. A damaged one is set aside, said so, and counts as not there.

        Raises StoreError, and leaves it where it is, where the disk does not let it be read.
        """
        folder = self._folder(kind, key)
        with reading(f"store entry {folder}"):
            try:
                state = state_of(folder)
            except FileNotFoundError:
                return None
            if self._verified.get(folder) != state:
                problem = damage(folder)
                if problem is not None:
                    self._set_aside(kind, key, problem)
                    return None
                self._verified[folder] = state
            content = json.loads((folder / MANIFEST).read_text())
        return artifact_of(kind, key, folder, content)

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there; its checksums are not looked at."""
        return (self._folder(kind, key) / MANIFEST).exists()

    def put(
        self,
        kind: str,
        key: str,
        *,
        figures: Mapping[str, Any],
        seconds: float,
        recipe: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
        made_by: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Store an artifact; `tensors` maps a file's name to its tensors. The first of two writers of one key wins."""
        folder = self._folder(kind, key)
        for _ in range(2):  # a damaged entry in the way is set aside by `get`, then there is room
            self._write(folder, kind, key, figures, seconds, recipe, tensors or {}, made_by or {})
            stored = self.get(kind, key)
            if stored is not None:
                return stored
        raise StoreError(f"artifact {kind}/{key[:12]} was written to {folder} but cannot be read back; check the disk")

    def _write(
        self,
        folder: Path,
        kind: str,
        key: str,
        figures: Mapping[str, Any],
        seconds: float,
        recipe: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        made_by: Mapping[str, Any],
    ) -> None:
        temporary = self.root / "tmp" / uuid.uuid4().hex
        with writing(f"artifact {kind}/{key[:12]}"):
            temporary.mkdir(parents=True)
            try:
                files = {
                    f"{name}.safetensors": write_tensors(temporary / f"{name}.safetensors", content)
                    for name, content in tensors.items()
                }
                about = {"figures": figures, "seconds": seconds, "recipe": recipe, "made_by": made_by}
                write_synced(temporary / MANIFEST, manifest_of(kind, key, about, files))
                folder.parent.mkdir(parents=True, exist_ok=True)
                _rename(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def checkpoints(self, key: str) -> StoredCheckpoints:
        """The checkpoints of the training whose stage has this key."""
        return StoredCheckpoints(self.root / "checkpoints" / key)

    def lease(self, key: str, *, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold a key while its stage runs, waiting for whoever holds it; `waiting` is told who that is."""
        return file_lease(self.root / "leases" / key, waiting=waiting)

    def failure(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """Why the stage failed ("message") and what ran it ("made_by"), where it would fail again."""
        try:
            content = json.loads(self._failure_file(kind, key).read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and {"message", "made_by"} <= content.keys() else None

    def record_failure(self, kind: str, key: str, *, message: str, made_by: Mapping[str, Any]) -> None:
        """Remember that the stage fails, so that it is not tried for every candidate above it."""
        file = self._failure_file(kind, key)
        with writing(f"the failure of {kind}/{key[:12]}"):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({"message": message, "made_by": dict(made_by)}, indent=1).encode())

    def forget_failure(self, kind: str, key: str) -> None:
        """Let the stage be tried again."""
        self._failure_file(kind, key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(kind, key) of every artifact."""
        for manifest in sorted((self.root / "artifacts").glob(f"*/*/{MANIFEST}")):
            yield manifest.parent.parent.name, manifest.parent.name

    def summaries(self) -> Iterator[Artifact]:
        """Every artifact as it tells of itself; its tensors are not looked at, and damaged ones are left out."""
        for kind, key in self:
            folder = self._folder(kind, key)
            try:
                content = json.loads((folder / MANIFEST).read_text())
                yield artifact_of(kind, key, folder, content)
            except (OSError, ValueError, LookupError, TypeError):
                continue  # damaged, or set aside meanwhile

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / "artifacts" / kind / key

    def _failure_file(self, kind: str, key: str) -> Path:
        return self.root / "failures" / kind / f"{key}.json"

    def _set_aside(self, kind: str, key: str, problem: str) -> None:
        target = self.root / "corrupt" / f"{kind}-{key}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        try:
            os.rename(self._folder(kind, key), target)
        except FileNotFoundError:  # another process set it aside first
            return
        what = f"store entry {kind}/{key[:12]} is damaged ({problem})"
        self._warn(f"{what}; it was moved to {target}; a stage that needs it has it made again")


def _rename(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return  # another process stored the same key first
    sync(folder.parent)
