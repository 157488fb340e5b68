"""The nodes that stand for the values of a traced torch model, and the names they get."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from edgesearch.board_eval.graph import Conv, Depthwise, Linear, Node, Pool, Shape, sanitize
from edgesearch.board_eval.targets import Target


class Unsupported(Exception):
    """The operation at hand cannot be lowered; carries the reason."""


class BlockedByEarlierProblem(Exception):
    """The operation reads the result of one that was reported already."""


#: Methods that give a tensor the type and the place of another.
CONVERTING = ("to", "type_as")
#: Why what reads a tensor of the network's own is refused, where it is no layer's and no factor or shift of channels.
OUTSIDE = "a constant or parameter used outside a layer; make it the weight or bias of one"


@dataclass(frozen=True)
class Source:
    """Where a weighted node of a lowered Graph came from: module paths in the torch model."""

    module: str
    batch_norm: str | None


@dataclass(frozen=True)
class Half:
    """An image of which only the width or the height was averaged or squeezed: no node has its shape before both are."""

    source: str
    #: Which: 2 is the height, 3 the width, as in torch.
    axis: int
    averaged: bool = False
    #: Whether the averaged axis stays, with length 1.
    kept: bool = False


@dataclass(frozen=True)
class Folded:
    """An image whose channels were made two dimensions, (N, outer, inner, H, W), and may have changed places since."""

    operand: Any
    outer: int
    inner: int
    swapped: bool = False


class Values:
    """The nodes made so far. `values` maps each operation of the trace to the node whose value it stands for."""

    target: Target

    def __init__(self, model: nn.Module, traced: fx.GraphModule, name: str, input_shape: tuple[int, int, int]) -> None:
        self.model = model
        self.traced = traced
        self.name = name
        channels, height, width = input_shape
        self.input_shape: Shape = (height, width, channels)
        self.nodes: dict[str, Node] = {}
        self.values: dict[fx.Node, str] = {}
        #: The operation of the trace that each node was made for.
        self.origins: dict[str, fx.Node] = {}
        self.order = {node: i for i, node in enumerate(traced.graph.nodes)}
        #: Operations whose result lies in the memory of an earlier one's, and which: views, and what changes it in place.
        self._owners: dict[fx.Node, fx.Node] = {}
        #: Of these the last change of layout, which copies them, or does not: as they lay when the network was called.
        self._layouts: dict[fx.Node, fx.Node] = {}
        #: Reshapes of (H, W, C) images put their elements in torch's (C, H, W) order; the linear behind is permuted.
        self.flattened: dict[str, Shape] = {}
        #: Reshapes back to a vector, and the batch-norm in front of each that scales it as an image of one pixel.
        self.vector_scales: dict[str, str] = {}
        #: Whether a batch-norm behind a linear layer stays an operation of its own, and whether there is one.
        self.apart, self.joins_vectors = False, False
        self.sources: dict[str, Source] = {}
        #: Tensors of the network's own, and what is computed of them alone.
        self.constants: dict[fx.Node, torch.Tensor] = {}
        #: Layers that constants went into: training them with a batch-norm of their own would be training without these.
        self.with_constants: set[str] = set()
        self.halves: dict[fx.Node, Half] = {}
        #: What an operation divides a tensor into: of each part the operand and its channels.
        self.divided: dict[fx.Node, list[tuple[Any, list[int]]]] = {}
        self.folded: dict[fx.Node, Folded] = {}
        #: Nodes that take channels of what they read: as they were made, and which.
        self.picked: dict[str, tuple[Node, list[int]]] = {}
        #: Zeros around an image that the convolution behind it pads with: left, right, top, bottom. Its value lacks them.
        self.padded: dict[fx.Node, tuple[int, int, int, int]] = {}
        #: Names of the xmodel operations of each node, without constants: the operation and its activation.
        self.operations: dict[str, tuple[str, ...]] = {}

    # -- reading and writing nodes

    def half(self, operand: Any) -> Half | None:
        """The image of which an operand has only one side left, where it is such."""
        return self.halves.get(operand) if isinstance(operand, fx.Node) else None

    def value(self, node: Any) -> str:
        """The node that an operand of the trace stands for."""
        if not isinstance(node, fx.Node):
            raise Unsupported(f"an operand that is the constant {node!r}")
        if node in self.halves:
            what, both = ("mean over", "mean((2, 3))") if self.halves[node].averaged else ("squeeze of", "flatten(1)")
            raise Unsupported(f"reads a {what} height or width alone; the DPU has no such tensor; write {both} in front of it")
        if node in self.padded:
            raise Unsupported(
                f"reads an image with zeros around it ({name_of(node)}); the DPU pads in convolutions and pools alone: pad in "
                "front of a convolution, or by the pool's own `padding`"
            )
        if node in self.folded:
            raise Unsupported("reads an image whose channels are two dimensions; the DPU has one: make them one before")
        if node in self.divided:
            raise Unsupported("reads all parts of a tensor at once; read them one by one, or put them side by side")
        if node in self.constants:
            raise Unsupported(OUTSIDE)
        if node not in self.values:
            raise BlockedByEarlierProblem
        return self.values[node]

    def bare(self, operand: Any) -> tuple[str, tuple[int, int, int, int]]:
        """The node that an operand stands for, and the zeros around it that the operation at hand pads with by itself."""
        zeros = self.padded.get(operand) if isinstance(operand, fx.Node) else None
        return (self.value(operand), (0, 0, 0, 0)) if zeros is None else (self.values[operand], zeros)

    def put(self, at: fx.Node, node: Node, suffix: str = "") -> None:
        """Add a node, under a name of its own, as the value of `at`."""
        unique, i = node.name, 1
        while unique in self.nodes:
            unique, i = f"{node.name}_{i}", i + 1
        self.nodes[unique] = dataclasses.replace(node, name=unique)
        self.values[at] = unique
        self.origins[unique] = at
        self.operations[unique] = (self.operation_name(at) + suffix,)

    def operation_name(self, at: fx.Node) -> str:
        """Nndct's name: class path of the module, then `ret` and a number."""
        if at.op == "placeholder":
            return sanitize(f"{self.name}::input_0")
        stack = list(at.meta.get("nn_module_stack", {}).values())  # its keys tell calls of one module apart
        path = str(at.target) if at.op == "call_module" else (str(stack[-1][0]) if stack else "")
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
        """The node that an operation reads, unless its elements stand in another order than torch's."""
        if name in self.flattened:
            raise Unsupported("reads a flattened image; only activations and linear layers may follow a flatten")
        return name

    def result(self, name: str) -> str:
        """The node as the network's own result, unless its elements stand in another order than torch's."""
        if name in self.flattened:
            raise Unsupported(
                "the result is a flattened image, whose elements a DPU has in another order (height, width, channels); let the "
                "network return the image, and flatten it behind the network"
            )
        return name

    def _aliases(self, name: str) -> list[fx.Node]:
        return [at for at, value in self.values.items() if value == name]

    def _only_reader(self, at: fx.Node, name: str, *, inplace: bool = False) -> bool:
        """Whether nothing but `at` reads the node's value; what comes after an in-place `at` reads the new value.

        A node may read it for an operation whose memory was changed since, and which stands for another value by now.
        """
        if any(name in node.inputs and self.origins[node.name] is not at for node in self.nodes.values()):
            return False
        aliases = self._aliases(name)
        for alias in aliases:
            changes = inplace and self.owner(alias) is self.owner(at.args[0])  # not so a copy
            for reader in _readers(alias):
                if reader not in aliases and reader is not at and not (changes and self.order[reader] > self.order[at]):
                    return False
        return True

    def owner(self, at: Any) -> fx.Node:
        """The operation that made the memory in which the result of `at` lies."""
        assert isinstance(at, fx.Node)
        return self._owners.get(at, at)

    def share(self, at: fx.Node, operand: Any) -> None:
        """The result of `at` lies in the memory of its operand's."""
        self._owners[at] = self.owner(operand)
        if operand in self._layouts:
            self._layouts[at] = self._layouts[operand]

    def copied(self, at: fx.Node) -> None:
        """The result of `at` lies in memory of its own."""
        self._owners.pop(at, None)
        self._layouts.pop(at, None)

    def lay_out(self, at: fx.Node) -> None:
        """The values of the operand, in its memory where that has the layout already, else in memory of their own."""
        self.values[at] = self.value(at.args[0])
        self.share(at, at.args[0])
        self._layouts[at] = at

    def check_in_place(self, at: fx.Node) -> None:
        """Raise Unsupported where `at` changes in place what is read later on the other side of a change of layout."""
        changed: Any = at.args[0]
        layout = self._layouts.get(changed)
        for mate in self.order:
            if mate is at or self.owner(mate) is not self.owner(changed) or self._layouts.get(mate) is layout:
                continue
            if any(self.order[reader] > self.order[at] for reader in _readers(mate)):
                raise Unsupported(
                    f"changes a tensor in place that a change of layout has copied, or has not, and that is read behind it "
                    f"({name_of(mate)}); write it without inplace, and read its result"
                )

    def _rebind(self, at: fx.Node, *, unread: bool = True) -> None:
        """What lies in the memory that `at` changes in place stands for its result from here on; `unread`: also what nobody
        reads any more.

        Raises Unsupported where a view of another shape is read later: it would have to be made again.
        """
        changed = at.args[0]
        old = self.value(changed)
        for mate in self.order:
            if mate is at or self.owner(mate) is not self.owner(changed):
                continue
            read_later = any(self.order[reader] > self.order[at] for reader in _readers(mate))
            if self.values.get(mate) == old and (unread or read_later):
                self.values[mate] = self.values[at]
            elif read_later:
                raise Unsupported(
                    f"changes a tensor in place that is read under another shape behind it ({name_of(mate)}); "
                    "write it without inplace, and read its result"
                )
        self.share(at, changed)

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


def _readers(at: fx.Node) -> list[fx.Node]:
    """The operations that read the values of a result, and not its shape, type or place alone."""
    return [user for user in at.users if not (reads_shape(user) or _reads_type(user, at))]


def _reads_type(user: fx.Node, at: fx.Node) -> bool:
    return user.target in CONVERTING and user.args[0] is not at


def name_of(at: fx.Node) -> str:
    """The module's path, or the name of the traced operation."""
    return str(at.target) if at.op == "call_module" else at.name


def argument(at: fx.Node, position: int, name: str, default: Any) -> Any:
    """An argument of a function's call, given by its place or its name."""
    return at.args[position] if len(at.args) > position else at.kwargs.get(name, default)


def reads_shape(at: fx.Node) -> bool:
    """Whether an operation reads the shape of a tensor, not its values."""
    if at.op == "call_method":
        return at.target in ("size", "dim")
    return at.op == "call_function" and at.target is getattr and at.args[1] == "shape"
