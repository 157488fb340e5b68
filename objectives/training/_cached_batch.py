"""How many images a network is shown at a time on a CPU: few enough that its values stay where they are quick to reach.

A block of 32 MB and more glibc asks the system for each time it is needed, and every page of it is filled with zeros first;
values that do not stay in caches are fetched again by the next layer. A MobileNet at 32 x 32 with 256 images at a time has
blocks of 200 MB and takes half as long again as in small batches, and many times the memory. Small layers want many images.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgesearch.objectives.data import answer_of
from edgesearch.objectives.training._device import out_of_memory

__all__ = ["PROBED", "cached_batch"]

#: Images that a network is shown to see how large its values are: two, since some networks take one for none.
PROBED = 2
#: Bytes that the largest tensor of a pass may take.
_LARGEST_BYTES = 16 << 20


def cached_batch(model: nn.Module, images: Tensor, most: int) -> int:
    """How many images, at most `most`, `model` is best shown at a time, in the mode that it is in, going by `images` prepared.

    `most` on other devices than a CPU; 1 where memory does not even suffice for `images`. Raises what the network raises.
    """
    if images.device.type != "cpu":
        return most
    seen = _Largest(model)
    try:
        with seen:
            answer_of(model, images)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return 1
    return max(1, min(most, _LARGEST_BYTES * len(images) // max(1, seen.bytes)))


class _Largest(TorchDispatchMode):
    """While it is entered, `bytes` is that of the largest tensor that an operation gives, but for weights and views of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles what is watched here, and torch would import its compiler, 70 MB of it, to say so."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in self._own:
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return result
