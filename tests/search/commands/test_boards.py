"""Studies scored by a board, through the command line: a real sshd on loopback, and on it the program for boards on a stand-in
of VART.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesearch.board_eval import load_profile
from edgesearch.search import Study
from edgesearch.search.commands._cli import run

from ...board_eval._sshd import LoopbackBoard, loopback_board

pytestmark = pytest.mark.slow

STANDIN = Path(__file__).parents[2] / "board_eval" / "runner" / "standin"
STUDY = """
name = "lab_study"
board_images = 30
[data]
name = "digits"
train_images = 120
validation_images = 60
calibration_images = 20
test_images = 20
[train]
epochs = 1
[space]
students = ["cnn_tiny"]
width = [0.25, 0.5, 0.75, 1.0]
input_size = [8]
algorithm = ["vitis"]  # the quicker one
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LoopbackBoard]:
    root = tmp_path / "lab"
    root.mkdir()
    path = ":".join([str(STANDIN), *[folder for folder in sys.path if folder]])
    with loopback_board(
        root, {"PYTHONPATH": path, "PATH": f"{STANDIN / 'bin'}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    ) as board:
        yield board


@pytest.fixture
def optimize(lab: LoopbackBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(lab.boards_file(python=sys.executable, timeout_s=120.0)))
    (tmp_path / "study.toml").write_text(STUDY)

    def command(*words: str, score: str = "board", trials: int = 2, board: str = "lab") -> int:
        where = ["--home", str(tmp_path / "home"), "--workers", "0", "--trials", str(trials)]
        return run(["optimize", str(tmp_path / "study.toml"), "--board", board, "--score", score, *where, *words])

    return command


def test_a_study_is_scored_by_a_board_and_shows_it(
    optimize: Callable[..., int], lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert optimize(trials=3) == 0
    assert "simulated" in capsys.readouterr().out
    study = Study.load(home=tmp_path / "home")
    assert (study.settings.board, study.settings.boards) == ("zcu104", ("lab",))
    for record in study.records():
        assert (record.measured_by, record.accuracy_of) == ("lab", "integers")
        assert record.fps != record.figure("simulated_fps")
        assert record.conditions["runner"].startswith("python ")
        assert record.conditions["dpu"] == "2 x B4096 at 300 MHz"
    assert run(["pareto", "--format", "json", "--home", str(tmp_path / "home")]) == 0
    front = json.loads(capsys.readouterr().out)["front"]
    assert all(member["measured_by"] == "lab" and member["simulated_fps"] for member in front)
    assert lab.left_behind() == []
    profile = tmp_path / "board.json"
    words = ["--study", "lab_study", "--home", str(tmp_path / "home"), "-o", str(profile), "--keep-unexplained"]
    assert run(["calibrate", *words]) == 0
    assert "over 6 measurements" in capsys.readouterr().out
    assert json.loads(profile.read_text())["name"] == "my-board"


def test_an_sshd_that_is_killed_in_the_middle_costs_nothing_but_time(
    optimize: Callable[..., int], lab: LoopbackBoard, tmp_path: Path
) -> None:
    killed = threading.Event()

    def kill() -> None:
        store = tmp_path / "home" / "store" / "artifacts"
        while not list(store.glob("measured/*/artifact.json")):  # till then the board is merely looked at
            time.sleep(0.02)
        while not list(lab.folder.glob("edgesearch-job.*")):
            time.sleep(0.02)
        lab.signal(signal.SIGKILL)
        assert lab.process is not None
        lab.process.wait()
        time.sleep(0.5)
        lab.start()
        killed.set()

    thread = threading.Thread(target=kill)
    thread.start()
    assert optimize(trials=2) == 0
    thread.join()
    assert killed.is_set()
    records = Study.load(home=tmp_path / "home").records()
    assert [record.state for record in records] == ["COMPLETE", "COMPLETE"]
    assert records[0].board_faults[0]["board"] == "lab"
    assert all(record.measured_by == "lab" for record in records)


def test_a_board_that_is_gone_stops_the_study_with_one_sentence_and_the_same_command_goes_on(
    optimize: Callable[..., int], lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.stop()
    assert optimize("--board-wait", "0.02") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: no board came back within")
    assert "lab" in error
    lab.start()
    assert optimize() == 0
    assert [r.state for r in Study.load(home=tmp_path / "home").records()] == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("keys", "knobs", "expected"),
    [
        ({"known_hosts": "others"}, {}, "shows another key than the one in"),
        ({"key": "stranger"}, {}, "not in with the key"),
        ({"python": "python2.2"}, {}, "is python = 'python2.2' right?"),
        ({}, {"fingerprint": "0x101000056010406"}, "0x101000056010406, its target 'zcu104' has 0x101000056010407"),
    ],
)
def test_a_board_that_a_person_must_mend_is_told_before_anything_is_trained(
    keys: dict[str, str],
    knobs: dict[str, str],
    expected: str,
    optimize: Callable[..., int],
    lab: LoopbackBoard,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No candidate is charged with it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.root / "stranger")], check=True)
    stranger = (lab.root / "stranger.pub").read_text().split()
    (lab.root / "others").write_text(f"[127.0.0.1]:{lab.port} {stranger[0]} {stranger[1]}\n")
    lab.knobs(**knobs)
    lab.boards_file(**({"python": sys.executable} | keys))
    assert optimize(trials=1) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: no board can measure, and nothing was trained: ")
    assert expected in error
    assert Study.load(home=tmp_path / "home").records() == ()
    assert not list((tmp_path / "home").glob("store/artifacts/*/*"))
    assert lab.left_behind() == []


def test_a_board_that_needs_hands_costs_no_candidate_while_a_sound_one_serves(
    optimize: Callable[..., int], lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boards = lab.boards_file(python=sys.executable, timeout_s=120.0)
    sound = boards.read_text()
    broken = sound.replace("[board.lab]", "[board.other]").replace(repr(sys.executable), "'python2.2'")
    boards.write_text(f'{sound}{broken}[pool.shelf]\nboards = ["other", "lab"]\n')
    assert optimize(board="shelf") == 0
    assert "board other: is in quarantine: board 'other' cannot start the runner" in "".join(capsys.readouterr())
    records = Study.load(home=tmp_path / "home").records()
    assert [(record.state, record.measured_by) for record in records] == [("COMPLETE", "lab")] * 2


def test_what_is_wrong_is_one_sentence(
    optimize: Callable[..., int], lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert run(["optimize", str(tmp_path / "study.toml"), "--home", str(tmp_path / "home"), *words]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "needs boards that measure" in refused("--score", "board")
    for words in (("--score", "board"), (), ("--board", "zcu104")):
        unknown = refused(*words, "--board", "nowhere")
        assert "unknown board 'nowhere'" in unknown
        assert "kv260, ultra96, zcu102, zcu104" in unknown
        assert "boards.toml (lab)" in unknown
    assert "one simulated board" in refused("--board", "zcu104", "--board", "kv260")
    assert "named twice" in refused("--score", "board", "--board", "lab", "--board", "lab")
    (tmp_path / "study.toml").write_text('boards = ["elsewhere"]\n' + STUDY)
    assert "unknown board 'elsewhere'" in refused("--score", "board")
    assert run(["optimize", str(tmp_path / "study.toml"), "--home", str(tmp_path / "home"), "--dry-run"]) == 0
    (tmp_path / "study.toml").write_text(STUDY)
    small = load_profile("zcu104").model_dump(mode="json") | {"name": "small", "dpu": "B1152"}
    (tmp_path / "small.json").write_text(json.dumps(small))
    other = ("--board", str(tmp_path / "small.json"), "--board", "lab", "--score", "board")
    assert "the boards of 'lab' have the DPU" in refused(*other)
    assert not (tmp_path / "home").exists()
