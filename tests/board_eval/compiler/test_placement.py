from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgesearch.board_eval.compiler import legal
from edgesearch.board_eval.compiler._buffers import cuts, ring
from edgesearch.board_eval.compiler._placement import Choices, place
from edgesearch.board_eval.compiler._plan import LayerPlan, Plan
from edgesearch.board_eval.compiler._prepare import Prepared
from edgesearch.board_eval.compiler._rows import Rows
from edgesearch.board_eval.compiler._sequence import reads
from edgesearch.board_eval.graph import Conv, Graph, without_weights
from edgesearch.board_eval.targets import DPUS, Dpu
from edgesearch.errors import CompileError

from .._networks import Net, residual_net
from ._quantized import Quantized
from ._running import assert_right, extreme_network, random_network

NETWORKS = [residual_net(32, (16, 40, 64)), residual_net(96, (64, 128, 250)), *(random_network(seed) for seed in range(40))]
NETWORKS += [without_weights(extreme_network(seed)) for seed in range(60)]


def placed(graph: Graph, target: Dpu) -> Plan:
    return place(legal(graph, target), target)


def words(rows: Rows) -> set[tuple[int, int]]:
    """(group, word): all banks of a group are used alike."""
    group = rows.first_bank // rows.banks
    assert rows.first_bank % rows.banks == 0
    assert rows.words <= rows.depth
    return {(group, (rows.address + word) % rows.depth) for word in range(rows.words)}


def live_maps(plan: Plan) -> Iterator[tuple[LayerPlan, dict[str, Rows]]]:
    """Every layer with the feature maps on chip that it must not spoil: made before, and read by it or later."""
    last = {name: i for i, one in enumerate(plan.layers) for name in reads(one.layer)}
    made: dict[str, Rows] = {}
    for i, one in enumerate(plan.layers):
        yield one, {name: rows for name, rows in made.items() if last.get(name, -1) >= i}
        if one.output.external is None:
            made[one.layer.output] = one.output.rows


@pytest.mark.parametrize("number", range(len(NETWORKS)))
def test_live_feature_maps_and_buffers_never_overlap(number: int) -> None:
    target = list(DPUS.values())[number % len(DPUS)]
    try:
        plan = placed(NETWORKS[number], target)
    except CompileError:
        pytest.skip("does not fit")
    for one, maps in live_maps(plan):
        taken = [words(rows) for rows in maps.values()]
        operands = {id(operand): operand for operand in (one.source, one.skip) if operand is not None}
        taken += [words(operand.rows) for operand in operands.values() if operand.external is not None]
        if one.middle is not None:
            taken.append(words(one.middle))
        replaced = one.skip is not None and one.output.external is None and one.output.rows == one.skip.rows
        if not replaced and one.layer.kind != "copy":
            taken.append(words(one.output.rows))
        assert sum(map(len, taken)) == len(set().union(*taken))
        for operand in operands.values():
            if operand.external is None:
                assert maps[operand.name] == operand.rows


@pytest.mark.parametrize("number", range(len(NETWORKS)))
def test_feature_maps_in_external_memory_have_bytes_of_their_own(number: int) -> None:
    target = list(DPUS.values())[number % len(DPUS)]
    try:
        plan = placed(NETWORKS[number], target)
    except CompileError:
        pytest.skip("does not fit")
    sizes = {1: plan.workspace_bytes, 2: plan.input_bytes, 3: plan.output_bytes}
    used = {register: np.zeros(size, np.int32) for register, size in sizes.items()}
    written = {one.output.name: one.output.external for one in plan.layers if one.output.external is not None}
    for view in written.values():
        height, width, channels = view.shape
        rows = view.address + np.arange(height)[:, None, None] * view.row_pitch
        used[view.register][(rows + np.arange(width)[:, None] * view.pixel_pitch + np.arange(channels)).reshape(-1)] += 1
    assert all((register <= 1).all() for register in used.values())
    assert (used[3] == 1).all()
    image = plan.external[plan.graph.input.name]
    assert image.register == 2
    assert image.address + np.prod(image.shape) <= plan.input_bytes


def test_all_stays_on_chip_while_there_is_room() -> None:
    plan = placed(residual_net(16, (16, 16, 16)), DPUS["B4096"])
    kept = {one.output.name for one in plan.layers if one.output.external is None}
    assert {one.output.name for one in plan.layers} - kept == {
        name for name in plan.external if any(name == one.output.name for one in plan.layers)
    }
    assert len(kept) >= 4


