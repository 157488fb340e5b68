"""How a network's tensors lie in memory: channels last, which is faster, but where its code cannot do with that.

`x.view(x.size(0), -1)` behind a convolution is in many networks, and needs a map in plain order; `x.flatten(1)` takes any.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["answer_of", "settle_layout"]

#: What torch says of a view of a tensor that lies otherwise.
_PROBLEM = "view size is not compatible"


def answer_of(model: nn.Module, images: Tensor) -> Tensor:
    """What the network answers, in the layout that it takes."""
    try:
        answer: Tensor = model(images)
    except RuntimeError as error:
        if _PROBLEM not in str(error):
            raise
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if _plain_images not in model._forward_pre_hooks.values():
            model.register_forward_pre_hook(_plain_images)
        answer = model(images)
    return answer


def settle_layout(model: nn.Module, images: Tensor) -> None:
    """Find out, in eval mode and before anything is counted, whether the network takes these images as they lie in memory.

    What else it says of them is for those to tell who compute with it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), suppress(Exception, SystemExit):
        answer_of(model, images)
    for module, training in modes:
        module.training = training


def _plain_images(module: nn.Module, images: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies, since strides of grey images may be those of either layout, and convolutions take them for the other."""
    plain = torch.contiguous_format
    return tuple(image.clone(memory_format=plain) if isinstance(image, Tensor) else image for image in images)
