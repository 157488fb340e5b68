from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from torch import nn

from edgesearch.board_eval import lower, schedule
from edgesearch.board_eval.targets import (
    DPUS,
    TARGETS,
    Dpu,
    Fingerprint,
    Limits,
    Target,
    dpu_of_fingerprint,
    find_target,
    load_dpu,
)
from edgesearch.errors import PluginError, SettingsError, TargetError
from edgesearch.testing import TargetContract


@pytest.mark.parametrize("name", sorted(DPUS))
class TestDpu(TargetContract):
    """Every size is a Target."""

    @pytest.fixture(autouse=True)
    def _size(self, name: str) -> None:
        self.name = name

    def make(self) -> Dpu:
        return DPUS[self.name]


class TestAnotherKindOfTarget(TargetContract):
    """Nothing below asks a target for more than the protocol has."""

    def make(self) -> Target:
        dpu = DPUS["B1024"]
        names = [name for name in dir(Target) if not name.startswith("_")]
        return cast("Target", SimpleNamespace(**{name: getattr(dpu, name) for name in names}))

    def test_networks_are_lowered_and_scheduled_for_it(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 8, 1))
        graph = lower(model, (3, 12, 12), target=self.make())
        theirs, ours = (list(schedule(graph, target).instructions) for target in (self.make(), DPUS["B1024"]))
        assert theirs == ours


def test_the_number_in_a_targets_name_is_its_operations_per_cycle() -> None:
    assert {name: dpu.operations_per_cycle for name, dpu in DPUS.items()} == {name: int(name[1:]) for name in DPUS}


def test_b4096_works_on_8_rows_and_16_by_16_channels() -> None:
    dpu = load_dpu("B4096")
    assert (dpu.pixel_parallel, dpu.input_parallel, dpu.output_parallel, dpu.channel_parallel) == (8, 16, 16, 16)
    assert (dpu.alu_rows, dpu.augmented_inputs, dpu.bank_words, dpu.feature_groups) == (4, 32, 2048, 2)


def test_fingerprints_of_compiled_files() -> None:
    """That of the ZCU104's arch.json; those of the other sizes end in the rows of the ALU and the number of the size."""
    b4096 = DPUS["B4096"]
    assert b4096.fingerprint == 0x101000056010407
    assert b4096.arch_json == "DPUCZDX8G/ZCU104/arch.json"
    assert b4096.arch_content == '{"fingerprint": "0x101000056010407"}\n'
    assert b4096.dpu_name == "DPUCZDX8G_ISA1_B4096"
    assert {name: f"{dpu.fingerprint:x}"[-3:] for name, dpu in DPUS.items()} == {
        "B512": "200", "B800": "201", "B1024": "402", "B1152": "203", "B1600": "404", "B2304": "405", "B3136": "406",
        "B4096": "407",
    }  # fmt: skip
    earlier = b4096.model_copy(update={"fingerprint": 0x101000016010407})
    assert earlier.dpu_name == "DPUCZDX8G_ISA1_B4096_0101000016010407"
    assert earlier.arch_json == ""


def test_a_dpu_takes_files_of_its_own_fingerprint_and_files_without_one() -> None:
    mine, other = (Fingerprint(DPUS[name].fingerprint) for name in ("B4096", "B3136"))
    assert mine.accepts(mine)
    assert mine.accepts(Fingerprint(0))
    assert not mine.accepts(other)


def test_differences_between_fingerprints_are_said_in_words() -> None:
    new, old = Fingerprint.parse("0x101000056010407"), Fingerprint.parse("0x101000016010406")
    assert new.differences(old) == ("size B4096, not B3136", "argmax of results yes, not no")
    assert new.differences(new) == ()
    assert new.differences(Fingerprint(new.value | 1 << 20)) == ("bits whose meaning is not public",)
    for text in ("zcu104", "-1", "0x1" + "0" * 16):
        with pytest.raises(TargetError, match="not a hexadecimal number of 64 bits"):
            Fingerprint.parse(text)


