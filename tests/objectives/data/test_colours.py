"""Changes of colours are Pillow's, image by image, and the same for any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from edgesearch.objectives.data._colours import Colours, draw_colours, recolour

NOTHING = {
    "autocontrast": 0,
    "equalize": 0,
    "brightness": 256,
    "contrast": 256,
    "bits": 8,
    "solarize": 256,
    "saturation": 256,
}


def changes(count: int, **changed: int) -> Colours:
    return Colours(**{name: torch.full((count,), value, dtype=torch.int32) for name, value in {**NOTHING, **changed}.items()})


def pictures(seed: int, count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Smooth pictures and noise, some of few values, one of a single one."""
    dice = np.random.default_rng(seed)
    noise = dice.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    noise[::3] //= 5
    noise[1::3] = noise[1::3] // 64 * 64
    noise[-1] = dice.integers(0, 256)
    return torch.from_numpy(noise)


def pillow(name: str, amount: int) -> Callable[[Image.Image], Image.Image]:
    known: dict[str, Callable[[Image.Image], Image.Image]] = {
        "brightness": lambda image: ImageEnhance.Brightness(image).enhance(amount / 256),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(amount / 256),
        "saturation": lambda image: ImageEnhance.Color(image).enhance(amount / 256),
        "bits": lambda image: ImageOps.posterize(image, amount),
        "solarize": lambda image: ImageOps.solarize(image, amount),
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
    }
    return known[name]


@pytest.mark.parametrize(
    ("name", "amount", "off"),
    [
        ("brightness", 100, 1),
        ("brightness", 400, 1),
        ("contrast", 90, 2),
        ("contrast", 500, 2),  # Pillow rounds the mean of the grey image, which counts twice with its factor
        ("saturation", 0, 1),
        ("saturation", 380, 2),
        ("bits", 3, 0),
        ("bits", 8, 0),
        ("solarize", 130, 0),
        ("solarize", 0, 0),
        ("autocontrast", 1, 1),
        ("equalize", 1, 0),
    ],
)
def test_a_change_is_pillows(name: str, amount: int, off: int) -> None:
    images = pictures(3, 9, 21, 34)
    shown = recolour(images, changes(9, **{name: amount})).numpy().astype(int)
    for place, image in enumerate(images.numpy()):
        expected = np.asarray(pillow(name, amount)(Image.fromarray(image)), dtype=int)
        assert np.abs(shown[place] - expected).max() <= off


def test_nothing_changes_nothing() -> None:
    for channels in (1, 3, 4):
        images = pictures(0, 5, 9, 7, channels)
        assert torch.equal(recolour(images, changes(5)), images)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(["colour", "randaugment"]),
    st.floats(0.01, 2.0),
)
def test_a_batch_is_its_images_one_by_one(seed: int, channels: int, kind: Any, strength: float) -> None:
    images = pictures(seed, 6, 8, 5, channels)
    colours = draw_colours(kind, 6, strength, torch.Generator().manual_seed(seed))
    shown = recolour(images, colours)
    assert shown.shape == images.shape
    assert shown.is_contiguous()
    for place in range(6):
        one = colours.of(torch.tensor([place]))
        assert torch.equal(recolour(images[place : place + 1], one)[0], shown[place])
        assert np.array_equal(shown[place].numpy(), slow(images[place].numpy(), one))


def slow(image: np.ndarray, colours: Colours) -> np.ndarray:
    """One pixel at a time, with Python's whole numbers."""
    what = {name: int(getattr(colours, name)[0]) for name in NOTHING}
    height, width, channels = image.shape
    weights = (77, 150, 29) if channels == 3 else (*[256 // channels] * (channels - 1), 256 - 256 // channels * (channels - 1))
    grey = 0
    if what["contrast"] != 256:
        grey = sum(int(value) * weights[c] for row in image for pixel in row for c, value in enumerate(pixel)) // (
            height * width
        )
    middle = what["brightness"] * grey >> 8
    out = np.empty_like(image)
    for c in range(channels):
        plane = [int(value) for value in image[..., c].flat]
        low, high, last = min(plane), max(plane), plane.count(max(plane))
        step = (len(plane) - last) // 255
        for place, value in enumerate(plane):
            v = value
            if what["autocontrast"] and high > low:
                v = 255 * (v - low) // (high - low)
            if what["equalize"] and step:
                v = min(255, (step // 2 + sum(other < value for other in plane)) // step)
            v = ((what["contrast"] * (what["brightness"] * v - middle) >> 8) + middle + 128) >> 8
            v = min(max(v, 0), 255) & (256 - 2 ** (8 - what["bits"]))
            out[place // width, place % width, c] = 255 - v if v >= what["solarize"] else v
    if what["saturation"] != 256 and channels > 1:
        for pixel in out.reshape(-1, channels):
            own = (sum(int(value) * weight for value, weight in zip(pixel, weights, strict=True)) + 128) >> 8
            pixel[:] = [min(max(own + ((what["saturation"] * (int(value) - own) + 128) >> 8), 0), 255) for value in pixel]
    return out


def test_randaugment_draws_every_change_and_one_for_each_image() -> None:
    colours = draw_colours("randaugment", 4000, 1.0, torch.Generator().manual_seed(0))
    changed = {name: getattr(colours, name) != value for name, value in NOTHING.items()}
    assert int(torch.stack(list(changed.values())).sum(0).max()) == 1
    for each in changed.values():
        assert 300 < int(each.sum()) < 600
    assert (int(colours.bits.min()), int(colours.solarize.min())) == (4, 128)


@pytest.mark.parametrize("kind", ["colour", "randaugment"])
def test_strength_is_how_far_changes_go(kind: Any) -> None:
    images = pictures(1, 200, 8, 8)
    moved = []
    for strength in (1e-3, 0.5, 1.0, 2.0):
        colours = draw_colours(kind, 200, strength, torch.Generator().manual_seed(4))
        kept = torch.stack([colours.autocontrast, colours.equalize]).sum(0) == 0  # which have no strength
        away = (recolour(images, colours).int() - images.int()).abs().float()[kept]
        moved.append(float(away.mean()))
        assert (colours.brightness - 256).abs().max() <= {"colour": 102, "randaugment": 128}[kind] * strength
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert moved[3] > 1.3 * moved[2] > 1.3 * moved[1]
