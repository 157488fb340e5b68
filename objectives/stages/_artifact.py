"""What a stage made, and what a store of such artifacts does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class StageCheckpoints(Protocol):
    """The newest epoch of one training.

    All rungs of a training, and its end, share it. No epoch is replaced by an earlier one: a rung that is made again loses
    nothing of what lies beyond it.
    """

    def part(self, name: str) -> StageCheckpoints:
        """Those of a training within the stage, before its own: they are forgotten with the stage's."""

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(epochs done, tensors, meta) of the newest checkpoint; None when there is none or it is damaged."""

    def save(self, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep this epoch instead of the one before; nothing happens where a later one is kept."""

    def clear(self) -> None:
        """Forget the training; its stage has finished."""


@dataclass(frozen=True)
class Artifact:
    """What a stage made: figures as JSON, and files of tensors. `made_by`: versions, device and threads that made it."""

    kind: str
    key: str
    path: Path
    figures: Mapping[str, Any]
    seconds: float
    recipe: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of the file `name`.safetensors."""
        from safetensors.torch import load_file

        return load_file(self.file(name))

    def file(self, name: str) -> Path:
        """Where the file `name`.safetensors lies on this machine."""
        return self.path / f"{name}.safetensors"


@runtime_checkable
class ArtifactStore(Protocol):
    """Where artifacts are kept. Many processes may use one at the same time."""

    @property
    def location(self) -> str:
        """What `open_store` opens it by, in another process too."""

    def get(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None when it is not there. A damaged one is set aside, said so, and counts as not there."""

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there; its checksums are not looked at."""

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

    def checkpoints(self, key: str) -> StageCheckpoints:
        """The checkpoints of the training whose stage has this key."""

    def lease(self, key: str, *, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold a key while its stage runs, waiting for whoever holds it; `waiting` is told who that is."""

    def failure(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """Why the stage failed ("message") and what ran it ("made_by"), where it would fail again."""

    def record_failure(self, kind: str, key: str, *, message: str, made_by: Mapping[str, Any]) -> None:
        """Remember that the stage fails, so that it is not tried for every candidate above it."""

    def forget_failure(self, kind: str, key: str) -> None:
        """Let the stage be tried again."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(kind, key) of every artifact."""

    def summaries(self) -> Iterator[Artifact]:
        """Every artifact as it tells of itself; its tensors are not looked at, and damaged ones are left out."""
