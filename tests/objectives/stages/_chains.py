"""Whole chains of stages on tiny digits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgesearch.board_eval import find_board
from edgesearch.objectives import Artifact, Conditions, DataSettings, Pipeline, Stage, Store, load_data, plan, run_stage
from edgesearch.spaces import Candidate

DATA = DataSettings(name="digits", train_images=200, validation_images=100, calibration_images=32, test_images=50)
BOARD = find_board("zcu104")
QUICK: dict[str, Any] = {
    "data": DATA,
    "train": {"epochs": 2},
    "finetune": {"epochs": 1},
    "qat": {"epochs": 1},
    "prune": {"draws": 2, "score_images": 50, "recalibration_images": 50},
}


def conditions(pipeline: Pipeline) -> Conditions:
    return dataclasses.replace(Conditions.of(load_data(pipeline.data), pipeline, BOARD), granularity=8)


def stages(candidate: dict[str, Any], *, last: str = "measured", **tables: Any) -> list[Stage]:
    pipeline = Pipeline.model_validate(QUICK | tables)
    student = {"architecture": "mlp", "input_size": 8}
    whole = Candidate.model_validate({"student": student} | candidate)
    return list(plan(whole, pipeline, conditions(pipeline), last=last).walk())


def run(chain: list[Stage], folder: Path, /, **options: Any) -> dict[str, Artifact]:
    store = Store(folder)
    data = DATA.model_dump(mode="json")
    return {stage.kind: run_stage(stage, store, data_settings=data, device="cpu", **options) for stage in chain}
