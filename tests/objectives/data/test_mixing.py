"""Two images in one: what is shown and how labels are shared, the same for any pieces of an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.objectives.data._mixing import Mixing, draw_mixing, mixed

KINDS = ["mixup", "cutmix"]


def drawn(kind: Any, batches: list[int], size: tuple[int, int] = (8, 8), seed: int = 0, alpha: float = 1.0) -> Mixing:
    mixing = draw_mixing(kind, alpha, batches, size, seed)
    assert mixing is not None
    return mixing


def slow(image: np.ndarray, partner: np.ndarray, mixing: Mixing, place: int) -> np.ndarray:
    """One pixel at a time."""
    out, share = image.copy(), float(mixing.share[place])
    for y, x, c in np.ndindex(image.shape):
        if mixing.box is None:
            out[y, x, c] = int(np.floor(share * image[y, x, c] + (1 - share) * partner[y, x, c] + 0.5))
        else:
            top, bottom, left, right = mixing.box[place].tolist()
            if top <= y < bottom and left <= x < right:
                out[y, x, c] = partner[y, x, c]
    return out


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(KINDS), st.integers(2, 12), st.integers(2, 12), st.integers(0, 1000), st.floats(0.1, 3.0))
def test_mixed_images_equal_their_slow_reference(kind: str, height: int, width: int, seed: int, alpha: float) -> None:
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (9, height, width, 2), dtype=np.uint8))
    mixing = drawn(kind, [4, 5], (height, width), seed, alpha)
    partners = images[mixing.partner]
    whole = mixed(images, partners, mixing, slice(0, 9))
    for place in range(9):
        expected = slow(images[place].numpy(), partners[place].numpy(), mixing, place)
        assert np.array_equal(whole[place].numpy(), expected)
    parts = [mixed(images[part], partners[part], mixing, part) for part in (slice(0, 2), slice(2, 9))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_shared_as_pixels_are(kind: str) -> None:
    mixing = drawn(kind, [300, 300], (7, 9), 5)
    black, white = torch.zeros(600, 7, 9, 1, dtype=torch.uint8), torch.full((600, 7, 9, 1), 254, dtype=torch.uint8)
    own = mixed(white, black, mixing, slice(0, 600)).float().flatten(1).mean(1) / 254
    assert torch.allclose(own, mixing.share, atol=0.5 / 254 + 1e-6)
    assert mixing.share.min() < 0.1
    assert mixing.share.max() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_partners_are_of_the_same_batch_and_each_is_one_once(kind: str) -> None:
    mixing = drawn(kind, [5, 4, 4])
    assert [sorted(mixing.partner[a:b].tolist()) for a, b in ((0, 5), (5, 9), (9, 13))] == [
        list(range(5)),
        list(range(5, 9)),
        list(range(9, 13)),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixing_follows_its_seed(kind: str) -> None:
    one, same, other = (drawn(kind, [50], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.partner, same.partner)
    assert torch.equal(one.share, same.share)
    assert not torch.equal(one.partner, other.partner)
    assert not torch.equal(one.share, other.share)
    assert draw_mixing("none", 1.0, [50], (8, 8), 3) is None


def test_alpha_is_how_evenly_images_are_mixed() -> None:
    spread = [float((drawn("mixup", [2000], alpha=alpha).share - 0.5).abs().mean()) for alpha in (0.1, 1.0, 10.0)]
    assert spread[0] > 0.4 > spread[1] > 0.2 > spread[2]
