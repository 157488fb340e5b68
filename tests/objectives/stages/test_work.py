"""What stages compute, as it is told to those who expect their cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.objectives import Conditions, Counts, Pipeline, PruneSearch, Recipe, Store, plan, recorded_stages, work_of
from edgesearch.spaces import Candidate, Pruning, Student

COUNTS = Counts.of({"train": 1000, "validation": 100, "calibration": 50})
CONDITIONS = Conditions(data=dict.fromkeys(("meta", "train", "validation", "calibration"), "0"), threads=2)
PRUNED = Candidate(student=Student(architecture="cnn_tiny"), pruning=Pruning(method="one_step", ratio=0.6))
STAGES = {stage.kind: stage for stage in plan(PRUNED, Pipeline(train=Recipe(epochs=7)), CONDITIONS).walk()}


def test_a_training_passes_its_images_three_times_an_epoch() -> None:
    work = work_of(STAGES["student"], COUNTS)
    assert (work.passes, work.share, work.threads) == (3 * 7 * 1000, 1.0, 2)
    assert work.student == PRUNED.student


def test_what_is_pruned_has_fewer_multiply_accumulates_behind_it() -> None:
    shares = {kind: work_of(stage, COUNTS).share for kind, stage in STAGES.items()}
    assert shares == pytest.approx({"student": 1.0, "sensitivity": 1.0, "pruned": 0.7, "quantized": 0.4, "measured": 0.4})


def test_stages_are_read_from_a_store_with_the_inputs_that_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for kind in ("student", "sensitivity", "quantized"):  # the pruned network between them is missing
        store.put(kind, STAGES[kind].key, figures={}, seconds=2.5, recipe=STAGES[kind].recipe())
    (tmp_path / "artifacts" / "student" / "damaged").mkdir()
    (tmp_path / "artifacts" / "student" / "damaged" / "artifact.json").write_text("{")
    found = {stage.kind: (stage, seconds) for stage, seconds in recorded_stages(store)}
    assert set(found) == {"student", "sensitivity"}
    assert found["sensitivity"][0].key == STAGES["sensitivity"].key
    assert found["student"][1] == 2.5


@pytest.mark.parametrize("method", ["one_step", "iterative"])
def test_networks_are_scored_on_no_more_images_than_there_are(method: str) -> None:
    def passes(images: int) -> dict[str, float]:
        candidate = Candidate(student=PRUNED.student, pruning=Pruning(method=method, ratio=0.6))
        pipeline = Pipeline(prune=PruneSearch(score_images=images, recalibration_images=images))
        return {stage.kind: work_of(stage, COUNTS).passes for stage in plan(candidate, pipeline, CONDITIONS).walk()}

    assert passes(5_000_000) == passes(1000)
    assert passes(500)["pruned"] < passes(1000)["pruned"]
