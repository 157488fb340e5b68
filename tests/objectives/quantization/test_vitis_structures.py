"""Structures in which pytorch_nndct 3.5 does something of its own; what is expected is computed slowly from its rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval.execution import Network, execute
from edgesearch.board_eval.execution._reference import reference_values
from edgesearch.board_eval.graph import Activation, Add, Concat, Conv, Depthwise, Graph, Reshape, round_activations
from edgesearch.board_eval.lowering import lower
from edgesearch.objectives.quantization._positions import owners
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.quantization._vitis import _Noise
from edgesearch.objectives.quantization._vitis_equalization import bias_shrink, equalize_as_vitis, equalized_pairs

IMAGES = np.random.default_rng(0).normal(0, 0.7, (6, 8, 8, 3)).astype(np.float32)


def lowered(model: nn.Module, seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias)
    return lower(model.eval(), (3, 8, 8), target=None)  # pytorch_nndct takes more than the DPU


def check_execution(quantized: Graph) -> None:
    """The integers are those of the reference of exact fractions."""
    pixels = round_activations(IMAGES[0], quantized.input.fix).astype(np.int8)
    last = next(node for node in reversed(quantized.nodes) if not isinstance(node, Reshape))
    expected = np.ldexp(reference_values(quantized, pixels)[last.name], -last.fix).astype(np.float32)
    np.testing.assert_array_equal(execute(quantized, pixels[None])[0], expected.reshape(quantized.output.shape))


# -- fix positions of concats


class Dense(nn.Module):
    """`a` is read by two concats, `b` and `c` by one each; the first concat is read by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.end = nn.Conv2d(14, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        inner = torch.cat([a, self.b(x)], 1)
        return self.end(torch.cat([inner, self.c(x), a], 1))


def test_a_position_is_shared_by_the_single_reader_of_what_is_no_concat() -> None:
    graph = lowered(Dense())
    inner, outer = (node.name for node in graph if isinstance(node, Concat))
    owned = {name: owner for name, owner in owners(graph).items() if name != owner}
    assert owned == {"b": inner, "c": outer}
    quantized = quantize(graph, IMAGES, method="vitis")
    assert [node.name for node in quantized if node.fix is None] == ["b", "c"]
    check_execution(quantized)
    check_execution(quantize(graph, IMAGES, method="best"))


# -- batch-norm behind a linear layer


class NormedHead(nn.Module):
    """`first` and its batch-norm, with what `tail` does to the sum; `last` has a batch-norm at the network's end."""

    def __init__(self, tail: nn.Module | None, *, normed_end: bool) -> None:
        super().__init__()
        self.body, self.tail = nn.Conv2d(3, 4, 3, stride=2), tail
        self.first, self.norm = nn.Linear(36, 6, bias=False), nn.BatchNorm1d(6)
        self.last, self.end = nn.Linear(6, 5), nn.BatchNorm1d(5) if normed_end else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(torch.relu(self.body(x)).flatten(1)))
        return self.end(self.last(x if self.tail is None else self.tail(x)))


TAILS = {"none": None, "relu": nn.ReLU(), "relu6": nn.ReLU6(inplace=True), "leaky": nn.LeakyReLU(0.1), "dropout": nn.Dropout()}


@pytest.mark.parametrize("normed_end", [False, True])
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_a_batch_norm_behind_a_linear_layer_is_a_scale_of_its_own_for_vitis_alone(
    tail: nn.Module | None, normed_end: bool
) -> None:
    model = NormedHead(tail, normed_end=normed_end)
    graph = lowered(model)
    assert not any(isinstance(node, Depthwise) for node in graph)
    quantized = {method: quantize(graph, IMAGES, method=method) for method in ("vitis", "best")}
    scales = {method: [node for node in made if isinstance(node, Depthwise)] for method, made in quantized.items()}
    assert [node.name for node in scales["vitis"]] == ["norm", "end"][: 1 + normed_end]
    assert all(node.scale for node in scales["vitis"])
    assert scales["best"] == []
    assert {made.output.shape for made in quantized.values()} == {(5,)}
    for made in quantized.values():
        check_execution(made)


def test_a_batch_norm_behind_a_linear_layer_is_neither_corrected_nor_part_of_its_weights() -> None:
    model = NormedHead(None, normed_end=True)
    quantized = quantize(lowered(model), IMAGES, method="vitis")
    assert quantized.by_name["first"].bias is None
    np.testing.assert_array_equal(quantized.by_name["last"].weight, rounded(model.last.weight))
    gamma, beta = (np.float32(x.detach().numpy()) for x in (model.end.weight, model.end.bias))
    mean, variance = (np.float32(x.numpy()) for x in (model.end.running_mean, model.end.running_var))
    factor = gamma / np.sqrt(variance + np.float32(1e-5))
    np.testing.assert_array_equal(quantized.by_name["end"].weight.ravel(), rounded(torch.from_numpy(factor)))
    np.testing.assert_array_equal(quantized.by_name["end"].bias, rounded(torch.from_numpy(beta - mean * factor)))


