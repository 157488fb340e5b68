"""Adaptive rounding for the network's output: which way weights and biases round is learnt from the float network's logits.

Weights move by a fraction of their grid's step, so that only those near the middle between two integers change theirs. The
loss is read behind the DPU's own arithmetic, all layers at once, unlike AdaRound (arXiv 2004.10568), which goes layer by layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.lowering import Lowered
from edgesearch.objectives.quantization._positions import Positions
from edgesearch.objectives.quantization._qat_network import QatLayer, QatNetwork
from edgesearch.objectives.training import Adam, safe_kernels

#: Adam's step as a share of the step of the tensor's grid.
_RATE = 1e-2
_BATCH = 32
_EPOCHS = 8
#: Multiply-accumulates of the forward and backward passes; large networks get fewer epochs.
_MACS = 5e12
#: The least error that counts as usual, as a share of the logits' variance.
_TINY = 1e-12
_PASSES = 3  # a backward pass costs two forward passes


def reconstruct(exact: Network, start: Network, positions: Positions, images: Tensor, bits: int, seed: int) -> Network:
    """Weights and biases near those of `start` that round, at `positions`, to logits near those of `exact` on `images`.

    `start` is `exact` with its channels scaled and its biases corrected. It is returned where nothing can be learnt.
    """
    with torch.no_grad():
        target = torch.cat([exact.logits(part) for part in torch.split(images, _BATCH)])
    spread = float(target.var()) if target.numel() > 1 else 0.0
    usual: Tensor | None = None
    epochs = min(_EPOCHS, int(_MACS / (_PASSES * len(images) * max(start.graph.macs, 1))))
    if spread == 0 or epochs == 0 or not start.weights:
        return start
    trained = QatNetwork(nn.Module(), Lowered(start.to_graph(), {}), bits).to(images.device)
    trained.set_positions(positions)
    trained.freeze()
    optimizer = Adam(_groups(trained, positions))
    order = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images) // _BATCH)
    step = 0
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(images), generator=order), _BATCH):
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad(set_to_none=True)
            shown = images[index]
            if shown.ndim == 4:
                shown = shown.contiguous(memory_format=torch.channels_last)
            with safe_kernels(images.device):
                error = _error(trained(shown) - target[index])
            if usual is None:
                usual = error.detach().median().clamp_min(_TINY * spread)
            # the logarithm: an image that is far off, whose answer is mostly beyond doubt, does not drown the others
            (error / usual).log1p().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    return trained.to_network()


def _error(difference: Tensor) -> Tensor:
    """Mean square of (N, classes) per image, apart from what raises all logits alike."""
    if difference.shape[1] > 1:
        difference = difference - difference.mean(1, keepdim=True)
    return difference.square().mean(1)


def _groups(trained: QatNetwork, positions: Positions) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = []
    for name, fix in positions.weights.items():
        layer: QatLayer = trained.layer(name)
        if isinstance(layer.weight, nn.Parameter):
            groups.append({"params": [layer.weight], "highest": _RATE * 2.0**-fix})
        if layer.bias is not None:
            groups.append({"params": [layer.bias], "highest": _RATE * 2.0 ** -positions.biases[name]})
    return groups
