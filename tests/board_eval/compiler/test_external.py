from __future__ import annotations

import pytest

from edgesearch.board_eval.compiler import Options, compile_graph, legal
from edgesearch.board_eval.compiler._external import INPUT, check_address
from edgesearch.board_eval.compiler._placement import place
from edgesearch.board_eval.compiler._plan import External
from edgesearch.board_eval.isa import Load, Save
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.xmodel import OUTPUT
from edgesearch.errors import CompileError

from .._networks import Net
from ._quantized import Quantized
from ._running import EVERYTHING, random_network

TARGET = DPUS["B4096"]


def test_bytes_of_values_lie_row_by_row() -> None:
    view = External(1, 100, (3, 4, 5), pixel_pitch=7, row_pitch=50)
    assert [view.byte(0, 0), view.byte(0, 1), view.byte(2, 3, 4)] == [100, 107, 100 + 100 + 21 + 4]
    assert not view.contiguous
    assert External(1, 0, (3, 4, 5), 5, 20).contiguous


@pytest.mark.parametrize(("kernel", "pads"), [((3, 3), (1, 1, 1, 1)), ((7, 7), (3, 2, 3, 2)), ((3, 3), (0, 1, 0, 1))])
def test_the_image_has_room_around_it_for_masked_reads(kernel: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
    net = Quantized(20, 21, 3)
    net.conv("image", 8, kernel, stride=(2, 2), padding=pads)
    compiled = compile_graph(net.graph(), TARGET)
    plan = compiled.plan
    image = plan.external["image"]
    assert image.address == pads[0] * 3
    assert plan.input_bytes >= image.address + 20 * 21 * 3
    for one in compiled.program:
        if isinstance(one, Load) and one.reg_id == INPUT:
            assert one.ddr_addr >= 0
            assert one.ddr_addr + (one.length - 1) * one.jump_read + one.channel <= plan.input_bytes


def test_parts_lie_inside_their_concat() -> None:
    net = Net(6, 6, 3)
    a, b = net.conv("image", 10, 1), net.conv("image", 7, 1)
    net.conv(net.concat(a, b), 4, 1)
    plan = place(legal(net.graph(), TARGET), TARGET)
    whole, first, second = plan.external["cat3"], plan.external[a], plan.external[b]
    assert (first.address, second.address) == (whole.address, whole.address + 10)
    assert first.pixel_pitch == second.pixel_pitch == whole.pixel_pitch == 17
    assert first.row_pitch == second.row_pitch == 6 * 17


def test_what_only_a_strided_pixel_reads_is_thinned_while_it_is_loaded() -> None:
    net = Net(9, 9, 5)
    net.conv("image", 4, 1, 2)
    compiled = compile_graph(net.graph(), TARGET)
    loaded = sum(one.length * one.channel for one in compiled.program if isinstance(one, Load) and one.reg_id == INPUT)
    assert loaded == 5 * 5 * 5


@pytest.mark.parametrize("seed", range(20))
def test_nobody_reads_the_memory_of_the_result(seed: int) -> None:
    compiled = compile_graph(random_network(seed), TARGET, EVERYTHING)
    assert not any(isinstance(one, Load) and one.reg_id == OUTPUT for one in compiled.program)
    assert any(isinstance(one, Save) and one.reg_id == OUTPUT for one in compiled.program)


def test_parts_of_the_result_that_others_read_have_a_copy() -> None:
    net = Quantized(5, 5, 6)
    first = net.conv("image", 4, fix=3)
    second = net.conv(first, 4, (3, 3), padding=(1, 1, 1, 1), fix=3)
    net.concat(first, second, first, fix=3)
    compiled = compile_graph(net.graph(), TARGET, Options())
    assert not any(isinstance(one, Load) and one.reg_id == OUTPUT for one in compiled.program)


def test_an_address_is_checked_to_the_last_byte() -> None:
    check_address("layer", "it", 1 << 29)
    with pytest.raises(CompileError, match="layer 'layer': it would end at byte 536870913"):
        check_address("layer", "it", (1 << 29) + 1)
