"""The program in C++: built by its own line against headers with XIR's and VART's signatures, and run on a stub behind them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgesearch.board_eval.runner import CPP_NAME, build_command, runner_cpp_source

from .._cpp_stub import MARK, PLAN, build_stub
from ._boards import STANDIN, Case, Done, Run, execute_program, make_sensors, slow_programs, stop_while_it_waits

QUICK = ("--seconds", 0.2)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the program, and of libraries that stand for those of the board's image."""
    folder = tmp_path_factory.mktemp("cpp")
    environment = {**os.environ, **build_stub(folder)}
    (folder / CPP_NAME).write_bytes(runner_cpp_source())
    done = subprocess.run(build_command(), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def reference(images: npt.NDArray[np.int8], values: int = 10) -> npt.NDArray[np.int8]:
    """The arithmetic of the stub."""
    flat = images.reshape(len(images), -1).astype(np.int64)
    sums = [(flat * ((np.arange(flat.shape[1]) + v) % 7)).sum(axis=1) for v in range(values)]
    return np.stack(sums, axis=1).astype(np.int8)


@pytest.fixture
def images(tmp_path: Path) -> npt.NDArray[np.int8]:
    drawn = np.random.default_rng(0).integers(-128, 128, (33, 4, 5, 3)).astype(np.int8)
    np.save(tmp_path / "images.npy", drawn)
    return drawn


@pytest.fixture
def run_cpp(built: Path, images: npt.NDArray[np.int8], tmp_path: Path) -> Run:
    """Run the program on `images.npy`; `plan` is the stub's compiled file, other keywords are STUB_ variables."""

    def run(*words: object, plan: str = PLAN, environment: dict[str, str] | None = None, **settings: object) -> Done:
        (tmp_path / "stub.xmodel").write_text(plan)
        variables = {
            **os.environ,
            "LD_LIBRARY_PATH": str(built),
            "PATH": "/usr/bin:/bin",
            "EDGESEARCH_BOARD_ROOT": str(tmp_path / "root"),
            **{f"STUB_{name.upper()}": str(value) for name, value in settings.items()},
            **(environment or {}),
        }
        usual: tuple[object, ...] = ("stub.xmodel", *([] if "--images" in words else ["--images", "images.npy"]))
        if "--probe" in words or "absent.xmodel" in words:
            usual = usual[1:] if "absent.xmodel" in words else ()
        return execute_program([str(built / "run_on_board")], (*usual, *words), variables, tmp_path)

    return run


def structure(report: dict[str, Any]) -> dict[str, Any]:
    """Names and kinds of the values."""
    kinds: dict[type, str] = {int: "number", float: "number"}
    return {
        name: structure(value) if isinstance(value, dict) else kinds.get(type(value), type(value).__name__)
        for name, value in report.items()
    }


def test_its_report_is_built_like_that_of_python(
    case: Case, run_python: Run, run_cpp: Run, images: npt.NDArray[np.int8], tmp_path: Path
) -> None:
    make_sensors(tmp_path / "root")
    np.save(tmp_path / "labels.npy", np.arange(33) % 10)
    path = f"{STANDIN / 'bin'}:/usr/bin:/bin"
    words = ("--logits", "logits.npy", "--labels", "labels.npy", "--lock", "lock", *QUICK)
    done = run_cpp(*words, environment={"PATH": path})
    assert done.code == 0, done.progress
    python = run_python(case.xmodel, "--images", case.images, "--labels", case.labels, *QUICK)
    mine, theirs = structure(done.report), structure(python.report)
    assert (mine["board"].pop("python"), theirs["board"].pop("python")) == ("NoneType", "str")
    assert mine == theirs
    assert list(done.report) == list(python.report)
    board = {name: value for name, value in python.report["board"].items() if name != "python"}
    assert {name: value for name, value in done.report["board"].items() if name != "python"} == board
    assert done.report["power"] == python.report["power"]
    assert done.report["temperature_c"]["start"] == pytest.approx(python.report["temperature_c"]["start"], abs=0.01)
    phases = [line.split(" ")[0] for line in done.progress.splitlines()]
    assert list(dict.fromkeys(phases)) == ["waiting", "checking", "warming", "latency", "throughput"]


def test_logits_are_the_stubs_arithmetic_in_numpys_format(run_cpp: Run, images: npt.NDArray[np.int8], tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(33) % 10)
    done = run_cpp("--logits", "logits.npy", "--labels", "labels.npy", *QUICK)
    expected = reference(images)
    assert done.report["images"]["count"] == 33
    assert done.report["images"]["correct"] == int((expected.argmax(axis=1) == np.arange(33) % 10).sum())
    assert done.report["input"] == {"shape": [4, 5, 3], "fix_position": 6}
    assert done.report["output"] == {"shape": [10], "fix_position": 4}
    np.save(tmp_path / "numpy.npy", expected)
    assert (tmp_path / "logits.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_figures_are_those_of_the_clock(run_cpp: Run) -> None:
    report = run_cpp("--seconds", 2, job_us=5000).report
    assert report["latency"]["min_ms"] >= 5
    assert report["latency"]["median_ms"] == pytest.approx(5, rel=0.2)
    assert 1.5 * 200 < report["throughput"]["fps"] < 1.02 * 400  # two cores
    assert report["throughput"]["threads"] == 4


def test_a_thread_alone_is_no_faster_than_its_jobs(run_cpp: Run) -> None:
    """VART executes a job in the call that starts it, and few go in a repeat: none of them is counted twice."""
    throughput = run_cpp("--threads", 1, *QUICK, job_us=20000).report["throughput"]
    assert throughput["threads"] == 1
    assert max(throughput["repeats_fps"]) <= 50


@pytest.mark.parametrize("length", [55, 56, 63, 64, 119, 120, 1000])
def test_checksums_are_sha256(run_cpp: Run, length: int) -> None:
    plan = PLAN.ljust(length, "\n")
    assert run_cpp(*QUICK, plan=plan).report["xmodel"]["sha256"] == hashlib.sha256(plan.encode()).hexdigest()


# --- files of arrays


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_are_read_in_every_version_of_their_format(
    run_cpp: Run, images: npt.NDArray[np.int8], tmp_path: Path, version: tuple[int, int]
) -> None:
    with (tmp_path / "other.npy").open("wb") as file:
        np.lib.format.write_array(file, images, version)
    done = run_cpp("--images", "other.npy", "--logits", "logits.npy", *QUICK)
    assert done.code == 0, done.progress
    assert np.array_equal(np.load(tmp_path / "logits.npy"), reference(images))


def test_arrays_that_are_not_what_they_should_be_are_refused(
    run_cpp: Run, images: npt.NDArray[np.int8], tmp_path: Path
) -> None:
    content = (tmp_path / "images.npy").read_bytes()
    huge = content.replace(b"(33, 4, 5, 3)", b"(33, 4, 5, 9)")
    files: dict[str, Any] = {
        "uint8": images.astype(np.uint8),
        "float": images.astype(np.float32),
        "fortran": np.asfortranarray(images),
        "three": images[0],
        "shape": images[:, :2],
        "none": images[:0],
        "cut": content[:-1],
        "more": content + b"\0",
        "huge": huge,
        "endless": content.replace(b"(33, 4, 5, 3), }", b"(9999999999999999999, 9999999999), }"),
        "text": b"no array at all, but long enough",
        "empty": b"",
    }
    for name, given in files.items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(given) if isinstance(given, bytes) else np.save(path, given)
        done = run_cpp("--images", path.name, *QUICK)
        assert (done.code, done.report) == (2, {}), (name, done.progress)
        assert done.sentence.startswith("error: the images in"), done.progress
    assert "cannot be read" in run_cpp("--images", tmp_path, *QUICK).sentence
    for labels in (np.arange(32), np.arange(33, dtype=np.int32), np.zeros((33, 1), np.int64)):
        np.save(tmp_path / "labels.npy", labels)
        done = run_cpp("--labels", "labels.npy", *QUICK)
        assert (done.code, done.report) == (2, {})
        assert "labels" in done.sentence


# --- refusals and faults


def test_what_cannot_be_used_is_one_sentence(run_cpp: Run, tmp_path: Path) -> None:
    path = {"PATH": f"{STANDIN / 'bin'}:/usr/bin:/bin"}
    other, old = PLAN.replace(MARK, "0x101000016010406"), PLAN.replace(MARK, "0x1000020f6014407")
    for words, settings, sentence in [
        (("absent.xmodel",), {}, "there is no file absent.xmodel"),
        ((), {"plan": PLAN.replace("USER DPU CPU", "")}, "it is not compiled"),
        ((), {"plan": PLAN + " DPU"}, "1 CPU, 2 DPU, 1 USER"),
        ((), {"plan": PLAN.replace("DPU ", "")}, "1 CPU, 1 USER"),
        ((), {"plan": other, "environment": path}, f"compile it again with --fingerprint {MARK}"),
        ((), {"plan": old, "environment": path}, "its instruction set is 1, the file's 0: take an image"),
        (("--seconds", "0"), {}, "--seconds is 0"),
        (("--threads", "many"), {}, "--threads is many"),
        (("--threads", "2.9"), {}, "--threads is 2.9, expected a whole number"),
        (("--repeats", "5.9"), {}, "--repeats is 5.9, expected a whole number"),
        (("--probe", "a.xmodel"), {}, "the xmodel would not be looked at"),
        (("--speed", "9"), {}, "there is no option --speed"),
        (("--speed",), {}, "there is no option --speed; --help lists them"),
        (("--lock-timeout", "9"), {}, "--lock-timeout is for --lock; give both"),
        (("--logits", "no/l.npy"), {}, "--logits no/l.npy cannot be written: there is no such folder"),
        (("--logits", "/tmp"), {}, "--logits /tmp cannot be written: it is a folder"),
        (("--probe", "--images", "images.npy"), {}, "--images would not be looked at"),
        (("--probe", "--labels", "labels.npy"), {}, "--labels would not be looked at"),
    ]:
        done = run_cpp(*words, **settings)
        assert (done.code, done.report) == (2, {}), done.progress
        assert sentence in done.sentence


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("create", "VART makes no runner: no device"),
        ("throw", "the DPU does not answer"),
        ("status", "status -1"),
        ("abort", "SIGABRT"),
    ],
)
def test_a_fault_of_the_board_is_told_from_a_mistake(run_cpp: Run, fault: str, sentence: str) -> None:
    done = run_cpp(*QUICK, fault=fault, at=50)
    assert (done.code, done.report) == (3, {}), done.progress
    assert sentence in done.sentence


