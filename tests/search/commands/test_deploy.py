"""`edgesearch deploy` and what `edgesearch doctor` says of boards, on a real sshd with a stand-in of VART."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _sshd import LoopbackBoard, loopback_board

from edgesearch.board_eval import CompiledXmodel, calibrate_file, load_profile
from edgesearch.board_eval.targets import DPUS
from edgesearch.search import Study
from edgesearch.search.commands._cli import run

pytestmark = pytest.mark.slow

IMAGES = 20


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackBoard]:
    """A board called lab, and alone in the boards file."""
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(tmp_path / "boards.toml"))
    with loopback_board(tmp_path) as board:
        board.boards_file()
        yield board


@pytest.fixture
def home(tiny: Study, tiny_home: Path, tmp_path: Path) -> Path:
    """The finished study, in a home of its own."""
    return Path(shutil.copytree(tiny_home, tmp_path / "home"))


def deploy(home: Path, *words: object) -> int:
    return run(["deploy", "--home", str(home), "--study", "tiny", "--images", str(IMAGES), *map(str, words)])


def add_to(lab: LoopbackBoard, text: str) -> None:
    path = lab.root / "boards.toml"
    path.write_text(path.read_text() + text)


def dead_board(lab: LoopbackBoard) -> str:
    """The table of a board whose key is known, and which is off."""
    known = lab.root / "known_hosts"
    known.write_text(known.read_text() + f"[127.0.0.1]:9 {known.read_text().split(maxsplit=1)[1]}")
    return f'[board.dead]\nhost = "127.0.0.1"\nport = 9\nkey = "{lab.root}/user_key"\nknown_hosts = "{lab.root}/known_hosts"\n'


def records(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((home / "deployments" / "tiny").glob("*.json"))]


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a command that failed."""
    told = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(told)
    assert told[-1].startswith("error: ")
    return told[-1]


