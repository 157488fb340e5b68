from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesearch.board_eval.compiler._plan import _reached, augmented, steady
from edgesearch.board_eval.compiler._tiles import tiles_of
from edgesearch.board_eval.graph import window_output
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.timing import Layer, Window


def layer_of(width: int, window: Window, channels: int = 3, post: Window | None = None, height: int = 40) -> Layer | None:
    """A convolution of some columns, with a pooling behind it or without; None where no column is left."""

    def sizes(shape: tuple[int, int], by: Window) -> tuple[int, int]:
        left, right, top, bottom = by.padding
        return (
            window_output(shape[0], top + bottom, by.kernel[0], by.stride[0]),
            window_output(shape[1], left + right, by.kernel[1], by.stride[1]),
        )

    mid = sizes((height, width), window)
    out = mid if post is None else sizes(mid, post)
    if min(*mid, *out) < 1:
        return None
    kind: Literal["none", "pool"] = "none" if post is None else "pool"
    shapes = ((height, width, channels), (*mid, 16), (*out, 16))
    return Layer("layer", "conv", ("layer",), "image", "layer", *shapes, window, post=kind, post_window=post or Window())


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kernel = draw(st.integers(1, 7))
    pads = st.integers(0, kernel - 1)
    return Window((1, kernel), (1, draw(st.integers(1, 4))), (draw(pads), draw(pads), 0, 0))


def needed(window: Window, column: int, width: int) -> set[int]:
    first = column * window.stride[1] - window.padding[0]
    return {x for x in range(first, first + window.kernel[1]) if 0 <= x < width}


@given(st.integers(1, 60), windows(), st.one_of(st.none(), windows()), st.integers(1, 70), st.booleans())
def test_tiles_make_every_column_once_from_the_columns_it_needs(
    width: int, window: Window, post: Window | None, pieces: int, both_pads: bool
) -> None:
    layer = layer_of(width, window, post=post)
    assume(layer is not None)
    assert layer is not None
    tiles = tiles_of(layer, pieces, both_pads=both_pads)
    assert [column for tile in tiles for column in tile.out] == list(range(layer.out_shape[1]))
    assert len(tiles) >= min(pieces, layer.out_shape[1])
    for tile in tiles:
        mid = {x for column in tile.out for x in needed(post, column, layer.mid_shape[1])} if post else set(tile.out)
        read = {x for column in tile.mid for x in needed(window, column, width)}
        assert mid <= set(tile.mid)
        assert read <= set(tile.read)
        assert tile.mid
        assert tile.read
        assert set(tile.read) <= set(range(width))
        if mid:
            assert (tile.mid.start, tile.mid.stop - 1) == (min(mid), max(mid))


def test_an_image_padded_on_both_sides_gets_two_tiles_where_one_load_should_not_mask_both() -> None:
    layer = layer_of(20, Window((3, 3), (1, 1), (1, 1, 1, 1)))
    assert layer is not None
    assert len(tiles_of(layer, 1)) == 1
    assert len(tiles_of(layer, 1, both_pads=False)) == 2


@given(st.integers(1, 256), st.integers(0, 15), st.sampled_from([4, 8]))
def test_a_single_window_has_its_rows_dealt_so_that_an_instruction_reaches_them_all(kernel: int, top: int, banks: int) -> None:
    target = DPUS["B512" if banks == 4 else "B4096"]
    window = steady(Window((kernel, 3), (7, 5), (0, 0, top, 0)), (1, 9, 16), target)
    assert window.stride[1] == 5
    step, offset = divmod(-top, window.stride[0])
    last = step % banks + (offset + kernel - 1) // window.stride[0]
    assert last < 4 * banks
    assert window.stride[0] == 1 or not _reached(window, window.stride[0] - 1, banks)


def test_strides_of_what_slides_stay_as_they_are() -> None:
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    assert steady(window, (5, 5, 16), DPUS["B4096"]) == window
    assert steady(window, (5, 1, 16), DPUS["B4096"]).stride == (2, 1)


# -- the first layer


@given(
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(1, 16),
    st.integers(1, 5),
    st.integers(0, 15),
    st.integers(0, 15),
    st.data(),
)
def test_no_pixel_of_an_augmented_image_is_masked_on_both_sides(
    width: int, channels: int, kernel: int, stride: int, left: int, right: int, data: st.DataObject
) -> None:
    target = DPUS[data.draw(st.sampled_from(sorted(DPUS)))]
    layer = layer_of(width, Window((3, kernel), (1, stride), (min(left, kernel - 1), min(right, kernel - 1), 1, 1)), channels)
    assume(layer is not None and augmented(layer, "image", target))
    assert layer is not None
    assert kernel * channels <= 2 * target.input_parallel
    for column in range(layer.mid_shape[1]):
        start = column * stride - layer.window.padding[0]
        assert start >= 0 or start + kernel <= width
        words = -(-kernel * channels // target.input_parallel) * target.input_parallel
        assert max(0, -start) * channels <= 31
        missing = max(0, start + kernel - width) * channels
        assert not missing or missing + words - kernel * channels <= 31


@pytest.mark.parametrize("size", sorted(DPUS))
def test_usual_stems_are_augmented(size: str) -> None:
    for kernel, padding, stride in ((3, 1, 1), (3, 1, 2)):
        layer = layer_of(32, Window((kernel, kernel), (stride, stride), (padding,) * 4))
        assert layer is not None
        assert augmented(layer, "image", DPUS[size])
        assert not augmented(layer, "another", DPUS[size])
