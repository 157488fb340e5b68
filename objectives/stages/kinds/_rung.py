"""A rung: the first epochs of a student's training, after which it may be stopped, or go on on any worker.

It shares the seed and the checkpoint of the `student` stage that it is a prefix of, whose key does not know of it: the student
is, bit for bit, the one that would have been trained in one go.
"""

from __future__ import annotations

import dataclasses

from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._student import SPEC as STUDENT
from edgesearch.objectives.stages.kinds._student import StudentSettings, train_student
from edgesearch.objectives.training import STEP_PASSES

__all__ = ["RUNG_FACTOR", "RungSettings", "rung_epochs", "rungs_of", "trained_student"]

#: Each rung has so many times the epochs of the one before.
RUNG_FACTOR = 3
#: Rungs before the end of a training.
_RUNGS = 2


class RungSettings(StudentSettings):
    """A student's training, and how many epochs of its recipe are done at the end of the rung."""

    epochs: int


def rung_epochs(epochs: int) -> tuple[int, ...]:
    """After how many epochs a training of `epochs` may be stopped: a ninth and a third of them, where it is shorter then."""
    ends = {-(-epochs // RUNG_FACTOR**rung) for rung in range(_RUNGS, 0, -1)}
    return tuple(sorted(end for end in ends if end < epochs))


def rungs_of(student: Stage) -> tuple[Stage, ...]:
    """The rungs of a `student` stage, the shortest first; none for a training of one epoch."""
    epochs = STUDENT.settings_of(student).recipe.epochs
    return tuple(
        dataclasses.replace(student, kind="rung", version=SPEC.version, parameters={**student.parameters, "epochs": end})
        for end in rung_epochs(epochs)
    )


def trained_student(rung: Stage) -> Stage:
    """The `student` stage that a rung is a prefix of."""
    parameters = {name: value for name, value in rung.parameters.items() if name != "epochs"}
    return dataclasses.replace(rung, kind="student", version=STUDENT.version, parameters=parameters)


def _place(plan: Plan) -> Stage | None:
    return None  # no stage reads one, and a candidate may have several: `rungs_of` its student


def _run(context: Context[RungSettings]) -> Result:
    student = trained_student(context.stage)
    whole = Context(
        student,
        STUDENT.settings_of(student),
        context.store,
        context.data,
        context.device,
        context.report,
        context.folder,
        pieces=context.pieces,
    )
    with context.store.lease(
        student.key, waiting=lambda holder: context.report(f"{holder} trains this student; waiting for it")
    ):
        trained = context.store.get(student.kind, student.key)
        if trained is not None:  # another study's, meanwhile: its checkpoints are gone, and there is nothing left to judge
            context.report("this student is trained to its end by now")
            return Result({}, instead=trained)
        _, training, _ = train_student(whole, stop_after=context.settings.epochs)
    figures = {"accuracy": training.accuracy, "loss": training.history[-1].loss, "epochs": training.epochs_done}
    return Result(figures, earlier_seconds=training.earlier_seconds)


SPEC = StageSpec(
    name="rung",
    version=STUDENT.version,  # the code that trains is the student's
    settings=RungSettings,
    place=_place,
    run=_run,
    images=lambda settings, data: STEP_PASSES * settings.epochs * len(data.train),
    recipe=lambda settings: settings.recipe,
    shared=True,
)
