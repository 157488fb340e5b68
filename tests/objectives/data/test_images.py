"""Resizing equals Pillow's, on arrays and on tensors; normalisation equals what AMD's tools were fed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgesearch.objectives.data import draw_mixing, draw_view, mixed, show
from edgesearch.objectives.data._images import prepare, prepare_tensor, resize, stored_images
from edgesearch.objectives.data._normalisation import Normalisation


def pillow(images: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = [
        np.asarray(Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BILINEAR)) for image in images
    ]
    return np.stack(resized).reshape(len(images), height, width, -1)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(0, 999))
def test_resize_equals_pillow(side: int, size: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, side, side, channels), dtype=np.uint8)
    assert np.array_equal(resize(images, size), pillow(images, size, size))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 70), st.integers(1, 70), st.integers(0, 999))
def test_resize_out_of_proportion_is_pillows_but_for_rounding(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    ours = resize(images, (new_height, new_width))
    assert np.abs(ours.astype(int) - pillow(images, new_height, new_width)).max() <= 1


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 40), st.integers(1, 70), st.sampled_from([1, 3]))
def test_tensors_and_arrays_are_prepared_alike(side: int, size: int, channels: int) -> None:
    images = np.random.default_rng(side).integers(0, 256, (3, side, side + 1, channels), dtype=np.uint8)
    normalisation = Normalisation((0.4,) * channels, (0.2,) * channels)
    array = prepare(images, size, normalisation)
    tensor = prepare_tensor(torch.tensor(images), size, normalisation)
    assert array.shape == (3, size, size, channels)
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)


def test_default_normalisation_goes_from_minus_one_to_one() -> None:
    ends = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    assert prepare(ends, None, Normalisation()).ravel().tolist() == [-1.0, 1.0]


def test_a_batch_larger_than_a_piece_is_resized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 9, 3), dtype=np.uint8)
    whole = prepare_tensor(torch.tensor(images), 12, Normalisation())
    monkeypatch.setattr("edgesearch.objectives.data._images._PIECE_BYTES", 2 * 8 * 3 * 12 * 12)
    assert torch.equal(prepare_tensor(torch.tensor(images), 12, Normalisation()), whole)
    assert np.array_equal(resize(images, 12), pillow(images, 12, 12))


def test_the_images_that_amd_quantized_with(reference_data: Path) -> None:
    folder = reference_data / "golden" / "squeezenet"
    source = np.load(folder / "images_src32_0_19.npy")
    prepared = prepare(source, 224, Normalisation())
    assert hashlib.sha256(prepared.tobytes()).hexdigest() == (folder / "images_f32_0_19.sha256").read_text().split()[0]


def test_stored_images_take_no_memory_of_their_own_on_a_cpu() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    images.setflags(write=False)
    there = stored_images(images)  # a warning would be an error
    assert there.data_ptr() == images.ctypes.data
    assert torch.equal(there, torch.tensor(images))
    assert torch.equal(stored_images(images[:, ::-1]), there.flip(1))


@pytest.mark.parametrize("kind", ["none", "flip_crop", "cutout", "colour", "randaugment"])
@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_what_is_shown_of_stored_images_leaves_them_as_they_are(kind: Any, mix: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    before, order = images.copy(), torch.arange(20)
    shown = show(stored_images(images), draw_view(kind, 20, (8, 8), 1), order)
    mixing = draw_mixing(mix, 1.0, [20], (8, 8), 1)
    if mixing is not None:
        shown = mixed(shown, shown[mixing.partner], mixing, slice(0, 20))
    prepare_tensor(shown, 16, Normalisation((0.5,) * 3, (0.5,) * 3)).zero_()
    assert np.array_equal(images, before)
