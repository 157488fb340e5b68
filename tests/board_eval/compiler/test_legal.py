from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval import board_timing
from edgesearch.board_eval.compiler import compile_graph, legal
from edgesearch.board_eval.compiler._legal import mean_factor
from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import Activation, Concat, Conv, Depthwise, Graph, Input, Pool, Reshape, without_weights
from edgesearch.board_eval.targets import DPUS, load_profile
from edgesearch.errors import CompileError, QuantizationError

from ._quantized import Quantized
from ._running import assert_right, differing, random_images, random_network, same_network

TARGET = DPUS["B4096"]
POSITIONS = st.integers(-1, 9)


def assert_legal(graph: Graph, *, relu6: bool = False) -> Graph:
    """The rewritten network, which gives what the network gave."""
    made = legal(graph, TARGET, relu6=relu6)
    assert same_network(graph, made)
    return made


def time_compiled(graph: Graph) -> None:
    """What an estimate, before any training, and `edgesearch inspect` do."""
    board_timing(graph, load_profile("zcu104"), compiler="edgesearch", layers=False)


def kinds(graph: Graph) -> list[str]:
    return [type(node).__name__ for node in graph]


@pytest.mark.parametrize("seed", range(120))
def test_a_legal_network_is_the_same_network(seed: int) -> None:
    assert_legal(random_network(seed, largest=12), relu6=bool(seed % 2))


def test_a_legal_network_of_every_kind_of_node_is_the_same_network(
    random_networks: st.SearchStrategy[tuple[Graph, np.ndarray]],
) -> None:
    @given(random_networks)
    @settings(deadline=None, max_examples=80)
    def check(network: tuple[Graph, np.ndarray]) -> None:
        graph, images = network
        assume(graph.bits == 8)
        try:
            expected = execute(graph, images)
            made = legal(graph, TARGET)
        except (CompileError, QuantizationError):
            assume(False)
        assert np.array_equal(execute(made, images), expected)

    check()


# -- each by its name


