"""Which channels of a network are one and the same: those that are added, multiplied, or read by a layer that is used twice.

The network is run once, traced by torch.fx, with a number for every channel of every feature map beside it. A layer that makes
channels numbers them anew, a concat puts numbers side by side, a flatten repeats each for its pixels, an addition unites them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgesearch.board_eval.lowering import DECIDES, Untraceable, traced
from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._macs import quiet
from edgesearch.objectives.pruning._resize import is_computed, is_depthwise, shared_parameters

__all__ = ["Channels", "Integers", "trace_channels"]

Integers = NDArray[np.int64]

#: Modules, by where torch has them, and functions that give every channel of theirs from the same channel of what they read.
_KEEPING_MODULES = ("activation", "dropout", "padding", "pooling", "upsampling")
_MIXING_MODULES = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.GLU)
_KEEPING = {
    *("adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "boolean_dispatch", "interpolate", "max_pool2d"),
    *("elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6", "relu_", "sigmoid"),
    *("sigmoid_", "silu", "softplus", "tanh", "tanh_"),
    *("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_", "threshold"),
    *("clone", "contiguous", "detach", "float", "requires_grad_", "to"),
    *("alpha_dropout", "drop_block2d", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"),
    "stochastic_depth",
}
_ELEMENTWISE = {
    *("add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul"),
    *("div", "div_", "truediv", "itruediv", "maximum", "minimum"),
}
_RESHAPING = {"flatten", "reshape", "squeeze", "unsqueeze", "view"}
_REDUCING = {"amax", "amin", "mean", "sum"}


@dataclass
class Channels:
    """Numbers of the channels that layers make and read, in order of execution; equal numbers are one channel.

    made, kept, read: by the name of a layer, the numbers of a plain layer's outputs, of a batch-norm's or a depthwise layer's
    channels, of a plain layer's inputs. fixed: numbers of channels that must stay. decides: whether the network's code reads
    sizes or types of tensors, by which it may decide.
    """

    made: dict[str, Integers] = field(default_factory=dict)
    kept: dict[str, Integers] = field(default_factory=dict)
    read: dict[str, Integers] = field(default_factory=dict)
    fixed: frozenset[int] = frozenset()
    decides: bool = False


def trace_channels(model: nn.Module, input_shape: tuple[int, int, int]) -> Channels:
    """The channels of `model`, a network on the CPU, for images of `input_shape` (channels, height, width).

    Channels that reach the network's outputs, or an operation that is not known to treat each of them alone, are fixed.
    Raises SpaceError for a network that torch.fx cannot trace.
    """
    with quiet(model):
        try:
            module = traced(model, input_shape)
        except Untraceable as error:
            raise SpaceError(f"{type(model).__name__} cannot be pruned: {error}") from error
        numbering = _Numbering(module, {id(part): name for name, part in model.named_modules()})
        try:
            answer = numbering.run(torch.zeros(2, *input_shape, dtype=next(model.parameters(), torch.empty(0)).dtype))
        except (ValueError, TypeError, RuntimeError) as error:  # what the network computes of one image alone, say
            why = str(error).partition("\n")[0]
            fails = f"it fails with two images of {tuple(input_shape)} at once: {why}"
            raise SpaceError(f"{type(model).__name__} cannot be pruned, since {fails}") from error
        if not isinstance(answer, Tensor):
            kind = type(answer).__name__
            raise SpaceError(f"{type(model).__name__} cannot be pruned, since it answers with a {kind} and not with a tensor")
        numbering.unite_shared(model)
    return dataclasses.replace(numbering.channels(), decides=module.meta[DECIDES])


class _Numbering(fx.Interpreter):
    """Runs a traced network and numbers its channels, those along axis 1."""

    def __init__(self, module: fx.GraphModule, names: dict[int, str]) -> None:
        super().__init__(module)
        self._names = names
        self._leader: list[int] = []
        self._fixed: list[int] = []
        self._numbers: dict[fx.Node, Integers] = {}
        self._found = Channels()

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, as ever; its channels are numbered on the way."""
        value = super().run_node(n)
        read = [node for node in n.all_input_nodes if node in self._numbers]
        numbers = None
        if n.op == "call_module":
            numbers = self._module(self.fetch_attr(str(n.target)), read, value)
        elif n.op in ("call_function", "call_method"):
            numbers = self._function(n, read, value)
        if isinstance(value, Tensor) and value.ndim > 1 and n.op != "get_attr":
            if numbers is None:  # the image, or an operation that may do anything with its channels
                numbers = self._new(value.shape[1])
                self._fix(numbers)
            self._numbers[n] = numbers
        if numbers is None or n.op == "output":
            reads_shape = not isinstance(value, Tensor) and n.target in (getattr, "size", "dim")
            for node in read if not reads_shape else ():
                self._fix(self._numbers[node])
        return value

    def unite_shared(self, model: nn.Module) -> None:
        """Layers with a parameter in common lose the same channels; where they are not alike in it, or not all layers, none."""
        found = self._found
        for places in shared_parameters(model):
            names, keys = [self._names[id(module)] for module, _ in places], {key for _, key in places}
            made, kept, read = (
                [table[name] for name in names if name in table] for table in (found.made, found.kept, found.read)
            )
            sides = [kept] if not made else [made, read] if "weight" in keys else [made]
            is_alike = len(names) in (len(made), len(kept)) and all(len({len(one) for one in side}) == 1 for side in sides)
            for first, *others in sides if is_alike else ():
                for numbers in others:
                    self._unite(first, numbers)
            for numbers in () if is_alike else (*made, *kept, *(read if "weight" in keys else ())):
                self._fix(numbers)

    def channels(self) -> Channels:
        """What was found, every channel by the number of its leader."""

        def led(tables: dict[str, Integers]) -> dict[str, Integers]:
            return {name: np.array([self._find(number) for number in numbers], np.int64) for name, numbers in tables.items()}

        found = self._found
        return Channels(led(found.made), led(found.kept), led(found.read), frozenset(map(self._find, self._fixed)))

    def _module(self, module: nn.Module, read: Sequence[fx.Node], value: Any) -> Integers | None:
        if len(read) != 1 or not isinstance(value, Tensor) or is_computed(module):
            return None
        name, numbers = self._names.get(id(module), ""), self._numbers[read[0]]
        plain_linear = isinstance(module, nn.Linear) and value.ndim == 2
        if plain_linear or (isinstance(module, nn.Conv2d) and module.groups == 1):
            self._note(self._found.read, name, numbers)
            if name not in self._found.made:
                self._found.made[name] = self._new(value.shape[1])
            return self._found.made[name]
        if is_depthwise(module) or isinstance(module, nn.modules.batchnorm._BatchNorm):
            return self._note(self._found.kept, name, numbers)
        if isinstance(module, nn.Flatten):
            return self._reshaped(read[0], numbers, value)
        where = type(module).__module__.rpartition(".")
        keeps = where[0] == "torch.nn.modules" and where[2] in _KEEPING_MODULES and not isinstance(module, _MIXING_MODULES)
        if (keeps and next(module.parameters(), None) is None) or isinstance(module, nn.Identity):
            return numbers
        return None

    def _function(self, node: fx.Node, read: Sequence[fx.Node], value: Any) -> Integers | None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if not read or not isinstance(value, Tensor):
            return None
        first = self._numbers[read[0]]
        if name in _KEEPING:
            return first
        if name in _RESHAPING:
            return self._reshaped(read[0], first, value)
        if name == "getitem":
            return first if _leaves_channels(node.args[1], self.env[read[0]].ndim) else None
        if name in ("pad", "expand", "expand_as"):
            return first if value.shape[1] == self.env[read[0]].shape[1] else None
        if name in _REDUCING:
            axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            rank = self.env[read[0]].ndim
            given = axes if isinstance(axes, (tuple, list)) else [axes]
            spatial = all(isinstance(axis, int) and axis % rank > 1 for axis in given)
            return first if spatial else None
        if name in _ELEMENTWISE:
            return self._united(node, read, value)
        if name in ("cat", "concat", "concatenate"):
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            tensors: Any = node.args[0] if node.args else node.kwargs.get("tensors")
            parts = [self._numbers[tensor] for tensor in tensors if tensor in self._numbers]
            if isinstance(axis, int) and axis % value.ndim == 1 and len(parts) == len(tensors):
                return np.concatenate(parts)
        return None

    def _united(self, node: fx.Node, read: Sequence[fx.Node], value: Tensor) -> Integers | None:
        """Numbers behind an operation on pairs of elements; one channel that serves all others unites nothing."""
        others = [arg for arg in node.all_input_nodes if arg not in self._numbers]
        if any(isinstance(self.env[arg], Tensor) and self.env[arg].numel() > 1 for arg in others):
            return None
        if any(self.env[arg].ndim != value.ndim for arg in read):
            return None
        wide = [self._numbers[arg] for arg in read if self.env[arg].shape[1] == value.shape[1]]
        for arg in read:
            if self.env[arg].shape[1] != value.shape[1]:
                self._fix(self._numbers[arg])
        for numbers in wide[1:]:
            self._unite(wide[0], numbers)
        return wide[0]

    def _reshaped(self, before: fx.Node, numbers: Integers, value: Tensor) -> Integers | None:
        shape = self.env[before].shape
        if value.ndim < 2 or value.shape[0] != shape[0]:
            return None
        if value.shape[1] == shape[1]:
            return numbers
        pixels = shape[2:].numel()
        return np.repeat(numbers, pixels) if value.shape[1] == shape[1] * pixels else None

    def _note(self, table: dict[str, Integers], name: str, numbers: Integers) -> Integers:
        """The channels of a layer, united with those of its other uses."""
        self._unite(table.setdefault(name, numbers), numbers)
        return numbers

    def _new(self, count: int) -> Integers:
        start = len(self._leader)
        self._leader.extend(range(start, start + count))
        return np.arange(start, start + count)

    def _fix(self, numbers: Integers) -> None:
        self._fixed.extend(numbers.tolist())

    def _find(self, number: int) -> int:
        while self._leader[number] != number:
            self._leader[number] = self._leader[self._leader[number]]
            number = self._leader[number]
        return number

    def _unite(self, first: Integers, second: Integers) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self._find(one), self._find(other)
            self._leader[max(a, b)] = min(a, b)


def _leaves_channels(index: Any, rank: int) -> bool:
    """Whether a part of a tensor of `rank` axes has all images and all of their channels."""
    parts = index if isinstance(index, tuple) else (index,)
    if parts and parts[0] is Ellipsis:
        return len(parts) <= rank - 1
    return all(part == slice(None) for part in parts[:2])
