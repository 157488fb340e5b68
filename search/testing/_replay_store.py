"""A store in memory that holds figures and no tensors: what a replayed study needs of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgesearch.errors import StoreError
from edgesearch.objectives import Artifact

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MemoryStore"]


class MemoryStore:
    """An `ArtifactStore` of one process. It has neither tensors nor checkpoints: nothing is trained from it."""

    location = "memory"

    def __init__(self) -> None:
        self._artifacts: dict[tuple[str, str], Artifact] = {}
        self._failures: dict[tuple[str, str], Mapping[str, Any]] = {}

    def get(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None when it is not there."""
        return self._artifacts.get((kind, key))

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there."""
        return (kind, key) in self._artifacts

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
        """Store an artifact; the first of two writers of one key wins. Raises StoreError for tensors."""
        if tensors:
            raise StoreError(f"a replayed study keeps no tensors, and {kind}/{key[:12]} has some")
        artifact = Artifact(kind, key, Path("memory") / kind / key, dict(figures), seconds, dict(recipe), dict(made_by or {}))
        return self._artifacts.setdefault((kind, key), artifact)

    def checkpoints(self, key: str) -> NoReturn:
        """There are none; raises StoreError."""
        raise StoreError(f"a replayed study keeps no checkpoints (of {key[:12]})")

    def lease(self, key: str, *, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Nobody else has this store."""
        return nullcontext()

    def failure(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """Why the stage failed, where it would fail again."""
        return self._failures.get((kind, key))

    def record_failure(self, kind: str, key: str, *, message: str, made_by: Mapping[str, Any]) -> None:
        """Remember that the stage fails."""
        self._failures[kind, key] = {"message": message, "made_by": dict(made_by)}

    def forget_failure(self, kind: str, key: str) -> None:
        """Let the stage be tried again."""
        self._failures.pop((kind, key), None)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(kind, key) of every artifact."""
        return iter(sorted(self._artifacts))

    def summaries(self) -> Iterator[Artifact]:
        """Every artifact."""
        return iter(list(self._artifacts.values()))
