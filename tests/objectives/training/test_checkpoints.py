"""The state of an optimizer comes back where a training without a break has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesearch.objectives.training._checkpoints import misfit, pack, unpack
from edgesearch.objectives.training._optimizers import make_optimizer
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._rules import Part


class Scales(nn.Module):
    """Three kernels, a vector, and a threshold as quantization-aware training has them."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([nn.Parameter(torch.randn(4, 4, 3, 3)) for _ in range(3)])
        self.vector, self.threshold = nn.Parameter(torch.randn(4)), nn.Parameter(torch.tensor(2.0))


_OPTIMIZERS = ["adamw", "adam", "sgd", "muon"]


def made(optimizer: str, device: str = "cpu") -> tuple[Scales, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Scales().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = [Part([*model.kernels, model.vector]), Part([model.threshold], 10.0)]
    return model, make_optimizer(Recipe(optimizer=optimizer, lr=0.01), model, parts=parts)  # type: ignore[arg-type]


def step(model: Scales, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    places = enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])
    return {f"{place}/{key}": value for place, each in places for key, value in optimizer.state.get(each, {}).items()}


def test_the_first_difference_between_a_checkpoint_and_a_network_is_named() -> None:
    def packed(model: nn.Module) -> dict[str, Tensor]:
        return pack({"model": model}, torch.optim.SGD(model.parameters()))

    wide, narrow = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 2))
    longer = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1, bias=False))
    assert misfit(packed(wide), {"model": nn.Sequential(nn.Linear(3, 4))}) == ""
    assert misfit(packed(wide), {"model": narrow}) == "0.weight is (4, 3) there and (2, 3) here"
    assert misfit(packed(wide), {"model": longer}) == "1.weight is nothing there and (1, 4) here"
    assert misfit(packed(longer), {"model": wide}) == "1.weight is (1, 4) there and nothing here"


@pytest.mark.parametrize("optimizer", _OPTIMIZERS)
def test_the_state_comes_back_as_it_was(optimizer: str) -> None:
    model, trained = made(optimizer)
    step(model, trained, 1)
    packed = pack({"model": model}, trained)
    other, resumed = made(optimizer)
    unpack(packed, {"model": other}, resumed)
    before, after = state(trained), state(resumed)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value)
        assert (after[name].dtype, after[name].stride()) == (value.dtype, value.stride())
    for one, two in ((model, trained), (other, resumed)):
        step(one, two, 2)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", _OPTIMIZERS)
def test_all_state_lies_beside_its_parameter(optimizer: str) -> None:
    model, trained = made(optimizer)
    step(model, trained, 1)
    packed = {name: value for name, value in pack({}, trained).items() if name.startswith("optimizer/")}
    _, elsewhere = made(optimizer, "meta")
    unpack(packed, {}, elsewhere)
    devices = {name: value.device.type for name, value in state(elsewhere).items()}
    assert len(devices) == len(packed) > 0
    assert set(devices.values()) == {"meta"}  # steps, too: torch's fused optimizers and Muon count on the parameter's device


def test_state_of_another_shape_than_its_parameter_lies_beside_it() -> None:
    class Rows(torch.optim.Optimizer):
        """Keeps one number for each row."""

        def step(self, closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["rows"] = torch.ones(len(parameter))

    here, there = (nn.Parameter(torch.zeros(3, 2, device=device)) for device in ("cpu", "meta"))
    trained, elsewhere = Rows([here], {}), Rows([there], {})
    trained.step()
    unpack(pack({}, trained), {}, elsewhere)
    assert elsewhere.state[there]["rows"].device.type == "meta"
    assert elsewhere.state[there]["rows"].shape == (3,)
