"""Integer execution of a quantized Graph: the integers the DPU computes, on CPU or GPU.

Values stay float32 tensors that hold integers, so that torch's float convolutions do the work. That is exact while every
partial sum stays below 2**24, which the weights and the range of the layer's input prove layer by layer; layers for which
they do not are computed in float64. Rounding is folded into the convolution: weights are scaled by 2**-shift and the bias
carries the half, so that a floor and a clamp finish the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch

from edgesearch.board_eval.execution._exact import convolve, exact_arithmetic
from edgesearch.board_eval.execution._float import run_float
from edgesearch.board_eval.execution._images import batch_size, check_device, check_graph, check_images, to_numpy
from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    Add,
    Array,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    average_ratio,
    concat_dimension,
    fix_names,
    limits,
    output_limits,
    pool_sums_or_maxima,
    reshape_value,
    rounding_positions,
    to_torch_layout,
    weight_integers,
)
from edgesearch.errors import QuantizationError

__all__ = ["Executor", "execute", "execute_all", "run_float"]

#: Integers up to here, and everything a power of two times them, are exact in each type.
_EXACT = {torch.float32: 2**24, torch.float64: 2**53}

#: A node's value rounded at one of its fix positions: (node name, fix position).
_Key = tuple[str, int]
_Range = tuple[int, int]
_Function = Callable[..., torch.Tensor]


def execute(graph: Graph, images: npt.NDArray[np.generic], *, batch: int | None = None, device: str = "cpu") -> Array:
    """Logits (N, classes), float32: integers times 2**-fix, bit-exact to the DPU.

    `images` is (N, H, W, C): float32, already normalised, which the input's fix position rounds (half up, saturating); or
    int8, already quantized. `batch` images are run at a time (None: as many as fit caches). Raises QuantizationError when the
    graph is not quantized, the images do not fit it, or torch has no such `device`.
    """
    return Executor(graph, device=device).logits(images, batch=batch)


def execute_all(graph: Graph, images: npt.NDArray[np.generic], *, device: str = "cpu") -> dict[str, npt.NDArray[np.int8]]:
    """Every tensor with a fix position: the xmodel's `fix` operation -> int8 (N, ...), weights and biases included.

    Weights are in the xmodel's layout: conv (out, kh, kw, in), depthwise (1, kh, kw, C), linear (out, in).
    """
    return Executor(graph, device=device).fix_tensors(images)


@dataclass(frozen=True)
class _Step:
    """One value to compute, from which others, and which are of no use after it."""

    key: _Key
    function: _Function
    sources: tuple[_Key, ...]
    frees: tuple[_Key, ...] = ()


class Executor:
    """A quantized Graph made ready to run: weights rounded, scaled and placed on `device` once."""

    def __init__(self, graph: Graph, *, device: str = "cpu") -> None:
        check_graph(graph)
        self.graph = graph
        self.device = check_device(device)
        self._fix = graph.input.fix if graph.input.fix is not None else 0
        self._positions = rounding_positions(graph)
        output_fix = graph.fix_of(graph.output.name)
        assert output_fix is not None  # rounding_positions has checked
        self._output: _Key = (graph.output.name, output_fix)
        self._steps = self._with_frees(list(_Compiler(graph, self._positions, self.device).steps()))

    def logits(self, images: npt.NDArray[np.generic], *, batch: int | None = None) -> Array:
        """See `execute`."""
        check_images(self.graph, images)
        size = batch_size(self.graph, batch)
        out = np.empty((len(images), *self.graph.output.shape), np.float32)
        with exact_arithmetic(self.device.type), torch.inference_mode():
            for start in range(0, len(images), size):
                values = self._run(images[start : start + size], keep=False)
                out[start : start + size] = to_numpy(values[self._output])
        return np.ldexp(out, -self._output[1])

    def fix_tensors(self, images: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.int8]]:
        """See `execute_all`."""
        check_images(self.graph, images)
        out: dict[str, npt.NDArray[np.int8]] = {}
        names = fix_names(self.graph)
        with exact_arithmetic(self.device.type), torch.inference_mode():
            values = self._run(images, keep=True)
        for node in self.graph:
            if isinstance(node, Conv | Depthwise | Linear):
                weight, bias = weight_integers(node, self.graph.bits)
                out[names[node.name].weight] = (weight[None] if isinstance(node, Depthwise) else weight).astype(np.int8)
                if bias is not None:
                    out[names[node.name].bias] = bias.astype(np.int8)
            if node.fix is not None and not isinstance(node, Reshape):
                out[names[node.name].output] = to_numpy(values[node.name, node.fix]).astype(np.int8)
        return out

    def _run(self, images: npt.NDArray[np.generic], *, keep: bool) -> dict[_Key, torch.Tensor]:
        values = {(self.graph.input.name, self._fix): self._quantized_input(images)}
        for step in self._steps:
            values[step.key] = step.function(*(values[source] for source in step.sources))
            if not keep:
                for key in step.frees:
                    del values[key]
        return values

    def _quantized_input(self, images: npt.NDArray[np.generic]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        if images.dtype != np.int8:
            low, high = limits(self.graph.bits)
            # float64: in float32 the half added to 0.49999997 would round it up
            tensor = tensor.double().mul_(2.0**self._fix).add_(0.5).floor_().clamp_(low, high)
        tensor = tensor.float()
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor  # channels_last without a copy

    def _with_frees(self, steps: list[_Step]) -> list[_Step]:
        last = {source: i for i, step in enumerate(steps) for source in step.sources}
        frees: list[list[_Key]] = [[] for _ in steps]
        for key, i in last.items():
            if key != self._output:
                frees[i].append(key)
        return [_Step(s.key, s.function, s.sources, tuple(f)) for s, f in zip(steps, frees, strict=True)]


class _Compiler:
    """Turns nodes into steps and carries the range of every value, which is what proves float32 exact."""

    def __init__(self, graph: Graph, positions: dict[str, tuple[int, ...]], device: torch.device) -> None:
        self.graph = graph
        self.positions = positions
        self.device = device
        self.ranges: dict[_Key, _Range] = {}

    def steps(self) -> Iterator[_Step]:
        for node in self.graph:
            for fix in self.positions[node.name]:
                key = (node.name, fix)
                if isinstance(node, Input):
                    self.ranges[key] = limits(self.graph.bits)
                    continue
                sources = tuple(self._source(name, fix) for name in node.inputs)
                self.ranges[key] = self._range(node, fix, [self.ranges[s] for s in sources])
                yield _Step(key, self._function(node, fix, sources), sources)

    def _source(self, name: str, fix: int) -> _Key:
        own = self.graph.fix_of(name)
        return (name, fix if own is None else own)

    def _range(self, node: Node, fix: int, sources: Sequence[_Range]) -> _Range:
        if isinstance(node, Reshape):
            return sources[0]
        low, high = output_limits(node, fix, self.graph.bits)
        positive = min(s[0] for s in sources) >= 0
        if positive and isinstance(node, Pool | Concat | Add | Activation):
            low = 0
        return low, high

    def _function(self, node: Node, fix: int, sources: tuple[_Key, ...]) -> _Function:
        low, high = output_limits(node, fix, self.graph.bits)
        match node:
            case Conv() | Depthwise() | Linear():
                return _weighted(node, sources[0][1], fix, self.ranges[sources[0]], self.graph.bits, self.device)
            case Pool(kind="max"):
                return _max_pool(node, fix - sources[0][1], low, high, self.graph.by_name[node.inputs[0]].shape)
            case Pool():
                return _average_pool(node, fix - sources[0][1], low, high, self.graph.by_name[node.inputs[0]].shape)
            case Add():
                return _add(node, sources[0][1], sources[1][1], fix, low, high)
            case Concat():
                return _concat(node, [fix - s[1] for s in sources], low, high)
            case Activation():
                return _activation(node, fix - sources[0][1], low, high)
            case Reshape():
                return lambda x: reshape_value(node, x)
        raise QuantizationError(f"node {node.name!r} of type {type(node).__name__} cannot be executed")


def _weighted(
    node: Conv | Depthwise | Linear, fix_in: int, fix: int, source: _Range, bits: int, device: torch.device
) -> _Function:
    weight, bias = weight_integers(node, bits, per_channel=True)
    fix_weight, fix_bias = node.weight_fix or 0, node.bias_fix or 0
    bias = np.zeros(node.shape[-1], np.int64) if bias is None else bias
    leaky = node.activation == "leaky_relu"
    dtype = _accumulator(node, weight, bias, fix_in, fix, source)
    # real = integer * 2**-position; everything below is in units of the output, 2**-fix
    shift = fix_weight + fix_in - fix
    scaled = torch.from_numpy(np.ldexp(to_torch_layout(node, weight).astype(np.float64), -shift))
    offset = torch.from_numpy(np.ldexp(bias.astype(np.float64), fix - fix_bias) + (0.0 if leaky else 0.5))
    scaled = scaled.clone(memory_format=torch.contiguous_format).to(device, dtype)
    offset = offset.to(device, dtype)
    low, high = output_limits(node, fix, bits)

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = convolve(node, x.to(dtype), scaled, offset)
        if leaky:
            y = _leaky(y.double()).add_(0.5)
        return y.floor_().clamp_(low, high).float()

    return apply


def _accumulator(
    node: Conv | Depthwise | Linear,
    weight: npt.NDArray[np.int64],
    bias: npt.NDArray[np.int64],
    fix_in: int,
    fix: int,
    source: _Range,
) -> torch.dtype:
    """The float type in which every partial sum of the layer is an exact multiple of its smallest unit."""
    axes = (0, 1) if isinstance(node, Depthwise) else tuple(range(1, weight.ndim))
    products = np.stack([weight * source[0], weight * source[1], np.zeros_like(weight)])
    up, down = products.max(0).sum(axes), -products.min(0).sum(axes)
    acc, fix_bias = (node.weight_fix or 0) + fix_in, node.bias_fix or 0
    unit = max(acc, fix + 1, fix_bias if bias.any() else acc)  # the finest position that occurs
    largest = 0
    for total, offset in ((up, np.maximum(bias, 0)), (down, np.maximum(-bias, 0))):
        for t, b in zip(total.tolist(), offset.tolist(), strict=True):
            largest = max(largest, t * 2 ** (unit - acc) + (b * 2 ** (unit - fix_bias) if b else 0) + 2 ** (unit - fix - 1))
    for dtype, bound in _EXACT.items():
        if largest < bound:
            return dtype
    raise QuantizationError(
        f"layer {node.name!r}: fix positions (input {fix_in}, weight {node.weight_fix}, bias {node.bias_fix}, output {fix}) "
        "are too far apart to be computed exactly"
    )


def _leaky(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y < 0, y * LEAKY_SLOPE, y)


def _rescale(x: torch.Tensor, up: int, low: int, high: int) -> torch.Tensor:
    """Integers moved `up` fix positions, rounded half up and clamped; a new tensor."""
    if up == 0:
        return x.clamp(low, high)
    if up > 0:
        return (x * 2.0**up).clamp_(low, high)
    return (x * 2.0**up).add_(0.5).floor_().clamp_(low, high)


def _max_pool(node: Pool, up: int, low: int, high: int, source: Sequence[int]) -> _Function:
    padded = node.ceil_mode or any(node.padding)  # a window of nothing but padding is minus infinity until it is clamped

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = pool_sums_or_maxima(node, x, source)
        return _rescale(y, up, low, high) if up or padded else y

    return apply


def _average_pool(node: Pool, up: int, low: int, high: int, source: Sequence[int]) -> _Function:
    ratio = average_ratio(node.kernel, node.factor) * Fraction(2) ** up
    largest = node.kernel[0] * node.kernel[1] * 128
    if 2 * ratio.numerator * largest + ratio.denominator >= _EXACT[torch.float64]:
        raise QuantizationError(f"pool {node.name!r}: factor {node.factor} with these fix positions cannot be computed exactly")
    dtype = torch.float32 if largest < _EXACT[torch.float32] else torch.float64

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = pool_sums_or_maxima(node, x.to(dtype), source)
        # half up of y * n / d = floor((2 n y + d) / 2 d): one division of exact integers, so floor is exact
        y = y.double().mul_(2 * ratio.numerator).add_(ratio.denominator).div_(2 * ratio.denominator)
        return y.floor_().clamp_(low, high).float()

    return apply


def _add(node: Add, fix_a: int, fix_b: int, fix: int, low: int, high: int) -> _Function:
    unit = max(fix_a, fix_b, fix + 1)
    largest = 128 * (2 ** (unit - fix_a) + 2 ** (unit - fix_b)) + 2 ** (unit - fix - 1)
    if largest >= _EXACT[torch.float64]:
        raise QuantizationError(f"add {node.name!r}: fix positions {fix_a}, {fix_b} and {fix} are too far apart")
    leaky = node.activation == "leaky_relu"
    dtype = torch.float32 if largest < _EXACT[torch.float32] and not leaky else torch.float64

    def apply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = torch.add(a.to(dtype), b.to(dtype), alpha=2.0 ** (fix_a - fix_b))
        if fix != fix_a:
            y.mul_(2.0 ** (fix - fix_a))
        if leaky:
            y = _leaky(y)
        if leaky or fix < unit:
            y.add_(0.5).floor_()
        return y.clamp_(low, high).float()

    return apply


def _concat(node: Concat, ups: Sequence[int], low: int, high: int) -> _Function:
    dim = concat_dimension(node)

    def apply(*parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([p if up == 0 else _rescale(p, up, low, high) for p, up in zip(parts, ups, strict=True)], dim)

    return apply


def _activation(node: Activation, up: int, low: int, high: int) -> _Function:
    def apply(x: torch.Tensor) -> torch.Tensor:
        if node.activation == "leaky_relu":
            return _leaky(x.double()).mul_(2.0**up).add_(0.5).floor_().clamp_(low, high).float()
        return _rescale(x, up, low, high)

    return apply
