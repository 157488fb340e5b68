"""What the code of a network is told of the sizes and types of its tensors, and decides by, while it is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

__all__ = ["Decisions", "Undecided"]

#: Numbers of images that every decision is looked at with. The DPU is given one.
_BATCHES = (1, 2)
_Number = TypeVar("_Number")


class Undecided(Exception):
    """The code decides by what is not the same for every image; carries the reason."""


class Decisions:
    """Computes the sizes in a graph that is being traced, on torch's device `meta`: tensors there have a shape and no values.

    Nothing is computed before something is asked for, and no operation twice.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module, shape: tuple[int, int, int]) -> None:
        self._graph, self._root, self._shape = graph, root, shape
        self._values: dict[fx.Node, tuple[Any, ...]] = {}
        #: Whether operations are computed at the time, and none is traced.
        self.at_work = False
        #: The first decision that could not be made: code may go on from there as if it had failed.
        self.refused: Undecided | None = None
        #: Whether the code was told anything that it may decide by.
        self.told = False

    def values(self, at: fx.Node) -> tuple[Any, ...]:
        """What `at` gives of one image and of two; () where it fails, or nobody can tell."""
        self._catch_up()
        return self._values.get(at, ())

    def made(self, at: fx.Node, wanted: Callable[[Any], _Number], what: str, *, probed: bool = False) -> _Number:
        """`wanted` of the value of `at`, where it is one whatever the images are. `what` the code does with it, in words.

        Raises Undecided where it is not. `probed`: torch itself may ask, to see what it was given, and take that for an answer.
        """
        reason = ""
        try:
            first, *others = [wanted(value) for value in self.values(at)]
            if any(other != first for other in others):
                reason = "what depends on the number of images; write -1 or x.size(0) where it is a size"
        except (ValueError, RuntimeError):  # what has no value, or a tensor
            reason = "values that depend on the image; the DPU computes the same for every image"
        if not reason:
            self.told = True
            return first
        error = Undecided(f"{what} of {reason}")
        if not probed:
            self.refused = self.refused or error
        raise error

    @torch.no_grad()
    def _catch_up(self) -> None:
        if self.at_work:
            return
        self.at_work = True
        try:
            for node in self._graph.nodes:
                if node not in self._values and all(one in self._values for one in node.all_input_nodes):
                    values = self._computed(node)
                    if values is not None:
                        self._values[node] = values
        finally:
            self.at_work = False

    def _computed(self, node: fx.Node) -> tuple[Any, ...] | None:
        """One value per number of images; None where there is none, such as of what fails, or of a second input."""
        if node.op == "placeholder" and node is not next(iter(self._graph.nodes)):
            return None
        values = []
        for place, batch in enumerate(_BATCHES):
            try:
                values.append(self._value(node, place, batch))
            except Exception:  # whatever it was: what cannot be computed may be what no decision needs
                return None
        return tuple(values)

    def _value(self, node: fx.Node, place: int, batch: int) -> Any:
        if node.op == "placeholder":
            kind = next((one.dtype for one in self._root.parameters() if one.is_floating_point()), torch.float32)
            return torch.empty(batch, *self._shape, dtype=kind, device="meta")
        if node.op == "get_attr":
            value = attrgetter(str(node.target))(self._root)
            return value.to("meta") if isinstance(value, Tensor) else value
        args: Any = fx.map_arg(node.args, lambda one: self._values[one][place])
        kwargs: Any = fx.map_arg(node.kwargs, lambda one: self._values[one][place])
        if node.op == "call_module":
            module = self._root.get_submodule(str(node.target))
            with _on_meta(module):
                return module.forward(*args, **kwargs)
        if node.target is getattr and args[1] in ("device", "is_cuda"):
            device = next((one.device for one in self._root.parameters()), torch.device("cpu"))
            return device if args[1] == "device" else device.type == "cuda"
        if node.op == "call_method":
            if node.target in ("to", "cpu", "cuda"):  # another place has the same sizes
                kinds = [one.dtype if isinstance(one, Tensor) else one for one in (*args[1:], *kwargs.values())]
                return args[0].to(next((kind for kind in kinds if isinstance(kind, torch.dtype)), args[0].dtype))
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


@contextmanager
def _on_meta(module: nn.Module) -> Iterator[None]:
    """The layer with tensors without values."""
    tables = [table for part in module.modules() for table in (part._parameters, part._buffers)]
    kept = [dict(table) for table in tables]
    try:
        for table in tables:
            table.update({name: value.to("meta") for name, value in table.items() if value is not None})  # type: ignore[misc]
        yield
    finally:
        for table, before in zip(tables, kept, strict=True):
            table.update(before)  # type: ignore[arg-type]
