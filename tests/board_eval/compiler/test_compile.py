from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler import Compiled, compile_graph, write_file
from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import Activation, Graph, without_weights
from edgesearch.board_eval.isa import MAX_TOKENS, ConvInit, Instruction, Load, Save, decode
from edgesearch.board_eval.targets import DPUS, Dpu, load_profile
from edgesearch.board_eval.timing import code_cycles, run_code, time_graph
from edgesearch.board_eval.xmodel import read_compiled, read_compiled_graph
from edgesearch.errors import CompileError, EdgesearchError

from .._networks import Net, residual_net
from ._quantized import Quantized
from ._running import (
    EVERYTHING,
    KINDS,
    assert_right,
    compiled_or_refused,
    differing,
    extreme_network,
    faults,
    quantized,
    random_images,
    random_network,
    register_sizes,
)

SIZES = sorted(DPUS)
PROFILE = load_profile("zcu104")

SLOW = ["large", "many channels"]


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_give_their_integers(seed: int) -> None:
    assert_right(random_network(seed, largest=24), "B4096", seed=seed, images=2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(100, 105))
def test_random_networks_give_their_integers_on_every_size(size: str, seed: int) -> None:
    assert_right(random_network(seed, largest=24), size, seed=seed)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SLOW])
@pytest.mark.parametrize("size", ["B512", "B1600", "B4096"])
def test_networks_of_extreme_shapes_give_their_integers(kind: str, size: str) -> None:
    seed = list(KINDS).index(kind) + len(KINDS) * SIZES.index(size)
    assert_right(extreme_network(seed), size, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["B512", "B4096"])
@pytest.mark.parametrize("kind", SLOW)
def test_large_networks_give_their_integers(kind: str, size: str) -> None:
    assert_right(extreme_network(list(KINDS).index(kind)), size)


def test_networks_of_every_kind_of_node_give_their_integers_or_are_refused(
    random_networks: st.SearchStrategy[tuple[Graph, np.ndarray]],
) -> None:
    @given(random_networks, st.sampled_from(SIZES))
    @settings(deadline=None, max_examples=60)
    def check(network: tuple[Graph, np.ndarray], size: str) -> None:
        graph, images = network
        try:
            execute(graph, images)
        except EdgesearchError:
            assume(False)
        compiled = compiled_or_refused(graph, size)
        if isinstance(compiled, str):
            assert graph.bits != 8 or any(repr(node.name)[:-1] in compiled for node in graph)
            return
        assert faults(compiled) == ()
        assert differing(compiled, images) == 0

    check()


@pytest.mark.parametrize("size", ["B1024", "B4096"])
def test_a_residual_network_with_every_kind_of_layer_gives_its_integers(size: str) -> None:
    assert_right(quantized(residual_net(36, (24, 40, 50))), size)


# -- what went wrong once


def test_a_first_layer_whose_window_is_wider_than_the_image() -> None:
    for kernel, pads, width in (((3, 5), (2, 2, 1, 1), 2), ((2, 13), (12, 7, 0, 1), 6), ((3, 3), (2, 2, 1, 1), 1)):
        net = Quantized(9, width, 1 if kernel[1] > 5 else 3)
        net.conv("image", 9, kernel, padding=pads, fix=1)
        assert_right(net.graph(), "B1600")


def test_rows_longer_than_the_columns_of_one_instruction() -> None:
    net = Quantized(2, 1900, 3)
    net.pool(net.conv(net.conv("image", 8, fix=2), 8, (1, 3), fix=1), "max", (1, 3), fix=1)
    assert_right(net.graph())


@pytest.mark.parametrize("pad", [0, 3, 12])
def test_kernels_that_leave_the_rounds_of_the_banks_take_fewer_rows_at_a_time(pad: int) -> None:
    net = Quantized(30, 8, 3)
    net.conv(net.conv("image", 5, (13, 3), padding=(1, 1, pad, pad), fix=1), 5, (12, 1), fix=-1)
    assert_right(net.graph(), "B512")


