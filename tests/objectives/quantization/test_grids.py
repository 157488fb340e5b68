"""Costs by the network's output, positions and scales that lower them, and the adder's two guard bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval import compile_xmodel, load_profile
from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph._graph import Add, Conv, Depthwise, Graph, Linear
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.board_eval.targets import Limits
from edgesearch.objectives.quantization._best import calibrate, find_grids, relu6_peaks
from edgesearch.objectives.quantization._channels import find_channels
from edgesearch.objectives.quantization._equalization import equalizing_scales
from edgesearch.objectives.quantization._grids import parameter_table, value_table
from edgesearch.objectives.quantization._positions import Positions, obey_limits, obey_shift_limits, round_half_up
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.quantization._sensitivity import measure

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """A residual block whose channels differ in range by three orders of magnitude."""

    def __init__(self, relu6: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.act, self.classes = nn.ReLU6() if relu6 else nn.ReLU(), nn.Linear(8, 4)
        with torch.no_grad():
            spread = torch.logspace(-2, 1, 8)
            self.stem.weight.mul_(spread.reshape(-1, 1, 1, 1)), self.stem.bias.mul_(spread)
            self.body.weight.mul_(spread.reshape(-1, 1, 1, 1) / spread.reshape(1, -1, 1, 1)), self.body.bias.mul_(spread)
            self.classes.weight.div_(spread)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.body(x) + x)
        return self.classes(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def graph_of(relu6: bool = False) -> Graph:
    return lower(Block(relu6), (3, 8, 8), target=None)


def test_the_cost_of_a_small_error_is_what_it_does_to_the_logits() -> None:
    network = Network.of(graph_of())
    # every draw of directions gives an estimate; the mean of many is the truth
    estimates = [measure(network, IMAGES[:2], seed).cost["stem"] for seed in range(400)]
    found = torch.stack(estimates).mean(0)  # (images, channels)

    def logits(change: Tensor) -> Tensor:
        out = network.run(IMAGES[:2], lambda node, value: value + change if node.name == "stem" else value)
        result = out[network.graph.output.name]
        return result - result.mean(1, keepdim=True)

    expected = torch.zeros(2, 8)
    for channel in range(8):
        for place in range(64):
            change = torch.zeros(1, 8, 64)
            change[0, channel, place] = 1e-3
            with torch.no_grad():
                moved = (logits(change.reshape(1, 8, 8, 8)) - logits(torch.zeros(1, 8, 8, 8))) / 1e-3
            expected[:, channel] += moved.square().sum(1)
    assert torch.allclose(found.float(), expected, rtol=0.25)


def test_equalized_channels_have_like_ranges() -> None:
    network = Network.of(graph_of())
    channels, sensitivity = find_channels(network.graph), measure(network, IMAGES, 0)
    scales = torch.exp2(equalizing_scales(network, channels, sensitivity))
    ids = torch.from_numpy(channels.of["add"])
    before, after = sensitivity.reach("add"), sensitivity.reach("add") / scales[ids]
    assert before.max() / before.min() > 300
    assert after.max() / after.min() < 30


def test_integers_of_a_network_with_unlike_channels_come_closer_to_it() -> None:
    graph = graph_of()
    shown = IMAGES.permute(0, 2, 3, 1).numpy()
    from edgesearch.board_eval.execution._execute import execute

    with torch.no_grad():
        expected = Network.of(graph).logits(IMAGES).numpy()
    vitis, best = (np.abs(execute(quantize(graph, shown, method=m), shown) - expected).mean() for m in ("vitis", "best"))
    assert best < 0.5 * vitis


def test_relu6_channels_are_only_enlarged_and_stay_below_six() -> None:
    network = Network.of(graph_of(relu6=True))
    channels, sensitivity = find_channels(network.graph), measure(network, IMAGES, 0)
    scales = torch.exp2(equalizing_scales(network, channels, sensitivity, relu6_peaks(network, IMAGES)))
    ids = torch.from_numpy(channels.of["add"])
    assert (scales[ids] <= 1).all()
    assert scales[ids].min() < 0.5
    unclipped = sensitivity.peak["add"].amax(0) < 6
    assert (sensitivity.peak["add"].amax(0) / scales[ids])[unclipped].max() <= 6


def test_channels_behind_a_relu6_stay_when_its_peaks_are_not_given() -> None:
    network = Network.of(graph_of(relu6=True))
    channels, sensitivity = find_channels(network.graph), measure(network, IMAGES, 0)
    assert (equalizing_scales(network, channels, sensitivity) == 0).all()


def test_the_headroom_of_a_relu6_is_that_of_what_it_puts_out() -> None:
    class Far(nn.Module):
        """The ReLU6 sees small values, the tensors that are added for it large ones."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.classes = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
            with torch.no_grad():
                self.a.bias.fill_(9.0), self.b.bias.fill_(-9.0)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.relu6(self.a(x) + self.b(x))
            return self.classes(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))

    network = Network.of(lower(Far(), (3, 8, 8), target=None))
    channels, sensitivity = find_channels(network.graph), measure(network, IMAGES, 0)
    peaks = relu6_peaks(network, IMAGES)
    assert sensitivity.peak["a"].max() > 6 > max(float(peak.max()) for peak in peaks.values())
    assert (equalizing_scales(network, channels, sensitivity, peaks) < 0).any()


