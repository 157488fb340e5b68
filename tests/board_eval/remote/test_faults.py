"""Faults of boards and of the way to them: every one is told in a sentence, and the next job is as if it had not been."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.remote import run_on_board
from edgesearch.errors import BoardError, BoardLost, BoardUnfit

from .._sshd import LoopbackBoard, loopback_board
from .test_jobs import IMAGES, LOGITS, QUICK_LOGITS, SLEEPER, XMODEL, run, wait_for_job

#: A program in the place of the board's Python. It may run the real one, and change what that wrote.
FAKE = """#!{python}
import os, subprocess, sys
def value(option): return sys.argv[sys.argv.index(option) + 1]
def real(): return subprocess.call([sys.executable, *sys.argv[1:]])
if "--probe" in sys.argv: sys.exit(real())
{body}
"""


def fake(lab: LoopbackBoard, body: str) -> str:
    return str(lab.program("fake", FAKE.format(python=sys.executable, body=body)))


def assert_works(lab: LoopbackBoard) -> None:
    """A sound job right after the fault, and nothing of either left."""
    assert np.array_equal(run(lab.settings(python=lab.quick_runner())).logits, QUICK_LOGITS)
    assert lab.left_behind() == []


# -- the way to the board


def test_nobody_answers(lab: LoopbackBoard) -> None:
    lab.stop()
    with pytest.raises(BoardLost, match=r"cannot be reached at 127.0.0.1 port \d+ .*refused.*is it on"):
        run(lab.settings())
    lab.start()
    assert_works(lab)


@pytest.mark.parametrize("printed", ["echo 'XILINX_XRT : /opt/xilinx/xrt'", "printf XILINX_XRT", "seq 1 100000"])
def test_a_login_shell_that_prints_is_told_at_once(tmp_path: Path, printed: str) -> None:
    with loopback_board(tmp_path, login=printed) as lab:
        begin = time.monotonic()
        with pytest.raises(BoardUnfit, match=r"'lab': the login shell of '\w+' prints '(XILINX_XRT|1 2 3).*interactive"):
            run(lab.settings())
        assert time.monotonic() - begin < 20
        assert lab.left_behind() == []


def test_something_else_answers(lab: LoopbackBoard) -> None:
    lab.stop()
    with subprocess.Popen([sys.executable, "-m", "http.server", str(lab.port), "--bind", "127.0.0.1"],
                          stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:  # fmt: skip
        try:
            time.sleep(1)
            with pytest.raises(BoardLost, match="cannot be reached"):
                run(lab.settings())
        finally:
            server.kill()


def test_another_host_key_is_refused_and_an_unknown_one_too(lab: LoopbackBoard, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    before = known.read_text()
    other = (tmp_path / "user_key.pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{lab.port} {other[0]} {other[1]}\n")
    with pytest.raises(BoardUnfit, match=r"shows another key .* ssh-keygen -R"):
        run(lab.settings())
    known.write_text("")
    with pytest.raises(BoardUnfit, match=r"is not in .*known_hosts"):
        run(lab.settings())
    assert known.read_text() == ""
    with pytest.raises(BoardUnfit, match=r"is not in .*nowhere"):
        run(lab.settings(known_hosts=tmp_path / "nowhere"))
    known.write_text(before)
    assert_works(lab)


def with_other_numbers(path: Path) -> bytes:
    """An RSA key one of whose numbers was damaged: it is written as a key is, and is none."""
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", str(path)], check=True)
    first, *body, last = path.read_text().split("\n")[:-1]
    content = bytearray(base64.b64decode("".join(body)))
    content[len(content) // 2] ^= 1
    return "\n".join([first, base64.b64encode(content).decode(), last, ""]).encode()


def test_keys_that_do_not_open_it(lab: LoopbackBoard, tmp_path: Path) -> None:
    for name, passphrase in (("stranger", ""), ("locked", "secret")):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(tmp_path / name)]
        subprocess.run(words, check=True)
    with pytest.raises(BoardUnfit, match=r"not in with the key .*stranger.*authorized_keys"):
        run(lab.settings(key=tmp_path / "stranger"))
    with pytest.raises(BoardUnfit, match="locked' has a passphrase"):
        run(lab.settings(key=tmp_path / "locked"))
    for damage in (b"no key", with_other_numbers(tmp_path / "numbers")):
        (tmp_path / "stranger").write_bytes(damage)
        with pytest.raises(BoardUnfit, match="stranger' is no private key"):
            run(lab.settings(key=tmp_path / "stranger"))


def test_the_server_dies_in_a_job(lab: LoopbackBoard) -> None:
    lab.program("sleeper", SLEEPER)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run, lab.settings(python="sleeper"))
        wait_for_job(lab)
        lab.stop()
        with pytest.raises(BoardLost, match="'lab'"):
            job.result(20)
    assert lab.left_behind() == []
    assert lab.programs("sleeper") == []
    lab.start()
    again = run(lab.settings(python=lab.quick_runner()))
    assert np.array_equal(again.logits, QUICK_LOGITS)
    assert again.pushed == 0


def test_the_server_hangs_in_a_job(lab: LoopbackBoard) -> None:
    lab.program("sleeper", SLEEPER)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run, lab.settings(python="sleeper", timeout_s=10))  # a busy machine takes some for each step
        wait_for_job(lab)
        lab.signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(BoardLost, match=r"did not finish a step in time .timeout_s = 10.; its last word: checking"):
            job.result(60)
        assert time.monotonic() - begin < 40
        lab.signal(signal.SIGCONT)
    assert lab.programs("sleeper") == []
    assert_works(lab)


# -- the runner


def test_waiting_for_the_board_takes_no_time_from_measuring_whatever_else_is_printed(lab: LoopbackBoard) -> None:
    body = (
        "say = lambda *lines: print(*lines, sep='\\n', file=sys.stderr, flush=True)\n"
        "say('WARNING: Logging before InitGoogleLogging()', 'waiting'); time.sleep(5); say('checking'); time.sleep(5)\n"
        "print('error: so far', file=sys.stderr); sys.exit(3)"
    )
    with pytest.raises(BoardLost, match="at fault: so far"):
        run(lab.settings(python=fake(lab, f"import time\n{body}"), timeout_s=6))


def test_a_runner_that_hangs_is_ended(lab: LoopbackBoard) -> None:
    lab.program("sleeper", SLEEPER)
    with pytest.raises(BoardLost, match="did not finish a step in time"):
        run(lab.settings(python="sleeper", timeout_s=2))
    assert lab.left_behind() == []
    assert lab.programs("sleeper") == []


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("print('waiting', file=sys.stderr); 1 / 0", BoardLost, r"crashed \(exit code 1\): ZeroDivisionError"),
        ("raise ModuleNotFoundError('No module named numpy')", BoardUnfit, r"cannot start the runner \(Module.*numpy\)"),
        ("os.abort()", BoardLost, "ended by a signal"),
        ("print('error: shapes differ', file=sys.stderr); sys.exit(2)", BoardError, "refused the network: shapes differ$"),
        ("print('error: DPU timeout', file=sys.stderr); sys.exit(3)", BoardLost, "at fault: DPU timeout$"),
        ("sys.stderr.write('\\x1b[2J\\x07' + 'y' * 10**6); sys.exit(3)", BoardLost, "at fault: y"),
        ("sys.stderr.buffer.write(b'\\xff\\xfe\\n'); sys.exit(77)", BoardLost, r"crashed \(exit code 77\)"),
        ("pass", BoardLost, "gave no file result.json"),
        ("open(value('--result'), 'w').write('{]')", BoardLost, "a report that cannot be used"),
        ("open(value('--result'), 'wb').write(os.urandom(1000))", BoardLost, "a report that cannot be used"),
        ("open(value('--result'), 'w').truncate(1 << 40)", BoardLost, "result.json larger than the 1048576 bytes"),
        ("os.symlink('/dev/zero', value('--result'))", BoardLost, "gave no file result.json"),
        ("os.mkdir(value('--result'))", BoardLost, "gave no file result.json"),
        ("os.mkfifo(value('--result'))", BoardLost, "gave no file result.json"),
        ("real(); open(value('--logits'), 'ab').write(b'x' * 10**7)", BoardLost, "logits.npy larger"),
        ("real(); open(value('--logits'), 'wb').write(b'x' * 100)", BoardLost, "gave logits that are not int8"),
        ("real(); os.remove(value('--logits'))", BoardLost, "gave no file logits.npy"),
    ],
)  # fmt: skip
def test_what_a_runner_may_do(lab: LoopbackBoard, body: str, kind: type[BoardError], expected: str) -> None:
    with pytest.raises(BoardError, match=expected) as caught:
        run(lab.settings(python=fake(lab, body)))
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert lab.left_behind() == []
    assert lab.programs(None) == []


def test_programs_that_a_job_started_end_with_it(lab: LoopbackBoard) -> None:
    """A runner behind a shell that waits for it, and a compiler's own programs."""
    behind = lab.program("behind", "#!/bin/sh\nsh -c 'while :; do sleep 0.1; done' x \"$@\"\nexit 1\n")
    lab.program("g++", "#!/bin/sh\nsh -c 'while :; do sleep 0.1; done' cc1plus \"$@\"\nexit 1\n")
    for keys in ({"python": str(behind)}, {"runner": "cpp"}):
        with pytest.raises(BoardLost, match="did not finish a step in time"):
            run(lab.settings(timeout_s=8, **keys))
        assert lab.left_behind() == []
        assert lab.programs(None) == []