def test_rows_that_lie_two_to_a_bank_are_written_one_at_a_time() -> None:
    net = Quantized(30, 8, 3)
    tall = net.conv("image", 5, (13, 3), padding=(1, 1, 7, 5), fix=1)
    net.conv(tall, 5, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), fix=-1)
    compiled = assert_right(net.graph(), "B512")
    assert [one.output.rows.stride for one in compiled.plan.layers] == [2, 1]
    assert {one.stride_offset_out for one in compiled.program if isinstance(one, ConvInit)} == {0, 1}


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_dpus_whose_alu_does_other_numbers_of_rows(rows: int) -> None:
    plain = DPUS["B4096"]
    target = Dpu.model_validate({**plain.model_dump(), "fingerprint": plain.fingerprint & ~(15 << 8) | rows << 8})
    for seed in (7, 11, 26, 111):
        graph = random_network(seed)
        compiled = compile_graph(graph, target, EVERYTHING)
        assert faults(compiled) == ()
        assert differing(compiled, random_images(graph, 1, seed), seed) == 0


@pytest.mark.parametrize("rows", [14, 16])
def test_a_kernel_that_no_instruction_reaches_is_refused(rows: int) -> None:
    net = Quantized(30, 8, 3)
    net.conv("image", 5, (rows, 3))
    with pytest.raises(CompileError, match=f"layer 'conv1': a window of {rows} rows with stride 1;.* reads (13|14|15) rows"):
        compile_graph(net.graph(), DPUS["B512"])
    assert_right(net.graph(), "B4096")


def test_a_single_window_that_begins_in_the_padding() -> None:
    net = Quantized(12, 8, 3)
    net.conv("image", 5, (16, 3), padding=(0, 0, 4, 0), fix=0)
    assert_right(net.graph(), "B512")


@pytest.mark.parametrize("stride", [9, 17])
def test_rows_far_apart_that_lie_on_chip(stride: int) -> None:
    net = Quantized(60, 60, 3)
    thin = net.pool(net.conv("image", 8, fix=2), "max", (1, 1), stride=(stride, stride), fix=2)
    net.conv(thin, 8, fix=0)
    assert_right(net.graph())


def test_pixels_too_far_apart_for_one_load() -> None:
    net = Quantized(2, 201, 700)
    net.pool("image", "max", (1, 1), stride=(1, 100), fix=5)
    assert_right(net.graph())


@pytest.mark.parametrize("channels", [9000, 17_000])
def test_copies_of_many_channels(channels: int) -> None:
    net = Quantized(1, 3, channels)
    net.concat("image", *(["image"] if channels < 10_000 else []), fix=5)
    assert_right(net.graph(), "B1152")


def test_values_under_a_new_shape_in_a_concat() -> None:
    net = Quantized(4, 5, 6)
    first = net.conv("image", 7, fix=3)
    vectors = net.concat(net.reshape(first), net.reshape(first), net.reshape("image"), fix=3)
    net.linear(vectors, 5, fix=1)
    assert_right(net.graph())
    net = Quantized(4, 5, 6)
    turned = net.reshape(net.conv("image", 7, fix=3), 5, 4, 7)
    net.concat(turned, net.conv(turned, 3, fix=3), fix=3)
    assert_right(net.graph())


def test_operands_of_a_sum_under_a_new_shape() -> None:
    net = Quantized(3, 4, 8)
    turned = net.reshape("image", 4, 3, 8)
    net.add(net.conv(turned, 8, fix=2), turned, fix=2)
    assert_right(net.graph())
    net = Quantized(3, 4, 8)
    turned = net.reshape(net.conv("image", 8, fix=3), 4, 3, 8)
    net.add(net.activation(turned, "relu", fix=3), turned, fix=2)
    assert_right(net.graph())


def test_a_sum_of_the_image_and_a_convolution_of_it() -> None:
    net = Quantized(20, 20, 3)
    net.add("image", net.conv("image", 3, (3, 3), padding=(1, 1, 1, 1), fix=2), fix=2)
    assert_right(net.graph())
    net = Quantized(20, 20, 3)
    turned = net.reshape("image", 10, 20, 6)
    net.add(net.conv("image", 6, (2, 1), stride=(2, 1), fix=2), turned, fix=2)
    assert_right(net.graph())


