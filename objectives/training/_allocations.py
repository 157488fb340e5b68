"""What a piece of torch work allocates: each block with its size, and when it comes and goes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgesearch.objectives.training._unfilled import unfilled

__all__ = ["Allocations"]


class Allocations(TorchDispatchMode):
    """While it is entered, `events` grows by (number of a block, its bytes) for each that comes, and (number, None) as it goes.

    Of the forward and of the backward pass: all that an operation returns, be it kept for the way back or not. What kernels
    take for themselves and give back at once is not seen. `known` are tensors that were there before, and do not count.
    Convolutions are not computed, so that values mean nothing.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[tuple[int, int | None]] = []
        self._count = 0
        self._before = [tensor.untyped_storage() for tensor in known]  # held, so that no other can take its identity
        self._seen: dict[int, weakref.ref[UntypedStorage] | None] = dict.fromkeys(map(id, self._before))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles what is watched here, and torch would import its compiler, 70 MB of it, to say so."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = None if kwargs else unfilled(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._see(each.untyped_storage())
        return result

    def _see(self, storage: UntypedStorage) -> None:
        place = id(storage)
        if place in self._seen:
            return
        number, self._count = self._count, self._count + 1

        def gone(_: object) -> None:
            del self._seen[place]
            self.events.append((number, None))

        self._seen[place] = weakref.ref(storage, gone)
        self.events.append((number, storage.nbytes()))
