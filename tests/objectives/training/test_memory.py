"""Memory of a training as foretold: what blocks are alive when, and what grows with what."""

from __future__ import annotations

import copy
import gc
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.objectives.data import DataSet, DataSettings, load_data
from edgesearch.objectives.training import DataShape, MemoryForecast, Recipe, Supervision, predict_memory, train
from edgesearch.objectives.training import _process as process
from edgesearch.objectives.training._allocations import Allocations
from edgesearch.objectives.training._footprint import Footprint
from edgesearch.objectives.training._process import PeakMemory, free_memory

MB = 1 << 20
SHAPE = DataShape(train=1000, validation=100, size=(16, 16), channels=3, classes=10)
RECIPE = Recipe(epochs=1, batch_size=64, optimizer="sgd", mixed_precision="off")


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def foretold(model: nn.Module | None = None, **changes: Any) -> MemoryForecast:
    recipe = RECIPE.model_copy(update=changes.pop("recipe", {}))
    options: dict[str, Any] = {"recipe": recipe, "input_size": None, "before": 0, **changes}
    return predict_memory(network() if model is None else model, SHAPE, **options)


def test_blocks_come_and_go_in_the_order_of_the_work() -> None:
    there = torch.zeros(100)
    with Allocations([there]) as seen:
        a = there + 1  # 400 bytes
        b = a.view(10, 10)  # the same block
        there.mul_(2)  # none
        c = b.double()  # 800
        del a, b
        c.sum()  # 8, gone at once
    assert seen.events == [(0, 400), (1, 800), (0, None), (2, 8), (2, None)]


@settings(deadline=None, max_examples=20)
@given(images=st.integers(1, 500), width=st.integers(1, 30))
def test_the_peak_of_any_number_of_images_is_told_by_two_and_four(images: int, width: int) -> None:
    """Beside a slow reference: the same work done with so many images."""
    weight = torch.zeros(width)

    def steps(count: int) -> None:
        first = torch.zeros(count, width)
        second = torch.cat([first, first])
        del first
        third = weight * 2
        (second.sum(0) + third).sum()

    with Allocations([weight]) as seen:
        steps(images)
    alive: dict[int, int] = {}
    peak = 0
    for number, size in seen.events:
        alive.pop(number) if size is None else alive.update({number: size})
        peak = max(peak, sum(alive.values()))
    footprint = Footprint(lambda count: lambda: steps(count), lambda: [weight])
    assert footprint.peak(images, holes=False) == peak
    assert footprint.peak(images) >= peak


