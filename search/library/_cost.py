"""What a study would train, and what that is expected to cost."""

from __future__ import annotations

from collections import Counter

from edgesearch.objectives import DataSet, Recipe, Stage, Store
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.library._screening import screen
from edgesearch.search.study import Home, StudyFile

#: Multiply-accumulates per second that a small network's training reaches on one x86 core. The order of magnitude only.
_TRAINING_MACS_PER_SECOND = 6e9
#: A training step costs about three forward passes.
_STEP_COST = 3


def describe_cost(inputs: Inputs, home: Home, trials: int) -> str:
    """The candidates of a study, or a sample of its space, with the stages that are missing and their cost, as lines."""
    settings, data = inputs.settings, inputs.data
    screening = screen(inputs, trials)
    store = Store(home.store) if home.store.exists() else None
    stages: dict[str, tuple[Stage, float]] = {}
    lines = []
    for screened in screening.kept:
        macs, fps = screened.estimate["macs"], screened.estimate["fps"]
        fresh = [
            stage
            for stage in inputs.plan(screened.candidate).walk()
            if stage.key not in stages and stage.kind != "measured" and not (store and store.has(stage.kind, stage.key))
        ]
        stages |= {stage.key: (stage, macs) for stage in fresh}
        words = " ".join(dict.fromkeys(stage.kind for stage in fresh)) or "nothing new"
        lines.append(f"  {screened.candidate!s:<58} {macs / 1e6:>9,.1f} MMAC  ~{fps:>7,.0f} FPS  {words}")
    what = f"{trials} trials; the study's own candidates, then a sample" if settings.space else "the study's own candidates"
    head = [
        f"study {settings.name}: {what}",
        f"data {data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.calibration):,} calibration, {len(data.test):,} test images, {len(data.classes)} classes",
    ]
    tail = [f"rejected before training: {screening.rejected}"] if screening.rejected else []
    if not screening.kept:
        return "\n".join([*head, *tail, screening.why_empty(settings.constraints)])
    seconds = sum(_seconds(stage, macs, data, settings) for stage, macs in stages.values())
    kinds = Counter(stage.kind for stage, _ in stages.values())
    tail += [
        "would run: " + (", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "nothing, all is in the store"),
        f"expected cost: about {_duration(seconds)} of one core (from multiply-accumulates; the order of magnitude only)",
    ]
    return "\n".join(head + lines + tail)


def _seconds(stage: Stage, macs: float, data: DataSet, settings: StudyFile) -> float:
    """Seconds on one core: image passes of the stage's trainings, times the network's work."""
    images = len(data.train)
    recipe = {"student": settings.train, "pruned": settings.finetune}.get(stage.kind)
    if stage.kind == "teacher" and settings.teacher is not None:
        recipe = Recipe(epochs=1) if settings.teacher.trained else settings.teacher.recipe
    epochs = float(recipe.epochs) if recipe else 0.0
    if stage.kind == "quantized":
        epochs = settings.qat.epochs if stage.parameters["quantization"]["method"] == "qat" else 0.0
    passes = epochs * images * _STEP_COST
    passes += {"logits": 4 * images, "quantized": 8 * len(data.calibration)}.get(stage.kind, 0)
    return passes * macs / _TRAINING_MACS_PER_SECOND


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
