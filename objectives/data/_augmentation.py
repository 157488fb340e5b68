"""Views: small random changes of training images that keep their class.

A view says what happens to every image of the training set in one epoch. It is drawn from a seed and a number, never from a
running generator, so that a resumed training sees what an uninterrupted one saw, and a teacher's logits can be stored for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["View", "choose_augmentation", "draw_view", "mirrors_in_turn", "seed_from", "show"]

Augmentation = Literal["none", "shift", "flip_crop", "alternate_flip", "cutout"]

#: The farthest move, as a share of the image's side: an eighth is 1 pixel of 8, 4 of 32.
_REACH: dict[str, int] = {"alternate_flip": 16}
_USUAL_REACH = 8
#: A cut square's side, as a share of the image's.
_CUT = 4
#: What a cut square shows: grey.
_GREY = 128


def seed_from(*parts: int) -> int:
    """One 63-bit seed from several numbers, unlike for any change of any of them (splitmix64, G. Steele et al. 2014)."""
    mask = (1 << 64) - 1
    state = 0
    for part in parts:
        state = (state ^ (part & mask)) + 0x9E3779B97F4A7C15 & mask
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return state >> 1


def choose_augmentation(asked: Augmentation | Literal["auto"], data_name: str) -> Augmentation:
    """What "auto" means for a data set: mirror images only where their class is known to survive it."""
    if asked != "auto":
        return asked
    return "flip_crop" if data_name == "cifar10" else "shift"


def mirrors_in_turn(kind: Augmentation) -> bool:
    """Whether each image is mirrored in every other epoch."""
    return kind in ("alternate_flip", "cutout")


@dataclass(frozen=True)
class View:
    """For each of N images: rows and columns moved (N,), and whether it is mirrored (N,).

    `cut`: row and column (N, 2) of the upper left corner of a square that is grey, where there is one; its lower right corner
    lies `cut_size` (height, width) further, and both may lie outside.
    """

    down: Tensor
    right: Tensor
    mirrored: Tensor
    reflect: bool  # what lies outside the image is its mirror image, else its border
    cut: Tensor | None = None
    cut_size: tuple[int, int] = (0, 0)


def draw_view(
    kind: Augmentation, count: int, size: tuple[int, int], seed: int, *, mirror_seed: int = 0, turn: int = 0
) -> View | None:
    """The view of `count` images of `size` (height, width) pixels that `seed` gives; None where nothing changes.

    "alternate_flip" and "cutout" mirror each image in every other `turn`: those that `mirror_seed` draws in the even ones.
    """
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(seed)
    reach = [max(1, side // _REACH.get(kind, _USUAL_REACH)) for side in size]
    down, right = (torch.randint(-far, far + 1, (count,), generator=generator) for far in reach)
    if kind == "shift":
        return View(down, right, torch.zeros(count, dtype=torch.bool), reflect=False)
    if kind == "flip_crop":
        return View(down, right, torch.rand(count, generator=generator) < 0.5, reflect=True)
    first = torch.rand(count, generator=torch.Generator().manual_seed(mirror_seed)) < 0.5
    mirrored = first if turn % 2 == 0 else ~first
    if kind == "alternate_flip":
        return View(down, right, mirrored, reflect=True)
    cut_size = (max(1, size[0] // _CUT), max(1, size[1] // _CUT))
    corners = [torch.randint(-half, side - half, (count,), generator=generator) for side, half in _halves(size, cut_size)]
    return View(down, right, mirrored, reflect=True, cut=torch.stack(corners, 1), cut_size=cut_size)


def _halves(size: tuple[int, int], cut_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Side of the image and half the side of the square, per axis: a square's middle lies anywhere in the image."""
    return [(side, cut // 2) for side, cut in zip(size, cut_size, strict=True)]


def _inside(positions: Tensor, side: int, reflect: bool) -> Tensor:
    if reflect:
        positions = positions.abs()
        positions = torch.where(positions >= side, 2 * (side - 1) - positions, positions)
    return positions.clamp(0, side - 1)


def show(images: Tensor, view: View | None, index: Tensor) -> Tensor:
    """Images uint8 (N, H, W, C) number `index` (B,), as `view` shows them: (B, H, W, C), on the images' device."""
    device = images.device
    index = index.to(device)
    if view is None:
        return images[index]
    _, height, width, channels = images.shape
    down, right, mirrored = (part.to(device)[index][:, None] for part in (view.down, view.right, view.mirrored))
    across = torch.arange(width, device=device)[None]
    across = torch.where(mirrored, width - 1 - across, across)
    rows = _inside(torch.arange(height, device=device)[None] + down, height, view.reflect)  # (B, H)
    columns = _inside(across + right, width, view.reflect)  # (B, W)
    pixel = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, H * W)
    flat = images.view(-1, height * width, channels)
    shown = flat[index[:, None], pixel].view(-1, height, width, channels)
    if view.cut is not None:
        top, left = view.cut.to(device)[index].unbind(1)
        is_cut = _between(height, top, view.cut_size[0])[:, :, None] & _between(width, left, view.cut_size[1])[:, None, :]
        shown.masked_fill_(is_cut[..., None], _GREY)
    return shown


def _between(side: int, start: Tensor, length: int) -> Tensor:
    """Which of `side` places lie in the `length` ones from `start` (B,) on: (B, side)."""
    places = torch.arange(side, device=start.device)[None] - start[:, None]
    return (places >= 0) & (places < length)