def test_a_trial_is_compiled_run_and_compared(
    lab: LoopbackBoard, home: Path, tiny: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    assert deploy(home, 0, "--board", "lab", "--csv", rows) == 0
    told = capsys.readouterr().out
    assert f"logits: equal to this program's integers on all {IMAGES} images" in told
    assert "power" in told
    assert "not available" in told
    assert "vart: 3.5.0" in told
    (kept,) = records(home)
    folder = home / "deployments" / "tiny"
    xmodel = CompiledXmodel.read(folder / kept["file"])
    assert (kept["sha256"], kept["fingerprint"], kept["board"]) == (xmodel.sha256, "0x101000056010407", "lab")
    timing = xmodel.time(load_profile("zcu104"), runner="vart_python")
    assert kept["predicted"]["fps"] == timing.throughput_fps
    assert kept["measured"]["accuracy"] == kept["predicted"]["accuracy"]
    assert kept["images"] == {"of": "validation", "count": IMAGES}
    percent = 100 * (kept["measured"]["fps"] / timing.throughput_fps - 1)
    assert kept["difference_percent"]["fps"] == pytest.approx(percent, abs=1e-3)
    assert f"{kept['measured']['fps']:,.1f}" in told
    assert f"{percent:+.1f}%" in told
    with rows.open() as file:
        measured = list(csv.DictReader(file))
    assert [row["what"] for row in measured] == ["latency", "throughput"]
    assert [(row["runner"], row["cores"]) for row in measured] == [("python", ""), ("python", "2")]
    assert CompiledXmodel.read(rows.parent / measured[0]["network"]).sha256 == kept["sha256"]
    assert lab.left_behind() == []


def test_rows_that_did_not_settle_come_with_a_warning(
    lab: LoopbackBoard, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.knobs(noise=0.5, slower=40)
    lab.boards_file(seconds=2.0)
    assert deploy(home, 0, "--board", "lab", "--csv", tmp_path / "rows.csv") == 0
    (kept,) = records(home)
    expected = {what for what in ("latency", "throughput") if not kept["report"][what]["settled"]}
    warned = {line.split()[1] for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")}
    assert warned == expected != set()


def test_rows_of_two_trials_are_fitted_to(lab: LoopbackBoard, home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    for trial in (0, 3):
        assert deploy(home, trial, "--board", "lab", "--csv", rows) == 0
    fitted = calibrate_file(rows, load_profile("zcu104"), keep_unexplained=True)
    assert len(fitted.errors) == 4
    assert len(records(home)) == 2


def test_the_knee_goes_to_the_first_free_board_of_a_pool(
    lab: LoopbackBoard, home: Path, tiny: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    add_to(lab, dead_board(lab) + '[pool.shelf]\nboards = ["dead", "lab"]\n')
    output = lab.root / "out"
    assert deploy(home, "--knee", "--board", "shelf", "--json", "-o", output) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert (content["trial"], content["board"]) == (tiny.front().knee().number, "lab")
    assert "pool shelf: board lab is free" in captured.err
    (kept,) = output.glob("*.json")
    assert json.loads(kept.read_text()) == content
    with (lab.folder / "edgesearch-board.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert deploy(home, "--knee", "--board", "shelf") == 2
    sentence = refusal(capsys)
    assert "no board of pool 'shelf' is free: dead (reachable: " in sentence
    assert "lab (another program has it)" in sentence


def test_other_logits_are_told_kept_and_not_calibrated_with(
    lab: LoopbackBoard, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.knobs(error=3)
    rows = tmp_path / "rows.csv"
    assert deploy(home, 0, "--board", "lab", "--csv", rows) == 2
    sentence = refusal(capsys)
    assert f"differ from this program's integers on {IMAGES} of {IMAGES} images, by at most " in sentence
    assert "the accuracy that was predicted does not hold" in sentence
    assert "run it again" in sentence
    assert not rows.exists()
    (kept,) = records(home)
    assert (kept["logits"]["equal"], kept["logits"]["differing_images"]) == (False, IMAGES)
    assert kept["logits"]["largest_difference"] >= 3
    folder = home / "deployments" / "tiny"
    shutil.rmtree(folder / "trial-0000")  # as an export by another compiler does
    assert CompiledXmodel.read(folder / kept["file"]).sha256 == kept["sha256"] == kept["report"]["xmodel"]["sha256"]


def test_a_file_for_another_dpu_is_not_pushed(lab: LoopbackBoard, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.knobs(fingerprint="0x101000056010406")
    assert deploy(home, 0, "--board", "lab") == 2
    assert "board 'lab', fingerprint: 0x101000056010406, its target 'zcu104' has 0x101000056010407" in refusal(capsys)
    profile = load_profile("zcu104").model_copy(update={"name": "other", "dpu": DPUS["B3136"]})
    (lab.root / "other.json").write_text(profile.to_json())
    lab.knobs(fingerprint=f"{profile.dpu.fingerprint:#x}")
    lab.boards_file(target=str(lab.root / "other.json"))
    assert deploy(home, 0, "--board", "lab") == 2
    assert "is compiled for a DPU of fingerprint 0x101000056010407, board 'lab' has " in refusal(capsys)
    assert len(lab.cached()) == 1  # the runner, which was asked what the board is
    assert records(home) == []


def test_a_board_that_another_program_has_is_waited_for(
    lab: LoopbackBoard, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.boards_file(timeout_s=4.0)
    with (lab.folder / "edgesearch-board.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert deploy(home, 0, "--board", "lab") == 2
    assert "board 'lab' is busy: another program held" in refusal(capsys)
    assert records(home) == []


def test_what_cannot_be_deployed_is_one_sentence(
    lab: LoopbackBoard, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("network,what,fps\n")
    add_to(lab, dead_board(lab))
    cases: dict[tuple[object, ...], str] = {
        (99, "--board", "lab"): "study 'tiny' has no trial 99; it has 4, numbered from 0",
        (2, "--board", "lab"): "trial 2 is not deployable: it has 5 bits, and a DPU runs 8",
        (0, "--board", "zcu104"): "'zcu104' is a simulated board",
        (0, "--board", "nowhere"): "unknown board 'nowhere'",
        (0, "--board", "dead"): "board 'dead' cannot be reached at 127.0.0.1 port 9",
        (0, "--board", "lab", "--csv", rows): f"{rows} has no column 'runner' to append to",
        (0, "--board", "lab", "--csv", tmp_path / "none" / "r.csv"): "there is no folder",
        (0, "--board", "lab", "-o", rows / "below"): "cannot be written",
    }
    for words, sentence in cases.items():
        assert deploy(home, *words) == 2
        assert sentence in refusal(capsys), words
    assert deploy(home, "--board", "lab") == 2
    assert "its number, or --knee" in capsys.readouterr().err
    assert not (home / "deployments").exists()


def test_without_amds_compiler_its_file_is_not_deployed(
    lab: LoopbackBoard, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert deploy(home, 0, "--board", "lab", "--compiler", "vai") == 2
    sentence = refusal(capsys)
    assert "vai_c_xir is not on PATH" in sentence
    assert "then, in " in sentence
    assert records(home) == []


def test_a_trial_that_is_not_complete_is_refused(
    lab: LoopbackBoard, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Study.view

    def failed(study: Study) -> Any:
        from dataclasses import replace

        found = view(study)
        return replace(found, records=tuple(replace(record, state="FAIL") for record in found.records))

    monkeypatch.setattr(Study, "view", failed)
    assert deploy(home, 0, "--board", "lab") == 2
    assert "trial 0 is FAIL, only COMPLETE ones" in refusal(capsys)


# --- doctor


def doctor(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Its exit code; the mark and words of each line on a board or pool."""
    code = run(["doctor", "--home", str(home), *words])
    lines = [line.split(": ", 1) for line in capsys.readouterr().out.splitlines()]
    return code, {head[11:]: (head[:11].strip(), text) for head, text in lines if head[11:].startswith(("board", "pool"))}


def test_boards_that_serve_and_boards_that_do_not(
    lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "".join(dead_board(lab).replace("board.dead", f"board.dead{n}") for n in (1, 2))
    add_to(lab, more + '[pool.shelf]\nboards = ["dead1", "lab"]\n[pool.off]\nboards = ["dead1", "dead2"]\n')
    code, lines = doctor(tmp_path / "home", capsys)
    assert code == 0
    mark, words = lines["board lab"]
    assert mark == "ok"
    for part in ("reachable", "fingerprint 0x101000056010407", "VART 3.5.0", "DPU cores 2 at 300 MHz", "MiB free"):
        assert part in words
    assert "power sensor not available" in words
    assert lines["board dead1"][0] == "absent"
    assert "is it on, and is the address right?" in lines["board dead1"][1]
    assert lines["pool shelf"] == ("ok", "1 of 2 boards serve: lab; not dead1, see above")
    assert lines["pool off"][0] == "absent"
    assert doctor(tmp_path / "home", capsys, "--board", "lab")[0] == 0
    code, lines = doctor(tmp_path / "home", capsys, "--board", "dead1")
    assert (code, lines["board dead1"][0], lines["board dead2"][0]) == (2, "FAILED", "absent")
    assert lines["board"][1].startswith("zcu104 (simulated)")
    assert doctor(tmp_path / "home", capsys, "--board", "shelf")[0] == 0
    assert doctor(tmp_path / "home", capsys, "--board", "off")[0] == 2


def test_a_board_with_another_dpu_is_red_and_fails_only_where_it_was_asked_for(
    lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.knobs(fingerprint="0x101000056010406")
    code, lines = doctor(tmp_path / "home", capsys)
    assert (code, lines["board lab"][0]) == (0, "FAILED")
    assert "name a profile whose dpu has fingerprint 0x101000056010406" in lines["board lab"][1]
    assert doctor(tmp_path / "home", capsys, "--board", "lab")[0] == 2


def test_boards_that_hang_do_so_side_by_side(
    lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesearch.search.commands import _doctor_boards

    monkeypatch.setattr(_doctor_boards, "_LOOK_S", 3.0)
    lab.program("hangs", "#!/bin/sh\nexec sleep 60\n")
    table = (lab.boards_file(python="hangs")).read_text()
    add_to(lab, "".join(table.replace("[board.lab]", f"[board.lab{n}]") for n in range(4)))
    begin = time.monotonic()
    code, lines = doctor(tmp_path / "home", capsys)
    assert time.monotonic() - begin < 25
    assert code == 0
    assert [mark for mark, _ in lines.values()] == ["ok", *["absent"] * 5]


def test_a_boards_file_that_is_wrong_is_red(lab: LoopbackBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.root / "boards.toml").write_text("[bored.lab]\n")
    code, lines = doctor(tmp_path / "home", capsys)
    assert (code, lines["boards file"][0]) == (0, "FAILED")
    assert "unknown key 'bored'" in lines["boards file"][1]
