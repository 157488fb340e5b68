"""What a kind of stage is: a name, a version, settings, where it stands in a candidate's pipeline, and how it runs.

Every kind is one file in `kinds/` with one `StageSpec`, found there by itself. It runs once the `place` of another kind,
or the library, asks for it by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from edgesearch.errors import StoreError
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import BFLOAT16_VERSION, FEATURES_VERSION, Recipe, optimizer_version
from edgesearch.plugins import Registry
from edgesearch.settings import Settings
from edgesearch.spaces import Distillation

if TYPE_CHECKING:
    from torch import Tensor

    from edgesearch.objectives.stages._artifact import Artifact
    from edgesearch.objectives.stages._context import Context
    from edgesearch.objectives.stages._plan import Plan
    from edgesearch.objectives.training import Recipe

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Result:
    """What a stage made: figures (JSON values), and tensors by file and name.

    instead: the artifact of a later stage that makes this one needless; then nothing is stored of this one.
    earlier_seconds: of processes that were interrupted at this stage, up to the checkpoint where this one went on.
    """

    figures: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    instead: Artifact | None = None
    earlier_seconds: float = 0.0


class Parts(Protocol):
    """What has as many images in each part as a data set."""

    @property
    def train(self) -> Sized:
        """Those that are trained on."""

    @property
    def validation(self) -> Sized:
        """Those that candidates are judged by."""

    @property
    def calibration(self) -> Sized:
        """Those that quantizers see."""

    @property
    def test(self) -> Sized:
        """Those of the last judgement."""


def _no_images(settings: Any, data: Any) -> float:
    return 0.0


class TrainedSettings(Settings):
    """Settings of a stage that trains, by `recipe` where it has one, with a teacher where `distillation` says so.

    optimizer_version, features_version, bfloat16_version: of the code of the recipe's optimizer, of the one that finds the
    feature maps which are compared, and of the way in which trainings in bfloat16 are computed. A plan fills them in: a result
    has another key once the code that it needs makes another one, and the others keep theirs.
    """

    recipe: Recipe | None = None
    distillation: Distillation = Distillation()
    optimizer_version: int = 1
    features_version: int = 1
    bfloat16_version: int = 1

    def with_versions(self, *, compares: bool) -> Self:
        """The settings with the versions of what they need. `compares`: a teacher is there whose maps can be compared."""
        needed: dict[str, int] = {}
        if self.recipe is not None:
            needed["optimizer_version"] = optimizer_version(self.recipe)
            if self.recipe.may_use_bfloat16:
                needed["bfloat16_version"] = BFLOAT16_VERSION
        if compares and self.distillation.kind == "intermediate":
            needed["features_version"] = FEATURES_VERSION
        return self.model_copy(update=needed)


def _no_recipe(settings: Any) -> None:
    return None


def _no_resources(settings: Any) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class StageSpec(Generic[S]):
    """A kind of stage.

    version: raised by one whenever the code, or a default of `settings`, changes the result; older artifacts are then no longer
    found.
    place: the stage of a plan's candidate, or None where the candidate has none of this kind.
    run: makes the result, in a worker.
    images: forward passes of single images that it costs, a training step being three; for estimates only.
    resources: shares of what no two stages use at a time: {"board:zcu104": 1} of a board that is needed alone.
    recipe: that of the training that its process does, if it does one; its memory is foretold by it.
    random: whether it draws random numbers; if not, one result serves every seed.
    on_board: whether it runs on a board that it is given, while its worker waits.
    shared: whether many candidates may need the very same one.
    """

    name: str
    version: int
    settings: type[S]
    place: Callable[[Plan], Stage | None]
    run: Callable[[Context[S]], Result]
    images: Callable[[S, Parts], float] = _no_images
    resources: Callable[[S], Mapping[str, float]] = _no_resources
    recipe: Callable[[S], Recipe | None] = _no_recipe
    random: bool = True
    on_board: bool = False
    shared: bool = False

    def settings_of(self, stage: Stage) -> S:
        """The stage's settings; raises StoreError for a stage of another version of this program."""
        if stage.version != self.version:
            raise StoreError(
                f"stage {stage.kind} is of version {stage.version}, this edgesearch has version {self.version} of it; "
                "run the same edgesearch on every machine"
            )
        return self.settings.model_validate(dict(stage.parameters))


def resources_of(stage: Stage) -> Mapping[str, float]:
    """What the stage needs of what is there once: name -> share of it."""
    spec = stage_specs().find(stage.kind)
    return spec.resources(spec.settings_of(stage))


def needs_board(stage: Stage) -> bool:
    """Whether the stage runs on a board that it is given."""
    return stage_specs().find(stage.kind).on_board


@lru_cache(maxsize=1)
def stage_specs() -> Registry[StageSpec[Any]]:
    """Every kind of stage by name."""
    kinds = importlib.import_module("edgesearch.objectives.stages.kinds")
    registry: Registry[StageSpec[Any]] = Registry("stage")
    for module in pkgutil.iter_modules(kinds.__path__):
        spec = getattr(importlib.import_module(f"{kinds.__name__}.{module.name}"), "SPEC", None)
        if isinstance(spec, StageSpec):
            registry.add(spec.name, spec)
    return registry


def is_shared(stage: Stage) -> bool:
    """Whether many candidates may need the very same stage."""
    return stage_specs().find(stage.kind).shared
