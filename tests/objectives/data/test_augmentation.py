"""Views move and mirror images, the same ones for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.objectives.data._augmentation import choose_augmentation, draw_view, seed_from, show


def reference(image: torch.Tensor, down: int, right: int, mirrored: bool, reflect: bool) -> torch.Tensor:
    """One pixel at a time: look up where it comes from."""
    height, width, _ = image.shape

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
            out[y, x] = image[inside(y + down, height), inside(source + right, width)]
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


@pytest.mark.parametrize("kind", ["alternate_flip", "cutout"])
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
    one, same, other = (show(images, draw_view("shift", 50, (8, 8), seed), every) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


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