@given(st.tuples(*[st.integers(1, 3)] * 4), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_dilation_becomes_zeros_between_the_taps(sizes: tuple[int, ...], depthwise: bool, seed: int) -> None:
    net = Quantized(9, 8, 3, seed=seed)
    options = {"dilation": sizes[2:], "padding": (1, 0, 0, 1), "fix": 1}
    name = net.depthwise("image", sizes[:2], **options) if depthwise else net.conv("image", 5, sizes[:2], **options)
    made = assert_legal(net.graph()).by_name[name]
    assert isinstance(made, Conv | Depthwise)
    assert made.dilation == (1, 1)
    assert made.kernel == tuple((k - 1) * d + 1 for k, d in zip(sizes[:2], sizes[2:], strict=True))


def test_a_dilated_kernel_that_spans_too_much_is_refused() -> None:
    net = Quantized(40, 40, 3)
    net.conv("image", 5, (5, 5), dilation=(4, 4))
    with pytest.raises(CompileError, match=r"layer 'conv1': kernel \(5, 5\) with dilation \(4, 4\) spans \(17, 17\).*up to 16"):
        legal(net.graph(), TARGET)


@pytest.mark.parametrize(("channels", "dilation", "words"), [(256, 6, 2704), (512, 4, 2592), (128, 7, 1800), (416, 4, 2106)])
def test_a_dilated_kernel_that_overflows_the_weight_bank_is_refused_before_it_is_timed(
    channels: int, dilation: int, words: int
) -> None:
    """The DPU's limits count the taps alone; this compiler writes zeros between them."""
    pad = (dilation,) * 4
    conv = Conv(name="it", inputs=("x",), shape=(20, 20, 16), kernel=(3, 3), dilation=(dilation, dilation), padding=pad)
    graph = Graph("net", (Input(name="x", inputs=(), shape=(20, 20, channels)), conv))
    assert TARGET.violations(graph) == ()
    if words <= 2048:
        time_compiled(graph)
        return
    with pytest.raises(CompileError, match=rf"layer 'it': kernel \(3, 3\) with dilation .*: {words} words .* B4096 has 2048"):
        time_compiled(graph)


def test_a_dilated_depthwise_kernel_that_overflows_the_weight_bank_is_refused() -> None:
    net = Quantized(60, 60, 3)
    net.depthwise("image", (3, 3), dilation=(23, 23))
    with pytest.raises(CompileError, match=r"layer 'dw1': .* is written as 47 x 47 taps.*: 2209 words"):
        legal(net.graph(), TARGET)


@pytest.mark.parametrize(
    ("kernel", "pad", "stride", "fits"), [(1, 1, 1, False), (3, 4, 1, False), (3, 2, 1, True), (3, 3, 2, True)]
)
def test_depthwise_padding_that_holds_a_whole_window_is_refused_by_its_name(
    kernel: int, pad: int, stride: int, fits: bool
) -> None:
    net = Quantized(8, 8, 16)
    net.depthwise("image", (kernel, kernel), padding=(pad,) * 4, stride=(stride, stride))
    if fits:
        assert_right(net.graph())
        return
    with pytest.raises(
        CompileError, match=rf"layer 'dw1': padding \({pad}, .*pad with at most {kernel - 1} to the left and right"
    ):
        compile_graph(net.graph(), TARGET)


@pytest.mark.parametrize("kind", ["relu", "relu6"])
@pytest.mark.parametrize("several", [False, True])
def test_an_activation_between_a_flatten_and_a_linear_layer_of_many_features_is_done_on_the_image(
    kind: str, several: bool
) -> None:
    net = Quantized(16, 15, 20)
    x = net.activation(net.reshape("image"), kind)
    if several:
        x = net.activation(x, "relu")
    net.linear(x, 5, fix=1)
    graph = net.graph()
    assert "Conv" in kinds(assert_legal(graph))
    assert_right(graph)


def test_an_activation_of_a_flattened_image_of_few_features_stays_behind_the_flatten() -> None:
    net = Quantized(4, 5, 20)
    net.linear(net.activation(net.reshape("image"), "relu"), 5, fix=1)
    assert kinds(assert_legal(net.graph())) == ["Input", "Reshape", "Activation", "Linear"]


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 3, 20), (1, 1, 40), (17, 2, 3)])
def test_a_linear_layer_on_an_image_is_a_convolution_of_it_where_a_kernel_is_large_enough(shape: tuple[int, int, int]) -> None:
    net = Quantized(*shape)
    net.linear(net.reshape("image"), 7, fix=1)
    made = assert_legal(net.graph())
    assert ("Conv" in kinds(made)) == (shape in ((4, 5, 6), (1, 3, 20)))


@pytest.mark.parametrize(
    ("kernel", "ratio"),
    [
        ((11, 11), (135, 14)),
        ((3, 2), (171, 10)),
        ((3, 2), (85, 9)),
        ((16, 3), (171, 13)),
        ((2, 2), (253, 10)),
        ((2, 2), (1, 2)),
    ],
)
def test_averages_with_large_factors_become_convolutions_of_the_image_beside_itself(
    kernel: tuple[int, int], ratio: tuple[int, int]
) -> None:
    """A factor of 8 bits is read as a signed number."""
    net = Quantized(17, 18, 5)
    name = net.pool("image", "avg", kernel, fix=6, padding=(1, 0, 0, 1))
    net.change(name, factor=kernel[0] * kernel[1] * ratio[0] / 2 ** ratio[1])
    pool = net.node(name)
    assert isinstance(pool, Pool)
    assert mean_factor(pool) == ratio
    made = assert_legal(net.graph())
    assert isinstance(made.by_name[name], Conv if ratio[0] > 127 else Pool)


def test_an_average_that_is_none_of_the_hardware_is_refused() -> None:
    net = Quantized(17, 18, 5)
    net.change(net.pool("image", "avg", (3, 3)), factor=1.0)
    with pytest.raises(CompileError, match=r"layer 'pool1' averages with the factor 1.0, which is not k \* m / 2\*\*s"):
        legal(net.graph(), TARGET)


