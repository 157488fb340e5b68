"""Optimizers and schedules do what their names say."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.objectives.training._average import Average
from edgesearch.objectives.training._optimizers import Muon, learning_rate, make_optimizer, orthogonalized, set_rate
from edgesearch.objectives.training._recipe import Recipe


def test_a_linear_schedule_is_a_triangle() -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, schedule="linear", lr=1.0)
    rates = [learning_rate(recipe, step, 4) for step in range(40)]
    assert rates[:8] == pytest.approx([(step + 1) / 8 for step in range(8)])
    falls = [before - after for before, after in itertools.pairwise(rates[8:])]
    assert falls == pytest.approx([1 / 32] * 31)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_an_orthogonal_step_keeps_directions_and_evens_their_sizes(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, rank, generator=generator))[0]
    sizes = torch.linspace(1.0, 0.2, rank)
    step = orthogonalized(left @ torch.diag(sizes) @ right.T)
    seen = left.T @ step @ right  # in the matrix's own directions
    assert ((torch.diagonal(seen) > 0.5) & (torch.diagonal(seen) < 1.4)).all()
    assert (seen - torch.diag(torch.diagonal(seen))).abs().max() < 1e-3


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_an_orthogonal_step_is_the_iteration_on_singular_values(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, sizes, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    sizes = sizes / sizes.norm()
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.7750 * sizes**3 + 2.0315 * sizes**5
    expected = left @ torch.diag(sizes) @ right
    torch.testing.assert_close(orthogonalized(matrix).double(), expected, rtol=0.0, atol=1e-3)


def test_an_orthogonal_step_of_nothing_is_nothing() -> None:
    assert torch.equal(orthogonalized(torch.zeros(4, 12)), torch.zeros(4, 12))


@pytest.mark.parametrize(("rows", "columns"), [(6, 40), (40, 6), (8, 8)])
def test_steps_of_several_kernels_are_those_of_each(rows: int, columns: int) -> None:
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalized(matrices), torch.stack([orthogonalized(each) for each in matrices]))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_muon_makes_the_same_steps_at_a_rate_that_is_a_tensor(*, orthogonal: bool) -> None:
    one, other = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    groups = [{"params": [each], "orthogonal": orthogonal, "weight_decay": 0.1, "scale": 0.5} for each in (one, other)]
    plain, recorded = (Muon([group], lr=0.01, momentum=0.9) for group in groups)
    recorded.param_groups[0]["lr"] = rate = torch.zeros(())
    torch.manual_seed(0)
    for lr in (0.01, 0.02, 0.005):
        gradient = torch.randn(4, 3)
        for parameter, optimizer in ((one, plain), (other, recorded)):
            set_rate(optimizer, lr)
            parameter.grad = gradient.clone()
            optimizer.step()
        assert recorded.param_groups[0]["lr"] is rate
    torch.testing.assert_close(one, other)


def test_muon_leaves_first_last_and_depthwise_layers_to_adamw() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 12, 1), nn.Linear(12, 2)
    )
    optimizer = make_optimizer(Recipe(optimizer="muon"), model)
    orthogonal = [p for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]]
    assert [p is model[3].weight for p in orthogonal] == [True]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_the_part_of_muon_that_is_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    one = Muon([{"params": [ours], "orthogonal": False, "weight_decay": 0.1}], lr=0.01, momentum=0.9)
    other = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        gradient = torch.randn(4, 3)
        for parameter, optimizer in ((ours, one), (theirs, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_the_average_is_the_plain_mean_at_first_and_forgets_later() -> None:
    model = nn.BatchNorm1d(1)
    average = Average(model, steps=10)
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(model.weight, value)
        average.count()
        average.update()
    with average.shown():
        assert model.weight.item() == pytest.approx(3.0)
    assert model.weight.item() == 6.0
    for _ in range(200):
        average.count()
        average.update()
    average.keep()
    assert model.weight.item() == pytest.approx(6.0)


@pytest.mark.parametrize("earlier", [False, True])
def test_an_average_goes_on_from_its_state_whatever_the_networks_tensors_are_called(earlier: bool) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = nn.Parameter(torch.tensor(0.5))

    def shown(*values: float, break_after: int | None = None) -> float:
        model = nn.Linear(1, 1, bias=False) if earlier else Counting()
        parameter, average = next(model.parameters()), Average(model, steps=2)
        for place, value in enumerate(values):
            nn.init.constant_(parameter, value)
            average.count()
            average.update()
            if place == break_after:
                state = average.state()
                if earlier:  # its name for the count
                    state["count"] = state.pop("count.")
                average = Average(model, steps=2)
                average.load(state)
        average.keep()
        return parameter.item()

    values = (1.0, 2.0, 6.0, 3.0)
    assert shown(*values, break_after=1) == shown(*values)
