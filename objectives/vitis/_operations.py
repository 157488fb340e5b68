"""The forward pass of a traced network, operation by operation, as lines of plain torch code.

Vitis AI quantizes an operation in training only where a module does it, and every module of it only once: functions become
modules, and so does every further call of one that has no weights.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgesearch.board_eval.lowering import put_in_place
from edgesearch.errors import LoweringError, LoweringProblem
from edgesearch.objectives.vitis._constructors import constructor, same_padding

__all__ = ["Operations"]

Shape: TypeAlias = tuple[int, ...]


class _Shapes(fx.Interpreter):
    """Runs a network and keeps the shape of every tensor in it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.found: dict[fx.Node, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value; the interpreter's own."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
        return value


class Operations:
    """Lines of code for the operations of a traced network. `trainable`: for quantization-aware training."""

    def __init__(self, traced: fx.GraphModule, image: Tensor, *, name: str, trainable: bool) -> None:
        self._traced, self._name, self._trainable = traced, name, trainable
        self._modules = dict(traced.named_modules(remove_duplicate=False))
        shapes = _Shapes(traced)
        with torch.no_grad():
            shapes.run(image)
        self._shapes = shapes.found
        self._variables: dict[fx.Node, str] = {}
        self._calls: Counter[int] = Counter()
        #: Lines of the forward pass; modules of the operations, by name, with the expressions that make them; the input.
        self.lines: list[str] = []
        self.added: dict[str, str] = {}
        self.argument = "x"
        self.result = ""
        #: Whether an operation is computed in an order of its own, so that the last bits may differ.
        self.rounds_otherwise = False
        for node in traced.graph.nodes:
            self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "output":
            self.result = self._of(node, node.args[0])
        elif node not in self._shapes:  # a size
            return
        elif node.op == "placeholder":
            self.argument = self._variables[node] = _variable(node)
        elif node.op == "get_attr":
            if node.users:
                self._refuse(node, "a constant or parameter outside a layer")
        elif node.op == "call_module":
            self._module(node, self._modules[str(node.target)])
        else:
            write = _FUNCTIONS.get(node.target)
            if write is None:
                self._refuse(node, "this operation")
            put_in_place(node)
            write(self, node)

    def _refuse(self, node: fx.Node, what: str) -> NoReturn:
        kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        problem = LoweringProblem(node.name, str(kind), f"{what} cannot be written as code for Vitis AI")
        raise LoweringError(self._name, [problem])

    def _of(self, node: fx.Node, operand: Any) -> str:
        """The variable that holds an operand."""
        if not isinstance(operand, fx.Node) or operand not in self._variables:
            self._refuse(node, f"an operation on {operand!r}")
        return self._variables[operand]

    def _put(self, node: fx.Node, expression: str) -> None:
        self._variables[node] = variable = _variable(node)
        self.lines.append(f"{variable} = {expression}")

    def _keep(self, node: fx.Node) -> None:
        """The operation changes nothing."""
        self._variables[node] = self._of(node, node.args[0])

    def _add_module(self, name: str, expression: str) -> str:
        """A module that the network does not have itself; the code by which the forward pass reaches it."""
        unique, number = f"op_{name}", 1
        while unique in self.added or unique in self._modules:
            unique, number = f"op_{name}_{number}", number + 1
        self.added[unique] = expression
        return f"self.{unique}"

    def _through(self, node: fx.Node, expression: str) -> None:
        """The operation as a module of its own."""
        self._put(node, f"{self._add_module(node.name, expression)}({self._of(node, node.args[0])})")

    # -- modules

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, nn.Identity):
            self._keep(node)
        elif isinstance(module, nn.Flatten):
            self._flatten(node)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._adaptive(node)
        else:
            written = constructor(module, trainable=self._trainable)
            if written is None:
                self._refuse(node, f"a layer {type(module).__name__}")
            source = self._of(node, node.args[0])
            if isinstance(module, nn.Conv2d) and (pad := same_padding(module)) is not None:
                made, given = ("Pad()", f", {pad!r}") if self._trainable else (f"nn.ZeroPad2d({pad!r})", "")
                source = f"{self._add_module(f'{node.name}_pad', made)}({source}{given})"
            self._calls[id(module)] += 1
            again = self._calls[id(module)] > 1 and next(module.parameters(), None) is None
            call = self._add_module(node.name, written) if again else f"self.get_submodule({str(node.target)!r})"
            self._put(node, f"{call}({source})")

    # -- functions

    def _add(self, node: fx.Node, *, inplace: bool = False) -> None:
        if node.kwargs.get("alpha", 1) != 1 or len(node.args) < 2:
            self._refuse(node, "an addition with a factor")
        if node.args[0] == 0 and not inplace:  # where Python's sum begins
            self._variables[node] = self._of(node, node.args[1])
            return
        a, b = (self._of(node, operand) for operand in node.args[:2])
        self._put(node, f"{self._add_module(node.name, 'Add()')}({a}, {b})")
        if inplace:  # whoever reads the first operand from here on reads the sum
            new = self._variables[node]
            self._variables |= {known: new for known, variable in self._variables.items() if variable == a}

    def _concat(self, node: fx.Node) -> None:
        tensors, axis = _argument(node, 0, "tensors", ()), _argument(node, 1, "dim", 0)
        if not isinstance(tensors, list | tuple):
            self._refuse(node, "a concatenation of something other than a list")
        parts = ", ".join(self._of(node, tensor) for tensor in tensors)
        self._put(node, f"{self._add_module(node.name, 'Cat()')}([{parts}], {int(axis) % len(self._shapes[node])})")

    def _flatten(self, node: fx.Node) -> None:
        source, shape = self._of(node, node.args[0]), self._shapes[node]
        before = self._shapes[node.args[0]]  # type: ignore[index]
        if shape == before:
            self._keep(node)
        elif len(shape) == 2 and shape[0] == before[0]:
            self._put(node, f"torch.flatten({source}, 1)")
        else:
            self._refuse(node, f"a reshape from {before} to {shape}")

    def _adaptive(self, node: fx.Node) -> None:
        before, (height, width) = self._shapes[node.args[0]][2:], self._shapes[node][2:]  # type: ignore[index]
        if before == (height, width):
            self._keep(node)
        elif self._trainable and (height, width) != (1, 1) and before[0] % height == before[1] % width == 0:
            self.rounds_otherwise = True  # Vitis AI takes it as an average pool, and wants to see one
            kernel = (before[0] // height, before[1] // width)
            self._through(node, f"nn.AvgPool2d({kernel!r}, stride={kernel!r})")
        else:
            self._through(node, f"nn.AdaptiveAvgPool2d(({height}, {width}))")

    def _mean(self, node: fx.Node) -> None:
        axes = _argument(node, 1, "dim", None)
        if not isinstance(axes, list | tuple) or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
            self._refuse(node, "a mean over other axes than height and width")
        # a mean would be computed in floating point
        pooled = f"{self._add_module(node.name, 'nn.AdaptiveAvgPool2d((1, 1))')}({self._of(node, node.args[0])})"
        self._put(node, pooled if len(self._shapes[node]) == 4 else f"torch.flatten({pooled}, 1)")

    def _relu(self, node: fx.Node, inplace: bool) -> None:
        self._through(node, f"nn.ReLU(inplace={inplace!r})")

    def _relu6(self, node: fx.Node, inplace: bool) -> None:
        if self._trainable:
            self._through(node, f"nn.ReLU6(inplace={inplace!r})")
        else:  # a module would be replaced by ReLU, a function is not
            self._put(node, f"F.relu6({self._of(node, node.args[0])}, inplace={inplace!r})")

    def _clip(self, node: fx.Node, most: str, inplace: bool) -> None:
        """A clip at 0 alone or at 0 and 6, which lowering has looked at; `most` is the upper bound's name."""
        if _argument(node, 2, most, None) is None:
            self._relu(node, inplace)
        else:
            self._relu6(node, inplace)

    def _leaky(self, node: fx.Node) -> None:
        slope, inplace = float(_argument(node, 1, "negative_slope", 0.01)), bool(_argument(node, 2, "inplace", False))
        self._through(node, f"nn.LeakyReLU({slope!r}, inplace={inplace!r})")

    def _max_pool(self, node: fx.Node) -> None:
        kernel, stride = _argument(node, 1, "kernel_size", None), _argument(node, 2, "stride", None) or None
        pool = nn.MaxPool2d(
            kernel,
            stride,
            _argument(node, 3, "padding", 0),
            _argument(node, 4, "dilation", 1),
            ceil_mode=bool(_argument(node, 5, "ceil_mode", False)),
        )
        if _argument(node, 6, "return_indices", False):
            self._refuse(node, "a pooling that returns indices")
        self._through(node, str(constructor(pool)))

    def _average_pool(self, node: fx.Node) -> None:
        kernel, stride = _argument(node, 1, "kernel_size", None), _argument(node, 2, "stride", None) or None
        pool = nn.AvgPool2d(
            kernel,
            stride,
            _argument(node, 3, "padding", 0),
            bool(_argument(node, 4, "ceil_mode", False)),
            bool(_argument(node, 5, "count_include_pad", True)),
        )
        if _argument(node, 6, "divisor_override", None) is not None:
            self._refuse(node, "an average pooling with a divisor of its own")
        self._through(node, str(constructor(pool)))


def _variable(node: fx.Node) -> str:
    """The operation's name, unless it means something else in the code around it."""
    return f"{node.name}_" if node.name in ("self", "torch", "nn", "F", "Add", "Cat", "Pad") else node.name


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _relu_function(operations: Operations, node: fx.Node) -> None:
    operations._relu(node, bool(_argument(node, 1, "inplace", False)))


def _relu6_function(operations: Operations, node: fx.Node) -> None:
    operations._relu6(node, bool(_argument(node, 1, "inplace", False)))


def _hardtanh_function(operations: Operations, node: fx.Node) -> None:
    operations._clip(node, "max_val", bool(_argument(node, 3, "inplace", False)))


def _clamp(inplace: bool) -> Callable[[Operations, fx.Node], None]:
    return lambda operations, node: operations._clip(node, "max", inplace)


_FUNCTIONS: Mapping[Any, Callable[[Operations, fx.Node], None]] = {
    operator.add: Operations._add,
    operator.iadd: lambda o, n: o._add(n, inplace=True),
    torch.add: Operations._add,
    "add": Operations._add,
    "add_": lambda o, n: o._add(n, inplace=True),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), Operations._concat),
    **dict.fromkeys((torch.flatten, "flatten", torch.reshape, "reshape", "view"), Operations._flatten),
    **dict.fromkeys((torch.squeeze, "squeeze", operator.getitem), Operations._flatten),
    **dict.fromkeys(("contiguous", torch.clone, "clone", "detach", "float", "requires_grad_", "to"), Operations._keep),
    "mean": Operations._mean,
    torch.mean: Operations._mean,
    F.relu: _relu_function,
    torch.relu: lambda o, n: o._relu(n, False),
    torch.relu_: lambda o, n: o._relu(n, True),
    "relu": lambda o, n: o._relu(n, False),
    "relu_": lambda o, n: o._relu(n, True),
    F.relu6: _relu6_function,
    F.hardtanh: _hardtanh_function,
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip"), _clamp(inplace=False)),
    **dict.fromkeys((torch.clamp_, torch.clip_, "clamp_", "clip_"), _clamp(inplace=True)),
    F.leaky_relu: Operations._leaky,
    **dict.fromkeys((torch.clamp_min, "clamp_min", F.threshold), lambda o, n: o._relu(n, False)),
    **dict.fromkeys((torch.clamp_min_, "clamp_min_"), lambda o, n: o._relu(n, True)),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout), Operations._keep),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), Operations._keep),
    F.max_pool2d: Operations._max_pool,
    torch.max_pool2d: Operations._max_pool,
    F.avg_pool2d: Operations._average_pool,
    F.adaptive_avg_pool2d: Operations._adaptive,
}
