"""Jobs on a real sshd: what they give, what they push, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import compile_xmodel, execute
from edgesearch.board_eval.remote import BoardRun, BoardSettings, check_board, probe_board, release_board, run_on_board
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import BoardBusy, BoardError, BoardLost, BoardUnfit
from edgesearch.testing import BoardContract

from .._sshd import LoopbackBoard

GRAPH = BoardContract().network()
XMODEL = compile_xmodel(GRAPH, DPUS["B4096"]).content
IMAGES = np.random.default_rng(0).integers(-128, 128, (5, 8, 8, 3)).astype(np.int8)
#: What the stand-in gives for them, and what `quick_runner` gives.
LOGITS = np.ldexp(execute(GRAPH, IMAGES), 2).astype(np.int8)
QUICK_LOGITS = IMAGES.reshape(5, -1)[:, :10]

#: A program that sleeps in the place of the runner, once it has said that it works.
SLEEPER = "#!/bin/sh\necho checking >&2\nwhile :; do sleep 0.1; done\n"


def run(settings: BoardSettings, images: np.ndarray = IMAGES) -> BoardRun:
    return run_on_board(settings, XMODEL, images, 10)


def wait_for_job(lab: LoopbackBoard) -> Path:
    """The private folder of the job whose program runs now."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        folders = [folder for folder in lab.folder.glob("edgesearch-job.*") if str(folder) in lab.command_lines("sleeper")]
        if folders:
            return folders[0]
        time.sleep(0.1)
    raise AssertionError("no job began")


def test_what_a_board_is(lab: LoopbackBoard) -> None:
    probe = probe_board(lab.settings())
    assert probe.board.fingerprint == "0x101000056010407"
    assert (probe.board.vart, probe.board.dpu_cores, probe.vart_importable, probe.problem) == ("3.5.0", 2, True, None)
    assert lab.left_behind() == []


def test_a_job_gives_logits_and_figures_and_what_it_pushed_stays_for_the_next(lab: LoopbackBoard) -> None:
    labels = LOGITS.argmax(axis=1)
    labels[0] += 1
    first = run_on_board(lab.settings(), XMODEL, IMAGES, 10, labels)
    assert np.array_equal(first.logits, LOGITS)
    assert first.correct == len(IMAGES) - 1
    assert (first.report.images.count, first.report.throughput.threads) == (5, 4)
    assert first.pushed > len(XMODEL)
    assert first.clock_skew_s is not None
    assert abs(first.clock_skew_s) < 60
    second = run(lab.settings())
    assert (second.pushed, second.correct) == (0, None)
    assert np.array_equal(second.logits, LOGITS)
    assert lab.left_behind() == []


def test_what_lies_on_the_board_is_its_users_alone(lab: LoopbackBoard) -> None:
    lab.program("sleeper", SLEEPER)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run, lab.settings(python="sleeper"))
        folder = wait_for_job(lab)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert lab.cached()[0].parent.stat().st_mode & 0o777 == 0o700
        lab.stop()
        with pytest.raises(BoardLost):
            job.result(20)


def test_jobs_run_side_by_side_and_from_a_notebook(lab: LoopbackBoard) -> None:
    """Two drivers wait for each other by the board's lock; an event loop of the caller's is no hindrance."""
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(run, [lab.settings(), lab.settings(name="other")]))

    async def in_a_loop() -> BoardRun:
        return run(lab.settings())

    runs.append(asyncio.run(in_a_loop()))
    assert all(np.array_equal(one.logits, LOGITS) for one in runs)
    assert lab.left_behind() == []