def test_endless_output_neither_fills_memory_nor_ends_a_good_job(lab: LoopbackBoard) -> None:
    body = "real()\nfor _ in range(100): sys.stderr.write('z' * 10**5)"
    assert np.array_equal(run(lab.settings(python=fake(lab, body))).logits, LOGITS)
    endless = "while True: sys.stdout.write('z' * 10**5)"
    with pytest.raises(BoardLost):
        run(lab.settings(python=fake(lab, endless), timeout_s=5))
    assert lab.left_behind() == []


def test_a_board_without_its_python(lab: LoopbackBoard) -> None:
    with pytest.raises(BoardUnfit, match=r"cannot start the runner .*; is python = 'python2.2' right\?"):
        run(lab.settings(python="python2.2"))
    assert lab.left_behind() == []


def test_another_fingerprint_is_refused_by_the_board_too(lab: LoopbackBoard) -> None:
    lab.knobs(fingerprint="0x101000056010406")
    with pytest.raises(BoardError, match=r"refused the network: .*0x101000056010407.*0x101000056010406"):
        run(lab.settings())
    assert lab.left_behind() == []


def test_noise_is_measured_again_and_told(lab: LoopbackBoard) -> None:
    lab.knobs(noise=0.3, slower=40.0)
    report = run(lab.settings(seconds=2)).report  # each repeat longer than the noise stays as it is
    assert (report.latency.settled, report.throughput.settled) == (False, False)
    assert min(report.latency.spread, report.throughput.spread) > 0.03
    assert lab.left_behind() == []


