"""How many workers a run has where nobody says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesearch.errors import StoreError, StudyError
from edgesearch.search import Study, StudyFile
from edgesearch.search.library import _run, _tune
from edgesearch.search.library._run import Resources
from edgesearch.search.processes import ForkServer, _machine

STUDY = """
name = "tiny"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[space]
students = ["cnn_tiny"]
input_size = [8]
algorithm = ["vitis"]  # the quicker one
"""


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "local_gpus", lambda: 0)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    return 8


def workers_of(resources: Resources, threads: int, monkeypatch: pytest.MonkeyPatch) -> int | None:
    asked: list[int | None] = []
    monkeypatch.setattr(_run, "make_pool", lambda workers, **_: asked.append(workers))
    resources.pool(None, threads, ForkServer())
    return asked[0]


@pytest.mark.parametrize(("threads", "workers"), [(1, 8), (2, 4), (3, 2), (8, 1), (16, 1)])
def test_threads_do_not_outnumber_the_cores(threads: int, workers: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers_of(Resources(), threads, monkeypatch) == workers


@pytest.mark.parametrize(("resources", "workers"), [({"workers": 5}, 5), ({"workers": 0}, 0), ({"ray_address": "auto"}, None)])
def test_what_is_said_stays(
    resources: dict[str, Any], workers: int | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workers_of(Resources(**resources), 4, monkeypatch) == workers


def test_no_ray_and_a_cluster_of_it_are_refused() -> None:
    with pytest.raises(StudyError, match="workers = 0 runs stages without Ray, and ray_address = 'auto' is a cluster of it"):
        Resources(workers=0, ray_address="auto")


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [
        (1, {}, (2, 0.5, 1)),
        (2, {}, (4, 0.5, 2)),
        (8, {}, (8, 1.0, 8)),
        (2, {"workers": 3}, (3, 0.5, 2)),
        (1, {"workers": 8}, (8, 0.125, 1)),
        (1, {"workers": 0}, (0, 0.0, 1)),
        (1, {"gpus_per_stage": 0.0}, (8, 0.0, 1)),
        (2, {"gpus_per_stage": 0.25}, (8, 0.25, 2)),
        (1, {"ray_address": "auto"}, (None, 0.0, None)),
        (0, {}, (8, 0.0, 0)),
    ],
)
def test_gpus_are_shared_evenly_unless_something_else_is_said(
    gpus: int,
    given: dict[str, Any],
    expected: tuple[int | None, float, int | None],
    cores: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_machine, "local_gpus", lambda: gpus)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(_run, "make_pool", lambda workers, **more: asked.append({"workers": workers, **more}))
    Resources(**given).pool(None, 1, ForkServer())
    assert (asked[0]["workers"], asked[0]["gpus_per_job"], asked[0]["gpus"]) == expected


def test_a_store_that_cannot_be_used_is_told_before_workers_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(STUDY)
    study = Study.open(tmp_path / "tiny.toml", tmp_path / "home")

    def refuse(*given: Any, **more: Any) -> None:
        raise StoreError("it is away")

    monkeypatch.setattr(_run, "study_store", refuse)
    monkeypatch.setattr(_run, "make_pool", lambda *given, **more: pytest.fail("workers were started"))
    with pytest.raises(StoreError, match="away"):
        study.optimize(1, workers=1)


@pytest.mark.slow
def test_a_study_runs_on_shares_of_the_gpus_that_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU that is only counted: each stage has a process of its own, and computes on the CPU since torch sees none."""
    monkeypatch.setattr(_machine, "local_gpus", lambda: 1)
    (tmp_path / "tiny.toml").write_text(STUDY)
    front = Study.open(tmp_path / "tiny.toml", tmp_path / "home").optimize(1, workers=2)
    assert len(front) == 1


