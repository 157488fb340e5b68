from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.board_eval.compiler import FEATURES, Options, compile_graph
from edgesearch.board_eval.compiler._envelope import unseen
from edgesearch.board_eval.isa import AluInit, Conv, ConvInit, Elew, ElewInit, End, Load, decode
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.xmodel import read_compiled
from edgesearch.errors import CompileError

from ._quantized import Quantized

TARGET = DPUS["B4096"]


def test_files_of_amds_compiler_hold_nothing_unseen(reference_data: Path) -> None:
    for path in sorted((reference_data / "compiled").glob("*.xmodel")):
        assert unseen(decode(read_compiled(path).code)) == ()


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (ConvInit(kernel_h=5, kernel_w=5, shift_cut=7), "convolution of 5 x 5"),
        (ConvInit(shift_cut=7, act_type=4), "convolution with ReLU6"),
        (ConvInit(shift_cut=4), "convolution shifted right by 4"),
        (ConvInit(shift_cut=7, stride_h=3, stride_w=3), "convolution with strides 3 x 3"),
        (Conv(pad_left=2), "convolution padded by 2 columns on the left"),
        (AluInit(exec_mode=3, kernel_h=2, kernel_w=2), "maximum of 2 x 2"),
        (ElewInit(shift_read=4), "operand of a sum shifted right by 4"),
        (Elew(shift_write=18), "sum shifted right by 2"),
        (Load(channel=1281), "load of pieces of 1281 bytes"),
    ],
)
def test_what_no_measured_file_has_is_named_once(one: object, sentence: str) -> None:
    assert unseen([one, one, End()]) == (sentence,)  # type: ignore[list-item]


def test_strict_refuses_what_no_measured_file_has() -> None:
    net = Quantized(12, 12, 3)
    net.conv("image", 8, (5, 5))
    compiled = compile_graph(net.graph(), TARGET)
    assert compiled.unseen
    with pytest.raises(
        CompileError, match=r"network 'quantized' takes instructions that no measured file has: .*leave out strict"
    ):
        compile_graph(net.graph(), TARGET, Options(strict=True))
    net = Quantized(12, 12, 16)
    net.conv("image", 16, fix=4, weight_fix=6, activation="relu")
    assert compile_graph(net.graph(), TARGET, Options(strict=True)).unseen == ()


def test_a_feature_that_does_not_exist_is_refused() -> None:
    net = Quantized(4, 4, 3)
    net.conv("image", 4)
    with pytest.raises(CompileError, match="there is no feature 'gelu' to allow; there are " + ", ".join(FEATURES)):
        compile_graph(net.graph(), TARGET, Options(allow=frozenset({"gelu"})))


def test_clamping_to_six_is_an_activation_only_where_it_is_allowed() -> None:
    net = Quantized(4, 4, 3)
    net.conv("image", 4, fix=4, activation="relu6")
    for allowed in (False, True):
        compiled = compile_graph(net.graph(), TARGET, Options(allow=frozenset({"relu6"} if allowed else ())))
        assert any(isinstance(one, ConvInit) and one.act_type == 4 for one in compiled.program) == allowed
