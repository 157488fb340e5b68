"""The program in Python as a board runs it: in a process of its own, on modules that stand for XIR and VART."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import CompiledXmodel, load_profile
from edgesearch.board_eval.runner import PYTHON_NAME, RUNNER_VERSION
from edgesearch.board_eval.runner import _run_on_board as program

from ._boards import STANDIN, Case, Run, make_sensors, slow_programs, stop_while_it_waits

QUICK = ("--seconds", 0.2)


def test_a_report_says_what_ran_where_and_how_fast(case: Case, run_python: Run, tmp_path: Path) -> None:
    logits = tmp_path / "logits.npy"
    done = run_python(case.xmodel, "--images", case.images, "--labels", case.labels, "--logits", logits, "--seconds", 1)
    assert done.code == 0, done.progress
    report = done.report
    xmodel = CompiledXmodel.read(case.xmodel)
    values = np.load(logits)
    assert values.dtype == np.int8
    assert np.array_equal(values, case.expected)
    assert (report["format"], report["runner"], report["runner_version"]) == (1, "python", RUNNER_VERSION)
    assert report["xmodel"] == {"sha256": xmodel.sha256, "fingerprint": "0x101000056010407"}
    assert report["board"]["fingerprint"] == "0x101000056010407"
    assert (report["board"]["vart"], report["board"]["dpu_cores"], report["board"]["dpu_mhz"]) == ("3.5.0", 2, 300.0)
    assert report["input"] == {"shape": [8, 8, 3], "fix_position": 5}
    assert report["output"] == {"shape": [5], "fix_position": 4}
    correct = int((case.expected.argmax(axis=1) == np.load(case.labels)).sum())
    assert (report["images"]["count"], report["images"]["correct"]) == (30, correct)
    assert (report["power"], report["temperature_c"]) == (None, None)
    assert "not available" in report["power_note"]
    assert "checking\nwarming up\nlatency 1/5\n" in done.progress


@pytest.mark.slow
def test_figures_are_those_of_the_clock(case: Case, run_python: Run) -> None:
    done = run_python(case.xmodel, "--images", case.images, "--seconds", 2, slower=40)
    timing = CompiledXmodel.read(case.xmodel).time(load_profile("zcu104"), runner="cpp")
    latency, throughput = done.report["latency"], done.report["throughput"]
    assert latency["median_ms"] == pytest.approx(40e3 * timing.latency_s, rel=0.25)
    assert latency["min_ms"] <= latency["median_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
    assert len(latency["repeats_ms"]) == len(throughput["repeats_fps"]) == 5
    assert throughput["threads"] == 4
    assert throughput["fps"] > 1.3e3 / latency["mean_ms"]  # two cores
    assert throughput["fps"] < 1.1 * 2 / (40 * timing.dpu_s)


def test_jobs_that_vart_queues_come_out_right(case: Case, run_python: Run, tmp_path: Path) -> None:
    logits = tmp_path / "logits.npy"
    done = run_python(case.xmodel, "--images", case.images, "--logits", logits, *QUICK, asynchronous=1)
    assert done.code == 0, done.progress
    assert np.array_equal(np.load(logits), case.expected)


def test_the_machine_and_the_known_source_give_the_same_integers(case: Case, run_python: Run, tmp_path: Path) -> None:
    logits = tmp_path / "logits.npy"
    np.save(tmp_path / "two.npy", np.load(case.images)[:2])
    for sources in (case.source.parent, ""):
        logits.unlink(missing_ok=True)
        run_python(case.xmodel, "--images", tmp_path / "two.npy", "--logits", logits, *QUICK, sources=sources)
        assert np.array_equal(np.load(logits), case.expected[:2])


def test_repeats_that_do_not_agree_are_measured_again_and_it_is_said(case: Case, run_python: Run) -> None:
    done = run_python(case.xmodel, "--images", case.images, "--seconds", 2, "--repeats", 1, noise=0.3, slower=40)
    latency, throughput = done.report["latency"], done.report["throughput"]
    assert (latency["settled"], throughput["settled"]) == (False, False)
    assert min(latency["spread"], throughput["spread"]) > 0.03
    assert "latency 10/5" in done.progress
    assert len(latency["repeats_ms"]) == 5


def test_power_and_temperature_are_read_from_the_boards_sensors(case: Case, run_python: Run, tmp_path: Path) -> None:
    make_sensors(tmp_path / "root")
    done = run_python(case.xmodel, "--images", case.images, *QUICK)
    assert done.report["power"] == {"idle_w": 11.5, "busy_w": 11.5, "sensor": "ina226_u183"}
    assert done.report["power_note"] is None
    assert done.report["temperature_c"] == {"start": pytest.approx(46.18, abs=0.01), "end": pytest.approx(46.18, abs=0.01)}
    assert done.report["board"]["cpu"] == "ZynqMP ZCU104 RevC"


def test_a_probe_says_what_the_board_is(run_python: Run, tmp_path: Path) -> None:
    make_sensors(tmp_path / "root")
    (tmp_path / "root/sys/class/hwmon/hwmon2").mkdir()
    (tmp_path / "root/sys/class/hwmon/hwmon2/name").write_text("ina226_u184")
    (tmp_path / "root/sys/class/hwmon/hwmon2/power1_input").write_text("500000")
    report = run_python("--probe").report
    free = report.pop("free_bytes")
    assert 0 < free < 1 << 60
    assert report == {
        "format": 1,
        "probe": True,
        "board": {
            "fingerprint": "0x101000056010407",
            "vart": "3.5.0",
            "dpu_cores": 2,
            "dpu_mhz": 300.0,
            "cpu": "ZynqMP ZCU104 RevC",
            "python": ".".join(map(str, sys.version_info[:3])),
        },
        "power_sensor": "sum of 2 rails: ina226_u183, ina226_u184",
        "temperature_c": pytest.approx(46.18, abs=0.01),
        "vart_importable": True,
        "problem": None,
    }


def test_a_probe_of_a_board_without_vart_says_so(run_python: Run) -> None:
    done = run_python("--probe", environment={"PYTHONPATH": "", "PATH": "/usr/bin:/bin"})
    assert done.code == 0
    assert (done.report["vart_importable"], done.report["board"]["fingerprint"]) == (False, None)
    assert "vart" in done.report["problem"]


def test_a_probe_of_slow_programs_is_no_dpu_that_hangs(run_python: Run, tmp_path: Path) -> None:
    path = f"{slow_programs(tmp_path)}:/usr/bin:/bin"
    environment = {"PYTHONPATH": "", "PATH": path, "EDGESEARCH_PATIENCE_S": "3"}
    assert run_python("--probe", environment=environment).code == 0


def test_a_board_that_tells_its_dpu_by_show_dpu_is_understood(run_python: Run, tmp_path: Path) -> None:
    program = tmp_path / "show_dpu"
    program.write_text("#!/bin/sh\nfor core in 0 1 2; do echo device_core_id=$core fingerprint = 0x101000016010406; done\n")
    program.chmod(0o755)
    board = run_python("--probe", environment={"PATH": f"{tmp_path}:/usr/bin:/bin"}).report["board"]
    assert (board["fingerprint"], board["dpu_cores"], board["vart"]) == ("0x101000016010406", 3, None)


# --- what cannot be used: exit code 2 and one sentence


def test_what_cannot_be_used_is_one_sentence_and_leaves_no_report(case: Case, run_python: Run, tmp_path: Path) -> None:
    images = np.load(case.images)
    np.save(tmp_path / "float.npy", images.astype(np.float32))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(images))
    np.save(tmp_path / "shape.npy", images[:, :4])
    np.save(tmp_path / "none.npy", images[:0])
    np.save(tmp_path / "short.npy", np.zeros(3, np.int64))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(case.images.read_bytes()[:500])
    np.savez(tmp_path / "archive.npz", images=images)
    (tmp_path / "archive.npy").write_bytes((tmp_path / "archive.npz").read_bytes())
    (tmp_path / "zip.npy").write_bytes((tmp_path / "archive.npz").read_bytes()[:500])
    good = ("--images", case.images)
    cases = [
        ((tmp_path / "absent.xmodel", *good), {}, "there is no file"),
        ((case.source, *good), {}, "it is not compiled"),
        ((case.xmodel, *good), {"devices": "USER,DPU,CPU,DPU"}, "1 CPU, 2 DPU, 1 USER"),
        ((case.xmodel, *good), {"fingerprint": "0x101000016010406"}, "--fingerprint 0x101000016010406"),
        ((case.xmodel, "--images", tmp_path / "float.npy"), {}, "int8"),
        ((case.xmodel, "--images", tmp_path / "fortran.npy"), {}, "C order"),
        ((case.xmodel, "--images", tmp_path / "shape.npy"), {}, "the xmodel takes [N, 8, 8, 3]"),
        ((case.xmodel, "--images", tmp_path / "none.npy"), {}, "the xmodel takes [N, 8, 8, 3]"),
        ((case.xmodel, "--images", tmp_path / "objects.npy"), {}, "cannot be read"),
        *(((case.xmodel, "--images", tmp_path / f"{n}.npy"), {}, "cannot be read") for n in ("cut", "archive", "zip")),
        ((case.xmodel, *good, "--labels", tmp_path / "short.npy"), {}, "labels of shape [3]"),
        ((case.xmodel, *good, "--seconds", 0), {}, "--seconds"),
    ]
    for words, knobs, sentence in cases:
        done = run_python(*words, **knobs)
        assert done.code == 2, (words, done.progress)
        assert sentence in done.sentence, done.progress
        assert "Traceback" not in done.progress
        assert not done.report


def test_a_python_without_vart_is_refused(case: Case, run_python: Run) -> None:
    done = run_python(case.xmodel, "--images", case.images, environment={"PYTHONPATH": ""})
    assert (done.code, done.report) == (2, {})
    assert "run this on the board" in done.sentence


def test_options_that_would_not_be_looked_at_are_refused(case: Case, run_python: Run) -> None:
    images = (case.xmodel, "--images", case.images)
    for words, option in {
        (case.xmodel, "--logits", "logits.npy"): "logits",
        (case.xmodel, "--labels", case.labels): "labels",
        (*images, "--csv", "rows.csv"): "csv",
        (*images, "--measure-anyway"): "measure-anyway",
        (*images, "--export", case.folder): "export",
        ("--probe", "--images", case.images): "images",
        ("--probe", "--csv", "rows.csv"): "csv",
    }.items():
        done = run_python(*words)
        assert (done.code, done.report) == (2, {}), words
        assert f"error: --{option} would not be looked at" in done.sentence
    done = run_python("--probe", case.xmodel)
    assert (done.code, done.report) == (2, {})
    assert "the xmodel would not be looked at" in done.sentence


def test_files_that_could_not_be_written_are_refused_before_the_board_works(
    case: Case, run_python: Run, tmp_path: Path
) -> None:
    images = (case.xmodel, "--images", case.images)
    for words, sentence in {
        (*images, "--result", "no/r.json"): "--result no/r.json cannot be written: there is no such folder",
        ("--probe", "--result", "no/r.json"): "--result no/r.json cannot be written: there is no such folder",
        (*images, "--logits", tmp_path): f"--logits {tmp_path} cannot be written: it is a folder",
    }.items():
        done = run_python(*words)
        assert (done.code, done.report) == (2, {}), done.progress
        assert sentence in done.sentence
        assert "checking" not in done.progress
        assert "Traceback" not in done.progress


def test_a_time_to_wait_for_a_lock_needs_one(case: Case, run_python: Run) -> None:
    done = run_python(case.xmodel, "--images", case.images, "--lock-timeout", 5)
    assert (done.code, done.report) == (2, {})
    assert "--lock-timeout is for --lock; give both" in done.sentence


# --- the board is at fault: exit code 3; or another program has it: 4


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"create_fails": 1}, "VART makes no runner: no device"),
        ({"raise_at": 5}, "the DPU does not answer"),
        ({"status_at": 40}, "status 1"),
        ({"timeout_at": 40}, "SIGABRT"),
        ({"crash_at": 40}, "SIGSEGV"),
        ({"fingerprint": "0x101000016010406"}, "SIGABRT"),
    ],
)
def test_a_fault_of_the_board_is_told_from_a_mistake(
    case: Case, run_python: Run, knobs: dict[str, object], sentence: str
) -> None:
    hidden = {"PATH": "/usr/bin:/bin"} if "fingerprint" in knobs else {}  # a board that does not tell its fingerprint
    done = run_python(case.xmodel, "--images", case.images, *QUICK, environment=hidden, **knobs)
    assert (done.code, done.report) == (3, {}), done.progress
    assert sentence in done.sentence
    assert "Traceback" not in done.progress


def test_a_dpu_that_hangs_ends_the_program_and_lets_the_board_go(case: Case, run_python: Run, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    begin = time.monotonic()
    words = (case.xmodel, "--images", case.images, "--lock", lock, *QUICK)
    done = run_python(*words, hang_at=40, environment={"EDGESEARCH_PATIENCE_S": "12"})
    assert (done.code, done.report) == (3, {})
    assert "no sign of life for 12 s" in done.sentence
    assert time.monotonic() - begin < 60
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_two_programs_share_a_board_one_after_the_other(case: Case, run_python: Run, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    words = (case.xmodel, "--images", case.images, "--lock", lock, *QUICK)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run_python(*words, "--lock-timeout", 0.2)
        assert (done.code, done.report) == (4, {})
        assert "the board is busy" in done.sentence
    assert run_python(*words, "--lock-timeout", 0.2).code == 0


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """What is done inside is done by nobody, where this is root."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_users_share_the_lock_that_one_of_them_made() -> None:
    """In a folder like /tmp, whatever the umask of the first."""
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), os.umask(0o077)
        folder.chmod(0o1777)
        try:
            os.close(program.open_lock(str(folder / "lock")))
        finally:
            os.umask(before)
        assert (folder / "lock").stat().st_mode & 0o777 == 0o644
        (folder / "lock").chmod(0o444)
        with another_user():
            file = program.open_lock(str(folder / "lock"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)


def test_a_lock_that_cannot_be_opened_is_the_boards_fault(run_python: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "link", tmp_path / "nowhere" / "lock"):
        with pytest.raises(program.BoardFault, match=r"the lock file \S+ cannot be opened"):
            program.open_lock(str(path))
    done = run_python("--probe", "--lock", tmp_path)
    assert (done.code, done.report) == (3, {})


def test_a_lock_that_no_waiting_gets_is_the_boards_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, whose flock may need a file that is open for writing, or a service."""

    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(program.BoardFault, match=r"the lock file \S+ cannot be locked here \(No locks available\); name"):
        program.take_lock(str(tmp_path / "lock"), 60.0)


def test_who_stopped_the_program_is_told(case: Case, tmp_path: Path) -> None:
    command = [sys.executable, str(case.folder / PYTHON_NAME), "--probe", "--result", "result.json", "--lock", "lock"]
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stopped = stop_while_it_waits(command, dict(os.environ), tmp_path)
    assert stopped == (3, "error: the program was stopped (SIGINT)")


def test_nothing_is_left_when_the_program_is_killed(case: Case, tmp_path: Path) -> None:
    """Even where its DPU hangs: whoever comes next gets the board."""
    lock, log = tmp_path / "lock", tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(STANDIN), "OMP_NUM_THREADS": "1", "VART_STANDIN_HANG_AT": "40"}
    command = [sys.executable, str(case.folder / PYTHON_NAME), str(case.xmodel), "--images", str(case.images)]
    command += ["--lock", str(lock), "--result", str(tmp_path / "result.json")]
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors, env=environment) as process:
        while "warming up" not in log.read_text():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    with lock.open() as file:
        for _ in range(100):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            pytest.fail("the lock is still held")


def test_a_report_that_cannot_be_written_is_the_boards_fault(case: Case, run_python: Run) -> None:
    logits = "/proc/logits.npy"
    done = run_python(case.xmodel, "--images", case.images, "--logits", logits, *QUICK)
    assert (done.code, done.report) == (3, {})
    assert "cannot be written on the board" in done.sentence


def test_knobs_may_lie_in_a_file(case: Case, run_python: Run, tmp_path: Path) -> None:
    knobs = tmp_path / "knobs.json"
    knobs.write_text(json.dumps({"create_fails": True, "mhz": 150}))
    words = (case.xmodel, "--images", case.images, *QUICK)
    assert run_python(*words, environment={"VART_STANDIN": str(knobs)}).code == 3
    knobs.write_text(json.dumps({"mhz": 150}))
    done = run_python(*words, environment={"VART_STANDIN": str(knobs)})
    assert done.report["board"]["dpu_mhz"] == 150.0


@pytest.mark.parametrize(
    ("board", "advice"),
    [
        ("0x101000016010406", "compile it again with --fingerprint 0x101000016010406"),
        ("0x1000020f6014407", "its instruction set is 0, the file's 1: take an image for the board whose DPU has that one"),
    ],
)
def test_a_file_for_another_dpu_is_refused_with_what_helps(board: str, advice: str) -> None:
    program.check_mark("a.xmodel", "0x101000016010407", {"fingerprint": "0x101000016010407"})
    with pytest.raises(program.Refused, match=advice):
        program.check_mark("a.xmodel", "0x101000016010407", {"fingerprint": board})
