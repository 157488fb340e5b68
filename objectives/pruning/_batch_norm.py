"""Batch-norm statistics of a network that lost channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import full_float32
from edgesearch.objectives.data import settle_layout

__all__ = ["re_estimate_batch_norm"]


def re_estimate_batch_norm(model: nn.Module, images: Tensor, *, batch_size: int = 128) -> None:
    """Sets the running statistics of every batch-norm in `model` to their mean over batches of `images`, in place.

    `images` are prepared: float32 (N, C, H, W). Only batch-norms run in training mode: dropout stays off. Weights stay.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms or not len(images):
        return
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    with full_float32():
        settle_layout(model, images[:1].to(device))
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the plain mean of all batches
        norm.train()
    with full_float32(), torch.no_grad():
        for batch in images.tensor_split(max(1, -(-len(images) // batch_size))):
            model(batch.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training