def test_the_largest_feature_map_goes_to_external_memory_where_banks_are_full() -> None:
    net = Net(8, 8, 16)
    small = net.conv("image", 16, 1)
    large = net.conv(small, 3000, 1)
    net.add(net.conv(net.conv(large, 3000, 1), 3000, 1), large)
    plan = placed(net.graph(), DPUS["B512"])
    assert large in plan.external
    assert small in plan.on_chip


def test_feature_maps_are_put_outside_where_that_is_asked_for() -> None:
    graph, target = residual_net(16, (16, 16, 16)), DPUS["B4096"]
    inside = placed(graph, target)
    name = next(one.output.name for one in inside.layers if one.output.external is None)
    outside = place(legal(graph, target), target, Choices(outside=frozenset([name])))
    assert name in inside.on_chip
    assert name in outside.external
    assert name not in outside.on_chip


def test_a_feature_map_that_is_read_with_and_without_a_stride_stays_on_chip() -> None:
    """The strided reader reads a thinned copy."""
    net = Quantized(16, 16, 3)
    first = net.conv("image", 16, fix=2)
    wide = net.conv(net.conv(first, 16, fix=0), 32, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), fix=-2)
    net.add(wide, net.conv(first, 32, stride=(2, 2), fix=-2), fix=-2)
    plan = assert_right(net.graph()).plan
    assert {first, f"{first}/every2x2"} <= plan.on_chip.keys()


def test_what_cannot_be_placed_is_named() -> None:
    """Rows of 8 columns of 17 words, 8 to a bank, twice round the banks: 2,176 words and nowhere to cut."""
    net = Net(60, 8, 136)
    net.put(Conv(name="tall", inputs=("image",), shape=(6, 1, 9), kernel=(15, 8), stride=(8, 1)))
    with pytest.raises(CompileError, match=r"layer 'tall' needs \d+ words of every bank .* B512 has 2 x 2048"):
        placed(net.graph(), DPUS["B512"])


# -- cuts and rings


def test_a_layer_is_cut_least_first_and_at_last_into_single_columns_and_channels() -> None:
    prepared = Prepared(residual_net(40, (64, 128, 250)), DPUS["B4096"])
    for layer in prepared.layers:
        found = list(cuts(layer, prepared, reloads=True))
        pieces = [len(cut.tiles) * len(cut.blocks) for cut in found]
        assert pieces[0] <= 2
        assert len(found[-1].tiles) == layer.out_shape[1]
        assert all(len(block) == 1 for block in found[-1].blocks)
        for cut in found:
            groups = [group for block in cut.blocks for group in block]
            assert groups == list(range(-(-layer.out_shape[2] // 16)))


@pytest.mark.parametrize("size", ["B512", "B4096"])
def test_a_ring_holds_whole_rounds_and_no_more_rows_than_there_are(size: str) -> None:
    target = DPUS[size]
    for rows in range(1, 40):
        for stride in (1, 2, 3):
            found = ring(rows, 12, stride, 5, 2, target)
            assert found.capacity >= min(rows, 12)
            assert found.capacity % (target.pixel_parallel * stride) == 0
            smaller = found.capacity - target.pixel_parallel * stride
            assert smaller < min(rows, 12)


# -- layers as they are written


def test_a_window_that_steps_too_far_is_not_fused_behind_its_convolution() -> None:
    for stride, together in ((2, True), (3, False)):
        net = Net(40, 40, 3)
        net.pool(net.conv("image", 16), "max", 3, stride)
        prepared = Prepared(net.graph(), DPUS["B4096"])
        assert [len(layer.nodes) for layer in prepared.layers] == ([2] if together else [1, 1])
        assert prepared.layers[-1].output == "pool2"


def test_rows_lie_as_their_readers_want_them() -> None:
    net = Net(40, 40, 3)
    first = net.conv("image", 16)
    net.conv(net.conv(first, 16, 3, 2), 16, 1, 1)
    prepared = Prepared(net.graph(), DPUS["B4096"])
    stem, strided, _ = prepared.layers
    assert prepared.demands(strided, first) == {2}
    assert prepared.demands(stem, "image") == {1}
    assert prepared.augmented(stem)
    assert not prepared.augmented(strided)
    assert prepared.steps(stem) == 3
    assert prepared.steps(strided) == 9