def test_blocks_leave_holes_in_a_heap_alone() -> None:
    footprint = Footprint(lambda images: lambda: torch.zeros(images, MB // 4), lambda: [])
    assert footprint.peak(100, holes=False) == 100 * MB
    assert 130 * MB < footprint.peak(100) < 200 * MB  # the factor is measured


def test_a_step_keeps_what_its_way_back_needs() -> None:
    """conv, batch-norm and ReLU each keep a map of 8 channels; a gradient of one, and the next, are alive at the same time."""
    maps = 4 * 8 * 16 * 16
    step = foretold().step
    each = step.peak(1000, holes=False) - step.peak(999, holes=False)
    assert 4 * maps <= each <= 6 * maps
    half = foretold(recipe={"mixed_precision": "bf16"}).step
    assert half.peak(1000, holes=False) < 0.75 * step.peak(1000, holes=False)


def test_the_network_and_its_random_numbers_stay_as_they_are() -> None:
    model = network().eval()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    foretold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_network_whose_weights_a_hook_computes_is_foretold() -> None:
    model = network()
    model[0] = nn.utils.weight_norm(model[0])  # type: ignore[index, operator]
    assert foretold(model).bytes(64) > foretold().bytes(64)


def test_a_network_that_looks_at_its_values_and_one_that_is_used_up_are_foretold_alike() -> None:
    class Curious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, images: Tensor) -> Tensor:
            answer: Tensor = self.net(images)
            assert answer.isfinite().all()
            return answer

    told = [foretold(Curious(), consume=consume).bytes(64) for consume in (False, True)]
    assert told[0] == told[1] == foretold().bytes(64)


def test_what_stays_through_the_training_counts() -> None:
    plain = foretold()
    weights = sum(parameter.numel() for parameter in network().parameters()) * 4
    assert foretold(recipe={"optimizer": "adamw"}).fixed == plain.fixed + weights
    assert foretold(recipe={"average_epochs": 2.0}).fixed >= plain.fixed + 2 * weights
    logits = np.zeros((4, 1000, 10), np.float32)
    assert foretold(supervision=Supervision(stored_logits=logits)).fixed == plain.fixed + logits.nbytes
    assert foretold(before=10 * MB).bytes(64) == plain.bytes(64) + 10 * MB


def test_a_teacher_that_answers_in_each_step_counts() -> None:
    teacher = network(64)
    alone, taught = foretold(), foretold(supervision=Supervision(teacher=teacher))
    assert taught.bytes(64) > alone.bytes(64) + 64 * 4 * 64 * 16 * 16
    hinted = foretold(supervision=Supervision(kind="intermediate", teacher=teacher))
    assert hinted.bytes(64) >= taught.bytes(64)
    assert not any(module._forward_hooks for module in teacher.modules())


def test_pieces_fit_and_are_as_large_as_they_can_be() -> None:
    forecast = foretold()

    def taken(images: int) -> int:
        return forecast.fixed + forecast.step.peak(images)

    assert forecast.pieces(64, taken(64)) == 1
    assert forecast.pieces(64, taken(64) - 1) == 2
    assert forecast.pieces(64, taken(32) - 1) == 4
    assert forecast.pieces(64, 0) == 8  # of eight images, and no smaller


def test_a_training_tells_what_it_should_take_and_took() -> None:
    digits: DataSet = load_data(DataSettings(train_images=256, validation_images=50, calibration_images=20))
    layers = [nn.Conv2d(1, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(256 * 64, 10))
    recipe = Recipe(epochs=1, batch_size=256, optimizer="sgd", mixed_precision="off")
    training = train(model, digits, recipe=recipe, input_size=8, seed=0, device="cpu")
    assert training.peak_bytes is not None
    assert abs(training.predicted_bytes / training.peak_bytes - 1) < 0.2


def taken(size: int) -> mmap.mmap:
    """New memory: what malloc gives may be left from tests before."""
    memory = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        memory[page] = 1
    return memory


def test_the_peak_is_of_the_work_and_not_of_what_was_before() -> None:
    cpu = torch.device("cpu")
    taken(64 * MB).close()
    gc.collect()  # what tests before left behind would be given back meanwhile
    peak = PeakMemory(cpu)
    before = peak.bytes()
    held = taken(64 * MB)
    after = peak.bytes()
    held.close()
    assert before is not None
    assert after is not None
    assert 60 * MB < after - before < 70 * MB


def test_free_memory_is_no_more_than_a_container_may_take(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GROUP", tmp_path)
    free = free_memory(torch.device("cpu"))
    assert free > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert free_memory(torch.device("cpu")) > 0.5 * free
    (tmp_path / "memory.max").write_text(f"{MB}\n")
    assert free_memory(torch.device("cpu")) == MB - 5


@pytest.mark.parametrize(
    ("limit", "taken", "parts", "prefix"),
    [
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ],
)
def test_files_that_linux_keeps_in_memory_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, taken: str, parts: str, prefix: str
) -> None:
    """A container that has read its data and written checkpoints is at its limit, and nothing lacks memory."""
    monkeypatch.setattr(process, "_GROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text(f"{10 * MB}\n")
    (tmp_path / taken).write_text(f"{10 * MB - 5}\n")
    (tmp_path / parts).write_text(f"anon {MB}\n{prefix}inactive_file {6 * MB}\n{prefix}active_file {MB}\nunevictable 0\n")
    assert free_memory(torch.device("cpu")) == 7 * MB + 5
    (tmp_path / parts).write_text("nonsense\n")
    assert free_memory(torch.device("cpu")) == 5
