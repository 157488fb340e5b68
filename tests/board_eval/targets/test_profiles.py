from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgesearch.board_eval.targets import DPUS, load_profile, profile_names
from edgesearch.errors import TargetError


def test_shipped_boards() -> None:
    assert profile_names() == ("kv260", "zcu102", "zcu104")
    zcu104 = load_profile("zcu104")
    assert (zcu104.dpu.name, zcu104.cores, zcu104.clock_mhz) == ("B4096", 2, 300)
    assert zcu104.origin


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    profile = load_profile("zcu104").model_copy(update={"name": "mine", "cores": 4})
    path.write_text(profile.to_json())
    assert load_profile(path) == profile


def test_a_profile_file_may_name_its_architecture(tmp_path: Path) -> None:
    raw = json.loads(load_profile("zcu104").to_json())
    raw["dpu"] = "B1152"
    path = tmp_path / "small.json"
    path.write_text(json.dumps(raw))
    assert load_profile(path).dpu == DPUS["B1152"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dpu": "B9000"}, "unknown DPU 'B9000'; known are B512"),
        ({"cores": 0}, "cores"),
        ({"clock_mhz": -300}, "clock_mhz"),
        ({"colour": "red"}, "colour"),
        ({"constants": {"load": 1.0}}, "constants"),
        ({"multi_core_efficiency": 1.5}, "multi_core_efficiency"),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(json.loads(load_profile("zcu104").to_json()) | change))
    with pytest.raises(TargetError, match=message):
        load_profile(path)


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="unknown board 'zcu999'; known are kv260, zcu102, zcu104"):
        load_profile("zcu999")
    with pytest.raises(TargetError, match="cannot be read"):
        load_profile(tmp_path / "missing.json")
    path = tmp_path / "text.json"
    path.write_text("[1, 2")
    with pytest.raises(TargetError, match="is not JSON"):
        load_profile(path)
    path.write_text("[1, 2]")
    with pytest.raises(TargetError, match="not a JSON object"):
        load_profile(path)