def rounded(values: torch.Tensor) -> np.ndarray:
    """On the grid of the position with the smallest squared error, the coarsest such; halves away from zero."""
    values = values.detach().numpy().astype(np.float64)
    start = math.floor(-math.log2(max(values.min() / -128.5, values.max() / 127.5)))
    grids = [
        np.clip(np.sign(values) * np.floor(np.abs(values) * 2.0**fix + 0.5), -128, 127) / 2.0**fix
        for fix in range(start, start + 5)
    ]
    return min(grids, key=lambda grid: ((grid - values) ** 2).sum()).astype(np.float32)


# -- ReLU behind pools and the input


class PoolReLU(nn.Module):
    def __init__(self, pool: nn.Module | None) -> None:
        super().__init__()
        self.first, self.pool, self.end = nn.Conv2d(3, 4, 3), pool, nn.Conv2d(3 if pool is None else 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(torch.relu(x if self.pool is None else self.pool(self.first(x))))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3)], ids=["max", "average"])
@pytest.mark.parametrize("method", ["vitis", "best"])
def test_nothing_is_rounded_between_a_pool_and_its_relu(pool: nn.Module, method: str) -> None:
    quantized = quantize(lowered(PoolReLU(pool)), IMAGES, method=method)
    assert [node.name for node in quantized if node.fix is None] == ["pool"]
    check_execution(quantized)


def test_an_input_behind_which_a_relu_stands_has_the_relus_position() -> None:
    images = np.where(IMAGES > 0, IMAGES / 8, IMAGES * 4).astype(np.float32)  # negative values reach further
    quantized = quantize(lowered(PoolReLU(None)), images, method="vitis")
    relu = next(node for node in quantized if isinstance(node, Activation))
    assert quantized.input.fix == relu.fix == slow_position(np.maximum(images, 0))
    check_execution(quantized)


def slow_position(images: np.ndarray) -> int:
    """The most frequent best position over images, ties to the coarser."""
    votes = []
    for image in images.astype(np.float64):
        step = max(image.min() / -128.5, image.max() / 127.5)
        base = math.floor(-math.log2(step))
        errors = [
            ((np.clip(np.floor(image * 2.0**f + 0.5), -128, 127) / 2.0**f - image) ** 2).sum() for f in range(base, base + 5)
        ]
        votes.append(min(base + int(np.argmin(errors)), 12))
    return min(votes, key=lambda f: (-votes.count(f), f))


# -- activations behind an add, ReLU6 as module and as function


class Residual(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.activation, self.end = nn.Conv2d(3, 3, 3, padding=1), activation, nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.activation(self.first(x) + x))


@pytest.mark.parametrize(("activation", "kind"), [(nn.ReLU6(), "relu6"), (nn.LeakyReLU(26 / 256), "leaky_relu")])
def test_every_activation_behind_an_add_belongs_to_it(activation: nn.Module, kind: str) -> None:
    graph = lowered(Residual(activation))
    add = next(node for node in graph if isinstance(node, Add))
    assert add.activation == kind
    assert not any(isinstance(node, Activation) for node in graph)
    check_execution(quantize(graph, IMAGES, method="vitis"))


class Clipped(nn.Module):
    def __init__(self, module: nn.Module | None) -> None:
        super().__init__()
        self.first, self.clip, self.end = nn.Conv2d(3, 4, 1), module, nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.end(nn.functional.relu6(x) if self.clip is None else self.clip(x))


@pytest.mark.parametrize(
    ("module", "kind", "pairs"), [(nn.ReLU6(), "relu", 1), (nn.Hardtanh(0.0, 6.0), "relu6", 0), (None, "relu6", 0)]
)
def test_a_relu6_module_is_replaced_and_equalized_a_function_is_not(module: nn.Module | None, kind: str, pairs: int) -> None:
    graph = lowered(Clipped(module))
    quantized = quantize(graph, IMAGES, method="vitis")
    first = quantized.by_name["first"]
    assert isinstance(first, Conv)
    assert first.activation == kind
    assert len(equalized_pairs(quantized)) == pairs


# -- batch-norm


def exact_fold(module: nn.BatchNorm2d) -> tuple[list[np.float32], list[np.float32]]:
    """Factor and shift of every channel, each operation rounded to float32 by itself."""
    scales, shifts = [], []
    for gamma, beta, mean, var in zip(
        *(t.detach().numpy() for t in (module.weight, module.bias, module.running_mean, module.running_var)), strict=True
    ):
        # a square root computed in float64 and rounded once more is the correctly rounded one
        root = np.float32(math.sqrt(float(np.float32(float(var) + float(np.float32(module.eps))))))
        scale = np.float32(float(gamma) / float(root))
        product = np.float32(float(mean) * float(scale))
        scales.append(scale)
        shifts.append(np.float32(float(beta) - float(product)))
    return scales, shifts


