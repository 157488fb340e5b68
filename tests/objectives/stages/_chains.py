"""Whole chains of stages on tiny digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesearch.board_eval import load_profile
from edgesearch.objectives import Artifact, Conditions, DataSettings, Pipeline, Stage, Store, load_data, plan, run_stage
from edgesearch.spaces import Candidate

DATA = DataSettings(name="digits", train_images=200, validation_images=100, calibration_images=32, test_images=50)
BOARD = load_profile("zcu104").model_dump(mode="json", exclude={"origin"})
QUICK: dict[str, Any] = {
    "data": DATA,
    "train": {"epochs": 2},
    "finetune": {"epochs": 1},
    "qat": {"epochs": 1},
    "prune": {"draws": 2, "score_images": 50, "recalibration_images": 50},
}


def conditions(pipeline: Pipeline, **settings: Any) -> Conditions:
    return Conditions.of(load_data(pipeline.data), pipeline, board=BOARD, **{"granularity": 8, "seed": 0, **settings})


def stages(candidate: dict[str, Any], *, last: str = "measured", **tables: Any) -> list[Stage]:
    pipeline = Pipeline.model_validate(QUICK | tables)
    student = {"architecture": "mlp", "input_size": 8}
    whole = Candidate.model_validate({"student": student} | candidate)
    return list(plan(whole, pipeline, conditions(pipeline), last=last).walk())


def run(chain: list[Stage], folder: Path, **options: Any) -> dict[str, Artifact]:
    store = Store(folder)
    data = DATA.model_dump(mode="json")
    return {stage.kind: run_stage(stage, store, data_settings=data, device="cpu", **options) for stage in chain}
