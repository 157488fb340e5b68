"""Random changes of colours, each a small program for many images at a time.

All numbers are whole ones, factors in 256ths, so that every device and every size of a batch gives the same bytes. Most changes
are a table: what becomes of each of the 256 values that a pixel can have.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Colours", "draw_colours", "recolour"]

#: The factor that changes nothing.
_ONE = 256
#: Brightness (0.299 red + 0.587 green + 0.114 blue, ITU-R BT.601) in 256ths.
_GREY = (77, 150, 29)
#: By how much factors differ from 1 at most, at strength 1, in 256ths: "colour" changes all three, "randaugment" one.
_REACH = {"colour": 102, "randaugment": 128}
#: Bits that posterizing takes away at most, and values that solarizing turns over at most, at strength 1.
_BITS, _VALUES = 4, 128
#: What "randaugment" draws from.
_CHANGES = ("nothing", "brightness", "contrast", "saturation", "posterize", "solarize", "autocontrast", "equalize")


@dataclass(frozen=True)
class Colours:
    """For each of N images, what is done to its colours, in this order; int32 (N,) each.

    autocontrast, equalize: 1 where it is done, both by the image as it was. brightness, contrast, saturation: factors in
    256ths; contrast is that to the image's mean grey, saturation that to each pixel's own. bits: so many are kept. solarize:
    values from it on are turned over.
    """

    autocontrast: Tensor
    equalize: Tensor
    brightness: Tensor
    contrast: Tensor
    bits: Tensor
    solarize: Tensor
    saturation: Tensor

    def of(self, index: Tensor) -> Colours:
        """Those of the images number `index` (B,)."""
        return Colours(**{each.name: getattr(self, each.name)[index] for each in fields(self)})


def draw_colours(kind: Literal["colour", "randaugment"], count: int, strength: float, generator: torch.Generator) -> Colours:
    """The changes of `count` images: "colour" draws three factors for each, "randaugment" one change of eight."""
    amounts = (2 * torch.rand(3, count, generator=generator) - 1) * strength
    change = torch.randint(len(_CHANGES), (count,), generator=generator)
    reach = _REACH[kind]

    def where(name: str, then: Tensor, otherwise: int) -> Tensor:
        chosen = change == _CHANGES.index(name)
        return torch.where(chosen, then.round().int(), torch.tensor(otherwise, dtype=torch.int32))

    if kind == "colour":
        factors = (_ONE + reach * amounts).round().int()
        nothing = torch.zeros(count, dtype=torch.int32)
        return Colours(nothing, nothing, factors[0], factors[1], nothing + 8, nothing + 256, factors[2])
    amount, some = amounts[0], torch.ones(count)
    return Colours(
        autocontrast=where("autocontrast", some, 0),
        equalize=where("equalize", some, 0),
        brightness=where("brightness", _ONE + reach * amount, _ONE),
        contrast=where("contrast", _ONE + reach * amount, _ONE),
        bits=where("posterize", (8 - _BITS * amount.abs()).clamp(min=1), 8),
        solarize=where("solarize", (256 - _VALUES * amount.abs()).clamp(min=0), 256),
        saturation=where("saturation", _ONE + reach * amount, _ONE),
    )


def recolour(pixels: Tensor, colours: Colours) -> Tensor:
    """Images uint8 (B, H, W, C) with their `colours`, which are on the CPU: which images need what is known without waiting."""
    planes = pixels.permute(0, 3, 1, 2).flatten(2)  # (B, C, H * W)
    tables = _tables(planes, colours).to(torch.uint8)[:, None].expand(-1, planes.shape[1], -1)
    for wanted, make in ((colours.equalize, _equalized), (colours.autocontrast, _stretched)):
        chosen = wanted.nonzero()[:, 0].to(pixels.device)
        if len(chosen):
            tables = tables.contiguous()
            tables[chosen] = tables[chosen].gather(2, make(planes[chosen]).long())
    planes = tables.gather(2, planes.long())
    chosen = (colours.saturation != _ONE).nonzero()[:, 0]
    if len(chosen) and planes.shape[1] > 1:
        factor = colours.saturation[chosen].to(pixels.device)
        if len(chosen) == len(planes):
            planes = _saturated(planes, factor)
        else:
            chosen = chosen.to(pixels.device)
            planes[chosen] = _saturated(planes[chosen], factor)
    return planes.view(len(pixels), -1, *pixels.shape[1:3]).permute(0, 2, 3, 1).contiguous()


def _weights(channels: int) -> tuple[int, ...]:
    """Of the channels in grey, in 256ths; channels that are not red, green and blue count alike."""
    if channels == 3:
        return _GREY
    return (*[_ONE // channels] * (channels - 1), _ONE - _ONE // channels * (channels - 1))


def _tables(planes: Tensor, colours: Colours) -> Tensor:
    """What brightness, contrast, bits and solarizing make of each value: int32 (B, 256), 0 to 255, for images (B, C, H * W)."""
    device, count = planes.device, len(planes)
    middle = torch.zeros(count, dtype=torch.int32, device=device)
    chosen = (colours.contrast != _ONE).nonzero()[:, 0].to(device)
    if len(chosen):
        sums = planes[chosen].sum(2) * torch.tensor(_weights(planes.shape[1]), device=device)
        middle[chosen] = (sums.sum(1) // planes.shape[2]).int()  # the mean grey, in 256ths
    brightness, contrast, bits, solarize = (
        each.to(device)[:, None] for each in (colours.brightness, colours.contrast, colours.bits, colours.solarize)
    )
    middle = (brightness * middle[:, None]) >> 8
    scaled = contrast * (brightness * torch.arange(256, dtype=torch.int32, device=device) - middle) >> 8
    table = ((scaled + middle + _ONE // 2) >> 8).clamp_(0, 255) & (256 - (1 << (8 - bits)))
    return torch.where(table >= solarize, 255 - table, table)


def _stretched(planes: Tensor) -> Tensor:
    """Tables (B, C, 256) that bring the darkest value of each channel to 0 and the brightest to 255."""
    low, high = (each.int()[:, :, None] for each in (planes.amin(2), planes.amax(2)))
    values = torch.arange(256, dtype=torch.int32, device=planes.device)
    table = (255 * (values - low) // (high - low).clamp(min=1)).clamp(0, 255)
    return torch.where(high > low, table, values)


def _equalized(planes: Tensor) -> Tensor:
    """Tables (B, C, 256) that make all values of each channel about as frequent, as Pillow's `equalize` does."""
    values = planes.long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int32, device=planes.device)
    counts.scatter_add_(2, values, torch.ones_like(values, dtype=torch.int32))
    below = counts.cumsum(2, dtype=torch.int32) - counts
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (planes.shape[2] - last) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, table, torch.arange(256, dtype=torch.int32, device=planes.device))


def _saturated(planes: Tensor, factor: Tensor) -> Tensor:
    """Images uint8 (B, C, H * W), each pixel's distance from its grey multiplied by `factor` (B,) in 256ths."""
    colour, grey = planes.int(), torch.zeros_like(planes[:, 0], dtype=torch.int32)
    for place, weight in enumerate(_weights(planes.shape[1])):
        grey.add_(colour[:, place], alpha=weight)
    grey = grey.add_(_ONE // 2).bitwise_right_shift_(8)[:, None]
    moved = (colour - grey).mul_(factor[:, None, None]).add_(_ONE // 2).bitwise_right_shift_(8)
    return moved.add_(grey).clamp_(0, 255).to(torch.uint8)
