"""Training on the DPU's grid that was cut off ends the same, and keeps the positions that it has frozen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval.lowering._trace import lower_with_sources
from edgesearch.objectives.data import DataSet
from edgesearch.objectives.quantization._qat import Qat, QatSettings
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.training import Supervision, find_stages

from ._qat import SHAPE, qat, same


class Memory:
    """Keeps the last state, and every epoch's."""

    def __init__(self) -> None:
        self.saved: dict[int, dict[str, Tensor]] = {}
        self.state: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None
        self.stop_after: int | None = None

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.state, self.saved[epoch] = (epoch, tensors, meta), tensors
        if epoch == self.stop_after:
            raise KeyboardInterrupt

    def clear(self) -> None:
        self.state = None


_RECIPES: dict[str, dict[str, Any]] = {
    "rates": {"stage_lrs": (0.5, 1.0), "augmentation": "shift"},
    "average": {
        "average_epochs": 1.5,
        "augmentation": "cutout",
        "label_smoothing": 0.1,
        "warmup_epochs": 0.5,
        "clip_norm": 1.0,
    },
    "sgd": {"optimizer": "sgd", "schedule": "linear"},
    "muon": {"optimizer": "muon", "stage_lrs": (0.5, 1.0)},
}


@pytest.mark.parametrize(
    ("recipe", "stop_after"), [("rates", 1), ("rates", 4), ("average", 1), ("average", 3), ("sgd", 3), ("muon", 1)]
)
def test_a_training_that_was_cut_off_ends_the_same(trained: nn.Module, few: DataSet, stop_after: int, recipe: str) -> None:
    """Before positions are frozen (behind the third epoch), when they are, and when nothing is left to train."""
    whole, memory = qat(trained, few, _RECIPES[recipe], checkpoints=Memory()), Memory()
    memory.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        qat(trained, few, _RECIPES[recipe], checkpoints=memory)
    memory.stop_after = None
    resumed = qat(trained, few, _RECIPES[recipe], checkpoints=memory)
    assert same(resumed.graph, whole.graph)
    assert [epoch.loss for epoch in resumed.training.history] == [epoch.loss for epoch in whole.training.history]
    assert resumed.training.accuracy == whole.training.accuracy


@pytest.mark.parametrize("saves", [1, 8, 14])
def test_a_training_that_was_cut_off_within_an_epoch_ends_the_same(trained: nn.Module, few: DataSet, saves: int) -> None:
    """In the first epoch, and where positions are frozen."""

    class Cut(Memory):
        left = saves

        def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
            super().save(epoch, tensors, meta)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    whole, memory = qat(trained, few, _RECIPES["average"], checkpoints=Memory()), Cut()
    with pytest.raises(KeyboardInterrupt):
        qat(trained, few, _RECIPES["average"], checkpoints=memory, checkpoint_within=0.0)
    resumed = qat(trained, few, _RECIPES["average"], checkpoints=memory, checkpoint_within=1e9)
    assert same(resumed.graph, whole.graph)
    assert [epoch.loss for epoch in resumed.training.history] == [epoch.loss for epoch in whole.training.history]


@pytest.mark.parametrize("kept", ["another network", "more epochs"])
def test_a_training_that_cannot_go_on_from_what_was_saved_begins_at_the_grids_of_ptq(
    trained: nn.Module, few: DataSet, kept: str
) -> None:
    memory = Memory()
    if kept == "another network":
        qat(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), few, {"epochs": 2}, checkpoints=memory)
    else:
        qat(trained, few, {"epochs": 3}, checkpoints=memory)
    assert memory.state is not None
    assert same(qat(trained, few, {"epochs": 2}, checkpoints=memory).graph, qat(trained, few, {"epochs": 2}).graph)


def test_positions_stay_once_they_are_frozen_and_a_mean_of_weights_begins_anew(trained: nn.Module, few: DataSet) -> None:
    memory = Memory()
    recipe = {"epochs": 6, "lr": 2e-2, "average_epochs": 3.0}
    qat(trained, few, recipe, settings=QatSettings(bits=5), checkpoints=memory)
    names = [name.removeprefix("model/") for name in memory.saved[1] if name.startswith("model/") and "threshold" in name]
    moved = {
        epoch: sum(not torch.equal(memory.saved[epoch][f"model/{n}"], memory.saved[epoch + 1][f"model/{n}"]) for n in names)
        for epoch in (1, 2, 3, 5)
    }
    assert min(moved[epoch] for epoch in (1, 2, 3)) > len(names) // 2
    assert moved[5] == 0
    for epoch, stays in ((4, False), (5, True), (6, True)):
        saved = memory.saved[epoch]
        assert all(torch.equal(saved[f"average/{name}"], saved[f"model/{name}"]) for name in names) == stays


def test_feature_maps_are_compared(trained: nn.Module, few: DataSet) -> None:
    """With weight 0 the loss is that of the labels, with more it is greater; what was cut off goes on to the same bits."""
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), 8)
    sizes = [(channels, height) for _, channels, height in find_stages(network, SHAPE)]
    assert sizes == [(channels, height) for _, channels, height in find_stages(trained, SHAPE)] == [(8, 8), (16, 4), (16, 2)]

    def taught(beta: float, checkpoints: Memory | None = None) -> Qat:
        teacher = copy.deepcopy(trained)
        supervision = Supervision(kind="intermediate", alpha=1.0, beta=beta, teacher=teacher)
        made = qat(trained, few, {"epochs": 3, "lr": 2e-3}, supervision=supervision, checkpoints=checkpoints)
        assert not any(module._forward_hooks for module in teacher.modules())
        return made

    plain, nothing, drawn = qat(trained, few, {"epochs": 3, "lr": 2e-3}), taught(0.0), taught(5.0)
    first = [made.training.history[0].loss for made in (plain, nothing, drawn)]
    assert first[1] == pytest.approx(first[0], rel=1e-2)
    assert first[2] > 1.1 * first[0]
    memory = Memory()
    memory.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        taught(5.0, memory)
    memory.stop_after = None
    assert same(taught(5.0, memory).graph, drawn.graph)
    assert not same(plain.graph, drawn.graph)