def test_a_network_whose_channels_are_all_pinned_is_quantized() -> None:
    network = lower(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), (3, 8, 8))
    assert quantize(network, IMAGES.permute(0, 2, 3, 1).numpy()).quantized


def test_values_come_in_the_graphs_order_whatever_was_asked_for_first() -> None:
    network = Network.of(graph_of())
    names = [node.name for node in network.graph]
    assert list(network.run(IMAGES, keep=reversed(names))) == names


def test_a_layer_that_reaches_no_logit_does_not_matter() -> None:
    graph = graph_of()
    last = graph.by_name["classes"]
    dead = graph.replace(
        {"classes": dataclasses.replace(last, weight=np.zeros_like(last.weight), bias=np.zeros(4, np.float32))}
    )
    found = find_grids(Network.of(dead), IMAGES, 8, 0)
    assert torch.isfinite(found.scales).all()
    assert quantize(dead, IMAGES.permute(0, 2, 3, 1).numpy()).quantized


def test_without_scaling_the_weights_stay() -> None:
    network = Network.of(graph_of())
    found = find_grids(network, IMAGES, 8, 0, scale=False)
    assert all(torch.equal(found.network.weights[name], weight) for name, weight in network.weights.items())


@pytest.mark.parametrize("fraction", range(8))
def test_a_table_tells_the_error_of_rounding_a_scaled_value(fraction: int) -> None:
    value, cost = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0)), torch.tensor([[1.0, 2.0]] * 3)
    table = value_table(value, cost, 8)
    factor = 2 ** (-fraction / 8)
    for place, errors in enumerate(table.error[fraction]):
        rounded = round_half_up(value * factor, table.base[fraction] + place) / factor
        expected = ((rounded - value).square().mean(2) * cost).sum(1)
        assert torch.allclose(errors.float(), expected, rtol=1e-4)


def test_a_table_of_parameters_is_shared_out_by_the_images_noise() -> None:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    table = parameter_table(weight, torch.ones(4, 3), torch.tensor([1.0, 10.0]), 8)
    assert torch.allclose(table.error[0][:, 1], 10 * table.error[0][:, 0])


def test_inputs_of_an_add_end_up_at_most_two_positions_apart() -> None:
    graph = graph_of()
    with torch.no_grad():
        network = Network.of(graph)
        values = find_grids(network, IMAGES, 8, 0, scale=False).positions
        positions = calibrate(network, IMAGES, 8, values)
    add = next(node for node in graph if isinstance(node, Add))
    apart = Positions({**positions.values, add.inputs[0]: 9, add.inputs[1]: 1}, positions.weights, positions.biases)
    obey_limits(graph, apart)
    one, other = (apart.values[name] for name in add.inputs)
    assert abs(one - other) <= 2


class Recurring(nn.Module):
    """What a branch makes of y is added to y: the adder wants both near each other, and the branch's shifts want them apart."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.first, self.branch, self.classes = nn.Conv2d(3, 4, 3), branch, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.classes(torch.relu(y + self.branch(y)).mean((2, 3)))


@pytest.mark.parametrize("method", ["best", "vitis"])
def test_a_branch_with_huge_weights_that_is_added_to_what_it_reads_has_positions(method: str) -> None:
    torch.manual_seed(0)
    depthwise = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4))
    depthwise[1].running_var.fill_(1e-10)  # of channels that are always the same
    pointwise = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        pointwise.weight[0, 0] = 1500
    images = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype(np.float32)
    for branch in (depthwise, pointwise):
        made = quantize(lower(Recurring(branch).eval(), (3, 8, 8)), images, method=method)
        for node in made:
            if isinstance(node, Conv | Depthwise | Linear):
                assert 0 <= node.weight_fix + made.fix_of(node.inputs[0]) - node.fix <= Limits.shift_cut  # type: ignore[operator]
        compile_xmodel(made, load_profile("zcu104").dpu, images=images[:1])  # executes the code and compares it, bit for bit


def test_shifts_end_up_within_the_limits_of_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of()
    layers = [node for node in graph if isinstance(node, Conv | Linear)]
    for cut, bias in ((Limits.shift_cut, Limits.shift_bias), (5, 4)):
        monkeypatch.setattr(Limits, "shift_cut", cut)
        monkeypatch.setattr(Limits, "shift_bias", bias)
        names = [node.name for node in layers]
        positions = Positions({node.name: 3 for node in graph}, dict.fromkeys(names, 30), dict.fromkeys(names, 0))
        obey_shift_limits(graph, positions)
        for node in layers:
            shifted = positions.weights[node.name] + positions.values[node.inputs[0]]
            assert 0 <= shifted - positions.values[node.name] <= cut
            assert shifted - positions.biases[node.name] == bias
