"""What a study would train, and what that is expected to cost."""

from __future__ import annotations

from collections import Counter

from edgesearch.objectives import DataSet, Stage, Store, stage_specs
from edgesearch.search.engine import rung_ends
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.library._screening import screen
from edgesearch.search.study import Home, duration

#: Multiply-accumulates per second that a small network's training reaches on one x86 core. The order of magnitude only.
_TRAINING_MACS_PER_SECOND = 6e9


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
        return "\n".join([*head, *tail, screening.why_empty()])
    seconds = sum(_seconds(stage, macs, data) for stage, macs in stages.values())
    kinds = Counter(stage.kind for stage, _ in stages.values())
    tail += [
        "would run: " + (", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "nothing, all is in the store"),
        f"expected cost: about {duration(seconds)} of one core (from multiply-accumulates; the order of magnitude only)",
    ]
    if ends := rung_ends(settings):
        tail.append(f"at most: students may be stopped after {' or '.join(map(str, ends))} of {settings.train.epochs} epochs")
    return "\n".join(head + lines + tail)


def _seconds(stage: Stage, macs: float, data: DataSet) -> float:
    """Seconds on one core: the images that the stage passes through a network, times the network's work."""
    spec = stage_specs().find(stage.kind)
    return spec.images(spec.settings_of(stage), data) * macs / _TRAINING_MACS_PER_SECOND