def test_recipes_are_tried_on_as_many_workers(tmp_path: Path, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.toml").write_text(STUDY)
    seen: list[int] = []

    def stop(target: object, inputs: object, home: object, storage: object, budget: Any, *rest: object) -> Any:
        seen.append(budget.workers)
        raise StudyError("far enough")

    monkeypatch.setattr(_tune, "_Tuning", stop)
    for workers in (None, 3):
        with pytest.raises(StudyError, match="far enough"):
            _tune.tune(tmp_path / "tiny.toml", "cnn_tiny", tmp_path, workers=workers, threads=4)
    assert seen == [2, 3]


OWN_NETWORK = """
from torch import nn

def net(num_classes, in_channels):
    body = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(4, num_classes))
"""


def test_a_named_candidate_whose_code_was_edited_is_tried_again_when_the_study_goes_on(tmp_path: Path) -> None:
    few = {"name": "digits", "train_images": 40, "validation_images": 40, "calibration_images": 20, "test_images": 20}
    network = {"student": {"architecture": "own_run_net:net", "input_size": 8}, "quantization": {"algorithm": "vitis"}}
    other = {"student": {"architecture": "mlp", "input_size": 8}, "quantization": {"algorithm": "vitis"}}
    tables = {"name": "s", "data": few, "train": {"epochs": 1}, "candidates": [network, other]}

    def go_on(code: str) -> list[str]:
        (tmp_path / "own_run_net.py").write_text(code)
        study = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path / "home")
        study.optimize(workers=0)
        records = study.view().records
        assert {record.state for record in records} == {"COMPLETE"}
        return [record.candidate.student.source_sha256 for record in records]

    first = go_on(OWN_NETWORK)
    assert go_on(OWN_NETWORK) == first
    second = go_on(OWN_NETWORK.replace("nn.ReLU()", "nn.ReLU6()"))
    assert second[:2] == first
    assert second[2] not in first
    third = go_on(OWN_NETWORK + "# again\n")
    assert (len(third), len(set(third))) == (4, 4)


FAILING = (
    OWN_NETWORK
    + """
class Failing(nn.Sequential):
    def forward(self, x):
        if self.training:
            raise ValueError("not yet")
        return super().forward(x)

def net(num_classes, in_channels):
    return Failing(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
"""
)


def test_what_failed_is_tried_again_with_the_code_as_it_is_now(tmp_path: Path) -> None:
    few = {"name": "digits", "train_images": 40, "validation_images": 40, "calibration_images": 20, "test_images": 20}
    network = {"student": {"architecture": "failing_run_net:net", "input_size": 8}, "quantization": {"algorithm": "vitis"}}
    other = {"student": {"architecture": "mlp", "input_size": 8}, "quantization": {"algorithm": "vitis"}}
    space = {"students": ["failing_run_net:net", "mlp"], "input_size": [8], "algorithm": ["vitis"]}
    tables: dict[str, Any] = {"data": few, "train": {"epochs": 1}}

    def go_on(code: str, of: dict[str, Any]) -> list[str]:
        (tmp_path / "failing_run_net.py").write_text(code)
        study = Study.open(StudyFile.parse(tables | of, folder=tmp_path), tmp_path / "home")
        study.optimize(workers=0, retry_failed=True)
        return sorted(record.state for record in study.view().records)

    named, searched = (
        {"name": "named", "candidates": [other, network]},
        {"name": "searched", "space": space, "search": {"trials": 2}},
    )
    for of in (named, searched):
        assert go_on(FAILING, of) == ["COMPLETE", "FAIL"]
        assert go_on(FAILING.replace('raise ValueError("not yet")', "pass"), of) == ["COMPLETE", "COMPLETE", "FAIL"]
        assert go_on(FAILING.replace('raise ValueError("not yet")', "pass"), of) == ["COMPLETE", "COMPLETE", "FAIL"]


VIEWED = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, input_size):
        super().__init__()
        self.one = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Linear(16 * (input_size // 4) ** 2, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.one(x)), 2)
        x = F.max_pool2d(F.relu(self.norm(self.two(x))), 2)
        return self.last(x.view(x.size(0), -1))
"""


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_views_its_maps_as_rows_goes_through_every_stage(channels: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (120, 16, 16, channels), dtype=np.uint8), draw.integers(0, 3, 120)
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images[:40], test_labels=labels[:40])
    (tmp_path / "viewing_net.py").write_text(VIEWED)
    student = {"architecture": "viewing_net:Net", "input_size": 8}
    quick = {"quantization": {"algorithm": "vitis"}}
    pruned = {"method": "iterative", "ratio": 0.4, "granularity": 8}
    candidates = [
        {"student": student, "distillation": {"kind": "intermediate"}, "pruning": pruned, "quantization": {"method": "qat"}},
        {"student": student, "distillation": {"kind": "logit"}, "pruning": {**pruned, "method": "one_step"}, **quick},
    ]
    short = {"epochs": 1, "batch_size": 40}
    tables = {
        "name": "viewed",
        "data": {"name": "npz", "root": "own.npz", "validation_images": 40, "calibration_images": 20},
        "teacher": {"architecture": "viewing_net:Net", "input_size": 16, "recipe": short},
        **{"train": short, "finetune": short, "qat": short, "candidates": candidates},
        "prune": {"draws": 2, "score_images": 20, "recalibration_images": 20},
    }
    study = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path / "home")
    study.optimize(workers=0)
    assert [record.state for record in study.records()] == ["COMPLETE"] * 2
