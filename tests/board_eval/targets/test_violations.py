"""The limits of every size, against a slow reading of AMD's table, row by row."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.graph import (
    Activation,
    ActivationKind,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    window_output,
)
from edgesearch.board_eval.targets import DPUS

#: Size -> channel parallel, as AMD's table of architectures has it.
CHANNELS = {"B512": 8, "B800": 10, "B1024": 8, "B1152": 12, "B1600": 10, "B2304": 12, "B3136": 14, "B4096": 16}
SIZES = st.sampled_from(sorted(CHANNELS))


def around(*limits: int) -> st.SearchStrategy[int]:
    """Numbers just below, at and above limits, and small ones."""
    return st.sampled_from(sorted({max(1, limit + d) for limit in limits for d in (-1, 0, 1)} | {1, 2, 3, 5, 7}))


WINDOW = {
    "kernel": st.tuples(around(16), around(16)),
    "stride": st.tuples(around(8), around(8)),
    "dilation": st.tuples(st.sampled_from([1, 2, 6, 32, 36]), st.sampled_from([1, 2, 6, 32, 36])),
    "extra": st.tuples(*[st.integers(-1, 1)] * 4),
    "channels": st.sampled_from([3, 16, 100, 128, 256, 1024, 2048, 2049, 4096, 4097]),
}


def graph(node: Node, shape: tuple[int, ...]) -> Graph:
    return Graph("one", (Input(name="image", inputs=(), shape=shape), node))


def breaks(size: str, network: Graph) -> bool:
    return bool(DPUS[size].violations(network))


def side(kernel: int, dilation: int, stride: int) -> int:
    """An input length on which a window of this kind has at least two places."""
    return (kernel - 1) * dilation + 1 + stride


@given(
    size=SIZES, kernel=WINDOW["kernel"], stride=WINDOW["stride"], dilation=WINDOW["dilation"], extra=WINDOW["extra"],
    inputs=WINDOW["channels"], outputs=st.sampled_from([1, 2048, 2049, 2560, 2561, 3072, 3073, 3584, 3585, 4096, 4097]),
)  # fmt: skip
@settings(deadline=None, max_examples=400)
@example("B4096", (1, 1), (1, 1), (1, 1), (1, 1, 1, 1), 3, 16)
@example("B4096", (7, 7), (1, 1), (1, 1), (-3, -3, -3, -3), 1024, 16)
@example("B4096", (3, 3), (1, 1), (36, 36), (0, 0, 0, 0), 128, 16)
def test_convolutions(
    size: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    extra: tuple[int, int, int, int],
    inputs: int,
    outputs: int,
) -> None:
    kernel_h, kernel_w = kernel
    reach_h, reach_w = (kernel_h - 1) * dilation[0], (kernel_w - 1) * dilation[1]
    left, right = max(0, reach_w + extra[0]), max(0, reach_w + extra[1])
    top, bottom = max(0, reach_h + extra[2]), max(0, reach_h + extra[3])
    height, width = side(kernel_h, dilation[0], stride[0]), side(kernel_w, dilation[1], stride[1])
    shape = (
        window_output(height, top + bottom, kernel_h, stride[0], dilation[0]),
        window_output(width, left + right, kernel_w, stride[1], dilation[1]),
        outputs,
    )
    node = Conv(
        name="conv", inputs=("image",), shape=shape, kernel=kernel, stride=stride, dilation=dilation,
        padding=(left, right, top, bottom),
    )  # fmt: skip

    c = CHANNELS[size]
    allowed = kernel_h in range(1, 17) and kernel_w in range(1, 17)
    allowed = allowed and stride[0] in range(1, 9) and stride[1] in range(1, 9)
    for pad in (left, right):
        allowed = allowed and 0 <= pad <= (kernel_w - 1) * dilation[1]
    for pad in (top, bottom):
        allowed = allowed and 0 <= pad <= (kernel_h - 1) * dilation[0]
    allowed = allowed and kernel_w * kernel_h * math.ceil(inputs / c) <= 2048
    allowed = allowed and outputs <= 256 * c
    for d in dilation:
        allowed = allowed and d * inputs <= 256 * c
    assert breaks(size, graph(node, (height, width, inputs))) is not allowed


@given(
    size=SIZES,
    kernel=st.tuples(around(16, 256), around(45, 256)),
    stride=st.tuples(around(8, 256), around(8, 256)),
    dilation=st.sampled_from([1, 2, 32]),
    padding=st.tuples(*[st.sampled_from([0, 14, 15])] * 1, st.sampled_from([0, 255, 256]), st.sampled_from([0, 15, 16]),
                      st.sampled_from([0, 255])),
    channels=st.sampled_from([1, 8, 16, 128, 129, 1024, 4097]),
)  # fmt: skip
@settings(deadline=None, max_examples=400)
def test_depthwise_convolutions_and_pools(
    size: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: int,
    padding: tuple[int, int, int, int],
    channels: int,
) -> None:
    left, right, top, bottom = padding
    height, width = side(kernel[0], dilation, stride[0]), side(kernel[1], dilation, stride[1])

    def shape(spread: int) -> tuple[int, int, int]:
        return (
            window_output(height, top + bottom, kernel[0], stride[0], spread),
            window_output(width, left + right, kernel[1], stride[1], spread),
            channels,
        )

    image = (height, width, channels)
    depthwise = Depthwise(
        name="dw", inputs=("image",), shape=shape(dilation), kernel=kernel, stride=stride, dilation=(dilation, dilation),
        padding=padding,
    )  # fmt: skip
    pool = Pool(name="pool", inputs=("image",), shape=shape(1), kind="max", kernel=kernel, stride=stride, padding=padding)

    c = CHANNELS[size]
    window = all(1 <= length <= 256 for length in (*kernel, *stride))
    window = window and left <= 15 and top <= 15 and right <= 255 and bottom <= 255
    assert breaks(size, graph(pool, image)) is not window
    # the weights of the channels that are done at a time; AMD runs 5 x 5 on 1,536 channels
    weights = kernel[0] * kernel[1] <= 2048 and dilation * channels <= 256 * c
    assert breaks(size, graph(depthwise, image)) is not (window and weights)


@given(SIZES, st.integers(1, 18), st.integers(1, 18), st.sampled_from([1, 3, 64, 512, 2048, 2049, 4096, 4097]), around(4096))
@settings(deadline=None, max_examples=200)
def test_linear_layers_are_1x1_convolutions_or_of_the_image_that_was_flattened(
    size: str, height: int, width: int, channels: int, outputs: int
) -> None:
    features = height * width * channels
    nodes = (
        Input(name="image", inputs=(), shape=(height, width, channels)),
        Reshape(name="flat", inputs=("image",), shape=(features,)),
        Activation(name="relu", inputs=("flat",), shape=(features,), activation="relu"),
        Linear(name="fc", inputs=("relu",), shape=(outputs,)),
    )
    c = CHANNELS[size]
    as_pixel = math.ceil(features / c) <= 2048 and features <= 256 * c
    as_window = height <= 16 and width <= 16 and height * width * math.ceil(channels / c) <= 2048 and channels <= 256 * c
    allowed = (as_pixel or as_window) and outputs <= 256 * c
    found = [violation for violation in DPUS[size].violations(Graph("net", nodes)) if violation.layer == "fc"]
    assert bool(found) is not allowed


@pytest.mark.parametrize(
    ("kind", "activation", "accepted"),
    [
        ("conv", "relu6", True),
        ("conv", "leaky_relu", True),
        ("linear", "leaky_relu", True),
        ("depthwise", "relu6", True),
        ("depthwise", "leaky_relu", False),
        ("add", "relu", True),
        ("add", "relu6", False),
        ("add", "leaky_relu", False),
    ],
)
@pytest.mark.parametrize("size", sorted(CHANNELS))
def test_activations(size: str, kind: str, activation: ActivationKind, accepted: bool) -> None:
    nodes: dict[str, Node] = {
        "conv": Conv(name="it", inputs=("image",), shape=(4, 4, 8), kernel=(1, 1), activation=activation),
        "depthwise": Depthwise(name="it", inputs=("image",), shape=(4, 4, 8), kernel=(1, 1), activation=activation),
        "linear": Linear(name="it", inputs=("image",), shape=(4,), activation=activation),
        "add": Add(name="it", inputs=("image", "image"), shape=(4, 4, 8), activation=activation),
    }
    assert breaks(size, graph(nodes[kind], (8,) if kind == "linear" else (4, 4, 8))) is not accepted


def test_the_fingerprint_says_what_follows_a_convolution() -> None:
    b4096 = DPUS["B4096"]
    node = Conv(name="it", inputs=("image",), shape=(4, 4, 8), kernel=(1, 1), activation="leaky_relu")
    without = b4096.model_copy(update={"fingerprint": b4096.fingerprint & ~(1 << 28)})
    assert [violation.given for violation in without.violations(graph(node, (4, 4, 8)))] == ["leaky ReLU behind a convolution"]
    depthwise = Depthwise(name="it", inputs=("image",), shape=(4, 4, 8), kernel=(1, 1), activation="leaky_relu")
    with_leaky = b4096.model_copy(update={"fingerprint": b4096.fingerprint | 1 << 29})
    assert with_leaky.violations(graph(depthwise, (4, 4, 8))) == ()


@pytest.mark.parametrize(("axis", "accepted"), [(0, False), (1, False), (2, True)])
def test_concatenations(axis: int, accepted: bool) -> None:
    shape = [4, 4, 8]
    shape[axis] *= 2
    node = Concat(name="cat", inputs=("image", "image"), shape=tuple(shape), axis=axis)
    assert breaks("B4096", graph(node, (4, 4, 8))) is not accepted


def test_a_pixel_lies_in_one_bank() -> None:
    node = Concat(name="cat", inputs=("image",) * 3, shape=(1, 1, 3 * 12_000))
    (violation,) = DPUS["B4096"].violations(graph(node, (1, 1, 12_000)))
    assert str(violation) == "36000 channels take 2250 words a pixel; a bank of B4096 has 2048; use fewer channels"


@pytest.mark.parametrize(("side", "told"), [(256, 0), (257, 1)])
def test_a_pool_over_the_whole_image_is_told_once_and_what_to_do(side: int, told: int) -> None:
    whole = Pool(
        name="pool", inputs=("image",), shape=(1, 1, 4), kind="avg", kernel=(3, side), stride=(3, side), is_global=True
    )  # fmt: skip
    found = DPUS["B4096"].violations(graph(whole, (3, side, 4)))
    assert len(found) == told
    assert all("pool in two steps, or make the image smaller before" in str(each) for each in found)


def test_a_stride_that_somebody_chose_is_told_beside_one_position() -> None:
    strided = Pool(name="pool", inputs=("image",), shape=(1, 1, 4), kind="max", kernel=(3, 3), stride=(300, 1))
    (found,) = DPUS["B4096"].violations(graph(strided, (3, 3, 4)))
    assert str(found).startswith("stride (300, 1)")
