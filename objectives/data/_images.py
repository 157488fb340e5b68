"""From stored pixels to what a network reads: resizing and normalisation.

Resizing gives the bytes that Pillow's `resize(size, BILINEAR)` gives (antialiased when an image shrinks), because that is what
the host program of a board does. Pillow adds integer weights of 22 fractional bits, first along rows, then along columns, and
rounds to a byte after each. All sums stay below 2^31: whole numbers of 32 bits, and matrix products in float64, are exact.
Newer versions of Pillow go along columns first where that is less work, which is never so for square images that stay square;
for others a byte may differ by one.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgesearch.objectives.data._normalisation import Normalisation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["blank_images", "prepare", "prepare_tensor", "resize", "resize_tensor", "resize_weights", "stored_images"]

#: Fractional bits of Pillow's weights for 8-bit images: 32 bits less 8 of the pixel less 2 of headroom.
_WEIGHT_BITS = 22
#: Bytes of numbers that one piece of a resize may take; larger batches are done in pieces.
_PIECE_BYTES = 64 << 20
#: The same of a tensor's on a processor, whose caches hold it.
_CACHED_BYTES = 1 << 20


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> NDArray[np.float64]:
    """Weights (source, target) of a bilinear, antialiased resize of one axis, as integers scaled by 2^22."""
    scale = source / target
    reach = max(scale, 1.0)  # the triangle's half width, in source pixels
    weights = np.zeros((source, target))
    for column in range(target):
        centre = (column + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), source)
        distance = np.abs((np.arange(first, last) - centre + 0.5) / reach)
        triangle = np.where(distance < 1.0, 1.0 - distance, 0.0)
        weights[first:last, column] = np.floor(0.5 + triangle / triangle.sum() * (1 << _WEIGHT_BITS))
    weights.setflags(write=False)
    return weights


def resize_weights(source: tuple[int, int], target: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """A resize from (height, width) to (height', width') as two products: weights (height, height') and (width, width').

    Both hold whole numbers scaled by 2 to the power of the number that comes with them. Columns are done first, and bytes made
    after each: floor(sum / 2**bits + 1/2), between 0 and 255.
    """
    return _weights(source[0], target[0]), _weights(source[1], target[1]), _WEIGHT_BITS


def _as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _piece(channels: int, height: int, width: int) -> int:
    return max(1, _PIECE_BYTES // (8 * channels * height * width))


def resize(images: NDArray[np.uint8], size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """Images uint8 (N, H, W, C) brought to `size` (pixels, or (height, width)); equal to Pillow's bilinear resize."""
    height, width = _as_pair(size)
    if images.shape[1:3] == (height, width):
        return images
    rows, columns = _weights(images.shape[1], height), _weights(images.shape[2], width)
    out = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    piece = _piece(images.shape[3], max(images.shape[1], height), max(images.shape[2], width))
    for start in range(0, len(images), piece):
        pixels = images[start : start + piece].transpose(0, 3, 1, 2).astype(np.float64)
        if images.shape[2] != width:
            pixels = _to_byte(pixels @ columns)
        if images.shape[1] != height:
            pixels = _to_byte(rows.T @ pixels)
        out[start : start + piece] = pixels.transpose(0, 2, 3, 1)
    return out