@pytest.mark.parametrize(("told", "ahead"), [("1970-01-01T00:00:00+00:00", False), ("2099-01-01T00:00:00", True)])
def test_the_boards_clock_decides_nothing(lab: LoopbackBoard, told: str, ahead: bool) -> None:
    done = run(lab.settings(python=lab.quick_runner(f"report['measured_at'] = {told!r}")))
    assert done.clock_skew_s is not None
    assert (done.clock_skew_s > 0) is ahead
    assert abs(done.clock_skew_s) > 3e7
    assert done.measured_at[:4] == time.strftime("%Y", time.gmtime())


def test_files_on_the_board_from_the_year_2099_are_no_hindrance(lab: LoopbackBoard) -> None:
    run(lab.settings(python=lab.quick_runner()))
    for path in lab.cached():
        os.utime(path, (4e9, 4e9))
    assert run(lab.settings(python=lab.quick_runner())).pushed == 0


# -- files


def test_a_damaged_file_in_the_cache_is_pushed_again(lab: LoopbackBoard) -> None:
    run(lab.settings(python=lab.quick_runner()))
    for path in lab.cached():
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:100])
    again = run(lab.settings(python=lab.quick_runner()))
    assert again.pushed > len(XMODEL)
    assert np.array_equal(again.logits, QUICK_LOGITS)


