"""From the operations of a compiled xmodel back to a Graph: what the code computes, for comparison with the code itself.

Nodes are named after the file's operations. A linear layer is the 1 x 1 convolution that the compiler made of it, an average
has the coefficients that the DPU takes for its window, and a step of nearest downsampling is a maximum over one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgesearch.board_eval.graph import (
    Activation,
    ActivationKind,
    Add,
    Array,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Node,
    Pool,
    Reshape,
    average_factor,
    parts_of,
)
from edgesearch.board_eval.xmodel._compiled import CompiledModel, CompiledOperation, CompiledTensor
from edgesearch.board_eval.xmodel._compiled_reader import read_compiled
from edgesearch.board_eval.xmodel._ops import Attributes
from edgesearch.errors import GraphError, XmodelError

__all__ = ["NONLINEAR", "compiled_graph", "read_compiled_graph"]

#: Activation -> what XIR calls it.
NONLINEAR: Mapping[ActivationKind, str] = MappingProxyType(
    {"none": "NONE", "relu": "RELU", "relu6": "RELU6", "leaky_relu": "LEAKYRELU"}
)
_ACTIVATIONS: Mapping[str, ActivationKind] = MappingProxyType({name: kind for kind, name in NONLINEAR.items()})


def read_compiled_graph(path: str | Path) -> Graph:
    """The quantized network whose code a compiled xmodel holds, with weights. See `compiled_graph`.

    Raises XmodelError when `read_compiled` does, and for networks that a Graph cannot hold.
    """
    model = read_compiled(path)
    try:
        return compiled_graph(model)
    except XmodelError as error:
        raise XmodelError(f"{path} cannot be read as a network: {error}") from error


def compiled_graph(model: CompiledModel) -> Graph:
    """The quantized network of a compiled model: its arithmetic is exact, in the order of the file's operations.

    The code equals it bit for bit, except that it keeps two bits behind the point of what it adds: sums of tensors whose fix
    positions are more than two apart may differ by one. A bias that the compiler shifted to the right has the lower fix
    position it was shifted to, which gives the same integers. Raises XmodelError for more than one input or output, and for
    operations that a Graph does not have, as upsampling.
    """
    try:
        return _Builder(model).run()
    except GraphError as error:
        raise XmodelError(f"it does not hold a well-formed network: {error}") from error


class _Builder:
    """One walk over the operations; `values` maps each to the node whose value it stands for."""

    def __init__(self, model: CompiledModel) -> None:
        self.model = model
        self.operations = {operation.name: operation for operation in model.operations}
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, str] = {}

    def run(self) -> Graph:
        unknown = sorted({o.kind for o in self.model.operations} - set(_HANDLERS))
        if unknown:
            raise XmodelError(f"its operations {', '.join(repr(u[:50]) for u in unknown[:8])} have no form in a Graph")
        if len(self.model.inputs) != 1 or len(self.model.outputs) != 1:
            found = f"{len(self.model.inputs)} inputs and {len(self.model.outputs)} outputs"
            raise XmodelError(f"it has {found}, expected one of each: a Graph has no more")
        for operation in self.model.operations:
            _HANDLERS[operation.kind](self, operation)
        (output,) = (self.values[o.name] for o in self.model.operations if o.kind == "download")
        unread = set(self.nodes) - {source for node in self.nodes.values() for source in node.inputs} - {output}
        if unread:
            raise XmodelError(
                f"the value of {min(unread)[:200]!r} leads nowhere, expected that everything is computed for the output"
            )
        nodes = [*(node for name, node in self.nodes.items() if name != output), self.nodes[output]]
        return Graph(self.model.name or "network", tuple(nodes))

    # -- what an operation has

    def _common(self, operation: CompiledOperation, count: int = 1) -> dict[str, Any]:
        if len(operation.inputs) != count:
            raise _error(operation, f"has {len(operation.inputs)} inputs, expected {count}")
        inputs = tuple(self._value(operation, source) for source in operation.inputs)
        return {"name": operation.name, "inputs": inputs, "shape": operation.tensor.shape, "fix": operation.tensor.fix}

    def _value(self, operation: CompiledOperation, source: str) -> str:
        if source not in self.values:
            raise _error(operation, f"reads {source[:200]!r}, which is a constant")
        return self.values[source]

    def _put(self, operation: CompiledOperation, node: Node) -> None:
        self.nodes[node.name] = node
        self.values[operation.name] = node.name

    def _constant(self, operation: CompiledOperation, name: str) -> tuple[CompiledTensor, Array]:
        """A constant's tensor and its integers."""
        constant = self.operations.get(name)
        if constant is None or constant.kind != "const-fix":
            raise _error(operation, f"reads {name[:200]!r}, expected a constant")
        tensor = constant.tensor
        held = self.model.registers[tensor.register].parameters[tensor.address : tensor.address + math.prod(tensor.shape)]
        if len(held) != math.prod(tensor.shape):
            raise _error(constant, f"has {len(held)} bytes in REG_{tensor.register}, its shape makes {math.prod(tensor.shape)}")
        return tensor, np.frombuffer(held, np.int8).astype(np.float32).reshape(tensor.shape)

    def _weighted(self, operation: CompiledOperation) -> dict[str, Any]:
        """Fields of a layer with weights; they are (out, kernel height, kernel width, in)."""
        out = self._common(operation)
        tensor, weight = self._constant(operation, operation.weights)
        attributes = _attributes(operation)
        kernel_w, kernel_h = attributes.integers("kernel", 2)
        if weight.ndim != 4 or weight.shape[1:3] != (kernel_h, kernel_w):
            raise attributes.error(f"has weights of shape {list(weight.shape)} for a kernel {kernel_w} x {kernel_h}")
        if attributes.text("pad_mode", "FLOOR") != "FLOOR":
            raise attributes.error(f"has pad_mode {attributes.text('pad_mode', '')[:20]!r}, expected FLOOR")
        stride_w, stride_h = attributes.integers("stride", 2)
        dilation_w, dilation_h = attributes.integers("dilation", 2, (1, 1))
        out |= {
            "weight": np.ldexp(weight, -tensor.fix),
            "weight_fix": tensor.fix,
            "kernel": (kernel_h, kernel_w),
            "stride": (stride_h, stride_w),
            "dilation": (dilation_h, dilation_w),
            "padding": attributes.integers("pad", 4, (0, 0, 0, 0)),
            "activation": _activation(attributes),
            "has_bias": bool(operation.bias),
        }
        if operation.bias:
            out |= self._bias(operation, tensor.fix, out["inputs"][0])
        return out

    def _bias(self, operation: CompiledOperation, weight_fix: int, source: str) -> dict[str, Any]:
        tensor, bias = self._constant(operation, operation.bias)
        if bias.shape != operation.tensor.shape[-1:]:
            raise _error(operation, f"has a bias of shape {list(bias.shape)} for {operation.tensor.shape[-1]} channels")
        # The accumulator has one bit more than the products. A bias that is finer still was shifted by the compiler to that
        # position, while the file names the one it had before.
        fix = min(tensor.fix, self._fix_of(source) + weight_fix + 1)
        return {"bias": np.ldexp(bias, -fix), "bias_fix": fix}

    def _fix_of(self, name: str) -> int:
        return self.operations[name].tensor.fix

    # -- operations

    def constant(self, operation: CompiledOperation) -> None:
        """Read by the layers."""

    def upload(self, operation: CompiledOperation) -> None:
        tensor = operation.tensor
        self._put(operation, Input(name=operation.name, inputs=(), shape=tensor.shape, fix=tensor.fix))

    def download(self, operation: CompiledOperation) -> None:
        self.values[operation.name] = self._common(operation)["inputs"][0]

    def conv(self, operation: CompiledOperation) -> None:
        fields = self._weighted(operation)
        if _attributes(operation).integer("group", 1) != 1:
            raise _error(operation, "has groups; the DPU has full and depthwise convolutions only")
        self._put(operation, Conv(**parts_of(fields["weight"]), **fields))

    def depthwise(self, operation: CompiledOperation) -> None:
        fields = self._weighted(operation)
        if fields["weight"].shape[0] != 1:
            raise _error(operation, f"has {fields['weight'].shape[0]} filters a channel, expected one")
        fields["weight"] = fields["weight"][0]
        self._put(operation, Depthwise(**fields))

    def pool(self, operation: CompiledOperation) -> None:
        attributes = _attributes(operation)
        kinds = {"MAX": "max", "AVG": "avg"}
        kind = attributes.text("type", "")
        if kind not in kinds:
            raise attributes.error(f"is of type {kind[:20]!r}, expected MAX or AVG")
        kernel_w, kernel_h = attributes.integers("kernel", 2)
        stride_w, stride_h = attributes.integers("stride", 2)
        if not kernel_w or not kernel_h:
            raise attributes.error(f"has a kernel {kernel_w} x {kernel_h}, expected at least 1 x 1")
        kernel = (kernel_h, kernel_w)
        fields: dict[str, Any] = {"padding": attributes.integers("pad", 4, (0, 0, 0, 0)), **self._common(operation)}
        fields |= {"kind": kinds[kind], "factor": average_factor(kernel) if kind == "AVG" else 1.0}
        self._put(operation, Pool(kernel=kernel, stride=(stride_h, stride_w), **fields))

    def downsample(self, operation: CompiledOperation) -> None:
        attributes = _attributes(operation)
        scale = operation.attributes.get("scale")
        if attributes.text("mode", "") != "NEAREST" or not isinstance(scale, tuple) or len(scale) != 2:
            raise attributes.error("is no nearest downsampling with two factors, and the DPU does no other")
        width, height = (int(factor) if isinstance(factor, float) and factor in range(1, 257) else 0 for factor in scale)
        if not width or not height:
            raise attributes.error(f"has the factors {scale}, expected whole ones within 1..256")
        self._put(operation, Pool(kind="max", kernel=(1, 1), stride=(height, width), **self._common(operation)))

    def eltwise(self, operation: CompiledOperation) -> None:
        attributes = _attributes(operation)
        if attributes.text("type", "ADD") != "ADD":
            raise attributes.error(f"is of type {attributes.text('type', '')[:20]!r}, expected ADD")
        activation = _activation(attributes)
        if len(operation.inputs) == 1:  # without an activation, a copy at another fix position
            self._put(operation, Activation(activation=activation, **self._common(operation)))
        else:
            self._put(operation, Add(activation=activation, **self._common(operation, 2)))

    def concat(self, operation: CompiledOperation) -> None:
        axis = _attributes(operation).integer("axis")
        dimensions = len(operation.tensor.shape)
        axis = axis - 1 if axis > 0 else axis + dimensions
        if not 0 <= axis < dimensions:
            raise _error(operation, "joins tensors along the batch, expected another axis")
        self._put(operation, Concat(axis=axis, **self._common(operation, len(operation.inputs))))

    def reshape(self, operation: CompiledOperation) -> None:
        fields = self._common(operation)
        if fields.pop("fix") != self._fix_of(operation.inputs[0]):
            raise _error(operation, "changes the fix position, which a reshape does not do")
        self._put(operation, Reshape(**fields))


def _attributes(operation: CompiledOperation) -> Attributes:
    owner = f"operation {operation.name[:200]!r} ({operation.kind[:50]})"
    return Attributes(owner, operation.attributes, lambda value: list(value) if isinstance(value, tuple) else value)


def _error(operation: CompiledOperation, problem: str) -> XmodelError:
    return _attributes(operation).error(problem)


def _activation(attributes: Attributes) -> ActivationKind:
    given = attributes.text("nonlinear", "NONE")
    if given not in _ACTIVATIONS:
        raise attributes.error(f"has the activation {given[:20]!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[given]


_HANDLERS: dict[str, Callable[[_Builder, CompiledOperation], None]] = {
    "concat-fix": _Builder.concat,
    "const-fix": _Builder.constant,
    "conv2d-fix": _Builder.conv,
    "depthwise-conv2d-fix": _Builder.depthwise,
    "download": _Builder.download,
    "downsample-fix": _Builder.downsample,
    "eltwise-fix": _Builder.eltwise,
    "pool-fix": _Builder.pool,
    "reshape-fix": _Builder.reshape,
    "upload": _Builder.upload,
}