def test_a_sum_of_a_wide_concat_and_a_convolution_of_it() -> None:
    net = Quantized(16, 16, 3)
    wide = net.concat(*(net.conv("image", 128, (3, 3), padding=(1, 1, 1, 1), fix=-1) for _ in range(2)), fix=-1)
    net.add(net.conv(wide, 256, (3, 3), padding=(1, 1, 1, 1), fix=-7), wide, fix=-7)
    assert_right(net.graph())


def test_a_sum_of_a_feature_map_and_a_convolution_with_a_stride() -> None:
    net = Quantized(6, 6, 3)
    first = net.conv("image", 8, fix=2)
    net.add(net.conv(first, 8, (6, 6), stride=(2, 2), padding=(5, 5, 5, 5), fix=0), first, fix=0)
    assert_right(net.graph())


def test_no_more_tokens_wait_than_may() -> None:
    """Rows that go to external memory and come back one by one."""
    seed = 133
    compiled = assert_right(extreme_network(seed), "B2304", seed=seed)
    assert not any(str(MAX_TOKENS) in str(fault) for fault in faults(compiled))


# -- the program


def test_the_same_network_compiles_to_the_same_code() -> None:
    graph = random_network(5)
    a, b = (compile_graph(graph, DPUS["B2304"], EVERYTHING) for _ in range(2))
    assert a.code == b.code
    assert a.parameters == b.parameters


def test_every_instruction_belongs_to_a_layer() -> None:
    compiled = compile_graph(residual_net(32, (16, 40, 64)), DPUS["B4096"])
    assert len(compiled.layer_of) == len(compiled.program)
    assert set(compiled.layer_of) == set(range(len(compiled.plan.layers) + 1))
    assert tuple(decode(compiled.code)) == compiled.program


def test_a_network_of_shapes_has_the_code_of_the_network() -> None:
    graph = random_network(11)
    with_weights = compile_graph(graph, DPUS["B4096"], EVERYTHING)
    shapes = compile_graph(without_weights(graph), DPUS["B4096"], EVERYTHING)
    assert len(shapes.program) == len(with_weights.program)
    assert shapes.time(PROFILE).dpu_s == pytest.approx(with_weights.time(PROFILE).dpu_s)
    bare = graph.map(
        lambda node: dataclasses.replace(
            node,
            fix=None,
            **({} if not hasattr(node, "weight") else {"weight": None, "bias": None, "weight_fix": None, "bias_fix": None}),
        )
    )
    assert compile_graph(bare, DPUS["B4096"], EVERYTHING).time(PROFILE).dpu_s > 0


def test_its_time_is_near_what_the_schedule_says() -> None:
    for size, widths in ((32, (64, 128, 256)), (112, (32, 64, 128))):
        graph = residual_net(size, widths)
        compiled = compile_graph(graph, PROFILE.dpu, constants=PROFILE.constants).time(PROFILE).dpu_s
        assert compiled <= 1.05 * time_graph(graph, PROFILE).dpu_s


# -- files


@pytest.mark.parametrize("seed", range(12))
def test_the_file_holds_the_code_and_the_network(seed: int, tmp_path: Path) -> None:
    size = SIZES[seed % len(SIZES)]
    graph = random_network(seed, largest=20)
    compiled = compile_graph(graph, DPUS[size], EVERYTHING)
    write_file(compiled, tmp_path / "net.xmodel")
    model = read_compiled(tmp_path / "net.xmodel")
    assert model.code == compiled.code
    assert model.fingerprint == DPUS[size].fingerprint
    assert model.registers[0].parameters == compiled.parameters
    assert all(model.registers[number].size >= size for number, size in register_sizes(compiled).items())
    again = read_compiled_graph(tmp_path / "net.xmodel")
    images = random_images(graph, 2, seed)
    assert np.array_equal(execute(again, images).reshape(2, -1), execute(graph, images).reshape(2, -1))


