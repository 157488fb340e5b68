"""From a torch model to a Graph: batch-norm folded, activations fused, flatten merged into the linear layer behind it.

The model is traced with torch.fx in evaluation mode; every operation without a DPU form is collected, so that one error names
them all.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from edgesearch.board_eval._graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
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
    Shape,
    average_factor,
)
from edgesearch.errors import LoweringError, LoweringProblem

_Handler = TypeVar("_Handler", bound=Callable[..., None])


@dataclass(frozen=True)
class Source:
    """Where a weighted node of a lowered Graph came from: module paths in the torch model."""

    module: str
    batch_norm: str | None


@dataclass(frozen=True)
class Lowered:
    """A Graph and, per weighted node, the torch modules behind it."""

    graph: Graph
    sources: dict[str, Source]


class _Unsupported(Exception):
    """The operation at hand has no DPU form; carries the reason."""


def lower(model: nn.Module, input_shape: tuple[int, int, int], *, name: str | None = None) -> Graph:
    """The DPU's view of `model` for one image of `input_shape` = (channels, height, width).

    Raises LoweringError naming every operation the DPU does not have. The model is not changed.
    """
    return lower_with_sources(model, input_shape, name=name).graph


def lower_with_sources(model: nn.Module, input_shape: tuple[int, int, int], *, name: str | None = None) -> Lowered:
    """Like `lower`, and says which torch modules each weighted node came from."""
    name = name or type(model).__name__
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        traced = _trace(model, name)
        return _Lowering(traced, name, input_shape).run()
    finally:
        for module, mode in training.items():
            module.training = mode


def _trace(model: nn.Module, name: str) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:  # fx raises whatever the model's own code raises on a symbolic value
        problem = LoweringProblem(name, "forward", f"cannot be traced by torch.fx: {error}")
        raise LoweringError(name, [problem]) from error


def _array(tensor: torch.Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().to(torch.float32).numpy())


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padding(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if value == "valid":
        return (0, 0, 0, 0)
    if value == "same":
        total_h, total_w = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    vertical, horizontal = _pair(value)
    return (horizontal, horizontal, vertical, vertical)


class _Lowering:
    """One pass over a traced model; `values` maps fx nodes to Graph node names."""

    def __init__(self, traced: fx.GraphModule, name: str, input_shape: tuple[int, int, int]) -> None:
        self.traced = traced
        self.name = name
        self.modules = dict(traced.named_modules())
        channels, height, width = input_shape
        self.input_shape: Shape = (height, width, channels)
        self.nodes: dict[str, Node] = {}
        self.values: dict[fx.Node, str] = {}
        #: Reshapes of (H, W, C) images put their elements in torch's (C, H, W) order; the linear behind is permuted.
        self.flattened: dict[str, Shape] = {}
        self.sources: dict[str, Source] = {}
        self.problems: list[LoweringProblem] = []

    def run(self) -> Lowered:
        for node in self.traced.graph.nodes:
            try:
                self._visit(node)
            except _Unsupported as error:
                where, operation = self._describe(node)
                self.problems.append(LoweringProblem(where, operation, str(error)))
            except _BlockedByEarlierProblem:
                continue
        if self.problems:
            raise LoweringError(self.name, self.problems)
        return Lowered(Graph(self.name, self._alive()), self.sources)

    def _alive(self) -> tuple[Node, ...]:
        output = self.output
        needed: set[str] = set()
        stack = [output]
        while stack:
            current = stack.pop()
            if current not in needed:
                needed.add(current)
                stack.extend(self.nodes[current].inputs)
        ordered = [n for n in self.nodes.values() if (n.name in needed or isinstance(n, Input)) and n.name != output]
        return (*ordered, self.nodes[output])

    def _describe(self, node: fx.Node) -> tuple[str, str]:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return str(node.target), type(module).__name__
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return node.name, str(target)

    # -- the walk

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._visit_placeholder(node)
        elif node.op == "call_module":
            module = self.modules[str(node.target)]
            for kind, handler in _MODULES.items():
                if isinstance(module, kind):
                    handler(self, node, module)
                    return
            raise _Unsupported("no form on the DPU")
        elif node.op in ("call_function", "call_method"):
            function = _FUNCTIONS.get(node.target)
            if function is None:
                raise _Unsupported("no form on the DPU")
            function(self, node)
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node):
                raise _Unsupported("the model returns more than one tensor; return the logits alone")
            self.output = self._value(result)
        elif node.op == "get_attr":
            raise _Unsupported("a constant or parameter used outside a layer has no form on the DPU")

    def _visit_placeholder(self, node: fx.Node) -> None:
        if any(isinstance(existing, Input) for existing in self.nodes.values()):
            if node.args:  # an argument with a default, never given
                return
            raise _Unsupported("a second input; the DPU is given one image")
        self._put(node, Input(name=node.name, inputs=(), shape=self.input_shape))

    def _value(self, node: Any) -> str:
        if not isinstance(node, fx.Node):
            raise _Unsupported(f"an operand that is the constant {node!r}")
        if node not in self.values:
            raise _BlockedByEarlierProblem
        return self.values[node]

    def _put(self, at: fx.Node, node: Node) -> None:
        unique, i = node.name, 1
        while unique in self.nodes:
            unique, i = f"{node.name}_{i}", i + 1
        self.nodes[unique] = dataclasses.replace(node, name=unique)
        self.values[at] = unique

    def _shape(self, name: str) -> Shape:
        return self.nodes[name].shape

    def _image(self, name: str) -> Shape:
        shape = self._shape(name)
        if len(shape) != 3:
            raise _Unsupported(f"expects an image, is given a tensor of shape {shape}")
        return shape

    def _single_use(self, at: fx.Node) -> bool:
        return len(at.users) == 1

    # -- layers

    def _weighted(self, at: fx.Node, module: nn.Conv2d | nn.Linear, node: Node) -> None:
        self._put(at, node)
        self.sources[self.values[at]] = Source(str(at.target), None)

    def conv(self, at: fx.Node, module: nn.Conv2d) -> None:
        source = self._value(at.args[0])
        height, width, channels = self._image(source)
        if channels != module.in_channels:
            raise _Unsupported(f"expects {module.in_channels} channels, is given {channels}")
        if module.padding_mode != "zeros":
            raise _Unsupported(f"padding mode {module.padding_mode!r}; the DPU pads with zeros")
        kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), _pair(module.dilation)
        if max(kernel) > 16 or max(stride) > 8:
            raise _Unsupported(f"kernel {kernel}, stride {stride}; the DPU takes kernels of 1..16 and strides of 1..8")
        padding = _padding(module.padding, kernel, dilation)
        left, right, top, bottom = padding
        out_h = (height + top + bottom - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
        out_w = (width + left + right - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
        if out_h < 1 or out_w < 1:
            raise _Unsupported(f"kernel {kernel} on an input of {height} x {width}")
        weight = _array(module.weight)
        common: dict[str, Any] = {
            "name": str(at.target),
            "inputs": (source,),
            "shape": (out_h, out_w, module.out_channels),
            "bias": None if module.bias is None else _array(module.bias),
            "has_bias": module.bias is not None,
            "kernel": kernel,
            "stride": stride,
            "dilation": dilation,
            "padding": padding,
        }
        if module.groups == 1:
            self._weighted(at, module, Conv(weight=np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), **common))
        elif module.groups == module.in_channels == module.out_channels:
            self._weighted(at, module, Depthwise(weight=np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)), **common))
        else:
            raise _Unsupported(
                f"{module.groups} groups of {module.in_channels} channels; the DPU has full and depthwise convolutions only"
            )

    def linear(self, at: fx.Node, module: nn.Linear) -> None:
        source = self._value(at.args[0])
        shape = self._shape(source)
        if shape != (module.in_features,):
            raise _Unsupported(f"expects {module.in_features} features, is given a tensor of shape {shape}")
        weight = _array(module.weight)
        if source in self.flattened:
            h, w, c = self.flattened[source]
            weight = np.ascontiguousarray(weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(weight.shape))
        bias = None if module.bias is None else _array(module.bias)
        node = Linear(
            name=str(at.target),
            inputs=(source,),
            shape=(module.out_features,),
            weight=weight,
            bias=bias,
            has_bias=bias is not None,
        )
        self._weighted(at, module, node)

    def batch_norm(self, at: fx.Node, module: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        before = at.args[0]
        source = self._value(before)
        node = self.nodes[source]
        if module.running_mean is None or module.running_var is None:
            raise _Unsupported("batch-norm without running statistics")
        scale = 1.0 / torch.sqrt(module.running_var.double() + module.eps)
        shift = -module.running_mean.double() * scale
        if module.affine:
            scale, shift = scale * module.weight.double(), shift * module.weight.double() + module.bias.double()
        foldable = (
            isinstance(node, Conv | Depthwise | Linear)
            and node.activation == "none"
            and isinstance(before, fx.Node)
            and self._single_use(before)
            and self.sources[source].batch_norm is None
        )
        if foldable:
            assert isinstance(node, Conv | Depthwise | Linear)
            self.nodes[source] = fold_batch_norm(node, _array(scale.float()), _array(shift.float()))
            self.sources[source] = Source(self.sources[source].module, str(at.target))
            self.values[at] = source
            return
        shape = self._image(source)
        weight = _array(scale.float()).reshape(1, 1, -1)
        self._put(
            at,
            Depthwise(
                name=str(at.target), inputs=(source,), shape=shape, kernel=(1, 1), weight=weight, bias=_array(shift.float())
            ),
        )
        self.sources[self.values[at]] = Source(str(at.target), None)

    def activation(self, at: fx.Node, kind: ActivationKind) -> None:
        before = at.args[0]
        source = self._value(before)
        node = self.nodes[source]
        if (
            isinstance(node, Conv | Depthwise | Linear | Add)
            and node.activation == "none"
            and isinstance(before, fx.Node)
            and self._single_use(before)
            and not (isinstance(node, Add) and kind != "relu")
        ):
            self.nodes[source] = dataclasses.replace(node, activation=kind)
            self.values[at] = source
            return
        name = str(at.target) if at.op == "call_module" else at.name
        self._put(at, Activation(name=name, inputs=(source,), shape=node.shape, activation=kind))

    def leaky(self, at: fx.Node, slope: float) -> None:
        if abs(slope - LEAKY_SLOPE) > 0.02:
            raise _Unsupported(f"slope {slope}; the DPU computes leaky ReLU with 26/256 only")
        self.activation(at, "leaky_relu")

    def pool(self, at: fx.Node, kind: str, kernel: Any, stride: Any, padding: Any, *, ceil: bool) -> None:
        source = self._value(at.args[0])
        height, width, channels = self._image(source)
        size, step = _pair(kernel), _pair(kernel if stride is None or stride == [] else stride)
        vertical, horizontal = _pair(padding)
        pads = (horizontal, horizontal, vertical, vertical)
        out = []
        for length, pad, k, s in ((height, 2 * vertical, size[0], step[0]), (width, 2 * horizontal, size[1], step[1])):
            span = length + pad - k
            if span < 0:
                raise _Unsupported(f"kernel {size} on an input of {height} x {width}")
            n = (-(-span // s) if ceil else span // s) + 1
            if ceil and (n - 1) * s >= length + pad // 2:
                raise _Unsupported("ceil_mode with a last window outside the image, which torch drops and the DPU keeps")
            out.append(n)
        if (
            kind == "avg"
            and ceil
            and any(
                (n - 1) * s + k > le + 2 * p
                for n, s, k, le, p in (
                    (out[0], step[0], size[0], height, vertical),
                    (out[1], step[1], size[1], width, horizontal),
                )
            )
        ):
            raise _Unsupported("average pooling with ceil_mode whose last window is cut; torch divides by the smaller window")
        name = str(at.target) if at.op == "call_module" else at.name
        is_global = size == (height, width) and out == [1, 1] and pads == (0, 0, 0, 0)
        self._put(
            at,
            Pool(
                name=name,
                inputs=(source,),
                shape=(out[0], out[1], channels),
                kind="max" if kind == "max" else "avg",
                kernel=size,
                stride=step,
                padding=pads,
                ceil_mode=ceil,
                is_global=is_global,
                factor=average_factor(size) if kind == "avg" else 1.0,
            ),
        )

    def adaptive_average(self, at: fx.Node, output: Any) -> None:
        source = self._value(at.args[0])
        height, width, _ = self._image(source)
        wanted = (output, output) if output is None or isinstance(output, int) else tuple(output)
        out_h, out_w = wanted[0] or height, wanted[1] or width
        if height % out_h or width % out_w:
            raise _Unsupported(f"adaptive pooling of {height} x {width} to {out_h} x {out_w}: the sizes do not divide")
        if (out_h, out_w) == (height, width):
            self.values[at] = source
            return
        kernel = (height // out_h, width // out_w)
        self.pool(at, "avg", kernel, kernel, 0, ceil=False)

    def mean(self, at: fx.Node) -> None:
        dims = at.kwargs.get("dim", at.args[1] if len(at.args) > 1 else None)
        keep = at.kwargs.get("keepdim", at.args[2] if len(at.args) > 2 else False)
        if not isinstance(dims, list | tuple) or {int(d) % 4 for d in dims if isinstance(d, int)} != {2, 3}:
            raise _Unsupported("a mean over other dimensions than height and width")
        self.adaptive_average(at, 1)
        if not keep:
            pooled = self.values[at]
            channels = self._shape(pooled)[-1]
            self._put(at, Reshape(name=f"{at.name}_flatten", inputs=(pooled,), shape=(channels,)))

    def flatten(self, at: fx.Node) -> None:
        source = self._value(at.args[0])
        shape = self._shape(source)
        if len(shape) == 1:
            self.values[at] = source
            return
        height, width, channels = shape
        name = str(at.target) if at.op == "call_module" else at.name
        self._put(at, Reshape(name=name, inputs=(source,), shape=(height * width * channels,)))
        if height * width > 1:
            self.flattened[self.values[at]] = (height, width, channels)

    def flatten_call(self, at: fx.Node) -> None:
        start = at.kwargs.get("start_dim", at.args[1] if len(at.args) > 1 else 0)
        end = at.kwargs.get("end_dim", at.args[2] if len(at.args) > 2 else -1)
        if start != 1 or end not in (-1, 3):
            raise _Unsupported("a flatten other than flatten(x, 1)")
        self.flatten(at)

    def reshape(self, at: fx.Node) -> None:
        sizes = at.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
            sizes = tuple(sizes[0])
        count = int(np.prod(self._shape(self._value(at.args[0]))))
        if len(sizes) != 2 or sizes[1] not in (-1, count):
            raise _Unsupported("a reshape other than to (batch, features)")
        self.flatten(at)

    def add(self, at: fx.Node) -> None:
        a, b = (self._value(operand) for operand in at.args[:2])
        if self._shape(a) != self._shape(b):
            raise _Unsupported(f"an addition of shapes {self._shape(a)} and {self._shape(b)}")
        self._put(at, Add(name=at.name, inputs=(a, b), shape=self._shape(a)))

    def concat(self, at: fx.Node) -> None:
        tensors = at.args[0] if at.args else at.kwargs["tensors"]
        axis = at.kwargs.get("dim", at.args[1] if len(at.args) > 1 else 0)
        if not isinstance(tensors, list | tuple) or not isinstance(axis, int):
            raise _Unsupported("a concatenation of something other than a list of tensors")
        names = tuple(self._value(t) for t in tensors)
        shapes = [self._image(n) for n in names]
        position = {1: 2, 2: 0, 3: 1}.get(axis % 4)  # NCHW axis -> position in (H, W, C)
        if position is None:
            raise _Unsupported("a concatenation along the batch")
        if any(s[i] != shapes[0][i] for s in shapes for i in range(3) if i != position):
            raise _Unsupported(f"a concatenation of shapes {shapes}")
        joined = list(shapes[0])
        joined[position] = sum(s[position] for s in shapes)
        self._put(at, Concat(name=at.name, inputs=names, shape=tuple(joined), axis=position))

    def identity(self, at: fx.Node) -> None:
        self.values[at] = self._value(at.args[0])


class _BlockedByEarlierProblem(Exception):
    """The operation reads the result of one that was reported already."""


def fold_batch_norm(node: Conv | Depthwise | Linear, scale: Array, shift: Array) -> Node:
    """The layer followed by y = x * scale + shift per channel, as one layer."""
    bias = shift if node.bias is None else node.bias * scale + shift
    weight = node.weight
    if weight is not None:
        weight = weight * scale if isinstance(node, Depthwise) else weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return dataclasses.replace(node, weight=weight, bias=bias.astype(np.float32), has_bias=True)


def _argument(at: fx.Node, position: int, name: str, default: Any) -> Any:
    return at.args[position] if len(at.args) > position else at.kwargs.get(name, default)


def _max_pool_function(lowering: _Lowering, at: fx.Node) -> None:
    kernel, stride = _argument(at, 1, "kernel_size", None), _argument(at, 2, "stride", None)
    padding, dilation = _argument(at, 3, "padding", 0), _argument(at, 4, "dilation", 1)
    if _pair(dilation) != (1, 1):
        raise _Unsupported("a dilated pooling")
    lowering.pool(at, "max", kernel, stride, padding, ceil=bool(_argument(at, 5, "ceil_mode", False)))


def _average_pool_function(lowering: _Lowering, at: fx.Node) -> None:
    kernel, stride, padding = (
        _argument(at, i + 1, n, d) for i, (n, d) in enumerate((("kernel_size", None), ("stride", None), ("padding", 0)))
    )
    lowering.pool(at, "avg", kernel, stride, padding, ceil=bool(_argument(at, 4, "ceil_mode", False)))


def _max_pool_module(lowering: _Lowering, at: fx.Node, module: nn.MaxPool2d) -> None:
    if _pair(module.dilation) != (1, 1):
        raise _Unsupported("a dilated pooling")
    lowering.pool(at, "max", module.kernel_size, module.stride, module.padding, ceil=module.ceil_mode)


def _average_pool_module(lowering: _Lowering, at: fx.Node, module: nn.AvgPool2d) -> None:
    if _pair(module.padding) != (0, 0) and not module.count_include_pad:
        raise _Unsupported("average pooling that leaves out its padding")
    if module.divisor_override is not None:
        raise _Unsupported("average pooling with a divisor of its own")
    lowering.pool(at, "avg", module.kernel_size, module.stride, module.padding, ceil=module.ceil_mode)


def _hardtanh_module(lowering: _Lowering, at: fx.Node, module: nn.Hardtanh) -> None:
    if (module.min_val, module.max_val) != (0.0, 6.0):
        raise _Unsupported(f"hardtanh({module.min_val}, {module.max_val}); the DPU has ReLU6 only")
    lowering.activation(at, "relu6")


def _flatten_module(lowering: _Lowering, at: fx.Node, module: nn.Flatten) -> None:
    if module.start_dim != 1 or module.end_dim not in (-1, 3):
        raise _Unsupported("a flatten other than of everything but the batch")
    lowering.flatten(at)


_MODULES: dict[type[nn.Module], Callable[[_Lowering, fx.Node, Any], None]] = {
    nn.Conv2d: _Lowering.conv,
    nn.Linear: _Lowering.linear,
    nn.BatchNorm2d: _Lowering.batch_norm,
    nn.BatchNorm1d: _Lowering.batch_norm,
    nn.ReLU: lambda low, at, _: low.activation(at, "relu"),
    nn.Hardtanh: _hardtanh_module,  # ReLU6 is one
    nn.LeakyReLU: lambda low, at, m: low.leaky(at, m.negative_slope),
    nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _average_pool_module,
    nn.AdaptiveAvgPool2d: lambda low, at, m: low.adaptive_average(at, m.output_size),
    nn.Flatten: _flatten_module,
    nn.Dropout: lambda low, at, _: low.identity(at),
    nn.Dropout2d: lambda low, at, _: low.identity(at),
    nn.Identity: lambda low, at, _: low.identity(at),
}

_FUNCTIONS: dict[Any, Callable[[_Lowering, fx.Node], None]] = {
    operator.add: _Lowering.add,
    operator.iadd: _Lowering.add,
    torch.add: _Lowering.add,
    "add": _Lowering.add,
    "add_": _Lowering.add,
    torch.cat: _Lowering.concat,
    torch.flatten: _Lowering.flatten_call,
    "flatten": _Lowering.flatten_call,
    "reshape": _Lowering.reshape,
    "view": _Lowering.reshape,
    "contiguous": _Lowering.identity,
    "mean": _Lowering.mean,
    torch.mean: _Lowering.mean,
    F.relu: lambda low, at: low.activation(at, "relu"),
    torch.relu: lambda low, at: low.activation(at, "relu"),
    "relu": lambda low, at: low.activation(at, "relu"),
    "relu_": lambda low, at: low.activation(at, "relu"),
    F.relu6: lambda low, at: low.activation(at, "relu6"),
    F.leaky_relu: lambda low, at: low.leaky(at, _argument(at, 1, "negative_slope", 0.01)),
    F.dropout: _Lowering.identity,
    F.max_pool2d: _max_pool_function,
    torch.max_pool2d: _max_pool_function,
    F.avg_pool2d: _average_pool_function,
    F.adaptive_avg_pool2d: lambda low, at: low.adaptive_average(at, _argument(at, 1, "output_size", None)),
}
