"""The layers of a traced torch model as nodes of a Graph, one method per kind of layer.

Batch-norm is folded into the layer before it, an activation is fused with it, and a flatten is merged into the linear layer
behind it, where torch's (C, H, W) order of elements becomes (H, W, C).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
    Add,
    Array,
    Concat,
    Conv,
    Depthwise,
    Linear,
    Node,
    Pool,
    Reshape,
    Shape,
    average_factor,
    sanitize,
    window_output,
)
from edgesearch.board_eval.lowering._batch_norm import array, batch_norm_factors, fold_batch_norm


class Unsupported(Exception):
    """The operation at hand has no DPU form; carries the reason."""


class BlockedByEarlierProblem(Exception):
    """The operation reads the result of one that was reported already."""


@dataclass(frozen=True)
class Source:
    """Where a weighted node of a lowered Graph came from: module paths in the torch model."""

    module: str
    batch_norm: str | None


class Layers:
    """The nodes made so far. `values` maps each operation of the trace to the node whose value it stands for."""

    def __init__(self, model: nn.Module, traced: fx.GraphModule, name: str, input_shape: tuple[int, int, int]) -> None:
        self.model = model
        self.traced = traced
        self.name = name
        channels, height, width = input_shape
        self.input_shape: Shape = (height, width, channels)
        self.nodes: dict[str, Node] = {}
        self.values: dict[fx.Node, str] = {}
        self.order = {node: i for i, node in enumerate(traced.graph.nodes)}
        #: Reshapes of (H, W, C) images put their elements in torch's (C, H, W) order; the linear behind is permuted.
        self.flattened: dict[str, Shape] = {}
        self.sources: dict[str, Source] = {}
        #: Names of the xmodel operations of each node, without constants: the operation and its activation.
        self.operations: dict[str, tuple[str, ...]] = {}

    # -- reading and writing nodes

    def value(self, node: Any) -> str:
        """The node that an operand of the trace stands for."""
        if not isinstance(node, fx.Node):
            raise Unsupported(f"an operand that is the constant {node!r}")
        if node not in self.values:
            raise BlockedByEarlierProblem
        return self.values[node]

    def put(self, at: fx.Node, node: Node, suffix: str = "") -> None:
        """Add a node, under a name of its own, as the value of `at`."""
        unique, i = node.name, 1
        while unique in self.nodes:
            unique, i = f"{node.name}_{i}", i + 1
        self.nodes[unique] = dataclasses.replace(node, name=unique)
        self.values[at] = unique
        self.operations[unique] = (self.operation_name(at) + suffix,)

    def operation_name(self, at: fx.Node) -> str:
        """Nndct's name: class path of the module, then `ret` and a number."""
        if at.op == "placeholder":
            return sanitize(f"{self.name}::input_0")
        stack = list(at.meta.get("nn_module_stack", {}))
        path = str(at.target) if at.op == "call_module" else (stack[-1] if stack else "")
        parts, prefix = [self.name], ""
        for part in path.split(".") if path else ():
            prefix = f"{prefix}.{part}" if prefix else part
            kind = type(self.model.get_submodule(prefix)).__name__  # the trace has lost the containers' classes
            parts.append(f"{kind}[{part}]")
        return sanitize(f"{self.name}::{'/'.join(parts)}/ret.{self.order[at]}")

    def shape(self, name: str) -> Shape:
        """Shape of a node's value."""
        return self.nodes[name].shape

    def image(self, name: str) -> Shape:
        """Shape of a node's value, which has to be (H, W, C)."""
        shape = self.shape(name)
        if len(shape) != 3:
            raise Unsupported(f"expects an image, is given a tensor of shape {shape}")
        return shape

    def in_torch_order(self, name: str) -> str:
        """The node, unless its elements stand in another order than torch's."""
        if name in self.flattened:
            raise Unsupported("reads a flattened image; only activations and linear layers may follow a flatten")
        return name

    def _aliases(self, name: str) -> list[fx.Node]:
        return [at for at, value in self.values.items() if value == name]

    def _only_reader(self, at: fx.Node, name: str, *, inplace: bool = False) -> bool:
        """Whether nothing but `at` reads the node's value; what comes after an in-place `at` reads the new value."""
        aliases = self._aliases(name)
        readers = {user for alias in aliases for user in alias.users if user not in aliases and not reads_shape(user)}
        if inplace:
            readers = {user for user in readers if self.order[user] <= self.order[at]}
        return readers <= {at}

    def _rebind(self, old: str, at: fx.Node) -> None:
        """Every operand that shared storage with the node `old` now stands for the in-place result `at`."""
        for alias in self._aliases(old):
            self.values[alias] = self.values[at]

    # -- layers

    def conv(self, at: fx.Node, module: nn.Conv2d) -> None:
        source = self.value(at.args[0])
        height, width, channels = self.image(source)
        if channels != module.in_channels:
            raise Unsupported(f"expects {module.in_channels} channels, is given {channels}")
        if module.padding_mode != "zeros":
            raise Unsupported(f"padding mode {module.padding_mode!r}; the DPU pads with zeros")
        kernel, stride, dilation = pair(module.kernel_size), pair(module.stride), pair(module.dilation)
        if max(kernel) > 16 or max(stride) > 8:
            raise Unsupported(f"kernel {kernel}, stride {stride}; the DPU takes kernels of 1..16 and strides of 1..8")
        padding = _padding(module.padding, kernel, dilation)
        left, right, top, bottom = padding
        out_h = window_output(height, top + bottom, kernel[0], stride[0], dilation[0])
        out_w = window_output(width, left + right, kernel[1], stride[1], dilation[1])
        if out_h < 1 or out_w < 1:
            raise Unsupported(f"kernel {kernel} on an input of {height} x {width}")
        weight = array(module.weight)
        common: dict[str, Any] = {
            "name": str(at.target),
            "inputs": (source,),
            "shape": (out_h, out_w, module.out_channels),
            "bias": None if module.bias is None else array(module.bias),
            "has_bias": module.bias is not None,
            "kernel": kernel,
            "stride": stride,
            "dilation": dilation,
            "padding": padding,
        }
        if module.groups == 1:
            self._weighted(at, Conv(weight=np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), **common))
        elif module.groups == module.in_channels == module.out_channels:
            self._weighted(at, Depthwise(weight=np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)), **common))
        else:
            reason = (
                f"{module.groups} groups of {module.in_channels} channels; the DPU has full and depthwise convolutions only"
            )
            raise Unsupported(reason)

    def linear(self, at: fx.Node, module: nn.Linear) -> None:
        source = self.value(at.args[0])
        shape = self.shape(source)
        if shape != (module.in_features,):
            raise Unsupported(f"expects {module.in_features} features, is given a tensor of shape {shape}")
        weight = array(module.weight)
        if source in self.flattened:
            h, w, c = self.flattened[source]
            weight = np.ascontiguousarray(weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(weight.shape))
        bias = None if module.bias is None else array(module.bias)
        node = Linear(
            name=str(at.target),
            inputs=(source,),
            shape=(module.out_features,),
            weight=weight,
            bias=bias,
            has_bias=bias is not None,
        )
        self._weighted(at, node)

    def _weighted(self, at: fx.Node, node: Node) -> None:
        self.put(at, node)
        self.sources[self.values[at]] = Source(str(at.target), None)

    def batch_norm(self, at: fx.Node, module: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        source = self.in_torch_order(self.value(at.args[0]))
        node = self.nodes[source]
        if module.running_mean is None or module.running_var is None:
            raise Unsupported("batch-norm without running statistics")
        if module.num_features != node.shape[-1]:
            raise Unsupported(f"expects {module.num_features} channels, is given {node.shape[-1]}")
        scale, shift = batch_norm_factors(module)
        foldable = (
            isinstance(node, Conv | Depthwise | Linear)
            and node.activation == "none"
            and self._only_reader(at, source)
            and self.sources[source].batch_norm is None
        )
        if foldable:
            assert isinstance(node, Conv | Depthwise | Linear)
            self.nodes[source] = fold_batch_norm(node, scale, shift)
            self.sources[source] = Source(self.sources[source].module, str(at.target))
            self.values[at] = source
            return
        if self._fold_before_concat(at, node, scale, shift):
            self.values[at] = source
            return
        weight = scale.reshape(1, 1, -1)
        common: dict[str, Any] = {"name": str(at.target), "inputs": (source,), "shape": self.image(source)}
        self._weighted(at, Depthwise(kernel=(1, 1), weight=weight, bias=shift, scale=True, **common))

    def _fold_before_concat(self, at: fx.Node, node: Node, scale: Array, shift: Array) -> bool:
        """Whether `node` is a concat of channels of convolutions that nothing else reads; if so each takes its part."""
        if not isinstance(node, Concat) or node.axis != 2 or not self._only_reader(at, node.name):
            return False
        # convolutions with a batch-norm of their own stay: training could not tell the two apart
        parts = [self.nodes[name] for name in node.inputs]
        concat = self._aliases(node.name)[0]
        if len({*node.inputs}) < len(parts) or any(
            not isinstance(part, Conv | Depthwise)
            or part.activation != "none"
            or self.sources[part.name].batch_norm is not None
            or not self._only_reader(concat, part.name)
            for part in parts
        ):
            return False
        start = 0
        for part in parts:
            assert isinstance(part, Conv | Depthwise)
            end = start + part.shape[-1]
            self.nodes[part.name] = fold_batch_norm(part, scale[start:end], shift[start:end])
            start = end
        return True

    def activation(self, at: fx.Node, kind: ActivationKind, *, inplace: bool = False, keeps_clip: bool = False) -> None:
        source = self.value(at.args[0])
        node = self.nodes[source]
        if (
            isinstance(node, Conv | Depthwise | Linear | Add)
            and node.activation == "none"
            and self._only_reader(at, source, inplace=inplace)
        ):
            self.nodes[source] = dataclasses.replace(node, activation=kind, keeps_clip=keeps_clip)
            self.operations[source] = (self.operations[source][0], self.operation_name(at))
            self.values[at] = source
            return
        common: dict[str, Any] = {"name": name_of(at), "inputs": (source,), "shape": node.shape}
        self.put(at, Activation(activation=kind, keeps_clip=keeps_clip, **common))
        if source in self.flattened:
            self.flattened[self.values[at]] = self.flattened[source]
        if inplace:
            self._rebind(source, at)

    def leaky(self, at: fx.Node, slope: float, *, inplace: bool = False) -> None:
        if abs(slope - LEAKY_SLOPE) > 0.02:
            raise Unsupported(f"slope {slope}; the DPU computes leaky ReLU with 26/256 only")
        self.activation(at, "leaky_relu", inplace=inplace)

    def pool(self, at: fx.Node, kind: str, kernel: Any, stride: Any, padding: Any, *, ceil: bool, whole: bool = False) -> None:
        source = self.value(at.args[0])
        height, width, channels = self.image(source)
        size, step = pair(kernel), pair(kernel if stride is None or stride == [] else stride)
        vertical, horizontal = pair(padding)
        out_h = _pool_output(height, vertical, size[0], step[0], ceil=ceil, average=kind == "avg")
        out_w = _pool_output(width, horizontal, size[1], step[1], ceil=ceil, average=kind == "avg")
        node = Pool(
            name=name_of(at),
            inputs=(source,),
            shape=(out_h, out_w, channels),
            kind="max" if kind == "max" else "avg",
            kernel=size,
            stride=step,
            padding=(horizontal, horizontal, vertical, vertical),
            ceil_mode=ceil,
            is_global=whole,
            factor=average_factor(size) if kind == "avg" else 1.0,
        )
        self.put(at, node)

    def adaptive_average(self, at: fx.Node, output: Any) -> None:
        source = self.value(at.args[0])
        height, width, _ = self.image(source)
        wanted = (output, output) if output is None or isinstance(output, int) else tuple(output)
        out_h, out_w = wanted[0] or height, wanted[1] or width
        if height % out_h or width % out_w:
            raise Unsupported(f"adaptive pooling of {height} x {width} to {out_h} x {out_w}: the sizes do not divide")
        if (out_h, out_w) == (height, width):
            self.values[at] = source
            return
        kernel = (height // out_h, width // out_w)
        self.pool(at, "avg", kernel, kernel, 0, ceil=False, whole=(out_h, out_w) == (1, 1))

    def mean(self, at: fx.Node, dims: Any, keep: Any) -> None:
        if not isinstance(dims, list | tuple) or sorted(int(d) % 4 for d in dims if isinstance(d, int)) != [2, 3]:
            raise Unsupported("a mean over other dimensions than height and width")
        self.adaptive_average(at, 1)
        if not keep:
            pooled = self.values[at]
            node = Reshape(name=f"{at.name}_flatten", inputs=(pooled,), shape=(self.shape(pooled)[-1],))
            self.put(at, node, "_flatten")

    def flatten(self, at: fx.Node) -> None:
        source = self.value(at.args[0])
        shape = self.shape(source)
        if len(shape) == 1:
            self.values[at] = source
            return
        height, width, channels = shape
        self.put(at, Reshape(name=name_of(at), inputs=(source,), shape=(height * width * channels,)))
        if height * width > 1:
            self.flattened[self.values[at]] = (height, width, channels)

    def view(self, at: fx.Node, sizes: Sequence[Any]) -> None:
        """A reshape or view to (batch, features); the batch and one other size may be -1."""
        count = int(np.prod(self.shape(self.value(at.args[0]))))
        if len(sizes) != 2 or sizes[0] not in (-1, 1) or sizes[1] not in (-1, count):
            raise Unsupported("a reshape other than to (batch, features)")
        self.flatten(at)

    def add(self, at: fx.Node, *, inplace: bool = False) -> None:
        a, b = (self.in_torch_order(self.value(operand)) for operand in at.args[:2])
        if self.shape(a) != self.shape(b):
            raise Unsupported(f"an addition of shapes {self.shape(a)} and {self.shape(b)}")
        if at.kwargs.get("alpha", 1) != 1:
            raise Unsupported("an addition with a factor")
        self.put(at, Add(name=at.name, inputs=(a, b), shape=self.shape(a)))
        if inplace:
            self._rebind(a, at)

    def concat(self, at: fx.Node, tensors: Any, axis: Any) -> None:
        if not isinstance(tensors, list | tuple) or not isinstance(axis, int):
            raise Unsupported("a concatenation of something other than a list of tensors")
        names = tuple(self.value(t) for t in tensors)
        shapes = [self.image(n) for n in names]
        position = {1: 2, 2: 0, 3: 1}.get(axis % 4)  # NCHW axis -> position in (H, W, C)
        if position is None:
            raise Unsupported("a concatenation along the batch")
        if any(s[i] != shapes[0][i] for s in shapes for i in range(3) if i != position):
            raise Unsupported(f"a concatenation of shapes {shapes}")
        joined = list(shapes[0])
        joined[position] = sum(s[position] for s in shapes)
        self.put(at, Concat(name=at.name, inputs=names, shape=tuple(joined), axis=position))

    def identity(self, at: fx.Node) -> None:
        self.values[at] = self.value(at.args[0])

    def with_op_names(self, node: Node) -> Node:
        """The node with the names its xmodel operations get: constants first (see Node.op_names)."""
        operations = self.operations[node.name]
        if isinstance(node, Conv | Depthwise | Linear):
            module = sanitize(f"{self.name}::{self.sources[node.name].module}")
            constants = (f"{module}_weight", f"{module}_bias") if node.has_bias else (f"{module}_weight",)
            return dataclasses.replace(node, op_names=(*constants, *operations))
        if isinstance(node, Pool) and node.kind == "avg":
            return dataclasses.replace(node, op_names=(f"{operations[0]}_i0", f"{operations[0]}_i1", operations[0]))
        return dataclasses.replace(node, op_names=operations)


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of an argument that may be one number."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def name_of(at: fx.Node) -> str:
    """The module's path, or the name of the traced operation."""
    return str(at.target) if at.op == "call_module" else at.name


def reads_shape(at: fx.Node) -> bool:
    """Whether an operation reads the shape of a tensor, not its values."""
    if at.op == "call_method":
        return at.target in ("size", "dim")
    return at.op == "call_function" and at.target is getattr and at.args[1] == "shape"


def _padding(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if value == "valid":
        return (0, 0, 0, 0)
    if value == "same":
        total_h, total_w = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    vertical, horizontal = pair(value)
    return (horizontal, horizontal, vertical, vertical)


def _pool_output(length: int, padding: int, kernel: int, stride: int, *, ceil: bool, average: bool) -> int:
    """Output length of a pool in one direction; raises Unsupported where torch and the DPU would differ."""
    if length + 2 * padding < kernel:
        raise Unsupported(f"a kernel of {kernel} on an input of {length}")
    n = window_output(length, 2 * padding, kernel, stride, ceil=ceil)
    if ceil and (n - 1) * stride >= length + padding:
        raise Unsupported("ceil_mode with a last window outside the image, which torch drops and the DPU keeps")
    if ceil and average and (n - 1) * stride + kernel > length + 2 * padding:
        raise Unsupported("average pooling with ceil_mode whose last window is cut; torch divides by the smaller window")
    return n
