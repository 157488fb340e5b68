"""How a training's first weights are set, where its recipe asks for more than the network's own random ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.data import DataSet, prepare_tensor, stored_images

__all__ = ["begin_as_identity", "whiten"]

#: Numbers in the windows of training images that the first layer's directions are taken from, about.
_NUMBERS = 1 << 22
#: Directions with less than this share of the largest variance are noise, and enlarged no further.
_FLOOR = 2e-4


@torch.no_grad()
def begin_as_identity(model: nn.Module) -> None:
    """Let every convolution but the first pass on what it reads: kernels (O, I, K, K) number 0 to min(O, I) are identities.

    Grouped convolutions, those of even or one-pixel kernels, and those whose weight is computed, as by `weight_norm`, stay as
    they are. The idea is S. Zagoruyko's and N. Komodakis' (DiracNets, 2017); K. Jordan (2024) uses it as a start of CIFAR-10
    networks without shortcuts.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[1:]:
        is_plain = layer.groups == 1 and not _is_computed(layer)
        if is_plain and min(layer.kernel_size) > 1 and all(side % 2 for side in layer.kernel_size):
            nn.init.dirac_(layer.weight[: layer.in_channels])


@torch.no_grad()
def whiten(model: nn.Module, data: DataSet, size: tuple[int, int]) -> bool:
    """Let the first layer tell the windows of training images apart by what varies, every direction counted alike; keep it so.

    Its kernels become the eigenvectors of the covariance of what it sees, the largest variances first, each in both signs and
    divided by its standard deviation; kernels beyond that are random mixtures of all of them. They are not trained (K. Jordan
    2024, "94% on CIFAR-10 in 3.29 seconds", after D. Page 2018). size: height and width that the network reads.

    Returns False, and changes nothing, where the network does not begin with a convolution over the image's channels, or its
    weight is computed, as by `weight_norm`. Raises TrainingError where all windows are equal, so that no direction varies.
    """
    layer = next((each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)), None)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.in_channels != data.channels or _is_computed(layer):
        return False
    windows = _windows(layer, data, size).double()
    if bool((windows == windows[0]).all()):
        raise TrainingError(
            "`whitened` takes the first layer from what varies in the training images, and they are of one colour everywhere; "
            "give other images, or leave `whitened` out"
        )
    variances, directions = torch.linalg.eigh(torch.cov(windows.T))
    # A direction's sign is the solver's; the largest entry decides it here.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    scaled = (directions / (variances.clamp_min(0) + _FLOOR * variances[-1]).sqrt()).T.flip(0)  # a row is a kernel
    paired = torch.stack([scaled, -scaled], 1).flatten(0, 1)[: len(layer.weight)]
    rest = F.normalize(layer.weight.flatten(1)[len(paired) :].double().cpu(), dim=1) @ scaled
    layer.weight.copy_(torch.cat([paired, rest]).view_as(layer.weight))
    layer.weight.requires_grad_(False)
    return True


def _is_computed(layer: nn.Conv2d) -> bool:
    """Whether its weight follows from other tensors, so that setting it sets nothing."""
    return "weight" not in layer._parameters and "weight" not in layer._buffers


def _windows(layer: nn.Conv2d, data: DataSet, size: tuple[int, int]) -> Tensor:
    """Windows (N, channels * K * K) as the layer cuts them from images that lie evenly among the training images.

    Padding is no part of any, but where the kernel is larger than the image.
    """
    each = layer.weight[0].numel()
    for side, kernel, stride in zip(size, layer.kernel_size, layer.stride, strict=True):
        each *= max(1, (side - kernel) // stride + 1)
    count = min(len(data.train), -(-_NUMBERS // each))
    chosen = torch.linspace(0, len(data.train) - 1, count).long()
    images = prepare_tensor(stored_images(data.train.images[chosen.numpy()]), size, data.normalisation)
    extents = (dilation * (kernel - 1) + 1 for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True))
    if any(extent > side for extent, side in zip(extents, size, strict=True)):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        images = F.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
    cut = F.unfold(images, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return cut.transpose(1, 2).flatten(0, 1)