def test_a_dpu_is_found_by_its_fingerprint() -> None:
    for dpu in DPUS.values():
        assert dpu_of_fingerprint(Fingerprint(dpu.fingerprint)) == dpu
    plain = dpu_of_fingerprint(Fingerprint.parse("0x101000002010407"))
    assert (plain.name, plain.leaky_in_conv, plain.augmented_inputs, plain.arch_json) == ("B4096", False, 0, "")


@pytest.mark.parametrize(
    ("fingerprint", "words"),
    [
        ("0x10100005601040f", "size ?, expected kind 1"),
        ("0x103000056010407", "instruction set 3 and size B4096"),
        ("0x201000056010407", "of kind 2, instruction set 1"),
        ("0x101000055010407", "with 1 groups of feature-map banks, expected 2"),
        ("0x101000056010f07", "does 15 rows at a time, expected a number that 8 is a multiple of"),
        ("0x0", "of kind 0"),
    ],
)
def test_a_fingerprint_of_another_dpu_is_one_sentence(fingerprint: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        dpu_of_fingerprint(Fingerprint.parse(fingerprint))
    assert words in str(caught.value)


def test_the_fingerprint_says_how_many_rows_the_alu_does() -> None:
    b512 = DPUS["B512"]
    assert b512.alu_rows == 2
    wider = Dpu(**{**b512.model_dump(), "fingerprint": b512.fingerprint & ~0xF00 | 4 << 8})
    assert wider.alu_rows == 4


def test_a_fingerprint_and_a_geometry_must_agree() -> None:
    with pytest.raises(SettingsError, match="is that of a B3136"):
        Dpu(name="mine", pixel_parallel=8, input_parallel=16, output_parallel=16, fingerprint=DPUS["B3136"].fingerprint)


def test_what_is_stored_grows_only_by_what_is_not_the_default() -> None:
    """A stored profile decides the keys of stages: a limit that is added must not change them."""
    plain = {"name": "B4096", "pixel_parallel": 8, "input_parallel": 16, "output_parallel": 16, "bank_words": 2048,
             "feature_groups": 2, "max_kernel": 16, "max_stride": 8}  # fmt: skip
    assert DPUS["B4096"].model_dump() == plain
    assert Dpu(**plain) == DPUS["B4096"]
    other = Dpu(**plain | {"transfer_words": 512, "fingerprint": 0, "max_kernel": 7, "limits": {"window_kernel": 8}})
    assert other.limits == Limits(conv_kernel=7, window_kernel=8)
    changes = {"transfer_words": 512, "fingerprint": 0, "max_kernel": 7, "limits": {"window_kernel": 8}}
    assert other.model_dump() == plain | changes
    assert Dpu.model_validate_json(other.model_dump_json()) == other


def test_targets_by_name_and_by_import_path(tmp_path: Path) -> None:
    assert list(TARGETS) == sorted(DPUS)
    assert find_target("B1152") is DPUS["B1152"]
    (tmp_path / "my_dpus.py").write_text(
        "from edgesearch.board_eval import load_profile\n"
        "SMALL = load_profile('zcu104').dpu.model_copy(update={'name': 'small', 'bank_words': 1024})\nNOT_ONE = 3\n"
    )
    small = find_target("my_dpus:SMALL", folder=tmp_path)
    assert (small.name, small.bank_words) == ("small", 1024)
    assert load_dpu("my_dpus:SMALL", folder=tmp_path) == small
    with pytest.raises(PluginError, match="is a int; expected a Target"):
        find_target("my_dpus:NOT_ONE", folder=tmp_path)
    with pytest.raises(PluginError, match="unknown target 'B9000'"):
        find_target("B9000")
    with pytest.raises(TargetError, match="unknown DPU 'B9000'; known are B512"):
        load_dpu("B9000")


def test_limits_of_shifts_are_in_no_profile() -> None:
    assert (Limits.shift_cut, Limits.bias_shifts(0), Limits.bias_shifts(16)) == (16, (-16, 16), (0, 16))
    assert not any("shift" in name for name in Limits().model_dump())
