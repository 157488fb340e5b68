"""Multiply-accumulates of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["layer_macs", "quiet"]


class quiet:  # noqa: N801  (a context manager reads as a verb)
    """Within it the model is in eval mode and keeps no gradients; afterwards every module is as it was."""

    def __init__(self, model: nn.Module) -> None:
        self._modes = [(module, module.training) for module in model.modules()]
        self._model = model
        self._no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self._model.eval()
        self._no_grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._no_grad.__exit__(*error)
        for module, training in self._modes:
            module.training = training


def layer_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """MACs for one image of `input_shape` (channels, height, width): module name -> MACs, in the order of execution.

    Convolutions and linear layers are counted, a layer used twice twice; batch-norm, pooling and additions are not, as in the
    ratio that pruning means.
    """
    counted: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            places = output[0].numel() // weight.shape[0]
            counted[name] = counted.get(name, 0) + weight.numel() * places

        return hook

    handles = [
        module.register_forward_hook(count(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    try:
        with quiet(model):
            parameter = next(model.parameters(), torch.empty(0))
            model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return counted