def test_a_board_that_another_driver_keeps_is_busy(lab: LoopbackBoard) -> None:
    with (lab.folder / "edgesearch-board.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BoardBusy, match=r"board 'lab' is busy: another program held"):
            run(lab.settings(timeout_s=12))
        assert release_board(lab.settings()).is_locked is True
    assert lab.left_behind() == []


def test_the_cache_drops_what_was_not_used_for_longest(lab: LoopbackBoard) -> None:
    fake = lab.program("refuses", "#!/bin/sh\nexit 2\n")
    for number in range(4):
        with pytest.raises(BoardError):
            run(lab.settings(python=str(fake), cache_mib=1), np.full((2400, 8, 8, 3), number, np.int8))
        time.sleep(0.01)
    assert sum(path.stat().st_size for path in lab.cached()) <= 1 << 20
    assert len(lab.cached()) >= 1
    assert lab.left_behind() == []


def test_a_driver_that_is_killed_leaves_nothing(lab: LoopbackBoard, tmp_path: Path) -> None:
    lab.program("sleeper", SLEEPER)
    boards = lab.boards_file(python="sleeper")
    code = (
        "import numpy, sys; from edgesearch.board_eval.remote import load_boards, run_on_board\n"
        f"run_on_board(load_boards({str(boards)!r}).board('lab'), b'x', numpy.zeros((1, 8, 8, 3), numpy.int8), 10)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for_job(lab)
    driver.kill()
    driver.wait()
    assert lab.left_behind() == []
    assert lab.programs("sleeper") == []


def test_release_removes_what_has_no_keeper_and_frees_the_lock(lab: LoopbackBoard) -> None:
    """A job whose keeper died too: its driver is lost, its program goes on and holds the lock."""
    lock = lab.folder / "edgesearch-board.lock"
    lab.program("sleeper", f"#!/bin/sh\nexec 9>>{lock}\nflock 9\n" + SLEEPER)
    settings = lab.settings()
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run, lab.settings(python="sleeper"))
        folder = wait_for_job(lab)
        assert release_board(settings).kept == (str(folder),)
        for process in lab.running():
            if "edgesearch-keeper" in process.cmdline():
                process.kill()
        lab.stop()
        with pytest.raises(BoardLost):
            job.result(20)
    assert folder.exists()
    lab.start()
    released = release_board(settings)
    assert released.removed == (str(folder),)
    assert (released.kept, released.is_locked) == ((), False)
    assert lab.left_behind() == []
    assert release_board(settings).removed == ()


def test_release_by_force_ends_a_living_job(lab: LoopbackBoard) -> None:
    lab.program("sleeper", SLEEPER)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run, lab.settings(python="sleeper"))
        folder = wait_for_job(lab)
        assert release_board(lab.settings(), force=True).removed == (str(folder),)
        with pytest.raises(BoardLost, match="ended by a signal"):
            job.result(20)


GPP = """#!/bin/sh
echo built >>{log}
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\nexec {quick} x "$@"\\n' >"$2"
chmod 755 "$2"
"""


def test_the_cpp_runner_is_built_once_and_checked_on_every_use(lab: LoopbackBoard, tmp_path: Path) -> None:
    """With a compiler of the test's; what it makes is kept and started as a real one's would be."""
    log = tmp_path / "log"
    lab.program("g++", GPP.format(log=log, quick=lab.quick_runner()))
    for _ in range(2):
        done = run(lab.settings(runner="cpp"))
        assert np.array_equal(done.logits, QUICK_LOGITS)
        assert done.note == ""
    assert log.read_text().split() == ["built"]
    built = next(path for path in lab.cached() if path.name.startswith("built-"))
    built.chmod(0o700)
    built.write_text("#!/bin/sh\nexit 1\n")
    assert np.array_equal(run(lab.settings(runner="auto")).logits, QUICK_LOGITS)
    assert log.read_text().split() == ["built"] * 2
    assert lab.left_behind() == []


def test_where_it_does_not_build_the_python_runner_runs_and_says_why(lab: LoopbackBoard, tmp_path: Path) -> None:
    log = tmp_path / "log"
    message = 'echo "$4: fatal error: vart/runner.hpp: No such file or directory" >&2'
    lab.program("g++", f"#!/bin/sh\necho tried >>{log}\n{message}\nexit 1\n")
    for _ in range(2):
        done = run(lab.settings(runner="auto", python=lab.quick_runner()))
        assert np.array_equal(done.logits, QUICK_LOGITS)
        assert "does not build on the board" in done.note
        assert "fatal error: vart/runner.hpp" in done.note
        assert "edgesearch-job" not in done.note
    with pytest.raises(BoardUnfit, match=r"does not build the C\+\+ runner .*vart/runner.hpp.*`edgesearch board release lab`"):
        run(lab.settings(runner="cpp"))
    assert log.read_text().split() == ["tried"]
    release_board(lab.settings())
    run(lab.settings(runner="auto", python=lab.quick_runner()))
    assert log.read_text().split() == ["tried"] * 2
    assert lab.left_behind() == []


def test_a_compiler_that_was_killed_is_asked_again(lab: LoopbackBoard, tmp_path: Path) -> None:
    log = tmp_path / "log"
    message = 'echo "g++: fatal error: Killed signal terminated program cc1plus" >&2'
    lab.program("g++", f"#!/bin/sh\necho tried >>{log}\n{message}\nexit 1\n")
    for _ in range(2):
        assert "Killed signal" in run(lab.settings(runner="auto", python=lab.quick_runner())).note
    assert log.read_text().split() == ["tried"] * 2


