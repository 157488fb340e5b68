"""Jobs from end to end, in an interpreter of their own that has a stand-in for Vitis AI's packages."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgesearch.board_eval import Graph, execute, lower
from edgesearch.board_eval.vitis import VitisSettings
from edgesearch.errors import QuantizationError, SpaceError, ToolchainError, ToolchainMissing
from edgesearch.objectives.pruning import PruningImages, PruningTask, prune_with_vai
from edgesearch.objectives.quantization import Nndct, NndctTraining, quantize, quantize_nndct, train_nndct
from edgesearch.objectives.vitis import check_packages, compare_graphs
from edgesearch.spaces import Student, build

from ._networks import Functions, randomized

pytestmark = pytest.mark.slow  # every job starts a Python and loads torch there

Vitis = Callable[..., VitisSettings]
SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs have their folders."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def folders(jobs: Path) -> list[Path]:
    """Those of jobs that are left; other libraries have temporary files too."""
    return list(jobs.glob("edgesearch-vitis-*"))


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return build(Student(architecture="cnn_tiny", input_size=16, width=0.5), channels=3, classes=10).eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build(Student(architecture="resnet20", input_size=16, width=0.5), channels=3, classes=10).eval()


# -- quantization


@pytest.mark.parametrize(("name", "fast_finetune"), [("mobilenet_v2", False), ("squeezenet1_1", True), ("functions", False)])
def test_ptq_comes_back_as_the_network_that_it_is(
    name: str, fast_finetune: bool, images: npt.NDArray[np.float32], vitis: Vitis, jobs: Path
) -> None:
    torch.manual_seed(0)
    student = None if name == "functions" else Student(architecture=name, input_size=16, width=0.25)
    model = randomized(Functions()) if student is None else build(student, channels=3, classes=5).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = quantize_nndct(model, SHAPE, images, vitis(), fast_finetune=fast_finetune)
    ours = quantize(lower(model, SHAPE), images, method="vitis")  # of which the stand-in makes its xmodel
    difference = compare_graphs(ours, made.graph, images)
    assert (difference.unpaired, difference.positions_differ, difference.integers_differ) == (0, 0, 0)
    assert difference.answers_differ == 0
    assert np.array_equal(execute(made.graph, images), execute(ours, images))
    assert made.versions["pytorch_nndct"].startswith("3.5")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not folders(jobs)


def training(classes: int = 10, *, epochs: int = 3, taught: bool = True, size: int = 8, **more: Any) -> NndctTraining:
    """A class is the quarter of an image that is bright."""
    random = np.random.default_rng(1)
    labels = random.integers(0, min(classes, 4), 64)
    pixels = random.integers(0, 100, (64, size, size, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        half = size // 2
        image[label // 2 * half :, label % 2 * half :][:half, :half] += 150
    return NndctTraining(
        **{
            "epochs": epochs,
            "lr": 3e-3,
            "batch_size": 16,
            "size": (size, size),
            "labels": labels.astype(np.int64),
            "order": np.stack([random.permutation(64) for _ in range(epochs)]).astype(np.int32),
            "views": 2,
            "pixels": lambda view: pixels if view == 0 else pixels[:, :, ::-1].copy()[:, :, ::-1],
            "logits": (lambda view: 5 * np.eye(classes, dtype=np.float32)[labels]) if taught else None,
            "mean": (0.5, 0.4, 0.3),
            "std": (0.5,) * 3,
            "alpha": 0.5,
        }
        | more
    )


@pytest.mark.parametrize(("size", "taught"), [(16, False), (8, True)])
def test_qat_trains_the_network_with_the_recipe(
    size: int, taught: bool, resnet: nn.Module, images: npt.NDArray[np.float32], vitis: Vitis
) -> None:
    made = train_nndct(resnet, SHAPE, images, training(size=size, taught=taught), vitis())
    assert len(made.losses) == 3
    assert made.losses[-1] < made.losses[0]
    moved = [name for name, value in made.model.state_dict().items() if not torch.equal(value, resnet.state_dict()[name])]
    weights = [name for name, _ in resnet.named_parameters()]
    assert set(weights) <= set(moved)
    own = quantize(lower(made.model, SHAPE), images, method="vitis")
    assert compare_graphs(own, made.graph, images).unpaired == 0


@pytest.mark.parametrize("loss", ["logit", "nkd"])
def test_a_job_resizes_images_to_the_bytes_that_this_program_makes(
    loss: str, vitis: Vitis, images: npt.NDArray[np.float32]
) -> None:
    """The first epoch's loss of a network that learns nothing is that of our own images."""
    from edgesearch.objectives.data import Normalisation, prepare_tensor
    from edgesearch.objectives.training import SoftTargets

    torch.manual_seed(0)
    model = build(Student(architecture="cnn_tiny", input_size=16, width=0.5), channels=3, classes=10).train()
    task = training(epochs=1, lr=1e-30, batch_size=64, loss=loss, temperature=2.0)
    made = train_nndct(model, SHAPE, images, task, vitis())
    pixels = torch.from_numpy(task.pixels(0)[task.order[0]])
    assert task.logits is not None
    labels, logits = torch.from_numpy(task.labels[task.order[0]]), torch.from_numpy(task.logits(0)[task.order[0]])
    shown = prepare_tensor(pixels, 16, Normalisation((0.5, 0.4, 0.3), (0.5,) * 3))
    with torch.no_grad():
        how = SoftTargets(kind=task.loss, temperature=task.temperature, alpha=task.alpha, gamma=task.gamma)
        expected = how(model.train()(shown), labels, logits)
    assert made.losses[0] == pytest.approx(float(expected), rel=1e-5)


