"""What is tuned, between which values, and the training that settings come to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from edgesearch.errors import SpaceError, StudyError
from edgesearch.objectives import Conditions, Pipeline, Recipe, Stage, plan
from edgesearch.objectives.data import choose_augmentation
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.study import StudyFile
from edgesearch.spaces import DISTILLATION_SETTINGS, Candidate, Student

__all__ = ["TEACHER", "Target", "rungs"]

#: The name by which the study's teacher is asked for.
TEACHER = "teacher"
#: From a rung to the next the epochs are tripled, and a third of the trainings goes on.
REDUCTION = 3
_RECIPE = ("lr", "weight_decay", "augmentation")
#: Factors on the file's own values, down and up, that are looked between.
_LR_REACH, _DECAY_REACH = 30.0, 100.0
#: Weight decays where the file's own is 0.
_DECAYS = (1e-6, 1e-1)
#: Distillation: from, to, and whether on a logarithmic scale. With alpha = 1 the teacher would not count at all.
_TEACHING: dict[str, tuple[float, float, bool]] = {
    "temperature": (1.0, 12.0, True),
    "alpha": (0.0, 0.95, False),
    "beta": (0.02, 5.0, True),
    "gamma": (0.2, 4.0, True),
    "nkd_temperature": (0.5, 4.0, True),
}
#: Data sets whose images mean something else in the mirror.
_NOT_MIRRORED = ("digits", "mnist")
_PLAIN_VIEWS = ("none", "shift")
_ALL_VIEWS = (*_PLAIN_VIEWS, "flip_crop", "alternate_flip", "cutout")


def rungs(epochs: int) -> tuple[int, ...]:
    """After how many epochs a training of so many is judged: about a ninth, a third, all of them."""
    first = math.ceil(epochs / REDUCTION**2)
    reached = [first * REDUCTION**step for step in range(3)]
    return (*(done for done in reached if done < epochs), epochs)


@dataclass(frozen=True)
class Target:
    """The study's teacher (`kind` "teacher"), or one of its students in one form ("student").

    `name` is what the study's file calls it. `candidate` is the student with the way in which it is taught; for the teacher it
    says nothing. The teacher's views are fixed in `pipeline`, so that one teacher serves every augmentation of its students.
    """

    kind: Literal["teacher", "student"]
    name: str
    candidate: Candidate
    pipeline: Pipeline
    conditions: Conditions
    data_name: str

    @classmethod
    def find(cls, name: str, inputs: Inputs, *, distillation: str | None = None) -> Target:
        """The teacher or a student of a study by its name; `distillation`: how it is taught, where the study leaves it open.

        Raises StudyError where there is none, for a teacher that is trained already, and for a distillation that the student
        does not have in the study.
        """
        settings = inputs.settings
        pipeline, teacher = settings.pipeline, settings.pipeline.teacher
        if teacher is not None and teacher.recipe.augmentation == "auto":
            views = {
                "augmentation": inputs.conditions.views,
                "augmentation_strength": pipeline.strength(teacher.recipe),
            }
            own = teacher.recipe.model_copy(update=views)
            pipeline = pipeline.model_copy(update={"teacher": teacher.model_copy(update={"recipe": own})})
        if name != TEACHER:
            candidate = inputs.complete(_student(name, settings, distillation))
            return cls("student", name, candidate, pipeline, inputs.conditions, inputs.data.name)
        if teacher is None:
            raise StudyError(
                f"study {settings.name!r} has no [teacher] to tune; name one of its students: {', '.join(_names(settings))}"
            )
        if teacher.trained:
            raise StudyError(
                f"the teacher of study {settings.name!r} is trained already (trained = true): its weights are taken as they "
                "are, and there is no recipe to tune"
            )
        if distillation is not None:
            raise StudyError("a teacher is trained without a teacher; leave --distillation out")
        return cls("teacher", name, Candidate(student=teacher.student), pipeline, inputs.conditions, inputs.data.name)

    @property
    def student(self) -> Student:
        """The network that is trained."""
        return self.candidate.student

    @property
    def recipe(self) -> Recipe:
        """The file's own."""
        if self.kind == "student":
            return self.pipeline.train
        assert self.pipeline.teacher is not None
        return self.pipeline.teacher.recipe

    @property
    def taught(self) -> tuple[str, ...]:
        """The settings of distillation that are tuned."""
        return DISTILLATION_SETTINGS[self.candidate.distillation.kind] if self.kind == "student" else ()

    @property
    def own(self) -> dict[str, Any]:
        """The file's own settings, by name."""
        views = self.recipe.augmentation if self.kind == "teacher" else self.conditions.views
        teaching = {name: getattr(self.candidate.distillation, name) for name in self.taught}
        return {"lr": self.recipe.lr, "weight_decay": self.recipe.weight_decay, "augmentation": views, **teaching}

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """Between which values each setting is looked for."""
        lr, decay, views = self.recipe.lr, self.recipe.weight_decay, str(self.own["augmentation"])
        decays = (decay / _DECAY_REACH, min(decay * _DECAY_REACH, 1.0)) if decay else _DECAYS
        kinds = _PLAIN_VIEWS if self.data_name in _NOT_MIRRORED else _ALL_VIEWS
        found: dict[str, BaseDistribution] = {
            "lr": FloatDistribution(lr / _LR_REACH, max(lr, min(lr * _LR_REACH, 1.0)), log=True),
            "weight_decay": FloatDistribution(decays[0], max(*decays), log=True),
            "augmentation": CategoricalDistribution(tuple(dict.fromkeys((*kinds, views)))),
        }
        for name in self.taught:
            low, high, log = _TEACHING[name]
            found[name] = FloatDistribution(low, high, log=log)
        return found

    @property
    def start(self) -> dict[str, Any]:
        """The file's own settings as a point of the space: the nearest, where one lies outside."""
        point = {}
        for name, value in self.own.items():
            between = self.space[name]
            point[name] = min(max(value, between.low), between.high) if isinstance(between, FloatDistribution) else value
        return point

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """What is trained and written for a point of the space: three digits of each number."""
        own = self.own
        rounded = {name: float(f"{drawn[name]:.3g}") if isinstance(drawn[name], float) else drawn[name] for name in own}
        start = self.start
        return {name: own[name] if drawn[name] == start[name] else value for name, value in rounded.items()}

    def stage(self, settings: Mapping[str, Any], *, seed: int = 0) -> Stage:
        """The training with these settings, with all that it needs; `seed` is added to the study's for the training alone.

        The study's teacher is the same for all settings.
        """
        recipe = {name: settings[name] for name in _RECIPE}
        pipeline, conditions, candidate = self.pipeline, self.conditions, self.candidate
        if self.kind == "teacher":
            assert pipeline.teacher is not None
            changed = pipeline.teacher.model_copy(update={"recipe": pipeline.teacher.recipe.model_copy(update=recipe)})
            pipeline = pipeline.model_copy(update={"teacher": changed})
        else:
            pipeline = pipeline.model_copy(update={"train": pipeline.train.model_copy(update=recipe)})
            views = choose_augmentation(pipeline.train.augmentation, self.data_name)
            conditions = replace(conditions, views=views)
            teaching = candidate.distillation.model_copy(update={name: settings[name] for name in self.taught})
            candidate = candidate.model_copy(update={"distillation": teaching})
        stage = plan(candidate, pipeline, conditions, last=self.kind, teacher_apart=True)
        assert stage.seed is not None
        return replace(stage, seed=stage.seed + seed)

    def to_text(self) -> str:
        """As JSON, for another process."""
        conditions = {**asdict(self.conditions), "allow": list(self.conditions.allow)}
        fields = {"kind": self.kind, "name": self.name, "data_name": self.data_name, "conditions": conditions}
        models = {"candidate": self.candidate, "pipeline": self.pipeline}
        return json.dumps(fields | {name: model.model_dump(mode="json") for name, model in models.items()})

    @classmethod
    def from_text(cls, text: str) -> Target:
        """The inverse of `to_text`."""
        content = json.loads(text)
        conditions = content["conditions"]
        return cls(
            kind=content["kind"],
            name=content["name"],
            candidate=Candidate.model_validate(content["candidate"]),
            pipeline=Pipeline.model_validate(content["pipeline"]),
            conditions=Conditions(**{**conditions, "allow": tuple(conditions["allow"])}),
            data_name=content["data_name"],
        )


