"""`edgesearch optimize --dry-run`: what would be trained, and what it is expected to cost."""

from __future__ import annotations

from collections import Counter

from edgesearch.errors import EdgesearchError
from edgesearch.objectives import Conditions, DataSet, Estimator, Stage, Store, plan, stage_specs
from edgesearch.search.engine import Proposer
from edgesearch.search.study import Home, StudyFile
from edgesearch.spaces import Candidate

#: Multiply-accumulates per second that a small network's training reaches on one x86 core. The order of magnitude only.
_TRAINING_MACS_PER_SECOND = 6e9


def describe_cost(
    settings: StudyFile, data: DataSet, conditions: Conditions, estimator: Estimator, place: Home, trials: int
) -> str:
    """The candidates of a study, or a sample of its space, with the stages that are missing and their cost."""
    candidates, rejected = _candidates(settings, estimator, trials)
    store = Store(place.store) if place.store.exists() else None
    stages: dict[str, tuple[Stage, float]] = {}
    lines = []
    for candidate in candidates:
        macs = estimator.estimate(candidate)["macs"]
        fps = estimator.estimate(candidate)["fps"]
        last = plan(candidate, settings.pipeline, conditions)
        fresh = [
            s for s in last.walk() if s.key not in stages and s.kind != "measured" and not (store and store.has(s.kind, s.key))
        ]
        stages |= {s.key: (s, macs) for s in fresh}
        words = " ".join(f"{kind}" for kind in dict.fromkeys(s.kind for s in fresh)) or "nothing new"
        lines.append(f"  {candidate!s:<58} {macs / 1e6:>9,.1f} MMAC  ~{fps:>7,.0f} FPS  {words}")
    seconds = sum(_seconds(stage, macs, data) for stage, macs in stages.values())
    kinds = Counter(stage.kind for stage, _ in stages.values())
    what = (
        "the study's own candidates"
        if settings.space is None
        else f"{trials} trials; the study's own candidates, then a sample"
    )
    head = [
        f"study {settings.name}: {what}",
        f"data {data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.calibration):,} calibration, {len(data.test):,} test images, {len(data.classes)} classes",
    ]
    tail = [
        "would run: " + (", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "nothing, all is in the store"),
        f"expected cost: about {_duration(seconds)} of one core (from multiply-accumulates; the order of magnitude only)",
    ]
    if rejected:
        tail.insert(0, f"rejected before training: {rejected}")
    return "\n".join(head + lines + tail)


def _candidates(settings: StudyFile, estimator: Estimator, trials: int) -> tuple[list[Candidate], int]:
    proposer = Proposer(settings)
    found: dict[str, Candidate] = {}
    refused: set[str] = set()
    number = 0
    while len(found) < trials:
        before = len(found)
        for proposal in proposer.proposals(number):
            key = proposal.candidate.key
            if key in found or key in refused:
                continue
            try:
                kept = not settings.constraints.violations(estimator.estimate(proposal.candidate))
            except EdgesearchError:
                kept = False
            if not kept:
                refused.add(key)
                continue
            found[key] = proposal.candidate
            break
        if len(found) == before:
            break
        number += 1
    return list(found.values()), len(refused)


def _seconds(stage: Stage, macs: float, data: DataSet) -> float:
    """Seconds on one core: the images that the stage passes through a network, times the network's work."""
    spec = stage_specs().find(stage.kind)
    return spec.images(spec.settings_of(stage), data) * macs / _TRAINING_MACS_PER_SECOND


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