def test_a_dpu_that_hangs_ends_the_program_and_lets_the_board_go(run_cpp: Run, tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run_cpp("--lock", "lock", *QUICK, fault="hang", at=50, environment={"EDGESEARCH_PATIENCE_S": "2"})
    assert (done.code, done.report) == (3, {})
    assert "no sign of life for 2 s" in done.sentence
    assert time.monotonic() - begin < 30
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_programs_share_a_board_one_after_the_other(run_cpp: Run, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run_cpp("--lock", "lock", "--lock-timeout", 0.2, *QUICK)
        assert (done.code, done.report) == (4, {})
        assert "the board is busy" in done.sentence
    assert run_cpp("--lock", "lock", "--lock-timeout", 0.2, *QUICK).code == 0


def test_a_lock_is_for_every_user_and_one_that_cannot_be_opened_is_the_boards_fault(run_cpp: Run, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert run_cpp("--probe", "--lock", "lock").code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o644
    (tmp_path / "lock").chmod(0o444)
    assert run_cpp("--probe", "--lock", "lock").code == 0
    os.mkfifo(tmp_path / "pipe")
    for path in (".", "pipe", "nowhere/lock"):
        done = run_cpp("--probe", "--lock", path)
        assert (done.code, done.report) == (3, {})
        assert "the lock file" in done.sentence


def test_a_lock_that_no_waiting_gets_is_the_boards_fault(run_cpp: Run, tmp_path: Path) -> None:
    source = '#include <cerrno>\nextern "C" int flock(int, int) { errno = ENOLCK; return -1; }\n'
    words = ["g++", "-x", "c++", "-shared", "-fPIC", "-", "-o", str(tmp_path / "libnolock.so")]
    subprocess.run(words, input=source, text=True, check=True)
    done = run_cpp("--probe", "--lock", "lock", environment={"LD_PRELOAD": str(tmp_path / "libnolock.so")})
    assert (done.code, done.report) == (3, {})
    assert "the lock file lock cannot be locked here (No locks available); name another folder" in done.sentence


def test_who_stopped_the_program_is_told(run_cpp: Run, built: Path, images: npt.NDArray[np.int8], tmp_path: Path) -> None:
    (tmp_path / "stub.xmodel").write_text(PLAN)
    command = [str(built / "run_on_board"), "stub.xmodel", "--images", "images.npy", "--result", "result.json"]
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stopped = stop_while_it_waits([*command, "--lock", "lock"], {**os.environ, "LD_LIBRARY_PATH": str(built)}, tmp_path)
    assert stopped == (3, "error: the program was stopped (SIGINT)")


def test_a_probe_of_slow_programs_is_no_dpu_that_hangs(run_cpp: Run, tmp_path: Path) -> None:
    environment = {"PATH": f"{slow_programs(tmp_path)}:/usr/bin:/bin", "EDGESEARCH_PATIENCE_S": "3"}
    assert run_cpp("--probe", environment=environment).code == 0


def test_a_report_that_cannot_be_written_is_the_boards_fault(run_cpp: Run) -> None:
    done = run_cpp("--logits", "/proc/logits.npy", *QUICK)
    assert (done.code, done.report) == (3, {})
    assert "cannot be written on the board" in done.sentence


def test_a_probe_says_what_python_says(run_python: Run, run_cpp: Run, tmp_path: Path) -> None:
    make_sensors(tmp_path / "root")
    python = run_python("--probe").report
    cpp = run_cpp("--probe", environment={"PATH": f"{STANDIN / 'bin'}:/usr/bin:/bin"}).report
    python["board"]["python"] = None
    del python["free_bytes"], cpp["free_bytes"]
    assert cpp.pop("temperature_c") == pytest.approx(python.pop("temperature_c"), abs=0.01)
    assert cpp == python