def test_batch_norm_is_folded_step_by_step_in_float32() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    graph = lowered(model)
    node = graph.output
    assert isinstance(node, Conv)
    scales, shifts = exact_fold(model[1])
    weight, bias = model[0].weight.detach().numpy(), model[0].bias.detach().numpy()
    for out in range(64):
        expected = [np.float32(float(w) * float(scales[out])) for w in weight[out].transpose(1, 2, 0).ravel()]
        assert node.weight[out].ravel().tolist() == expected
        assert node.bias[out] == np.float32(float(np.float32(float(bias[out]) * float(scales[out]))) + float(shifts[out]))


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.cat([self.a(x), self.b(x)], 1))


def test_batch_norm_behind_a_concat_is_folded_into_the_convolutions_in_front() -> None:
    model = Joined()
    graph = lowered(model)
    assert not any(isinstance(node, Depthwise) for node in graph)
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
        got = Network.of(graph).run(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))[graph.output.name]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    scales, _ = exact_fold(model.norm)
    b = graph.by_name["b"]
    assert isinstance(b, Conv)
    own = model.b.weight.detach().numpy()[1].transpose(1, 2, 0)
    assert b.weight[1].ravel().tolist() == [np.float32(float(w) * float(scales[5])) for w in own.ravel()]


class Shared(Joined):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.a(x), self.b(x)
        return self.norm(torch.cat([a, b], 1)) + torch.cat([a, b], 1)


def test_convolutions_that_others_read_keep_their_weights_under_a_batch_norm_behind_a_concat() -> None:
    graph = lowered(Shared())
    assert [node.name for node in graph if isinstance(node, Depthwise) and node.scale] == ["norm"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(self.norm(x))))


def test_a_batch_norm_that_cannot_be_folded_is_neither_equalized_nor_corrected() -> None:
    graph = lowered(Scaled())
    scales = [node for node in graph if isinstance(node, Depthwise)]
    assert [(node.name, node.scale) for node in scales] == [("norm", True), ("last", True)]
    assert equalized_pairs(graph) == []
    quantized = quantize(graph, IMAGES, method="vitis")
    for node in scales:
        found = quantized.by_name[node.name]
        assert isinstance(found, Depthwise)
        fix = found.bias_fix
        expected = [min(max(math.trunc(b * 2.0**fix + math.copysign(0.5, b)), -128), 127) for b in node.bias.tolist()]
        assert np.ldexp(found.bias, fix).tolist() == expected  # as it was, no correction
    check_execution(quantized)


# -- equalization's shrink factor and the end of bias correction


def slow_shrink(weight: np.ndarray, bias: np.ndarray) -> int:
    ratios, clamped = [], []
    for channel, b in zip(weight.reshape(len(weight), -1).tolist(), bias.tolist(), strict=True):
        others = [abs(w) for w in channel if w != 0]
        for w in channel:
            size = max(abs(w) if w != 0 else min(others) if others else 1e-7, 1e-7)
            clamped.append(size)
            ratios.append((abs(b) if others else 0.0) / size)
    ratios.sort()
    half = len(ratios) // 2
    median = ratios[half] if len(ratios) % 2 else (ratios[half - 1] + ratios[half]) / 2
    mean = sum(ratios) / len(ratios)
    largest = max(abs(b) for b in bias.tolist())
    if largest < 10 and largest / max(clamped) < 20:
        return 5 if median > 100 or mean > 1000 else 2
    if median > 30 or mean > 500:
        return 20
    return 10 if median > 15 or mean > 100 else 5


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(-3, 3), zeros=st.sampled_from([0.0, 0.3, 0.9]), dead=st.booleans())
def test_the_shrink_factor_counts_every_weight(seed: int, spread: float, zeros: float, dead: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.1, (5, 3, 3, 3)) * (rng.random((5, 3, 3, 3)) >= zeros)
    weight[0] *= not dead
    weight[1, 0, 0, 0], bias = 0.05, rng.normal(0, 10.0**spread, 5)
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    assert bias_shrink(torch.from_numpy(weight), torch.from_numpy(bias)) == slow_shrink(weight, bias)


def test_the_bias_of_a_channel_of_zeros_does_not_move_it() -> None:
    graph = lowered(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    network = Network.of(graph)
    network.weights["0"][2], network.biases["0"][2] = 0.0, 8.0
    before = network.weights["2"].clone()
    equalize_as_vitis(network)
    assert torch.equal(network.weights["2"][:, 2], before[:, 2])
    assert network.biases["0"][2] == 8.0


def test_bias_correction_stops_as_its_rule_says() -> None:
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(200):
        noise, smooth, spread, stopped = _Noise(), 0.0, 0.0, False
        for _ in range(12):
            error, exact = (torch.from_numpy(rng.normal(0, 10 ** rng.uniform(*r), 50)) for r in ((-2.5, 0), (-0.2, 0.2)))
            rate = noise.rate(error, exact)
            ratio = float((exact**2).mean() / (error**2).mean())
            efficiency = 1.25 * math.log10(ratio)
            change = abs(efficiency - smooth)
            smooth, spread = (4 * smooth + efficiency) / 5, (4 * spread + change) / 5
            stopped = smooth > 4.3 or spread / smooth < 0.05 or abs(change - spread / change) < 0.05
            assert rate == (0 if stopped else 0.025 if smooth > 4 else 0.05)
            if stopped:
                ended += 1
                break
    assert 20 < ended < 200