def _to_byte(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.clip(np.floor((sums + (1 << (_WEIGHT_BITS - 1))) / (1 << _WEIGHT_BITS)), 0, 255)
    return rounded


def prepare(images: NDArray[np.uint8], size: int | tuple[int, int] | None, normalisation: Normalisation) -> NDArray[np.float32]:
    """Images uint8 (N, H, W, C) resized to `size` (None: as they are) and normalised: float32 (N, H', W', C)."""
    pixels = images if size is None else resize(images, size)
    mean, std = np.asarray(normalisation.mean, np.float32), np.asarray(normalisation.std, np.float32)
    scaled: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return scaled


# A GPU is given such numbers once: it would be waited for each time, and a step that is recorded for it may not do that.


@lru_cache(maxsize=64)
def _taps_at(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels that each target pixel is made of, and their weights, int32: (taps, target) both, with 0 for what is left."""
    import torch

    weights = _weights(source, target)
    first, count = (weights != 0).argmax(0), int((weights != 0).sum(0).max())
    places = first + np.arange(count)[:, None]
    inside = np.minimum(places, source - 1)
    taken = np.where(places < source, np.take_along_axis(weights, inside, 0), 0)
    with torch.inference_mode(False):
        return torch.tensor(inside, device=device), torch.tensor(taken, device=device, dtype=torch.int32)


@lru_cache(maxsize=64)
def _channels_at(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number for each channel of (N, C, H, W)."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def resize_tensor(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """`resize` on a uint8 tensor (N, C, H, W), on its own device; the same bytes.

    In whole numbers of 32 bits, which hold 255 times all weights of a pixel: the inner loop of a training has no float64, which
    most GPUs are slow at.
    """
    import torch

    height, width = _as_pair(size)
    if images.shape[2:] == (height, width):
        return images
    out = torch.empty((*images.shape[:2], height, width), dtype=torch.uint8, device=images.device)
    largest = images.shape[1] * max(images.shape[2], height) * max(images.shape[3], width)
    piece = max(1, (_PIECE_BYTES if images.device.type != "cpu" else _CACHED_BYTES) // (4 * largest))
    for start in range(0, len(images), piece):
        pixels = images[start : start + piece]
        for axis, target in ((3, width), (2, height)):
            if pixels.shape[axis] != target:
                pixels = _resized(pixels, axis, target)
        out[start : start + piece] = pixels
    return out


def _resized(pixels: Tensor, axis: int, target: int) -> Tensor:
    """uint8 (N, C, H, W) with `target` pixels along an axis."""
    import torch

    places, weights = _taps_at(pixels.shape[axis], target, pixels.device)
    shape = [1, 1, 1, 1]
    shape[axis] = target
    total = torch.full((), 1 << (_WEIGHT_BITS - 1), dtype=torch.int32, device=pixels.device)
    for place, weight in zip(places, weights, strict=True):
        part = pixels.index_select(axis, place).to(torch.int32).mul_(weight.view(shape))
        total = part.add_(total)
    return total.bitwise_right_shift_(_WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)


def prepare_tensor(images: Tensor, size: int | tuple[int, int] | None, normalisation: Normalisation) -> Tensor:
    """`prepare` on a uint8 tensor (N, H, W, C): the same numbers as float32 (N, C, H', W').

    Channels are last in memory if there are several.
    """
    import torch

    pixels = images.permute(0, 3, 1, 2)
    if size is not None:
        pixels = resize_tensor(pixels, size)
    mean, std = (_channels_at(tuple(values), images.device) for values in (normalisation.mean, normalisation.std))
    scaled = pixels.to(torch.float32, memory_format=_layout(pixels.shape[1]))
    return scaled.div_(255.0).sub_(mean).div_(std)


def stored_images(images: NDArray[np.uint8], device: str | torch.device = "cpu") -> Tensor:
    """Images uint8 (N, H, W, C) as a tensor on `device`: on a CPU in their own memory, where nobody may write to them."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, for an array that says itself that nobody may
        return torch.from_numpy(np.ascontiguousarray(images)).to(device)


def blank_images(count: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """As many images (channels, height, width) as `prepare_tensor` gives, all zero."""
    import torch

    return torch.zeros(count, *shape, device=device).contiguous(memory_format=_layout(shape[0]))


def _layout(channels: int) -> torch.memory_format:
    """Grey images stay in plain order: with one channel the strides of channels-last fit other layouts too, which torch 2.13's
    convolutions on the CPU do not always tell apart.
    """
    import torch

    return torch.channels_last if channels > 1 else torch.contiguous_format
