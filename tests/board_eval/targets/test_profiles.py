from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgesearch.board_eval import BoardSettings, find_board
from edgesearch.board_eval.targets import DPUS, BoardProfile, HostRunner, load_profile, profile_names
from edgesearch.errors import BoardError, PluginError, TargetError


def test_shipped_boards() -> None:
    assert profile_names() == ("kv260", "ultra96", "zcu102", "zcu104")
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
        ({"colour": "red"}, r"unknown key colour = 'red'; remove it or correct its name"),
        ({"constants": {"load": 1.0}}, r"constants.load_word is missing; add it"),
        ({"default_runner": "java"}, "default_runner is 'java', but the runners are: cpp, thesis_script, vart_python"),
        ({"runners": {"cpp": {"seconds": -1.0}}}, r"runners.cpp.seconds = -1.0, expected greater than or equal to 0"),
        (
            {"runners": {"cpp": {"seconds": 1.0, "errors_by_kind": {"round": {}}}}},
            r"runners.cpp.errors_by_kind.round = 'round', expected 'depthwise' or 'dense'",
        ),
        ({"runners": {"cpp": {"seconds": 1.0, "colour": 1}}}, r"runners.cpp.colour"),
        ({"runners": {"cpp": {"seconds": "1.0"}}}, r"runners.cpp: `seconds` is '1.0', expected a number without quotes"),
        ({"cores": True}, r"`cores` is true, expected a number"),
        ({"clock_mhz": "300"}, r"`clock_mhz` is '300', expected a number without quotes"),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(json.loads(load_profile("zcu104").to_json()) | change))
    with pytest.raises(TargetError, match=message):
        load_profile(path)


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text(load_profile("zcu104").to_json().replace('"cores": 2,', '"cores": 2, "cores": 3,'))
    with pytest.raises(TargetError, match="the key 'cores' stands twice; leave one of them out"):
        load_profile(path)


def test_a_profile_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(load_profile("zcu104").to_json(), encoding="utf-8-sig")
    assert load_profile(tmp_path / "mine.json") == load_profile("zcu104")


def test_what_a_profile_does_not_set_is_written_as_before_it_could_be_set() -> None:
    former = {
        "seconds",
        "seconds_per_pixel",
        "serial_seconds",
        "threads",
        "contention",
        "latency_error",
        "throughput_error",
        "origin",
    }
    assert set(HostRunner(seconds=1.0).model_dump()) == former
    assert HostRunner(seconds=1.0, postprocess_seconds=1e-3).model_dump()["postprocess_seconds"] == 1e-3
    profile = load_profile("zcu104")
    assert "host_processors" not in profile.model_dump()
    eight = profile.model_copy(update={"host_processors": 8})
    assert BoardProfile.model_validate(json.loads(eight.to_json())) == eight
    shipped = load_profile("zcu104").runner().model_dump()
    assert set(shipped["errors_by_kind"]) == {"depthwise", "dense"}


def test_a_profile_of_0_1_0_is_read(tmp_path: Path) -> None:
    raw = json.loads(load_profile("zcu104").to_json())
    del raw["runners"], raw["default_runner"]
    raw |= {
        "multi_core_efficiency": 0.8,
        "host_python": {"seconds": 2e-3, "seconds_per_pixel": 0.0},
        "host_cpp": {"seconds": 3e-4},
    }
    path = tmp_path / "former.json"
    path.write_text(json.dumps(raw))
    profile = load_profile(path)
    assert profile.default_runner == "python"
    assert profile.runner().seconds == 2e-3
    assert profile.runner("cpp").contention.slowdown(2, 3.0, 1.0) == pytest.approx(1 / 0.8)
    path.write_text(json.dumps(raw | {"multi_core_efficiency": 1.5}))
    with pytest.raises(TargetError, match="multi_core_efficiency"):
        load_profile(path)
    path.write_text(json.dumps(raw | {"host_python": 0.001}))
    with pytest.raises(TargetError, match=r"host_python must be an object with the seconds of a runner \(given: 0\.001\)"):
        load_profile(path)


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="unknown board 'zcu999'; known are kv260, ultra96, zcu102, zcu104"):
        load_profile("zcu999")
    with pytest.raises(TargetError, match="cannot be read"):
        load_profile(tmp_path / "missing.json")
    path = tmp_path / "text.json"
    path.write_text("[1, 2")
    with pytest.raises(TargetError, match="cannot be read as JSON"):
        load_profile(path)
    path.write_text("[" * 100_000)
    with pytest.raises(TargetError, match="cannot be read as JSON: its values are nested too deeply"):
        load_profile(path)
    path.write_text("[1, 2]")
    with pytest.raises(TargetError, match="not a JSON object"):
        load_profile(path)


def own_dpu(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "dpu_beside.py").write_text(
        f"from edgesearch.board_eval.targets import DPUS\nOWN = DPUS['B4096'].model_copy(update={{'name': {name!r}}})\n"
    )


def test_the_dpu_of_a_profile_is_found_in_the_folder_then_beside_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, profiles, elsewhere = (tmp_path / name for name in ("study", "profiles", "elsewhere"))
    own_dpu(profiles, "beside")
    for folder in (study, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    path = profiles / "board.json"
    path.write_text(json.dumps(json.loads(load_profile("zcu104").to_json()) | {"dpu": "dpu_beside:OWN"}))
    assert load_profile(path).dpu.name == "beside"
    assert find_board(str(path), folder=study).target.name == "beside"
    own_dpu(study, "of the study")
    assert load_profile(path, folder=study).dpu.name == "of the study"
    assert find_board(str(path), folder=study).target.name == "of the study"
    lab = BoardSettings(name="lab", host="lab", key=path, target=str(path))
    assert lab.profile().dpu.name == "beside"
    path.write_text(path.read_text().replace("dpu_beside", "nowhere"))
    with pytest.raises(PluginError, match="target 'nowhere:OWN' cannot be imported"):
        load_profile(path)
    with pytest.raises(BoardError, match="board 'lab', target: target 'nowhere:OWN' cannot be imported"):
        lab.profile()