# -- faults


FAULTS = {
    "import": (ToolchainMissing, "undefined symbol"),
    "other_torch": (ToolchainMissing, "was built for torch 1.13.1"),
    "raise_construct": (ToolchainError, "an operation that it does not know"),
    "exit_construct": (ToolchainError, "Failed to get graph"),
    "crash_export": (ToolchainError, "signal 6|exit code 134"),
    "no_xmodel": (ToolchainError, "0 xmodels"),
    "two_xmodels": (ToolchainError, "2 xmodels"),
    "garbage": (QuantizationError, "cannot run on the DPU alone"),
    "aten": (QuantizationError, "'aten::silu'"),
    "other_network": (QuantizationError, r"reads images of \(8, 8, 1\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_is_one_sentence_and_the_log_stays(
    fault: str, small: nn.Module, images: npt.NDArray[np.float32], vitis: Vitis, jobs: Path
) -> None:
    kind, words = FAULTS[fault]
    with pytest.raises(kind, match=words) as caught:
        quantize_nndct(small, SHAPE, images, vitis(fault))
    assert "\n" not in str(caught.value)
    left = [path.name for folder in folders(jobs) for path in folder.iterdir()]
    assert all(name.endswith(".log") for name in left)


def test_a_job_that_hangs_is_stopped(small: nn.Module, images: npt.NDArray[np.float32], vitis: Vitis, jobs: Path) -> None:
    with pytest.raises(ToolchainError, match="did not end within 4 s"):
        quantize_nndct(small, SHAPE, images, vitis("hang_construct", job_timeout_s=4))
    assert [path.suffix for folder in folders(jobs) for path in folder.iterdir()] == [".log"]


def test_a_training_that_ends_in_no_number_says_so(small: nn.Module, images: npt.NDArray[np.float32], vitis: Vitis) -> None:
    with pytest.raises(ToolchainError, match="smaller learning rate"):
        train_nndct(small, SHAPE, images, training(epochs=1), vitis("nan"))


def test_a_python_without_the_packages_is_refused() -> None:
    with pytest.raises(ToolchainMissing, match="without pytorch_nndct") as caught:
        check_packages(VitisSettings(python=sys.executable))
    assert "\n" not in str(caught.value)


def test_what_a_check_is_for_decides_what_it_asks(vitis: Vitis) -> None:
    assert set(check_packages(vitis("no_pruner"), "ptq")) == {"python", "torch", "pytorch_nndct"}
    with pytest.raises(ToolchainMissing, match="no pruner"):
        check_packages(vitis("no_pruner"), "prune_one_step")


def test_other_packages_than_those_that_were_asked_for_do_nothing(
    small: nn.Module, images: npt.NDArray[np.float32], vitis: Vitis
) -> None:
    versions = dict(check_packages(vitis(), "ptq"))
    assert quantize_nndct(small, SHAPE, images, vitis(), packages=versions).versions == versions
    with pytest.raises(ToolchainMissing, match=r"has pytorch_nndct 3\.5.*was started with 3\.0"):
        quantize_nndct(small, SHAPE, images, vitis(), packages=versions | {"pytorch_nndct": "3.0"})


def test_a_difference_is_found(resnet: nn.Module, images: npt.NDArray[np.float32], vitis: Vitis) -> None:
    made: Nndct = quantize_nndct(resnet, SHAPE, images, vitis("finer"))
    ours: Graph = quantize(lower(resnet, SHAPE), images, method="vitis")
    difference = compare_graphs(ours, made.graph, images)
    assert (difference.positions_differ, difference.integers_differ, difference.unpaired) == (1, 0, 0)
    assert ours.output.name in difference.where[0]
    assert json.loads(json.dumps(difference.figures()))["positions_differ"] == 1


# -- pruning


def task(model: nn.Module, **changes: Any) -> tuple[PruningTask, list[int]]:
    trained: list[int] = []

    def finetune(network: nn.Module, step: int) -> None:
        trained.append(step)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.01)

    settings: dict[str, Any] = {
        "model": model,
        "input_shape": SHAPE,
        "ratio": 0.5,
        "granularity": 2,
        "draws": 3,
        "steps": 2,
        "score": lambda network: 0.0,
        "recalibrate": lambda network: None,
        "finetune": finetune,
        "seed": 0,
    }
    return PruningTask(**(settings | changes)), trained


