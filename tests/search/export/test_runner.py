"""The runner of an exported folder, on what stands for a board."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _exported import COMPILED, manifest_of

from edgesearch.board_eval.timing._measurements import read_measurements
from edgesearch.search import Study

#: Stands for the board's modules, which execute the code of the compiled file in the machine.
STANDIN = Path(__file__).parents[2] / "board_eval" / "runner" / "standin"


@pytest.fixture(scope="module")
def board() -> dict[str, str]:
    """An environment that has the board's modules and programs."""
    path = f"{STANDIN / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(STANDIN), "OMP_NUM_THREADS": "1"}


def run(folder: Path, environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "run_on_board.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120, check=False)


@pytest.fixture(scope="module")
def carried(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder, and nothing else, in another place."""
    return Path(shutil.copytree(exported, tmp_path_factory.mktemp("board") / exported.name))


def test_golden_images_are_checked_and_frames_counted(carried: Path, board: dict[str, str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    for _ in range(2):
        done = run(carried, board, COMPILED, "--seconds", 0.2, "--threads", 2, "--csv", rows)
        assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["golden"] == {
        "images": 8,
        "equal": True,
        "equal_images": 8,
        "largest_difference": 0,
        "preprocessing_equal": True,
    }
    assert figures["throughput"]["fps"] > 0
    assert figures["expected_fps"] == manifest_of(carried)["compiled"]["predicted"]["fps"]
    assert figures["throughput"]["threads"] == 2
    assert figures["latency"]["median_ms"] > 0
    with rows.open() as file:
        measured = list(csv.DictReader(file))
    assert [row["what"] for row in measured] == ["latency", "throughput"] * 2
    assert {row["network"] for row in measured} == {f"{carried.name}/{COMPILED}"}
    assert [row["cores"] for row in measured] == ["", "2"] * 2


def test_rows_that_did_not_settle_come_with_a_warning(carried: Path, board: dict[str, str], tmp_path: Path) -> None:
    restless = board | {"VART_STANDIN_NOISE": "0.5", "VART_STANDIN_SLOWER": "40"}
    done = run(carried, restless, COMPILED, "--seconds", 2, "--csv", tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    expected = {what for what in ("latency", "throughput") if not figures[what]["settled"]}
    assert {line.split()[1] for line in done.stderr.splitlines() if line.startswith("warning: ")} == expected != set()


def test_rows_go_to_the_columns_of_a_file_that_is_there_and_to_lines_of_their_own(
    carried: Path, board: dict[str, str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("fps,network,cores,family,what,runner\n301.5,a.toml,,f,latency,cpp")
    done = run(carried, board, COMPILED, "--seconds", 0.2, "--threads", 1, "--csv", rows)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    before, latency, throughput = read_measurements(rows)
    assert (before.network, before.fps, before.runner, before.family) == ("a.toml", 301.5, "cpp", "f")
    assert (latency.what, latency.runner, latency.cores) == ("latency", "python", None)
    assert latency.fps == pytest.approx(1e3 / figures["latency"]["median_ms"], abs=1e-3)
    assert (throughput.what, throughput.fps) == ("throughput", figures["throughput"]["fps"])
    assert throughput.cores == 1  # of two: one thread keeps no more busy


def test_a_file_that_cannot_be_appended_to_is_refused_before_the_board_is_touched(
    carried: Path, board: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "short.csv").write_text("network,what,fps\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    cases = {
        tmp_path / "nowhere" / "rows.csv": "cannot be written: No such file or directory",
        tmp_path: "cannot be written: Is a directory",
        Path("/dev/full"): "is no file",
        tmp_path / "short.csv": "has no column 'runner', expected network, what, fps, runner, cores",
        tmp_path / "bytes.csv": "cannot be read as CSV",
    }
    for path, words in cases.items():
        done = run(carried, board, COMPILED, "--csv", path)
        assert (done.returncode, done.stdout) == (2, ""), path
        assert done.stderr.splitlines()[-1].startswith(f"error: --csv {path} {words}")
        assert "checking" not in done.stderr
    assert run(carried, board | {"VART_STANDIN_ERROR": "1"}, COMPILED, "--csv", tmp_path / "new.csv").returncode == 1
    assert not (tmp_path / "new.csv").exists()


def test_what_was_measured_is_told_where_its_rows_find_no_room(carried: Path, board: dict[str, str], tmp_path: Path) -> None:
    rows, result = tmp_path / "rows.csv", tmp_path / "result.json"
    before = b"network,what,fps,runner,cores\n".ljust(64 * 1024 - 10, b"\n")  # room for ten bytes more
    rows.write_bytes(before)
    command = f"ulimit -f 64 && exec {sys.executable} run_on_board.py {COMPILED} --seconds 0.2"
    done = subprocess.run(
        ["bash", "-c", f"{command} --csv {rows} --result {result}"], cwd=carried, env=board, capture_output=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == json.loads(result.read_text())
    assert done.stderr.decode().endswith(f"error: {rows} cannot be written on the board: No space left on device\n")
    assert rows.read_bytes() == before


def test_other_integers_are_reported_and_nothing_is_measured(carried: Path, board: dict[str, str]) -> None:
    done = run(carried, board | {"VART_STANDIN_ERROR": "1"}, COMPILED)
    assert done.returncode == 1
    figures = json.loads(done.stdout)
    assert figures["golden"]["equal"] is False
    assert figures["golden"]["equal_images"] == 0
    assert figures["golden"]["preprocessing_equal"] is True
    assert "throughput" not in figures
    assert re.search(r"error: 8 of 8 golden images come out otherwise, by up to \d+\n$", done.stderr)


def test_what_computes_other_integers_is_measured_if_asked_and_calibrates_nothing(
    carried: Path, board: dict[str, str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    done = run(carried, board | {"VART_STANDIN_ERROR": "1"}, COMPILED, "--measure-anyway", "--csv", rows)
    assert done.returncode == 1
    assert json.loads(done.stdout)["throughput"]["fps"] > 0
    assert done.stderr.endswith("; no row is written\n")
    assert not rows.exists()


def test_pictures_that_become_other_integers_are_reported(carried: Path, board: dict[str, str], tmp_path: Path) -> None:
    other = Path(shutil.copytree(carried, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["input"]["mean"] = [mean + 0.1 for mean in manifest["input"]["mean"]]
    (other / "manifest.json").write_text(json.dumps(manifest))
    done = run(other, board, COMPILED)
    assert done.returncode == 1
    golden = json.loads(done.stdout)["golden"]
    assert (golden["equal"], golden["preprocessing_equal"]) == (True, False)
    assert "the golden pictures become other integers" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("golden_output.npy", np.zeros((8, 3), np.int8), "golden_output.npy has shape [8, 3]; they are of two networks"),
        ("golden_output.npy", np.zeros(8, np.int8), "golden_output.npy has shape [8]; they are of two networks"),
        ("golden_input.npy", np.zeros((8, 9, 9, 1), np.int8), "golden_input.npy have shape [8, 9, 9, 1], the xmodel takes"),
        ("golden_input.npy", b"PK\x03\x04 of an archive", "is not the folder of an exported trial (golden_input"),
        ("golden_pictures.npy", b"", "is not the folder of an exported trial (golden_pictures"),
    ],
)
def test_golden_arrays_that_do_not_fit_are_one_sentence(
    carried: Path, board: dict[str, str], tmp_path: Path, name: str, content: Any, words: str
) -> None:
    other = Path(shutil.copytree(carried, tmp_path / "other"))
    (other / name).write_bytes(content) if isinstance(content, bytes) else np.save(other / name, content)
    done = run(other, board, COMPILED)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_cannot_be_run_is_one_sentence(
    exported: Path, board: dict[str, str], tiny: Study, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tiny.record(3).export(tmp_path_factory.mktemp("other"))
    bare = {name: value for name, value in board.items() if name != "PYTHONPATH"}
    cases = [
        (run(exported, board, exported / "absent.xmodel"), "compile the exported xmodel first"),
        (run(exported, board, COMPILED, "--export", exported.parent), "--export"),
        (run(exported, bare, COMPILED), "run this on the board"),
    ]
    manifest = manifest_of(other)
    manifest["input"]["fix_position"] += 1  # another network's
    (other / "manifest.json").write_text(json.dumps(manifest))
    cases.append((run(exported, board, other / COMPILED), "two networks"))
    for done, words in cases:
        assert done.returncode == 2, done.stderr
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def readme_lines(folder: Path) -> str:
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


def test_the_lines_of_the_readme_make_the_golden_input_of_the_pictures(carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(carried)
    names: dict[str, Any] = {}
    exec(compile(readme_lines(carried), "README.md", "exec"), names)
    assert names["x"].dtype == np.int8
    assert np.array_equal(names["x"], np.load("golden_input.npy"))
    assert np.load("golden_pictures.npy").dtype == np.uint8


def test_the_readme_has_five_steps_that_name_what_is_there(carried: Path, board: dict[str, str]) -> None:
    steps = [line for line in (carried / "README.md").read_text().splitlines() if line[:1].isdigit()]
    compiled = manifest_of(carried)["compiled"]
    assert [step[:2] for step in steps] == ["1.", "2.", "3.", "4.", "5."]
    assert f"`{compiled['fingerprint']}`" in steps[1]
    command = steps[2].split("root@BOARD ")[1].rstrip("`.").split()
    assert command[0] == "python3"
    done = subprocess.run(
        [sys.executable, *command[1:], "--seconds", "0.2"], cwd=carried.parent, env=board, capture_output=True, check=False
    )
    assert done.returncode == 0
    for words in ('"equal": true', '"preprocessing_equal": true'):
        assert words in steps[3]
        assert words in done.stdout.decode()


def test_the_labels_are_the_classes_in_the_order_of_the_outputs(carried: Path) -> None:
    manifest = manifest_of(carried)
    labels = (carried / "labels.txt").read_text().splitlines()
    assert manifest["output"]["labels"] == "labels.txt"
    assert labels == manifest["data"]["classes"]
    assert len(labels) == manifest["output"]["classes"]