def test_a_file_that_arrives_damaged_is_not_used(lab: LoopbackBoard) -> None:
    sums = lab.program("sha256sum", f"#!/bin/sh\necho {'0' * 64}\n")
    with pytest.raises(BoardLost, match=r"received \S+ .* damaged"):
        run(lab.settings())
    assert lab.cached() == []
    sums.unlink()
    assert_works(lab)


def test_a_push_that_is_cut_off_leaves_nothing_half_written(lab: LoopbackBoard) -> None:
    large = np.zeros((300_000, 8, 8, 3), np.int8)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run_on_board, lab.settings(), XMODEL, large, 10)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if any(path.stat().st_size > 1 << 20 for path in lab.folder.glob("edgesearch-job.*/images.npy")):
                break
        lab.stop()
        with pytest.raises(BoardLost):
            job.result(20)
    assert lab.left_behind() == []
    assert all(path.stat().st_size < 1 << 20 for path in lab.cached())
    lab.start()
    assert_works(lab)


#: A job's files travel side by side: which of them finds the disk full first is chance.
ANY_FILE = r"[\w.]+ \(\d+\.\d MiB\)"


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(lab: LoopbackBoard) -> None:
    """17 MiB hold the files of a small job; those of a larger one have no room, whatever is dropped."""
    with small_disk(lab.folder, 17):
        assert_works(lab)
        with pytest.raises(BoardLost, match=rf"has no room for {ANY_FILE} in .*: \d+ KiB are free where \d+ are"):
            run(lab.settings(), np.zeros((50_000, 8, 8, 3), np.int8))
        assert lab.left_behind() == []
        (lab.folder / "ballast").write_bytes(bytes(1 << 20))
        with pytest.raises(BoardLost, match="has no room"):
            run(lab.settings())
        (lab.folder / "ballast").unlink()
        assert_works(lab)


def test_a_disk_that_fills_while_a_file_arrives(lab: LoopbackBoard) -> None:
    """The board says that there is room, and there is not."""
    with small_disk(lab.folder, 4):
        lab.program("df", "#!/bin/sh\nprintf 'x\\nx 1 1 99999999 1%% /\\n'\n")
        with pytest.raises(BoardLost, match=rf"has no room for {ANY_FILE} in .*: .*No space left"):
            run(lab.settings(), np.zeros((50_000, 8, 8, 3), np.int8))
        assert lab.left_behind() == []
        assert_works(lab)


def test_what_others_need_goes_when_room_is_needed(lab: LoopbackBoard) -> None:
    with small_disk(lab.folder, 36):
        for number in range(4):
            images = np.full((30_000, 8, 8, 3), number, np.int8)
            with pytest.raises(BoardError, match="refused"):
                run(lab.settings(python=fake(lab, "sys.exit(2)")), images)
    assert lab.left_behind() == []


def test_images_are_what_they_were(lab: LoopbackBoard) -> None:
    """Images in another order of memory reach the board as they are."""
    turned = np.asfortranarray(IMAGES)
    assert np.array_equal(run(lab.settings(python=lab.quick_runner()), turned).logits, QUICK_LOGITS)
