"""Views: small random changes of training images that keep their class.

A view says what happens to every image of the training set in one epoch. It is drawn from a seed and a number, never from a
running generator, so that a resumed training sees what an uninterrupted one saw, and a teacher's logits can be stored for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgesearch.objectives.data._colours import Colours, draw_colours, recolour
from edgesearch.objectives.data._view_kinds import Augmentation

__all__ = ["View", "draw_view", "seed_from", "show"]

#: The farthest move, as a share of the image's side: an eighth is 1 pixel of 8, 4 of 32.
_REACH: dict[str, int] = {"alternate_flip": 16}
_USUAL_REACH = 8
#: A cut square's side, as a share of the image's.
_CUT = 4
#: What a cut square shows: grey.
_GREY = 128
#: Pixels that a CPU shows at a time: for each it holds numbers of 64 bits for a while, which should stay in its cache.
_PIECE_PIXELS = 1 << 18
#: Fractional bits of a turn's numbers.
_TURN_BITS = 16
#: The farthest turn in radians (20 degrees) and the steepest shear, at strength 1.
_TURN, _SHEAR = 0.349, 0.2


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


@dataclass(frozen=True)
class View:
    """For each of N images: rows and columns moved (N,), and whether it is mirrored (N,).

    `cut`: row and column (N, 2) of the upper left corner of a square that is grey, where there is one; its lower right corner
    lies `cut_size` (height, width) further, and both may lie outside.
    turn: what an image is turned or sheared by, about its middle, behind its move: int32 (N, 2, 2) in 65536ths, from (right,
    down) of what is shown to that of what is stored. colours: what is done to its colours at last.
    """

    down: Tensor
    right: Tensor
    mirrored: Tensor
    reflect: bool  # what lies outside the image is its mirror image, else its border
    cut: Tensor | None = None
    cut_size: tuple[int, int] = (0, 0)
    turn: Tensor | None = None
    colours: Colours | None = None


def draw_view(
    kind: Augmentation,
    count: int,
    size: tuple[int, int],
    seed: int,
    *,
    mirror_seed: int = 0,
    turn: int = 0,
    strength: float = 1.0,
) -> View | None:
    """The view of `count` images of `size` (height, width) pixels that `seed` gives; None where nothing changes.

    Kinds that mirror in turn mirror each image in every other `turn`: those that `mirror_seed` draws in the even ones.
    strength: of the changes of colour, and of turns and shears, where the kind has such.
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
    if kind == "colour":
        return View(down, right, mirrored, reflect=True, colours=draw_colours(kind, count, strength, generator))
    if kind == "randaugment":
        turns = _draw_turns(count, strength, generator)
        return View(down, right, mirrored, reflect=True, turn=turns, colours=draw_colours(kind, count, strength, generator))
    cut_size = (max(1, size[0] // _CUT), max(1, size[1] // _CUT))
    corners = [torch.randint(-half, side - half, (count,), generator=generator) for side, half in _halves(size, cut_size)]
    return View(down, right, mirrored, reflect=True, cut=torch.stack(corners, 1), cut_size=cut_size)


def _draw_turns(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """For each image nothing, a rotation, a shear across or a shear down: int32 (count, 2, 2) in 65536ths."""
    amount = (2 * torch.rand(count, generator=generator) - 1) * strength
    kind = torch.randint(4, (count,), generator=generator)
    angle, shear = torch.where(kind == 1, _TURN * amount, 0.0), _SHEAR * amount
    sine = angle.sin()
    across, down = torch.where(kind == 2, shear, sine), torch.where(kind == 3, shear, -sine)
    matrix = torch.stack([torch.stack([angle.cos(), across], 1), torch.stack([down, angle.cos()], 1)], 1)
    return (matrix * (1 << _TURN_BITS)).round().int()


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
    device, chosen = images.device, index.cpu()
    index = index.to(device)
    if view is None:
        return images[index]
    _, height, width, channels = images.shape
    piece = max(1, _PIECE_PIXELS // (height * width))
    if device.type == "cpu" and len(index) > piece:
        together = torch.empty(len(index), height, width, channels, dtype=images.dtype)
        for part, place in zip(torch.split(index, piece), torch.split(together, piece), strict=True):
            place.copy_(show(images, view, part))
        return together
    down, right, mirrored = (part[chosen].to(device)[:, None] for part in (view.down, view.right, view.mirrored))
    across, along = torch.arange(width, device=device)[None], torch.arange(height, device=device)[None]
    across = torch.where(mirrored, width - 1 - across, across)
    if view.turn is not None:
        pixel = _turned(across, along, down, right, view.turn[chosen].to(device), view.reflect)
    else:
        rows = _inside(along + down, height, view.reflect)  # (B, H)
        columns = _inside(across + right, width, view.reflect)  # (B, W)
        pixel = rows[:, :, None] * width + columns[:, None, :]
    pixel = pixel.flatten(1)  # (B, H * W)
    flat = images.view(-1, height * width, channels)
    shown = flat[index[:, None], pixel].view(-1, height, width, channels)
    if view.cut is not None:
        top, left = view.cut[chosen].to(device).unbind(1)
        is_cut = _between(height, top, view.cut_size[0])[:, :, None] & _between(width, left, view.cut_size[1])[:, None, :]
        shown.masked_fill_(is_cut[..., None], _GREY)
    return shown if view.colours is None else recolour(shown, view.colours.of(chosen))


def _turned(across: Tensor, along: Tensor, down: Tensor, right: Tensor, turn: Tensor, reflect: bool) -> Tensor:
    """Which stored pixel each place shows, int64 (B, H, W), from columns (B, W), rows (1, H), moves (B, 1), turns (B, 2, 2).

    Twice the distance from the middle is a whole number. The nearest pixel counts: the one that the place lies in.
    """
    width, height = across.shape[1], along.shape[1]
    u, v = (2 * across - (width - 1)).int()[:, None, :], (2 * along - (height - 1)).int()[:, :, None]
    (a, b), (c, d) = ((each[:, None, None] for each in row.unbind(1)) for row in turn.unbind(1))
    shift = _TURN_BITS + 1
    columns = ((a * u + b * v + (width << _TURN_BITS)) >> shift) + right[:, :, None].int()
    rows = ((c * u + d * v + (height << _TURN_BITS)) >> shift) + down[:, :, None].int()
    return _inside(rows, height, reflect).long() * width + _inside(columns, width, reflect)


def _between(side: int, start: Tensor, length: int) -> Tensor:
    """Which of `side` places lie in the `length` ones from `start` (B,) on: (B, side)."""
    places = torch.arange(side, device=start.device)[None] - start[:, None]
    return (places >= 0) & (places < length)
