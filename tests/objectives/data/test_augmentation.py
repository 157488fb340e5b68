"""Views move and mirror images, the same ones for the same seed."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgesearch.objectives.data._augmentation import View, draw_view, seed_from, show
from edgesearch.objectives.data._colours import recolour
from edgesearch.objectives.data._view_kinds import choose_augmentation, has_strength

UNTURNED = ((65536, 0), (0, 65536))


def reference(
    image: torch.Tensor,
    down: int,
    right: int,
    mirrored: bool,
    reflect: bool,
    turn: tuple[tuple[int, int], tuple[int, int]] = UNTURNED,
) -> torch.Tensor:
    """One pixel at a time: look up where it comes from."""
    height, width, _ = image.shape
    (a, b), (c, d) = turn

    def inside(position: int, side: int) -> int:
        if reflect and position < 0:
            position = -position
        if reflect and position >= side:
            position = 2 * (side - 1) - position
        return min(max(position, 0), side - 1)

    out = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            source = width - 1 - x if mirrored else x
            u, v = source - Fraction(width - 1, 2), y - Fraction(height - 1, 2)
            column = floor(Fraction(width, 2) + (a * u + b * v) / 65536)
            row = floor(Fraction(height, 2) + (c * u + d * v) / 65536)
            out[y, x] = image[inside(row + down, height), inside(column + right, width)]
    return out


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["shift", "flip_crop"]), st.integers(4, 20), st.integers(4, 20), st.integers(0, 1000))
def test_a_view_equals_its_slow_reference(kind: str, height: int, width: int, seed: int) -> None:
    images = torch.randint(0, 256, (6, height, width, 2), dtype=torch.uint8)
    view = draw_view(kind, 6, (height, width), seed)  # type: ignore[arg-type]
    assert view is not None
    index = torch.tensor([4, 0, 4, 5])
    shown = show(images, view, index)
    for place, number in enumerate(index.tolist()):
        move = (int(view.down[number]), int(view.right[number]), bool(view.mirrored[number]))
        assert torch.equal(shown[place], reference(images[number], *move, view.reflect))


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(["colour", "randaugment"]),
    st.integers(4, 20),
    st.integers(4, 20),
    st.integers(0, 1000),
    st.floats(0.1, 2.0),
)
def test_turned_and_coloured_views_equal_their_slow_reference(
    kind: str, height: int, width: int, seed: int, strength: float
) -> None:
    images = torch.randint(0, 256, (6, height, width, 3), dtype=torch.uint8)
    view = draw_view(kind, 6, (height, width), seed, mirror_seed=1, strength=strength)  # type: ignore[arg-type]
    assert view is not None
    assert view.colours is not None
    assert (view.turn is None) == (kind == "colour")
    index = torch.tensor([4, 0, 4, 5])
    shown = show(images, view, index)
    for place, number in enumerate(index.tolist()):
        move = (int(view.down[number]), int(view.right[number]), bool(view.mirrored[number]))
        turn = UNTURNED if view.turn is None else tuple(tuple(row) for row in view.turn[number].tolist())
        moved = reference(images[number], *move, True, turn)  # type: ignore[arg-type]
        assert torch.equal(shown[place], recolour(moved[None], view.colours.of(torch.tensor([number])))[0])


def test_turns_are_pillows_affine_transforms() -> None:
    images = torch.randint(0, 256, (60, 24, 31, 1), dtype=torch.uint8)
    view = draw_view("randaugment", 60, (24, 31), 3)
    assert view is not None
    assert view.turn is not None
    still = torch.zeros(60, dtype=torch.int64)
    shown = show(images, View(still, still, still.bool(), reflect=False, turn=view.turn), torch.arange(60))
    turned, differ = 0, 0
    for place, image in enumerate(images):
        (a, b), (c, d) = (view.turn[place].double() / 65536).tolist()
        x, y = 31 / 2, 24 / 2
        numbers = (a, b, x - a * x - b * y, c, d, y - c * x - d * y)
        seen = (Image.new("L", (31, 24), 255).transform((31, 24), Image.Transform.AFFINE, numbers), image[..., 0].numpy())
        theirs = Image.fromarray(seen[1]).transform((31, 24), Image.Transform.AFFINE, numbers, Image.Resampling.NEAREST)
        inside = np.asarray(seen[0]) == 255  # Pillow shows nothing outside
        differ += int((np.asarray(theirs)[inside] != shown[place, ..., 0].numpy()[inside]).sum())
        turned += not torch.equal(view.turn[place], torch.tensor(UNTURNED, dtype=torch.int32))
        assert inside.mean() > 0.6
    assert 30 < turned < 58
    assert differ <= 5  # places that lie between two pixels


def test_strength_is_how_far_images_are_turned() -> None:
    away = []
    for strength in (1e-6, 0.5, 1.0, 2.0):
        view = draw_view("randaugment", 500, (32, 32), 0, strength=strength)
        assert view is not None
        assert view.turn is not None
        away.append(int((view.turn[:, 0, 1]).abs().max()) / 65536)
    assert away[0] == 0
    assert away == pytest.approx([0, 0.173, 0.34, 0.643], abs=0.02)
    assert [has_strength(kind) for kind in ("cutout", "colour", "randaugment")] == [False, True, True]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["alternate_flip", "cutout", "colour", "randaugment"])
def test_every_image_is_mirrored_in_every_other_turn(kind: str) -> None:
    views = [draw_view(kind, 200, (32, 32), seed=turn, mirror_seed=5, turn=turn) for turn in range(4)]  # type: ignore[arg-type]
    first, second, third, fourth = (view.mirrored for view in views if view is not None)
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert 60 < int(first.sum()) < 140


@settings(deadline=None, max_examples=20)
@given(st.integers(4, 20), st.integers(4, 20), st.integers(0, 1000))
def test_a_cut_square_is_grey_and_the_rest_is_not_touched(height: int, width: int, seed: int) -> None:
    images = torch.randint(0, 128, (6, height, width, 2), dtype=torch.uint8)
    view = draw_view("cutout", 6, (height, width), seed)
    assert view is not None
    assert view.cut is not None
    index = torch.tensor([4, 0, 4, 5])
    shown = show(images, view, index)
    for place, number in enumerate(index.tolist()):
        expected = reference(images[number], int(view.down[number]), int(view.right[number]), bool(view.mirrored[number]), True)
        top, left = view.cut[number].tolist()
        down, right = max(1, height // 4), max(1, width // 4)
        assert -(down // 2) <= top < height
        expected[max(0, top) : top + down, max(0, left) : left + right] = 128
        assert torch.equal(shown[place], expected)


def test_views_follow_their_seed() -> None:
    images = torch.randint(0, 256, (50, 8, 8, 1), dtype=torch.uint8)
    every = torch.arange(50)
    for kind in ("shift", "colour", "randaugment"):
        one, same, other = (show(images, draw_view(kind, 50, (8, 8), seed), every) for seed in (3, 3, 4))  # type: ignore[arg-type]
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["none", "shift", "cutout", "colour", "randaugment"])
def test_images_are_the_same_in_pieces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, every = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8), torch.randperm(50)
    view = draw_view(kind, 50, (8, 8), 3)  # type: ignore[arg-type]
    whole = show(images, view, every)
    monkeypatch.setattr("edgesearch.objectives.data._augmentation._PIECE_PIXELS", 7 * 64)
    assert torch.equal(show(images, view, every), whole)


def test_moves_reach_an_eighth_and_shifts_never_mirror() -> None:
    view = draw_view("shift", 500, (32, 8), 0)
    assert view is not None
    assert (view.down.min(), view.down.max(), view.right.min(), view.right.max()) == (-4, 4, -1, 1)
    assert not view.mirrored.any()
    assert draw_view("none", 5, (8, 8), 0) is None


@pytest.mark.parametrize(
    ("asked", "name", "chosen"),
    [
        ("auto", "digits", "shift"),
        ("auto", "cifar10", "flip_crop"),
        ("auto", "folder", "shift"),
        ("flip_crop", "npz", "flip_crop"),
    ],
)
def test_auto_mirrors_only_what_may_be_mirrored(asked: str, name: str, chosen: str) -> None:
    assert choose_augmentation(asked, name) == chosen  # type: ignore[arg-type]


def test_seeds_differ_for_any_change() -> None:
    seeds = {seed_from(*parts) for parts in ((0,), (0, 0), (0, 1), (1, 0), (1, 1), (2,), (0, 0, 1), (2**62, 0))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