def _names(settings: StudyFile) -> list[str]:
    named = [candidate.student.architecture for candidate in settings.candidates]
    return list(dict.fromkeys([*(settings.space.students if settings.space else ()), *named]))


def _student(name: str, settings: StudyFile, kind: str | None) -> Candidate:
    """The middle of the student's choices in the space, else the first of the study's candidates that has it."""
    space = settings.space
    if space is not None and name in space.students:
        kinds = list(space.distillation)
        if kind is not None and kind not in kinds:
            raise StudyError(f"--distillation {kind!r} is not in the study's space, which has {', '.join(kinds)}; add it there")
        taught = next((other for other in kinds if other != "none"), "none")
        found = space.suggest(_Middle(name, kind or taught))
    else:
        named = [candidate for candidate in settings.candidates if candidate.student.architecture == name]
        if not named:
            raise StudyError(
                f"study {settings.name!r} has no student {name!r}; expected {TEACHER}, {', '.join(_names(settings))}"
            )
        of_kind = [candidate for candidate in named if kind in (None, candidate.distillation.kind)]
        if not of_kind:
            raise StudyError(
                f"no candidate of study {settings.name!r} has {name} with --distillation {kind}; "
                f"there is {', '.join(sorted({candidate.distillation.kind for candidate in named}))}"
            )
        taught_ones = [candidate for candidate in of_kind if candidate.distillation.kind != "none"]
        found = (taught_ones or of_kind)[0]
    candidate = Candidate(student=found.student, distillation=found.distillation)
    if candidate.distillation.needs_teacher and settings.teacher is None:
        raise SpaceError(f"distillation = {candidate.distillation.kind!r} needs a [teacher] in the study; add one")
    return candidate


class _Middle:
    """Answers with one student, one way to teach it, and of every other choice the middle one where they are numbers."""

    def __init__(self, student: str, distillation: str) -> None:
        self._fixed = {"student": student, "distillation": distillation}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._fixed:
            return self._fixed[name]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in choices):
            return sorted(choices)[len(choices) // 2]
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        if log:
            return math.sqrt(low * high)
        middle = (high - low) / 2
        return low + (middle if step is None else step * round(middle / step))
