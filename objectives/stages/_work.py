"""How much a stage computes: how many single images it passes through which network. For estimates of its cost only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgesearch.objectives.stages._artifact import ArtifactStore
from edgesearch.objectives.stages._spec import Parts, stage_specs
from edgesearch.objectives.stages._stage import Stage
from edgesearch.spaces import Student

#: Images of a part of which nothing is said.
_GUESS = 1000


@dataclass(frozen=True)
class Counts:
    """The parts of a data set by their numbers of images alone."""

    train: range
    validation: range
    calibration: range
    test: range

    @classmethod
    def of(cls, images: Mapping[str, int]) -> Counts:
        """Parts that are not named are guessed."""
        return cls(*(range(images.get(part, _GUESS)) for part in ("train", "validation", "calibration", "test")))


@dataclass(frozen=True)
class Work:
    """A stage's work.

    student: whose network it is; None where that is not known.
    passes: forward passes of single images, a training step being three.
    share: of the multiply-accumulates of the student's whole network that its network has, pruned ones less.
    """

    kind: str
    student: Student | None
    passes: float
    share: float = 1.0
    threads: int = 1


def work_of(stage: Stage, data: Parts) -> Work:
    """What a stage computes on a data set. Raises StoreError for a stage of another version of this program."""
    spec = stage_specs().find(stage.kind)
    passes = float(spec.images(spec.settings_of(stage), data))
    return Work(stage.kind, _student(stage), passes, _share(stage), stage.threads)


def recorded_stages(store: ArtifactStore) -> Iterator[tuple[Stage, float]]:
    """Every stage in a store whose inputs are there too, and the seconds that it took, a training's rungs
    included. Files of tensors are not looked at.
    """
    recipes: dict[str, tuple[Mapping[str, Any], float]] = {}
    for artifact in store.summaries():
        with suppress(LookupError, TypeError, ValueError):  # of another program, or another version of this one
            recipes[artifact.key] = (dict(artifact.recipe), seconds_taken(artifact.figures, artifact.seconds))
    made: dict[str, Stage | None] = {}
    for key, (_, seconds) in recipes.items():
        stage = _rebuilt(key, recipes, made)
        if stage is not None and stage.kind != "rung":
            yield stage, seconds


def seconds_taken(figures: Mapping[str, Any], seconds: float) -> float:
    """What a stage took whose artifact has these figures and seconds.

    A training's history has the seconds of all epochs, those of its rungs and of processes that were stopped among them.
    """
    return max(float(seconds), sum(float(epoch[2]) for epoch in figures.get("history", ())))


def _rebuilt(key: str, recipes: Mapping[str, tuple[Mapping[str, Any], float]], made: dict[str, Stage | None]) -> Stage | None:
    """The stage behind a key, its inputs first; None where one of them is not in the store."""
    if key not in made:
        made[key] = None
        if key in recipes:
            recipe = recipes[key][0]
            inputs = {role: _rebuilt(upstream, recipes, made) for role, upstream in recipe.get("inputs", {}).items()}
            found = {role: stage for role, stage in inputs.items() if stage is not None}
            if len(found) == len(inputs):
                made[key] = Stage(
                    kind=recipe["kind"],
                    version=recipe["version"],
                    parameters=recipe["parameters"],
                    data=recipe["data"],
                    seed=recipe.get("seed"),
                    threads=recipe.get("threads", 1),
                    inputs=found,
                )
    return made[key]


def _student(stage: Stage) -> Student | None:
    if "student" in stage.parameters:
        try:
            return Student.model_validate(stage.parameters["student"])
        except ValueError:
            return None
    upstream = stage.inputs.get("network") or stage.inputs.get("teacher")
    return None if upstream is None else _student(upstream)


def _share(stage: Stage) -> float:
    """Of a stage that prunes: the middle of its way."""
    if "pruning" in stage.parameters:
        return 1.0 - 0.5 * float(stage.parameters["pruning"].get("ratio", 0.0))
    upstream = stage.inputs.get("network")
    if upstream is None:
        return 1.0
    return 2.0 * _share(upstream) - 1.0 if "pruning" in upstream.parameters else _share(upstream)