@pytest.mark.parametrize(("kernel", "ratio"), [((28, 28), (167, 17)), ((2, 2), (255, 10)), ((2, 2), (1001, 12))])
def test_a_large_factor_that_no_convolution_does_is_refused(kernel: tuple[int, int], ratio: tuple[int, int]) -> None:
    net = Quantized(28, 28, 5)
    name = net.pool("image", "avg", kernel)
    net.change(name, factor=kernel[0] * kernel[1] * ratio[0] / 2 ** ratio[1])
    with pytest.raises(CompileError, match=f"layer 'pool1' averages {kernel[0]} x {kernel[1]} pixels.*times {ratio[0]} / 2"):
        legal(net.graph(), TARGET)


@given(POSITIONS, POSITIONS, POSITIONS, st.sampled_from(["none", "relu"]), st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_sums_of_operands_at_any_positions(a: int, b: int, out: int, activation: str, seed: int) -> None:
    """The elementwise engine keeps two bits below the finer operand, so it is told apart by executing what it would do."""
    net = Quantized(6, 7, 8, seed=seed)
    net.add(net.conv("image", 6, fix=a, bias_fix=a), net.conv("image", 6, fix=b, bias_fix=b), fix=out, activation=activation)
    made = assert_legal(net.graph())
    add = made.output
    fixes = [made.fix_of(name) for name in add.inputs]
    assert add.fix is not None
    low = min(fix for fix in fixes if fix is not None)
    values = [np.arange(-128, 128)[:, None], np.arange(-128, 128)[None, :]]
    kept = sum(np.floor(4 * value / 2.0 ** (fix - low)) for value, fix in zip(values, fixes, strict=True))
    exact = sum(value * 2.0**-fix for value, fix in zip(values, fixes, strict=True)) * 2.0**add.fix
    engine = np.clip(np.floor(kept / 4 * 2.0 ** (add.fix - low) + 0.5), -128, 127)
    assert np.array_equal(engine, np.clip(np.floor(exact + 0.5), -128, 127))


@pytest.mark.parametrize("fix", range(-3, 8))
@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear", "activation"])
@pytest.mark.parametrize("relu6", [False, True])
def test_relu6_at_every_position(fix: int, kind: str, relu6: bool) -> None:
    net = Quantized(5, 5, 6, fix=fix)
    match kind:
        case "conv":
            net.conv("image", 4, fix=fix, activation="relu6", weight_fix=7, bias_fix=fix)
        case "depthwise":
            net.depthwise("image", (2, 2), fix=fix, activation="relu6", weight_fix=7, bias_fix=fix)
        case "linear":
            net.linear(net.reshape("image"), 9, fix=fix, activation="relu6")
        case _:
            net.activation("image", "relu6", fix=fix)
    made = assert_legal(net.graph(), relu6=relu6)
    clipped = [node for node in made if getattr(node, "activation", "") == "relu6"]
    assert bool(clipped) == (relu6 and fix == 4 and kind != "activation")


def test_parts_of_a_concat_with_other_positions_pass_through_a_copy() -> None:
    net = Quantized(5, 5, 6)
    net.concat(net.conv("image", 4, fix=3), net.conv("image", 4, fix=5), "image", fix=3)
    made = assert_legal(net.graph())
    assert isinstance(made.output, Concat)
    assert {made.fix_of(name) for name in made.output.inputs} == {3}
    assert kinds(made).count("Activation") == 2


def test_what_concats_round_is_made_once_for_each_of_their_positions() -> None:
    net = Quantized(5, 5, 6)
    first = net.conv("image", 4)
    net.change(first, fix=None)
    a, b = net.concat(first, "image", fix=2), net.concat(first, "image", fix=4)
    net.add(a, b)
    made = assert_legal(net.graph())
    assert kinds(made).count("Conv") == 2
    assert all(node.fix is not None for node in made if not isinstance(node, Reshape))


def test_what_is_reshaped_and_joined_is_copied_before() -> None:
    net = Quantized(4, 5, 6)
    first = net.conv("image", 7)
    net.concat(first, net.conv("image", 2), fix=3)
    net.concat(net.reshape(first), net.reshape(net.nodes[-1].name), fix=3)
    made = assert_legal(net.graph())
    for reshape in [node for node in made if isinstance(node, Reshape)]:
        readers = made.consumers[reshape.inputs[0]]
        assert not any(isinstance(reader, Concat) for reader in readers)


@pytest.mark.parametrize("shape", [(280,), (20, 2, 7), (1, 1, 280)])
def test_parts_under_a_new_shape_pass_through_a_copy(shape: tuple[int, ...]) -> None:
    net = Quantized(5, 8, 6)
    reshaped = net.reshape(net.conv("image", 7, fix=3), *shape)
    net.concat(reshaped, reshaped, fix=3)
    made = assert_legal(net.graph())
    assert isinstance(made.output, Concat)
    assert all(isinstance(made.by_name[name], Activation) for name in made.output.inputs)


def test_nodes_that_nobody_reads_are_left_out() -> None:
    net = Quantized(4, 4, 3)
    net.conv("image", 9)
    net.conv("image", 8)
    assert [node.name for node in assert_legal(net.graph())] == ["image", "conv2"]


def test_chains_of_reshapes_may_pass_through_any_shape() -> None:
    net = Quantized(4, 5, 6)
    net.linear(net.reshape(net.reshape(net.reshape("image", 20, 6), 2, 60), 120), 4)
    assert kinds(assert_legal(net.graph())).count("Reshape") == 1


# -- what is refused


def test_a_result_of_another_rank_is_refused() -> None:
    net = Quantized(4, 5, 6)
    net.conv("image", 6)
    net.reshape("conv1", 20, 6)
    with pytest.raises(CompileError, match=r"layer 'shape2' has the shape \(20, 6\)"):
        legal(net.graph(), TARGET)


def test_other_bits_are_refused() -> None:
    net = Quantized(4, 5, 6)
    net.conv("image", 6)
    with pytest.raises(CompileError, match="network 'quantized' has integers of 5 bits, the DPU's have 8: quantize it"):
        legal(Graph("quantized", tuple(net.nodes), 5), TARGET)


def test_weights_without_positions_are_refused_in_one_sentence() -> None:
    net = Quantized(4, 5, 6)
    net.conv("image", 6)
    unquantized = net.graph().map(lambda node: dataclasses.replace(node, fix=None))
    with pytest.raises(CompileError, match="network 'quantized' has weights and is not quantized: quantize it"):
        legal(unquantized, TARGET)


def test_weights_of_some_layers_are_refused() -> None:
    net = Quantized(4, 5, 6)
    net.conv(net.conv("image", 6), 6)
    net.change("conv2", weight=None, bias=None)
    with pytest.raises(CompileError, match="layer 'conv2' has no weights, other layers have"):
        legal(net.graph(), TARGET)


@pytest.mark.parametrize("seed", range(12))
def test_a_network_of_shapes_is_rewritten_too(seed: int) -> None:
    graph = without_weights(random_network(seed))
    assert [node.name for node in legal(graph, TARGET)]
    bare = graph.map(
        lambda node: dataclasses.replace(
            node, fix=None, **({"weight_fix": None, "bias_fix": None} if isinstance(node, Conv | Depthwise) else {})
        )
    )
    assert legal(bare, TARGET).output.shape == graph.output.shape


def test_a_part_of_a_concat_that_is_flattened_there_and_reshaped_elsewhere_is_copied() -> None:
    network = Quantized(4, 4, 3)
    x = network.pool(network.conv("image", 64, (3, 3), padding=(1, 1, 1, 1)), "avg", (4, 4), fix=4)
    joined = network.reshape(x, 64)
    other = network.reshape(network.conv(network.reshape(x, 4, 4, 4), 8, (4, 4), fix=4), 8)
    network.linear(network.concat(joined, other, fix=4), 10)
    assert_right(network.graph())


def test_an_alu_of_as_many_rows_as_convolutions_have_computes_sums_of_concats_in_front_of_a_stride() -> None:
    wide = TARGET.model_copy(update={"fingerprint": TARGET.fingerprint & ~0xF00 | 8 << 8})
    assert wide.alu_rows == wide.pixel_parallel == 8
    network = Quantized(16, 68, 3)
    parts = [network.conv("image", 64) for _ in range(4)]
    total = network.add(network.concat(*parts[:2]), network.concat(*parts[2:]))
    network.conv(total, 8, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    graph = network.graph()
    assert differing(compile_graph(graph, wide), random_images(graph, 2, 0), 0) == 0
