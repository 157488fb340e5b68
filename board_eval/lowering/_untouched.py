"""A network that is traced or called is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """What the network's code keeps, counts or draws while it runs in here is gone behind it: attributes, buffers, numbers.

    What it writes into containers of its own stays.
    """
    kept = [(table, dict(table)) for module in model.modules() for table in _tables(module)]
    values = {id(buffer): (buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta}
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for table, content in kept:
                if [*map(id, table.values())] != [*map(id, content.values())] or [*table] != [*content]:
                    table.clear()
                    table.update(content)
            with torch.inference_mode():  # in which those that were made in it may be written, too
                for buffer, before in values.values():
                    if buffer.shape != before.shape:  # torch.ao's observers grow theirs
                        buffer.resize_(before.shape)
                    if not _same(buffer, before):
                        buffer.copy_(before)


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return vars(module), module._parameters, module._buffers, module._modules


def _same(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
