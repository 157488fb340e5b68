"""Stages that leave pruning and quantization to Vitis AI's packages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgesearch.board_eval import lower
from edgesearch.board_eval.vitis import VitisSettings
from edgesearch.errors import QuantizationError, SpaceError, StageFailed, ToolchainError
from edgesearch.objectives import Artifact, Conditions, Estimator, Store, load_data, load_graph, plan, run_stage
from edgesearch.objectives.quantization import QatRecipe
from edgesearch.objectives.stages import Pipeline
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._nndct import QatTask, _training
from edgesearch.objectives.training._batches import Batches
from edgesearch.spaces import Candidate, Student, build

from . import _chains
from ._chains import BOARD, DATA, conditions, run, stages

Vitis = Callable[..., VitisSettings]
CNN = {"architecture": "cnn_tiny", "input_size": 8, "width": 2.0}


@pytest.mark.slow
def test_ptq_by_pytorch_nndct_is_compared_with_our_own(tmp_path: Path, vitis: Vitis) -> None:
    made = run(stages({"quantization": {"backend": "nndct"}}), tmp_path, vitis=vitis("finer"))
    figures = made["quantized"].figures
    assert figures["difference"]["positions_differ"] == 1
    assert figures["difference"]["integers_differ"] == 0
    assert figures["versions"]["pytorch_nndct"].startswith("3.5")
    assert 0 < figures["nndct_accuracy"] <= 1
    measured = made["measured"].figures
    assert measured["accuracy"] == figures["nndct_accuracy"]
    assert measured["vitis_accuracy"] == figures["vitis_accuracy"]
    assert (measured["positions_differ"], measured["integers_differ"]) == (1.0, 0.0)
    own = run(stages({"quantization": {"algorithm": "vitis"}}), tmp_path)
    assert own["measured"].figures["accuracy"] == figures["vitis_accuracy"]
    assert "vitis_accuracy" not in own["measured"].figures


@pytest.mark.slow
@pytest.mark.parametrize("method", ["one_step", "iterative"])
def test_pruning_by_vitis_ai_gives_a_network_that_is_trained_and_quantized(method: str, tmp_path: Path, vitis: Vitis) -> None:
    candidate = {
        "student": CNN,
        "pruning": {"method": method, "ratio": 0.4, "steps": 1, "granularity": 4, "backend": "vai"},
        "quantization": {"method": "qat", "backend": "nndct"},
        "distillation": {"kind": "self", "alpha": 0.5},
    }
    made = run(stages(candidate), tmp_path, vitis=vitis())
    assert "sensitivity" not in made
    figures = made["pruned"].figures
    assert figures["reached_ratio"] == pytest.approx(0.4, abs=0.15)
    assert figures["frozen_parameters"] == 0
    assert "pytorch_nndct" in figures["versions"]
    graph = load_graph(made["quantized"])
    whole = lower(build(Student.model_validate(CNN), channels=1, classes=10), (1, 8, 8))
    assert graph.macs == pytest.approx(whole.macs * (1 - figures["reached_ratio"]), rel=0.02)
    assert made["measured"].figures["macs"] == graph.macs
    assert len(made["quantized"].figures["losses"]) == 1


@pytest.mark.slow
def test_a_network_that_was_never_trained_is_trained_by_pytorch_nndct(tmp_path: Path, vitis: Vitis) -> None:
    candidate = {"student": CNN, "quantization": {"method": "qat", "start": "scratch", "backend": "nndct"}}
    recipe = {"epochs": 4, "lr": 0.01, "batch_size": 16}
    made = run(stages(candidate, last="quantized", qat=recipe), tmp_path, vitis=vitis())
    assert set(made) == {"quantized"}
    losses = made["quantized"].figures["losses"]
    assert losses[-1] < losses[0]
    assert made["quantized"].figures["nndct_accuracy"] > 0.2


def failing(fault: str, folder: Path, vitis: Vitis) -> tuple[Any, Store]:
    chain = stages({"quantization": {"backend": "nndct"}}, last="quantized")
    store, data = Store(folder), DATA.model_dump(mode="json")
    for stage in chain[:-1]:
        run_stage(stage, store, data_settings=data, device="cpu")
    return (lambda fault: run_stage(chain[-1], store, data_settings=data, device="cpu", vitis=vitis(fault))), store


@pytest.mark.slow
def test_a_fault_of_the_tool_is_tried_again_and_one_of_the_network_is_not(tmp_path: Path, vitis: Vitis) -> None:
    again, _ = failing("", tmp_path, vitis)
    with pytest.raises(ToolchainError):
        again("raise_construct")
    with pytest.raises(QuantizationError, match="cannot run on the DPU alone"):
        again("garbage")
    with pytest.raises(StageFailed, match="cannot run on the DPU alone"):
        again("")


def test_who_quantizes_decides_the_key_and_where_its_python_is_does_not() -> None:
    own, theirs = (stages({"quantization": {"backend": b}}, last="quantized")[-1] for b in ("edgesearch", "nndct"))
    assert own.key != theirs.key
    assert "backend" not in own.recipe()["parameters"].get("quantization", {})
    tuned = stages({"quantization": {"backend": "nndct", "fast_finetune": True}}, last="quantized")[-1]
    assert tuned.key != theirs.key


def test_versions_of_vitis_ais_packages_count_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: dict[str, Any] = {"student": CNN, "quantization": {"backend": "nndct"}}
    pruned: dict[str, Any] = {"student": CNN, "pruning": {"method": "one_step", "ratio": 0.4, "backend": "vai"}}
    own: dict[str, Any] = {"student": CNN, "pruning": {"method": "one_step", "ratio": 0.4}}
    before = [{stage.kind: stage.key for stage in stages(each)} for each in (theirs, pruned, own)]

    def later(pipeline: Pipeline) -> Conditions:
        return dataclasses.replace(conditions(pipeline), packages={"pytorch_nndct": "3.5.1", "torch": "1.13.1"})

    monkeypatch.setattr(_chains, "conditions", later)
    after = [{stage.kind: stage.key for stage in stages(each)} for each in (theirs, pruned, own)]
    changed = [{kind for kind, key in new.items() if key != old[kind]} for old, new in zip(before, after, strict=True)]
    assert "quantized" in changed[0]
    assert "student" not in changed[0]
    assert "pruned" in changed[1]
    assert "student" not in changed[1]
    assert not changed[2]


def test_vitis_ai_measures_sensitivity_itself() -> None:
    candidate = {"student": CNN, "pruning": {"method": "iterative", "ratio": 0.3}}
    assert "sensitivity" in {stage.kind for stage in stages(candidate)}
    candidate["pruning"]["backend"] = "vai"  # type: ignore[index]
    assert "sensitivity" not in {stage.kind for stage in stages(candidate)}


def test_an_mlp_is_not_left_to_vitis_ais_pruner() -> None:
    estimator = Estimator(channels=1, classes=10, board=BOARD)
    candidate = Candidate.model_validate(
        {"student": {"architecture": "mlp", "input_size": 8}, "pruning": {"method": "one_step", "ratio": 0.3, "backend": "vai"}}
    )
    with pytest.raises(SpaceError, match="an mlp has none"):
        estimator.estimate(candidate)


class _Fixed(Context[Any]):
    """A context whose random numbers are known."""

    seed = 5  # type: ignore[assignment]


@pytest.mark.parametrize("augmentation", ["none", "shift", "flip_crop", "alternate_flip", "cutout", "colour", "randaugment"])
def test_a_training_is_shown_the_images_that_ours_would_be(augmentation: Any, tmp_path: Path) -> None:
    data = load_data(DATA)
    stage = plan(Candidate(student=Student(architecture="mlp")), Pipeline(data=DATA), conditions(Pipeline(data=DATA)))
    context = _Fixed(stage, None, Store(tmp_path), data, "cpu", print)
    recipe = QatRecipe(epochs=3, batch_size=50, augmentation=augmentation)
    training = _training(context, QatTask(recipe, None))
    batches = Batches(data, recipe, size=(8, 8), seed=5, device=torch.device("cpu"), stored=None)
    for epoch in range(training.views):
        labels = torch.cat([batch.labels for batch in batches(epoch)])
        order = training.order[epoch]
        assert torch.equal(torch.from_numpy(training.labels[order]), labels)
        images = torch.cat([batch.inputs for batch in batches(epoch)])
        shown = torch.from_numpy(training.pixels(epoch)[order]).permute(0, 3, 1, 2).float() / 127.5 - 1
        assert torch.allclose(shown, images, atol=1e-6)
    assert training.views == (1 if augmentation == "none" else 3)


def test_artifacts_say_nothing_of_a_comparison_that_was_not_made(tmp_path: Path) -> None:
    made: dict[str, Artifact] = run(stages({}), tmp_path)
    assert "difference" not in made["quantized"].figures