def test_a_disk_too_full_to_build_on_leaves_the_job_to_no_other_runner(lab: LoopbackBoard, tmp_path: Path) -> None:
    log = tmp_path / "log"
    message = 'echo "$4: fatal error: error writing to /tmp/x.s: No space left on device" >&2'
    lab.program("g++", f"#!/bin/sh\necho tried >>{log}\n{message}\nexit 1\n")
    for _ in range(2):
        with pytest.raises(BoardLost, match=r"'lab' has no room to build the C\+\+ runner in .*No space left"):
            run(lab.settings(runner="auto", python=lab.quick_runner()))
    assert log.read_text().split() == ["tried"] * 2
    assert lab.left_behind() == []


def test_what_is_built_and_does_not_start_leaves_the_job_to_the_python_runner(lab: LoopbackBoard) -> None:
    """As where a library is missing that its compiler had."""
    message = "error while loading shared libraries: libglog.so.0"
    script = f"#!/bin/sh\\necho {message} >&2\\nexit 127\\n"
    body = f'while [ "$1" != -o ]; do shift; done\nprintf \'{script}\' >"$2"\nchmod 755 "$2"\n'
    lab.program("g++", f"#!/bin/sh\n{body}")
    for _ in range(2):
        done = run(lab.settings(runner="auto", python=lab.quick_runner()))
        assert np.array_equal(done.logits, QUICK_LOGITS)
        assert done.note.endswith(f"what was built does not start: {message}")
    assert not [path for path in lab.cached() if path.name.startswith("built-")]
    with pytest.raises(BoardUnfit, match="does not start"):
        run(lab.settings(runner="cpp"))


#: Started without arguments it refuses them, as the C++ runner does.
PROBE = """
import json, sys
if len(sys.argv) == 1:
    sys.exit(2)
facts = {"fingerprint": "0x101000056010407", "vart": "3.5.0", "dpu_cores": 2}
probe = {"format": 1, "probe": True, "board": facts, "free_bytes": 1 << 40, "vart_importable": True}
json.dump(probe, open(sys.argv[sys.argv.index("--result") + 1], "w"))
"""


def looked_at(lab: LoopbackBoard, **keys: object) -> dict[str, tuple[bool | None, str]]:
    return {check.name: (check.is_good, check.text) for check in check_board(lab.settings(**keys))}


def test_a_look_at_a_board_asks_for_python_only_where_python_measures(lab: LoopbackBoard, tmp_path: Path) -> None:
    log, probe = tmp_path / "log", tmp_path / "probe.py"
    probe.write_text(PROBE)
    lab.program("g++", GPP.format(log=log, quick=f"{sys.executable} -S {probe}").replace(" x ", " "))
    without_vart = str(lab.program("bare", f'#!/bin/sh\nexec env -u PYTHONPATH {sys.executable} "$@"\n'))
    for python in (without_vart, "python2.2"):
        found = looked_at(lab, runner="python", python=python)
        assert found["reachable"][0] is True
        assert [name for name, (good, _) in found.items() if good is False] == ["VART" if python != "python2.2" else "runner"]
        for runner in ("cpp", "auto"):
            found = looked_at(lab, runner=runner, python=python)
            assert False not in [good for good, _ in found.values()]
            assert "built with the board's g++ at the first measurement" in found["VART" if "VART" in found else "runner"][1]
    assert not log.exists()  # a look builds nothing, which takes a board minutes
    with pytest.raises(BoardLost):
        run(lab.settings(runner="cpp"))  # which the probe cannot do; it is built now
    found = looked_at(lab, runner="cpp", python="python2.2")
    assert found["VART"] == (True, "3.5.0, the C++ runner")
    assert (found["fingerprint"][0], found["DPU cores"]) == (True, (True, "2"))
    assert log.read_text().split() == ["built"]


def test_a_board_that_cannot_have_the_runner_that_is_asked_for_is_reachable(lab: LoopbackBoard) -> None:
    lab.program("g++", "#!/bin/sh\necho 'error: no headers' >&2\nexit 1\n")
    with pytest.raises(BoardUnfit):
        run(lab.settings(runner="cpp"))
    found = looked_at(lab, runner="cpp")
    assert (found["reachable"][0], found["runner"][0]) == (True, False)
    assert "does not build the C++ runner (error: no headers)" in found["runner"][1]
    assert looked_at(lab, runner="auto")["VART"][0] is True  # by Python, which runs there


def test_a_cache_that_is_somebody_elses_is_not_used(lab: LoopbackBoard, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (lab.folder / f"edgesearch-cache.{lab.settings().user}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BoardLost, match="is no folder of"):
        run(lab.settings())
    assert os.listdir(tmp_path / "elsewhere") == []
    assert lab.left_behind() == []
