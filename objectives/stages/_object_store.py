"""The store in an object store: any place that fsspec opens by a URL, S3 above all.

Names below the URL:

    artifacts/KIND/KEY/artifact.json           what it is; written last, and only where there is none
    artifacts/KIND/KEY/WRITER/*.safetensors    its tensors, in a folder of whoever wrote them
    checkpoints/KEY/epoch-*.safetensors        the newest epoch of a training that has not finished
    failures/KIND/KEY.json                     why a stage fails, and would fail again
    leases/KEY/NUMBER                          who makes that stage now
    corrupt/                                   entries whose checksums failed, kept for a look; they are computed again

An entry is there when its manifest is, which names every file with its checksum. Two writers of one key never touch the same
files, and the first manifest stays. Tensors are fetched when they are first read; figures come with the manifest.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.errors import StoreError
from edgesearch.objectives.stages._artifact import Artifact
from edgesearch.objectives.stages._entries import MANIFEST, json_checksum, manifest_of
from edgesearch.objectives.stages._local_copies import LocalCopies
from edgesearch.objectives.stages._object_checkpoints import ObjectCheckpoints
from edgesearch.objectives.stages._object_leases import EXPIRES_S, object_lease
from edgesearch.objectives.stages._objects import Objects

if TYPE_CHECKING:
    from torch import Tensor

#: Seconds for which a list of all artifacts is believed, by `has` alone: what another study stored meanwhile is found late.
_LIST_S = 30.0
#: What stores lack that this process has opened before, by their URLs; "" for nothing.
_shortcomings: dict[str, str] = {}


@dataclass(frozen=True)
class _Fetched(Artifact):
    """An artifact whose files are fetched when they are asked for. `path` is where they come to lie."""

    fetch: Callable[[str], Path] = field(kw_only=True, repr=False, compare=False)

    def file(self, name: str) -> Path:
        """Where the file `name`.safetensors lies on this machine. Raises StoreError for one that is damaged."""
        return self.fetch(f"{name}.safetensors")


class ObjectStore:
    """The artifacts below a URL. Many processes, on many machines, may use it at the same time.

    `lease_s`: a process that gives no sign of life for so many seconds loses its leases. Raises StoreError for a URL that
    cannot be used.
    """

    def __init__(self, url: str, *, warn: Callable[[str], None] = lambda message: None, lease_s: float = EXPIRES_S) -> None:
        self._objects = Objects(url)
        self._warn, self._lease_s = warn, lease_s
        self._copies = LocalCopies(self._objects.url)
        self._listed: set[tuple[str, str]] = set()
        self._listed_at: float | None = None
        if self._objects.url not in _shortcomings:
            _shortcomings[self._objects.url] = said = self._objects.shortcoming()
            if said:
                warn(said)

    @property
    def location(self) -> str:
        """The URL."""
        return self._objects.url

    def get(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None when it is not there. A damaged one is set aside, said so, and counts as not there.

        Its tensors are fetched and checked when they are read: one that is damaged is then set aside, and StoreError raised.
        """
        content = self._objects.read(_manifest(kind, key))
        if content is None:
            self._listed.discard((kind, key))
            return None
        artifact = self._artifact(kind, key, content)
        if artifact is None:
            again = self._objects.read(_manifest(kind, key))
            if again == content:  # not merely its way here was at fault
                self._set_aside(kind, key, content, f"{MANIFEST} does not match its checksum")
                return None
            artifact = None if again is None else self._artifact(kind, key, again)
        if artifact is not None:
            self._listed.add((kind, key))
        return artifact

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there, by a list that may be half a minute old; its checksums are not looked at."""
        if (kind, key) in self._listed:
            return True
        if self._listed_at is None or time.monotonic() - self._listed_at > _LIST_S:
            self._listed = set(self)
        return (kind, key) in self._listed

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
        writer = uuid.uuid4().hex
        about = {"figures": figures, "seconds": seconds, "recipe": recipe, "made_by": made_by or {}}
        contents = {f"{name}.safetensors": _encoded(content) for name, content in (tensors or {}).items()}
        files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        manifest = manifest_of(kind, key, about, files, folder=writer)
        for _ in range(2):  # a damaged entry in the way is set aside by `get`, with all files; then there is room
            for name, content in contents.items():
                self._objects.replace(f"{_folder(kind, key)}/{writer}/{name}", content)
            if self._objects.create(_manifest(kind, key), manifest):
                for name, content in contents.items():
                    self._copies.add(self._copies.folder(kind, key, writer) / name, content)
                self._remove_files(kind, key, lambda owner: owner != writer)
            else:
                self._remove_files(kind, key, lambda owner: owner == writer)
            stored = self.get(kind, key)
            if stored is not None:
                return stored
        raise StoreError(f"artifact {kind}/{key[:12]} was written to {self.location} but cannot be read back; check that place")

    def checkpoints(self, key: str) -> ObjectCheckpoints:
        """The checkpoints of the training whose stage has this key."""
        return ObjectCheckpoints(self._objects, f"checkpoints/{key}")

    def lease(self, key: str, *, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold a key while its stage runs, waiting for whoever holds it; `waiting` is told who that is.

        A holder of this machine that died holds nothing; one of another machine, until it gave no sign of life for long enough.
        """
        return object_lease(self._objects, f"leases/{key}", waiting=waiting, expires_s=self._lease_s)

    def failure(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """Why the stage failed ("message") and what ran it ("made_by"), where it would fail again."""
        try:
            content = json.loads(self._objects.read(_failure(kind, key)) or b"")
        except ValueError:
            return None
        return content if isinstance(content, dict) and {"message", "made_by"} <= content.keys() else None

    def record_failure(self, kind: str, key: str, *, message: str, made_by: Mapping[str, Any]) -> None:
        """Remember that the stage fails, so that it is not tried for every candidate above it."""
        content = json.dumps({"message": message, "made_by": dict(made_by)}, indent=1)
        self._objects.replace(_failure(kind, key), content.encode())

    def forget_failure(self, kind: str, key: str) -> None:
        """Let the stage be tried again."""
        self._objects.remove(_failure(kind, key))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(kind, key) of every artifact."""
        self._listed_at = time.monotonic()
        for name in self._objects.names("artifacts"):
            parts = name.split("/")
            if len(parts) == 4 and parts[3] == MANIFEST:
                yield parts[1], parts[2]

    def summaries(self) -> Iterator[Artifact]:
        """Every artifact as it tells of itself; its tensors are not looked at, and damaged ones are left out."""
        names = {_manifest(kind, key): (kind, key) for kind, key in self}
        for name, content in self._objects.read_all(names).items():
            artifact = self._artifact(*names[name], content)
            if artifact is not None:
                yield artifact

    # --- entries

    def _artifact(self, kind: str, key: str, content: bytes) -> Artifact | None:
        """What a manifest tells; None where it is damaged."""
        try:
            manifest = json.loads(content)
            if manifest.pop("sha256") != json_checksum(manifest):
                return None
            writer, files = str(manifest["folder"]), dict(manifest["files"])
            return _Fetched(
                kind,
                key,
                self._copies.folder(kind, key, writer),
                manifest["figures"],
                manifest["seconds"],
                manifest["recipe"],
                manifest["made_by"],
                fetch=lambda name: self._fetch(kind, key, content, writer, name, files[name]),
            )
        except (ValueError, LookupError, AttributeError, TypeError):
            return None

    def _fetch(self, kind: str, key: str, manifest: bytes, writer: str, name: str, checksum: str) -> Path:
        path = self._copies.folder(kind, key, writer) / name
        if self._copies.find(path, checksum):
            return path
        for _ in range(2):  # the second time, not merely its way here was at fault
            content = self._objects.read(f"{_folder(kind, key)}/{writer}/{name}")
            if content is not None and hashlib.sha256(content).hexdigest() == checksum:
                self._copies.add(path, content)
                return path
        problem = f"{name} is missing" if content is None else f"{name} does not match its checksum"
        self._set_aside(kind, key, manifest, problem)
        raise StoreError(
            f"store entry {kind}/{key[:12]} is damaged ({problem}) and was set aside; the same command makes it again"
        )

    def _set_aside(self, kind: str, key: str, manifest: bytes, problem: str) -> None:
        folder = _folder(kind, key)
        names = self._objects.names(folder)
        aside = f"corrupt/{kind}-{key}-{uuid.uuid4().hex[:8]}"
        for name in names:
            self._objects.copy(name, f"{aside}/{name[len(folder) + 1 :]}")
        # Another process may have set it aside and made it anew: that entry has another manifest, and other files.
        if self._objects.read(_manifest(kind, key)) == manifest:
            self._objects.remove(_manifest(kind, key))
            for name in names:
                self._objects.remove(name)
        self._listed.discard((kind, key))
        self._copies.forget(kind, key)
        self._warn(
            f"store entry {kind}/{key[:12]} is damaged ({problem}); it was moved to {self.location}/{aside}; a stage that "
            "needs it has it made again"
        )

    def _remove_files(self, kind: str, key: str, whose: Callable[[str], bool]) -> None:
        """Remove files of writers that did not win. They are in nobody's way: what cannot be removed now is left."""
        folder = _folder(kind, key)
        if _shortcomings[self.location]:  # who won is not known for sure
            return
        with suppress(StoreError):
            for name in self._objects.names(folder):
                owner, slash, _ = name[len(folder) + 1 :].partition("/")
                if slash and whose(owner):
                    self._objects.remove(name)


def _folder(kind: str, key: str) -> str:
    return f"artifacts/{kind}/{key}"


def _manifest(kind: str, key: str) -> str:
    return f"{_folder(kind, key)}/{MANIFEST}"


def _failure(kind: str, key: str) -> str:
    return f"failures/{kind}/{key}.json"


def _encoded(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
