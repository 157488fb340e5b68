"""Tables of studies that were never run: figures and seconds follow simple laws, exact enough to be told apart."""

from __future__ import annotations

from functools import cache

from edgesearch.objectives import Stage, plan
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate, Student
from edgesearch.testing._table import Epoch, Recorded, Table, what_is

EPOCHS = 9
IMAGES = {"train": 1000, "validation": 400, "calibration": 100, "test": 300}
#: Width -> accuracy of the student when it is trained, frames per second.
STUDENTS = {0.5: (0.60, 9000.0), 1.0: (0.75, 6000.0), 2.0: (0.85, 3000.0), 4.0: (0.86, 1000.0)}
SECONDS = {"teacher": 50.0, "logits": 2.0, "sensitivity": 1.0, "pruned": 6.0, "quantized": 3.0, "measured": 0.5}
#: Of a training: one epoch, and what comes beside them.
EPOCH, OVERHEAD = 4.0, 1.0


def small_study() -> StudyFile:
    """Four students, taught or not, pruned or not: 56 candidates."""
    return StudyFile.parse(
        {
            "name": "small",
            "data": {"name": "digits"},
            "teacher": {"architecture": "cnn_small", "input_size": 8},
            "train": {"epochs": EPOCHS},
            "space": {
                "students": ["cnn_tiny"],
                "width": list(STUDENTS),
                "input_size": [8],
                "distillation": ["none", "logit"],
                "pruning": ["none", "one_step"],
                "ratio": [0.25, 0.5, 0.75],
                "granularity": [8],
                "quantization": ["ptq", "qat"],
            },
            "constraints": {"min_accuracy": 0.5, "min_fps": 500.0},
            "search": {"startup_trials": 8},
        }
    )


def figures_of(candidate: Candidate) -> dict[str, float]:
    """What the board measures of a candidate."""
    accuracy, fps = STUDENTS[candidate.student.width]
    ratio = candidate.pruning.ratio
    accuracy += 0.03 * (candidate.distillation.kind == "logit") + 0.01 * (candidate.quantization.method == "qat")
    accuracy -= 0.2 * ratio**2
    fps *= 1 + ratio
    return {
        "accuracy": accuracy,
        "fps": fps,
        "latency_ms": 1e3 / fps,
        "latency_fps": fps,
        "size_bytes": 1e5 * (1 - ratio),
        "macs": 1e6 * (1 - ratio),
        "parameters": 1e5 * (1 - ratio),
    }


def epochs_of(student: Student, taught: bool) -> tuple[Epoch, ...]:
    """A student's training: two thirds of its accuracy after one epoch, all of it at the end."""
    final = STUDENTS[student.width][0] + 0.03 * taught
    return tuple(Epoch(final * (2 / 3 + done / EPOCHS / 3), 1 / done, EPOCH) for done in range(1, EPOCHS + 1))


@cache
def small_table() -> Table:
    """The table of `small_study`."""
    study = small_study()
    table = Table(study, (), {}, IMAGES)
    entries: dict[str, Recorded] = {}
    estimates = {}
    for candidate in table.candidates.values():
        estimates[candidate.key] = {k: v for k, v in figures_of(candidate).items() if k != "accuracy"}
        for stage in plan(candidate, study.pipeline, table.conditions).walk():
            entries.setdefault(what_is(stage), _entry(stage, candidate))
    return Table(study, tuple(entries.values()), estimates, IMAGES)


def _entry(stage: Stage, candidate: Candidate) -> Recorded:
    name = what_is(stage)
    if stage.kind == "student":
        epochs = epochs_of(candidate.student, candidate.distillation.kind == "logit")
        return Recorded(name, OVERHEAD + EPOCH * EPOCHS, {"accuracy": epochs[-1].accuracy}, epochs=epochs, overhead=OVERHEAD)
    figures = figures_of(candidate) if stage.kind == "measured" else {"accuracy": 0.9} if stage.kind == "teacher" else {}
    return Recorded(name, SECONDS[stage.kind], figures)
