"""Two training images in one (mixup: H. Zhang et al. 2018; cutmix: S. Yun et al. 2019), drawn for a whole epoch at once.

An image's partner is one of its own batch, whole as the batch is drawn: in how many pieces it is computed changes nothing.
Shares are whole numbers of 128ths, so that every device gives the same bytes, and labels are shared as pixels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgesearch.objectives.data._view_kinds import Mix

__all__ = ["Mixing", "draw_mixing", "mixed"]

#: (a - b) * share fits 16 bits.
_PARTS = 128


@dataclass(frozen=True)
class Mixing:
    """For each of N places in an epoch's order: the place (N,) of its partner, and how much its own label counts (N,), 0 to 1.

    box: upper, lower, left and right end (N, 4) of the partner's part, int64; None where pixels are mixed by their share.
    """

    partner: Tensor
    share: Tensor
    box: Tensor | None = None


def draw_mixing(kind: Mix, alpha: float, batches: Sequence[int], size: tuple[int, int], seed: int) -> Mixing | None:
    """The mixing of an epoch of `batches` (images of each) of `size` (height, width) that `seed` gives; None for "none".

    Shares are drawn from Beta(alpha, alpha), for each image its own.
    """
    if kind == "none":
        return None
    count, dice = sum(batches), np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    starts = np.cumsum([0, *batches[:-1]])
    partner = torch.cat([torch.randperm(n, generator=generator) + int(start) for n, start in zip(batches, starts, strict=True)])
    share = dice.beta(alpha, alpha, count)
    if kind == "mixup":
        return Mixing(partner, torch.from_numpy(np.round(share * _PARTS) / _PARTS).float())
    ends = []
    for side in size:
        length = np.round(side * np.sqrt(1 - share)).astype(np.int64)
        start = dice.integers(0, side, count) - length // 2
        ends += [np.clip(start, 0, side), np.clip(start + length, 0, side)]
    top, bottom, left, right = ends
    own = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    return Mixing(partner, torch.from_numpy(own).float(), torch.from_numpy(np.stack(ends, 1)))


def mixed(pixels: Tensor, partners: Tensor, mixing: Mixing, places: slice) -> Tensor:
    """Images uint8 (B, H, W, C) mixed with `partners` (B, H, W, C) as `mixing` says for `places` of the epoch's order."""
    device, (height, width) = pixels.device, pixels.shape[1:3]
    if mixing.box is None:
        parts = (mixing.share[places] * _PARTS).to(device, torch.int16)[:, None, None, None]
        theirs = partners.short()
        moved = (pixels.short() - theirs).mul_(parts).add_(_PARTS // 2).bitwise_right_shift_(7)
        return moved.add_(theirs).to(torch.uint8)
    top, bottom, left, right = (end[:, None] for end in mixing.box[places].to(device).unbind(1))
    rows, columns = torch.arange(height, device=device)[None], torch.arange(width, device=device)[None]
    is_theirs = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return torch.where(is_theirs[..., None], partners, pixels)