def test_code_without_weights_is_not_written(tmp_path: Path) -> None:
    compiled = compile_graph(residual_net(16, (16, 16, 16)), DPUS["B4096"])
    with pytest.raises(CompileError, match="network 'net' has no weights: its code can be timed, not run"):
        write_file(compiled, tmp_path / "net.xmodel")
    assert not list(tmp_path.iterdir())


# -- beside AMD's compiler


def moved(program: tuple[Instruction, ...]) -> int:
    return sum(one.length * one.channel for one in program if isinstance(one, Load | Save))


def cycles(program: tuple[Instruction, ...]) -> float:
    return max(run_code(program, code_cycles(program, PROFILE.constants, PROFILE.dpu))[0])


def beside_amd(path: Path) -> tuple[Compiled, tuple[Instruction, ...]]:
    return compile_graph(read_compiled_graph(path), PROFILE.dpu), decode(read_compiled(path).code)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SqueezeNet_ptq_zcu104", "MobileNetV2_ptq_zcu104", "ResNet50_095_zcu104"])
def test_code_is_not_slower_than_that_of_amds_compiler(name: str, reference_data: Path) -> None:
    ours, theirs = beside_amd(reference_data / "compiled" / f"{name}.xmodel")
    assert cycles(ours.program) <= 1.02 * cycles(theirs)
    assert moved(ours.program) <= 1.05 * moved(theirs)
    assert faults(ours) == ()
    assert differing(ours, random_images(ours.source)) == 0


@pytest.mark.parametrize("name", ["tiny", "resnet20", "squeezenet"])
def test_golden_networks_give_the_logits_of_amds_tools(name: str, golden: object) -> None:
    from ..conftest import Golden

    network = golden(name)  # type: ignore[operator]
    assert isinstance(network.graph, Graph), Golden
    compiled = compile_graph(network.graph, DPUS["B4096"])
    fix = network.graph.input.fix or 0
    images = np.clip(np.floor(np.ldexp(network.images[:2], fix) + 0.5), -128, 127).astype(np.int8)
    assert faults(compiled) == ()
    assert differing(compiled, images) == 0
    assert np.array_equal(
        execute(network.graph, images).reshape(len(images), -1), network.logits[: len(images)].reshape(len(images), -1)
    )


def test_activations_alone_are_layers_too() -> None:
    net = Quantized(5, 5, 20)
    net.activation("image", "relu", fix=4)
    compiled = assert_right(net.graph())
    assert isinstance(compiled.plan.layers[0].main, Activation)


@pytest.mark.parametrize("tries", [0, 40])
def test_a_layer_that_reads_a_concat_stays_behind_the_parts_of_it(tries: int) -> None:
    """Branches that read one feature map change places, but not with what makes a part of the concat that they add."""
    net = Quantized(9, 9, 6)
    x = net.conv("image", 16, fix=2)
    parts = [net.conv(x, 8, (5, 5), padding=(2, 2, 2, 2), fix=0), net.conv(x, 8, (3, 3), padding=(1, 1, 1, 1), fix=0)]
    both = net.concat(*parts, fix=0)
    net.add(net.conv(x, 16, fix=0), both, fix=0)
    compiled = compile_graph(net.graph(), DPUS["B4096"], dataclasses.replace(EVERYTHING, tries=tries))
    assert faults(compiled) == ()
    assert differing(compiled, random_images(net.graph())) == 0


def test_a_layer_of_many_tiles_loads_its_parameters_once() -> None:
    """Loaded for every tile, the biases behind it would go round their bank and over those of the convolution."""
    net = Net(1, 4500, 16)
    net.depthwise(net.conv("image", 512, k=1), k=1)
    compiled = assert_right(quantized(net.graph()))
    (layer,) = compiled.plan.layers
    assert len(layer.tiles) * len(layer.blocks[0]) > compiled.target.bank_words
    banks = compiled.target.feature_groups * compiled.target.pixel_parallel + compiled.target.output_parallel + 2
    biases = [one for one in compiled.program if isinstance(one, Load) and one.bank_id == banks - 1]
    assert len(biases) == 2 * len(layer.blocks)