@pytest.fixture(scope="module")
def scored(images: npt.NDArray[np.float32]) -> PruningImages:
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return PruningImages(first, np.arange(6) % 3, first)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_one_step_gives_a_slim_network_that_trains(name: str, scored: PruningImages, vitis: Vitis) -> None:
    model = build(Student(architecture=name, input_size=16, width=0.5), channels=3, classes=10).eval()
    asked, _ = task(model)
    pruned = prune_with_vai(asked, "one_step", scored, vitis())
    assert pruned.reached_ratio == pytest.approx(0.5, abs=0.1)
    assert "pytorch_nndct" in pruned.versions
    assert 2 <= len(pruned.scores) <= 3  # ways that are one are scored once
    assert type(pruned.model) is type(model)
    assert sum(p.numel() for p in pruned.model.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(p.requires_grad for p in pruned.model.parameters())
    pruned.model(torch.from_numpy(scored.images)).sum().backward()  # and so does all of it
    assert all(p.grad is not None for p in pruned.model.parameters())
    graph = lower(pruned.model, SHAPE)
    assert graph.macs < lower(model, SHAPE).macs


def test_iterative_prunes_in_rounds_with_training_between(resnet: nn.Module, scored: PruningImages, vitis: Vitis) -> None:
    asked, trained = task(resnet, ratio=0.4)
    pruned = prune_with_vai(asked, "iterative", scored, vitis())
    assert trained == [0]
    assert pruned.reached_ratio == pytest.approx(0.4, abs=0.1)
    assert pruned.scores == ()


PRUNING_FAULTS = {
    "sparse": "not slim",
    "frozen": "held back from training",
    "unchanged": "removed no channel",
    "torn": "no slim form of this network",
    "nan_weights": "not finite",
}


@pytest.mark.parametrize("fault", PRUNING_FAULTS)
def test_no_other_network_than_a_slim_one_comes_back(fault: str, small: nn.Module, scored: PruningImages, vitis: Vitis) -> None:
    with pytest.raises(ToolchainError, match=PRUNING_FAULTS[fault]):
        prune_with_vai(task(small)[0], "one_step", scored, vitis(fault))


def test_a_search_that_finds_nothing_ends(
    small: nn.Module, scored: PruningImages, vitis: Vitis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesearch.objectives.pruning._vai._SEARCH_S", 3.0)
    monkeypatch.setattr("edgesearch.objectives.pruning._vai._DRAW_S", 0.0)
    with pytest.raises(ToolchainError, match="found no network within 1 %"):
        prune_with_vai(task(small)[0], "one_step", scored, vitis("endless"))


def test_what_has_no_convolution_is_refused_at_once(scored: PruningImages, vitis: Vitis) -> None:
    model = build(Student(architecture="mlp", input_size=16), channels=3, classes=10)
    with pytest.raises(SpaceError, match="channels of convolutions"):
        prune_with_vai(task(model)[0], "one_step", scored, vitis())
