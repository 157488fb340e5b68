"""Runs a compiled xmodel on the board: integers, latency, frames per second, power. One file, for Python 3.8 and later.

In the folder of an export, beside manifest.json: checks preprocessing and golden images bit for bit, measures, prints JSON:

    python3 run_on_board.py compiled/NAME.xmodel
    python3 run_on_board.py compiled/NAME.xmodel --seconds 10 --csv measurements.csv

With images of one's own, int8 (N, H, W, C), already quantized; results go to files:

    python3 run_on_board.py NAME.xmodel --images IMAGES.npy --logits LOGITS.npy --labels LABELS.npy --result RESULT.json

And what the board is: python3 run_on_board.py --probe --result RESULT.json

It needs what the board's image has: Python 3.8, numpy, and Vitis AI's vart and xir. Exit code 0: done; 1: an export's integers
differ, or a mistake in this file (traceback); 2: what was given cannot be used; 3: the board is at fault; 4: another program
has the board. One sentence on stderr says what; the lines before it are the phases of the work.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import datetime
import errno
import fcntl
import functools
import glob
import hashlib
import io
import json
import os
import platform
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from typing import Any, Callable, Iterator

import numpy as np

VERSION = "1"
FORMAT = 1
#: At least so many repeats of each figure, whatever is asked for.
LEAST_REPEATS = 5
#: (largest - smallest) / median of the repeats, above which they are measured again.
LARGEST_SPREAD = 0.03
#: Degrees that the temperature may move during the repeats that count.
LARGEST_DRIFT = 2.0
#: To wait for the lock of a board.
LOCK_SECONDS = 600.0
#: Cores, where the board does not tell how many its DPU has.
USUAL_CORES = 2
#: Images that are measured with, over and over: more than a cache holds, and no second copy of all in a small memory.
MEASURED = 64
#: Jobs that a thread keeps going. VART for the DPUCZDX8G executes a job in the call that starts it; others queue them.
IN_FLIGHT = 2
#: Of a file of figures, as `edgesearch calibrate` reads it.
COLUMNS = ("network", "what", "fps", "runner", "cores")
#: Without a sign of life for so long, the DPU hangs. VART itself gives up after 10 s (XLNX_DPU_TIMEOUT).
PATIENCE_S = float(os.environ.get("EDGESEARCH_PATIENCE_S", "60"))
#: Where /sys and /proc lie.
ROOT = os.environ.get("EDGESEARCH_BOARD_ROOT", "/")


class Refused(Exception):
    """What was given cannot be used; one sentence. Exit code 2."""


class BoardFault(Exception):
    """The board is at fault; one sentence. Exit code 3."""


class BoardBusy(Exception):
    """Another program has the board; one sentence. Exit code 4."""


# --- signs of life


class Heartbeat:
    """Tells the process that watches over this one that it lives: at most four times a second, down a pipe."""

    def __init__(self) -> None:
        self.pipe = -1
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if self.pipe >= 0 and now - self._last > 0.25:
            self._last = now
            os.write(self.pipe, b".")


HEART = Heartbeat()


def progress(phase: str) -> None:
    """One line for who waits."""
    print(phase, file=sys.stderr, flush=True)
    HEART.beat()


def watch(work: Callable[[], int]) -> int:
    """The exit code of `work`, done in a child process: at a DPU that does not answer VART aborts the process, or hangs."""
    reading, HEART.pipe = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's own threads, which nothing has used yet
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to both, and the parent ends this one
        os.close(reading)
        die_with(parent)
        return work()
    os.close(HEART.pipe)
    stopped_by: list[int] = []

    def stop(number: int, _: Any) -> None:
        stopped_by.append(number)
        os.kill(child, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    while True:
        if not select.select([reading], [], [], PATIENCE_S)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(f"error: the DPU gave no sign of life for {PATIENCE_S:g} s", file=sys.stderr)
            return 3
        if not os.read(reading, 4096):
            break
    status = os.waitpid(child, 0)[1]
    if stopped_by:
        print(f"error: the program was stopped ({signal.Signals(stopped_by[0]).name})", file=sys.stderr)
        return 3
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        print(f"error: VART ended the program ({name}); the lines above say why, if it knew", file=sys.stderr)
        return 3
    return os.WEXITSTATUS(status)


def die_with(parent: int) -> None:
    """End this process when its parent does, however that ends: nobody may be left who holds the lock of the board."""
    try:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(3)


def open_lock(path: str) -> int:
    """The lock file, made where there is none. Users share it, and in /tmp nobody may write, or make, what is another's."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            file = os.open(path, flags | os.O_CREAT, 0o644)
            os.fchmod(file, 0o644)  # whatever the umask
    except OSError as error:
        raise BoardFault(f"the lock file {path} cannot be opened: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise BoardFault(f"the lock file {path} cannot be opened: it is no file")
    return file


def take_lock(path: str, seconds: float) -> int:
    """Hold the board's lock file; it is let go when the process ends. Some file systems lock nothing, ever."""
    file = open_lock(path)
    end = time.monotonic() + seconds
    progress("waiting")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                reason = error.strerror or str(error)
                raise BoardFault(f"the lock file {path} cannot be locked here ({reason}); name another folder") from error
            if time.monotonic() >= end:
                raise BoardBusy(f"the board is busy: another program held {path} for {seconds:g} s") from None
        HEART.beat()
        time.sleep(0.05)


# --- the board


def read_text(*parts: str) -> str | None:
    """What a file of /sys or /proc says; None where there is none."""
    try:
        with open(os.path.join(ROOT, *parts), errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return None


def read_number(path: str) -> float | None:
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def find(pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(ROOT, pattern)))


def output_of(command: str) -> str:
    """What a program of the board prints; "" where it is not there or fails."""
    path = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin:/usr/sbin")
    if path is None:
        return ""
    HEART.beat()
    try:
        done = subprocess.run(  # the lock is let go with the last process that has the file
            [path] + (["query"] if command == "xdputil" else []), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def number_in(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text)
    return float(found.group(1)) if found else None


def describe_board() -> dict[str, Any]:
    """What the board tells of itself: xdputil, else show_dpu. None is what it does not tell."""
    query = output_of("xdputil")
    marks = re.findall(r'"fingerprint"\s*:\s*"?(0x[0-9a-fA-F]+)', query)
    cores = number_in(query, r'"DPU Core Count"\s*:\s*(\d+)') or len(marks)
    if not marks:
        marks = re.findall(r"fingerprint\s*=\s*(0x[0-9a-fA-F]+)", output_of("show_dpu"))
        cores = len(marks)
    version = re.search(r"libvart-runner\.so.*?(\d+\.\d+\.\d+)", query)
    model = read_text("proc/device-tree/model")
    if model is None:
        model = (re.findall(r"model name\s*:\s*(.+)", read_text("proc/cpuinfo") or "") or [None])[0]
    return {
        "fingerprint": hex(int(marks[0], 16)) if marks else None,
        "vart": version.group(1) if version else None,
        "dpu_cores": int(cores) or None,
        "dpu_mhz": number_in(query, r'"DPU Frequency \(MHz\)"\s*:\s*([0-9.]+)') or None,
        "cpu": model[:200] if model else None,
        "python": platform.python_version(),
    }


class Power:
    """The board's own power sensors: those of its 12 V supply or rails, in hwmon. `name` is None where there is none."""

    def __init__(self) -> None:
        rails = []
        for path in find("sys/class/hwmon/hwmon*/power*_input"):
            chip = read_text(os.path.dirname(path), "name") or "?"
            label = read_text(path[: -len("_input")] + "_label") or ""
            if label != "pin" and read_number(path) is not None:  # a regulator's input is the output of what feeds it
                rails.append((chip, path))
        rails = [rail for rail in rails if rail[0].startswith("ina")] or rails  # INA226, INA260: made to measure power
        self.paths = [path for _, path in rails]
        chips = ", ".join(sorted({chip for chip, _ in rails}))[:200]
        what = f"sum of {len(rails)} rails: {chips}" if len(rails) > 1 else chips
        self.name = what if self.read() else None  # a board that is on takes more than 0 W

    def read(self) -> float | None:
        """Watts now; None where a rail does not answer."""
        readings = [read_number(path) for path in self.paths]
        watts = [1e-6 * reading for reading in readings if reading is not None]
        return sum(watts) if watts and len(watts) == len(readings) else None

    def watch(self, stop: threading.Event, into: list[float]) -> None:
        """Read ten times a second until `stop`."""
        while not stop.wait(0.1):
            watts = self.read()
            if watts is not None:
                into.append(watts)

    def idle(self, seconds: float) -> float | None:
        values: list[float] = []
        stop = threading.Event()
        timer = threading.Timer(seconds, stop.set)
        timer.start()
        self.watch(stop, values)
        return sum(values) / len(values) if values else None


def temperature() -> float | None:
    """Degrees Celsius of the hottest sensor of the chip; None where there is none."""
    degrees: list[float] = []
    for path in find("sys/bus/iio/devices/iio:device*/in_temp*_raw"):
        raw, scale = read_number(path), read_number(path[:-4] + "_scale")
        if raw is not None and scale is not None:
            degrees.append((raw + (read_number(path[:-4] + "_offset") or 0.0)) * scale / 1e3)
    for pattern in ("sys/class/hwmon/hwmon*/temp*_input", "sys/class/thermal/thermal_zone*/temp"):
        if not degrees:
            degrees = [value / 1e3 for value in map(read_number, find(pattern)) if value is not None]
    return round(max(degrees), 2) if degrees else None


# --- the network


def dpu_subgraph(path: str) -> tuple[Any, Any]:
    """The graph of an xmodel, which must outlive the other, and its one subgraph that runs on the DPU."""
    try:
        import vart  # noqa: F401
        import xir
    except ImportError as error:
        raise Refused(f"{error}; run this on the board, whose image has Vitis AI's vart and xir for Python") from error
    if not os.path.isfile(path):
        raise Refused(f"there is no file {path}; compile the exported xmodel first (the manifest has the line: compile)")
    try:
        graph = xir.Graph.deserialize(path)
    except (RuntimeError, ValueError, OSError) as error:
        raise Refused(f"{path} cannot be read as an xmodel: {first_line(error)}") from error
    root = graph.get_root_subgraph()
    children = [] if root.is_leaf else root.toposort_child_subgraph()
    devices = [s.get_attr("device").upper() if s.has_attr("device") else "NONE" for s in children]
    on_dpu = [s for s, device in zip(children, devices) if device == "DPU"]
    if len(on_dpu) != 1:
        counts = ", ".join(f"{devices.count(d)} {d}" for d in sorted(set(devices))) or "none: it is not compiled"
        raise Refused(f"{path} has subgraphs {counts}; expected exactly one for the DPU, so compile it for this board")
    return graph, on_dpu[0]


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def mark_of(subgraph: Any) -> str | None:
    """The fingerprint of the DPU that the xmodel is compiled for."""
    return hex(int(subgraph.get_attr("dpu_fingerprint"))) if subgraph.has_attr("dpu_fingerprint") else None


#: Where in a fingerprint the eight bits of the instruction set begin.
ISA_BIT = 48


def check_mark(path: str, mark: str | None, board: dict[str, Any]) -> None:
    """VART aborts at another fingerprint; this says so first."""
    if mark and board["fingerprint"] and mark != board["fingerprint"]:
        ours, boards = (int(text, 16) >> ISA_BIT & 0xFF for text in (mark, board["fingerprint"]))
        advice = f"compile it again with --fingerprint {board['fingerprint']}"
        if ours != boards:
            advice = f"its instruction set is {boards}, the file's {ours}: take an image for the board whose DPU has that one"
        raise Refused(f"{path} is compiled for a DPU of fingerprint {mark}, this board's has {board['fingerprint']}; {advice}")


class Network:
    """One runner with its own buffers: int8 in, int8 out. No two threads share one."""

    def __init__(self, subgraph: Any) -> None:
        import vart

        try:
            self.runner = vart.Runner.create_runner(subgraph, "run")
            inputs, outputs = self.runner.get_input_tensors(), self.runner.get_output_tensors()
        except (RuntimeError, OSError) as error:
            raise BoardFault(f"VART makes no runner: {first_line(error)}") from error
        if len(inputs) != 1 or len(outputs) != 1:
            raise Refused(f"the xmodel has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
        self.input, self.output = inputs[0], outputs[0]
        self.batch = int(self.input.dims[0])
        self.shape, self.out_shape = [int(n) for n in self.input.dims[1:]], [int(n) for n in self.output.dims[1:]]
        self._in = [np.zeros(tuple(self.input.dims), np.int8) for _ in range(IN_FLIGHT)]
        self._out = [np.zeros(tuple(self.output.dims), np.int8) for _ in range(IN_FLIGHT)]

    def start(self, slot: int, images: np.ndarray) -> Any:
        """Begin a job on at most `batch` images, int8 (n, H, W, C)."""
        self._in[slot][: len(images)] = images
        try:
            job = self.runner.execute_async([self._in[slot]], [self._out[slot]])
        except (RuntimeError, OSError) as error:
            raise BoardFault(f"the DPU did not take a job: {first_line(error)}") from error
        if job[1]:
            raise BoardFault(f"the DPU did not take a job: status {job[1]}")
        return job

    def finish(self, slot: int, job: Any) -> np.ndarray:
        """Int8 (batch, values), good until the slot is used again. `wait` takes what `execute_async` gave, the pair."""
        try:
            status = self.runner.wait(job)
        except (RuntimeError, OSError) as error:
            raise BoardFault(f"the DPU did not end a job: {first_line(error)}") from error
        if status:
            raise BoardFault(f"the DPU did not end a job: status {status}")
        HEART.beat()
        return self._out[slot].reshape(self.batch, -1)


def fix_position(tensor: Any) -> int | None:
    return int(tensor.get_attr("fix_point")) if tensor.has_attr("fix_point") else None


def feed(network: Network, images: np.ndarray, starts: Iterator[int], logits: np.ndarray | None, ends: list[float]) -> None:
    """Run the batches that begin at `starts`, some jobs going at a time; `ends` gets the times when they were done.

    A job that VART executes in the call is waited for, and its time taken, one job late: what goes at the end is waited for at
    one moment. Of these only the first time counts, or a thread alone would seem faster than it is.
    """
    going: list[tuple[int, Any, int]] = []
    slot = 0

    def end_oldest() -> None:
        used, job, first = going.pop(0)
        values = network.finish(used, job)
        ends.append(time.perf_counter())
        if logits is not None:
            count = min(network.batch, len(logits) - first)
            logits[first : first + count] = values[:count]

    for first in starts:
        if len(going) == IN_FLIGHT:
            end_oldest()
        going.append((slot, network.start(slot, images[first : first + network.batch]), first))
        slot = (slot + 1) % IN_FLIGHT
    while going:
        end_oldest()
    del ends[max(1, len(ends) - (IN_FLIGHT - 1)) :]


def together(works: list[Callable[[], None]]) -> None:
    """Run each in a thread; what one raises is raised here."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run_all(networks: list[Network], images: np.ndarray) -> np.ndarray:
    """Int8 (N, values) of all images: the threads share them out."""
    logits = np.zeros((len(images), int(np.prod(networks[0].out_shape))), np.int8)
    starts = iter(range(0, len(images), networks[0].batch))  # its next() is atomic
    together([functools.partial(feed, one, images, starts, logits, []) for one in networks])
    return logits


def whole_batches(images: np.ndarray, batch: int) -> tuple[np.ndarray, list[int]]:
    """Images to measure with, where a batch may begin anywhere in the list."""
    images = images[np.arange(max(batch, len(images) - len(images) % batch)) % len(images)]
    return images, list(range(0, len(images), batch))


class Ready:
    """A board that is held, and the network on it, once for every thread. `report` is the beginning of the report."""

    def __init__(self, arguments: argparse.Namespace, cores: int = USUAL_CORES) -> None:
        self.graph, subgraph = dpu_subgraph(arguments.xmodel)
        if arguments.lock:
            take_lock(arguments.lock, arguments.lock_timeout)
        progress("checking")
        board, mark = describe_board(), mark_of(subgraph)
        check_mark(arguments.xmodel, mark, board)
        self.power = Power()
        self.idle_w = self.power.idle(1.0) if self.power.name else None
        self.cores = board["dpu_cores"] or cores
        self.networks = [Network(subgraph) for _ in range(arguments.threads or 2 * self.cores)]
        network = self.networks[0]
        self.report: dict[str, Any] = {
            "format": FORMAT,
            "runner": "python",
            "runner_version": VERSION,
            "xmodel": {"sha256": sha256_of(arguments.xmodel), "fingerprint": mark},
            "board": board,
            "input": {"shape": network.shape, "fix_position": fix_position(network.input)},
            "output": {"shape": network.out_shape, "fix_position": fix_position(network.output)},
        }


# --- measuring


def repeat(what: str, once: Callable[[], dict[str, Any]], repeats: int) -> tuple[list[dict[str, Any]], float, bool]:
    """The repeats that count, their spread, and whether they agree: the last ones, up to twice as many being made."""
    kept: list[dict[str, Any]] = []
    for number in range(1, 2 * repeats + 1):
        progress(f"{what} {number}/{repeats}")
        result = once()
        result["degrees"] = temperature()
        kept = [*kept, result][-repeats:]
        spread, settled = agreement(kept)
        if len(kept) == repeats and settled:
            break
    return kept, spread, settled


def agreement(kept: list[dict[str, Any]]) -> tuple[float, bool]:
    values = [result["value"] for result in kept]
    spread = float((max(values) - min(values)) / np.median(values))
    degrees = [result["degrees"] for result in kept if result["degrees"] is not None]
    drift = max(degrees) - min(degrees) if degrees else 0.0
    return spread, spread <= LARGEST_SPREAD and drift <= LARGEST_DRIFT


def measure_latency(network: Network, images: np.ndarray, seconds: float, repeats: int) -> dict[str, Any]:
    """One thread, one job: from an image in memory to its result."""
    images, starts = whole_batches(images, network.batch)

    def once() -> dict[str, Any]:
        times: list[float] = []
        end = time.perf_counter() + seconds / repeats
        while time.perf_counter() < end or len(times) < 10:
            first = starts[len(times) % len(starts)]
            start = time.perf_counter()
            network.finish(0, network.start(0, images[first : first + network.batch]))
            times.append(1e3 * (time.perf_counter() - start))
        return {"value": float(np.median(times)), "times": times}

    kept, spread, settled = repeat("latency", once, repeats)
    times = np.concatenate([result["times"] for result in kept])
    median, high, highest = np.percentile(times, [50, 95, 99])
    return {
        "threads": 1,
        "median_ms": round(float(median), 5),
        "mean_ms": round(float(times.mean()), 5),
        "p95_ms": round(float(high), 5),
        "p99_ms": round(float(highest), 5),
        "min_ms": round(float(times.min()), 5),
        "runs": len(times),
        "repeats_ms": [round(result["value"], 5) for result in kept],
        "spread": round(spread, 5),
        "settled": settled,
    }


def measure_throughput(networks: list[Network], images: np.ndarray, seconds: float, repeats: int) -> dict[str, Any]:
    """All cores busy: every thread has a runner of its own."""
    images, starts = whole_batches(images, networks[0].batch)

    def until(end: float, least: int) -> Iterator[int]:
        number = 0
        while time.perf_counter() < end or number < least:
            yield starts[number % len(starts)]
            number += 1

    def once() -> dict[str, Any]:
        end = time.perf_counter() + seconds / repeats
        ends: list[list[float]] = [[] for _ in networks]
        together([functools.partial(feed, one, images, until(end, 8), None, mine) for one, mine in zip(networks, ends)])
        return rate(ends, networks[0].batch)

    kept, spread, settled = repeat("throughput", once, repeats)
    return {
        "threads": len(networks),
        "fps": round(float(np.median([result["value"] for result in kept])), 3),
        "images": sum(result["images"] for result in kept),
        "repeats_fps": [round(result["value"], 3) for result in kept],
        "spread": round(spread, 5),
        "settled": settled,
    }


def rate(ends: list[list[float]], batch: int) -> dict[str, Any]:
    """Images per second between two moments when all threads were at work: no start and no end is in it.

    It counts whole rounds of the threads, since cores that go in step end their jobs together. Where a thread got so little
    of the DPU that there is no such time, all jobs between the first end and the last count.
    """
    every = sorted(time for one in ends for time in one)
    last = min(times[-1] for times in ends)
    times = [time for time in every if time <= last]
    first = len(ends)  # behind the first round
    rounds = (len(times) - 1 - first) // len(ends)
    if rounds < 1:
        times, first, jobs = every, 0, len(every) - 1
    else:
        jobs = rounds * len(ends)
    return {"value": batch * jobs / (times[first + jobs] - times[first]), "images": batch * len(every)}


def measure(ready: Ready, images: np.ndarray, arguments: argparse.Namespace) -> dict[str, Any]:
    """Latency, throughput, power and temperature."""
    networks, power, images = ready.networks, ready.power, images[:MEASURED]
    repeats = max(LEAST_REPEATS, arguments.repeats)
    progress("warming up")
    start_degrees = temperature()
    end = time.perf_counter() + arguments.seconds / 4
    while True:
        run_all(networks, images)
        if time.perf_counter() > end:
            break
    latency = measure_latency(networks[0], images, arguments.seconds, repeats)
    watts: list[float] = []
    stop = threading.Event()
    reader = threading.Thread(target=power.watch, args=(stop, watts), daemon=True)
    if power.name:
        reader.start()
    try:
        throughput = measure_throughput(networks, images, arguments.seconds, repeats)
    finally:
        stop.set()
    end_degrees = temperature()
    known = None if start_degrees is None or end_degrees is None else {"start": start_degrees, "end": end_degrees}
    used = None
    if watts and ready.idle_w is not None:
        used = {"idle_w": round(ready.idle_w, 4), "busy_w": round(sum(watts) / len(watts), 4), "sensor": power.name}
    note = None if used else "not available: no INA226 or other power sensor in hwmon"
    if used is None and power.name:
        note = f"not measured: the sensor {power.name} gave no reading in that time"
    return {"latency": latency, "throughput": throughput, "power": used, "power_note": note, "temperature_c": known}


# --- files


def read_array(path: str) -> np.ndarray:
    """The array of a .npy file; raises OSError, or ValueError where it holds none: numpy's parser has many exceptions."""
    try:
        with open(path, "rb") as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{os.path.basename(path)} is no .npy array: {first_line(error)}") from error
    return array


def load_array(path: str, what: str, kind: Any) -> np.ndarray:
    try:
        array = read_array(path)
    except (OSError, ValueError) as error:
        raise Refused(f"the {what} in {path} cannot be read: {first_line(error)}") from error
    if array.dtype != kind or not array.flags["C_CONTIGUOUS"] or not len(array.shape):
        raise Refused(f"the {what} in {path} are no array of {np.dtype(kind)} in C order")
    return array


def write(path: str, content: Callable[[Any], None]) -> None:
    """Write a file under another name and rename it: it appears whole or not at all."""
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise BoardFault(f"{path} cannot be written on the board: {error.strerror or error}") from error


def check_place(option: str, path: str | None) -> None:
    """Refuse a file whose folder there is not, before the board has worked for it."""
    if path and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path)))):
        reason = "it is a folder" if os.path.isdir(path) else "there is no such folder"
        raise Refused(f"{option} {path} cannot be written: {reason}; give another file")


def write_json(path: str, content: dict[str, Any]) -> None:
    write(path, lambda file: file.write((json.dumps(content, allow_nan=False) + "\n").encode()))


def sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


# --- what can be asked for


def check_shape(network: Network, images: np.ndarray, path: str) -> None:
    if images.ndim != 4 or not len(images) or list(images.shape[1:]) != network.shape:
        raise Refused(f"the images in {path} have shape {list(images.shape)}, the xmodel takes [N, {str(network.shape)[1:]}")


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def run_job(arguments: argparse.Namespace) -> int:
    """Images in, logits and a report out."""
    begin = time.perf_counter()
    images = load_array(arguments.images, "images", np.int8)
    labels = None if arguments.labels is None else load_array(arguments.labels, "labels", np.int64)
    if labels is not None and labels.shape != images.shape[:1]:
        raise Refused(f"there are {len(images)} images and labels of shape {list(labels.shape)}; expected one for each image")
    check_place("--logits", arguments.logits)
    ready = Ready(arguments)
    check_shape(ready.networks[0], images, arguments.images)
    start = time.perf_counter()
    logits = run_all(ready.networks, images)
    seconds = time.perf_counter() - start
    if arguments.logits:
        write(arguments.logits, lambda file: np.save(file, logits))
    correct = None if labels is None else int((logits.argmax(axis=1) == labels).sum())
    report = ready.report
    report["images"] = {"count": len(images), "correct": correct, "seconds": round(seconds, 4)}
    report.update(measure(ready, images, arguments))
    report.update(measured_at=now(), seconds=round(time.perf_counter() - begin, 3))
    write_json(arguments.result, report)
    return 0


def run_probe(arguments: argparse.Namespace) -> int:
    """What the board is and has."""
    if arguments.lock:
        take_lock(arguments.lock, arguments.lock_timeout)
    progress("probing")
    problem, power = None, Power()
    try:
        import vart  # noqa: F401
        import xir  # noqa: F401
    except ImportError as error:
        problem = f"{first_line(error)}: the board's Python lacks Vitis AI's vart and xir"
    report = {
        "format": FORMAT,
        "probe": True,
        "board": describe_board(),
        "free_bytes": shutil.disk_usage(os.path.dirname(os.path.abspath(arguments.result))).free,
        "power_sensor": power.name,
        "temperature_c": temperature(),
        "vart_importable": problem is None,
        "problem": problem,
    }
    write_json(arguments.result, report)
    return 0


# --- an exported folder


def resize(pixels: np.ndarray, axis: int, size: int) -> np.ndarray:
    """One axis brought to `size`, as Pillow's BILINEAR does it to bytes: weights of 22 bits, rounded to bytes."""
    pixels = np.moveaxis(pixels, axis, 0).astype(np.float64)
    scale, rows = len(pixels) / size, []
    for centre in (np.arange(size) + 0.5) * scale:
        first, last = int(max(centre - max(scale, 1) + 0.5, 0)), int(min(centre + max(scale, 1) + 0.5, len(pixels)))
        weights = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) / max(scale, 1)), 0)
        weights = np.floor(weights / weights.sum() * 2**22 + 0.5)
        rows.append(np.clip(np.floor((np.tensordot(weights, pixels[first:last], 1) + 2**21) / 2**22), 0, 255))
    resized: np.ndarray = np.moveaxis(np.stack(rows), 0, axis)
    return resized


def prepare(pictures: np.ndarray, manifest: dict[str, Any]) -> np.ndarray:
    """Pictures, uint8 (N, H, W, C), as the integers that enter the DPU: resized, normalised, rounded half up, saturated.

    They must have been brought to the manifest's `crop` or `first_resize` where it asks for one: the first needs Pillow, and
    a data source of the user's own may have its own way to the second.
    """
    entry = manifest["input"]
    sides = list(pictures.shape[1:3])
    for name, verb in (("crop", "cut"), ("first_resize", "resize")):
        first = entry.get(name)
        if first is not None and sides != first["shape"]:
            raise Refused(
                f"the pictures have {sides[0]} x {sides[1]} pixels, and the manifest's `input.{name}` asks for "
                f"{first['shape'][0]} x {first['shape'][1]}; {verb} them as it says first ({first['method']})"
            )
    for axis in (2, 1):
        if pictures.shape[axis] != entry["shape"][axis - 1]:
            pictures = resize(pictures, axis, entry["shape"][axis - 1])
    mean, std = (np.asarray(entry[name], np.float32) for name in ("mean", "std"))
    values = (pictures.astype(np.float32) / np.float32(255) - mean) / std
    rounded = np.floor(values.astype(np.float64) * 2.0 ** entry["fix_position"] + 0.5)
    integers: np.ndarray = np.clip(rounded, -128, 127).astype(np.int8)
    return integers


#: What is read of a manifest further below; one without all of it was edited, or is of another version.
READ_OF_MANIFEST = (
    *("study", "trial", "scores", "board.cores", "output.fix_position"),
    *(f"input.{name}" for name in ("shape", "mean", "std", "fix_position")),
    *(f"golden.{name}" for name in ("pictures", "input", "output")),
)


def look_up(content: Any, place: str) -> Any:
    """The value at a.b.c of nested dictionaries; LookupError with the place where there is none."""
    for name in place.split("."):
        if not isinstance(content, dict) or name not in content:
            raise LookupError(f"its manifest has no `{place}`")
        content = content[name]
    return content


def read_export(folder: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest of the exported trial, and its golden pictures, inputs and outputs."""
    try:
        with open(os.path.join(folder, "manifest.json")) as file:
            manifest = json.load(file)
        for place in READ_OF_MANIFEST:
            look_up(manifest, place)
        names = {kind: os.path.join(folder, manifest["golden"][kind]) for kind in ("pictures", "input", "output")}
        return manifest, {kind: read_array(name) for kind, name in names.items()}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Refused(f"{folder} is not the folder of an exported trial ({error}); give it as --export, or --images") from error


def check_manifest(report: dict[str, Any], manifest: dict[str, Any]) -> None:
    """The xmodel's fix positions and shapes must be those that the manifest names."""
    for name in ("input", "output"):
        found, expected = report[name]["fix_position"], manifest[name]["fix_position"]
        if found is not None and found != expected:
            raise Refused(f"the xmodel's {name} has fix position {found}, the manifest's {expected}; they are of two networks")
    found, expected = report["input"]["shape"], manifest["input"]["shape"]
    if found != expected:
        raise Refused(f"the xmodel takes images of {found}, the manifest says {expected}; they are of two networks")


def check_golden(networks: list[Network], golden: dict[str, np.ndarray], manifest: dict[str, Any]) -> dict[str, Any]:
    """How the golden images come out, beside the integers that they should, and whether pictures become those that go in."""
    check_shape(networks[0], golden["input"], manifest["golden"]["input"])
    shape, values = list(golden["output"].shape), int(np.prod(networks[0].out_shape))
    if golden["output"].size != len(golden["input"]) * values:
        raise Refused(
            f"the xmodel gives {values} values for each of {len(golden['input'])} images, {manifest['golden']['output']} has "
            f"shape {shape}; they are of two networks"
        )
    logits, expected = run_all(networks, golden["input"]), golden["output"]
    difference = np.abs(logits.astype(np.int32) - expected.reshape(len(expected), -1))
    return {
        "images": len(expected),
        "equal": not difference.any(),
        "equal_images": int((difference.max(axis=1) == 0).sum()),
        "largest_difference": int(difference.max()),
        "preprocessing_equal": bool(np.array_equal(prepare(golden["pictures"], manifest), golden["input"])),
    }


def check_rows(path: str) -> None:
    """Refuse a CSV file that rows cannot be appended to; where there is none, none is left."""
    is_new = not os.path.lexists(path)
    try:
        with open(path, "a+b", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused(f"--csv {path} is no file; give another one")
            columns_of(file, path)
        if is_new:
            os.unlink(path)
    except OSError as error:
        raise Refused(f"--csv {path} cannot be written: {error.strerror or error}; give another file") from error


def columns_of(file: Any, path: str) -> list[str]:
    """The columns of a CSV file, in its order; the usual ones where nothing is in it."""
    file.seek(0)
    try:
        header = next(csv.reader(io.StringIO(file.read().decode("utf-8-sig"), newline="")), None)
    except (ValueError, csv.Error) as error:
        raise Refused(f"--csv {path} cannot be read as CSV: {first_line(error)}; give another file") from error
    if header is None:
        return list(COLUMNS)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise Refused(f"--csv {path} has no column {missing[0]!r}, expected {', '.join(COLUMNS)}; give another file")
    return header


def append_rows(path: str, network: str, report: dict[str, Any], cores: int) -> None:
    """Append the figures, all or none, to a CSV file that `edgesearch calibrate` reads. Fewer threads use fewer cores."""
    latency = {"what": "latency", "fps": round(1e3 / report["latency"]["median_ms"], 3), "cores": ""}
    throughput = {"what": "throughput", "fps": report["throughput"]["fps"]}
    throughput["cores"] = min(cores, report["throughput"]["threads"])
    try:
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            columns = columns_of(file, path)
            size, text = file.seek(0, os.SEEK_END), io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            if size == 0:
                writer.writeheader()
            else:
                file.seek(size - 1)
                text.write("" if file.read(1) in b"\r\n" else "\n")
            writer.writerows({"network": network, "runner": "python", **row} for row in (latency, throughput))
            content = text.getvalue().encode("utf-8", "surrogateescape")  # a folder's name may be of any bytes
            if file.write(content) != len(content):  # a full disk takes a part
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise BoardFault(f"{path} cannot be written on the board: {error.strerror or error}") from error


def what_differs(golden: dict[str, Any]) -> str:
    """How an exported network computes on this board otherwise than it should."""
    if golden["equal"]:
        return "the golden pictures become other integers than those that went into the network"
    others = golden["images"] - golden["equal_images"]
    return f"{others} of {golden['images']} golden images come out otherwise, by up to {golden['largest_difference']}"


def run_export(arguments: argparse.Namespace) -> int:
    """Check an exported network and measure it; the report is printed."""
    begin = time.perf_counter()
    manifest, golden = read_export(arguments.export)
    if arguments.csv:
        check_rows(arguments.csv)
    ready = Ready(arguments, manifest["board"]["cores"] or USUAL_CORES)
    report = ready.report
    check_manifest(report, manifest)
    report.update(study=manifest["study"], trial=manifest["trial"], golden=check_golden(ready.networks, golden, manifest))
    equal = report["golden"]["equal"] and report["golden"]["preprocessing_equal"]
    if equal or arguments.measure_anyway:
        report.update(measure(ready, golden["input"], arguments))
        compiled = manifest.get("compiled")
        known = manifest["scores"]
        if compiled:  # nothing is foretold of another file
            same = compiled.get("sha256") == report["xmodel"]["sha256"]
            known = (compiled.get("predicted") or known) if same else {}
        report.update(expected_fps=known.get("fps"), measured_at=now(), seconds=round(time.perf_counter() - begin, 3))
    print(json.dumps(report, indent=1), flush=True)
    if arguments.result:
        write_json(arguments.result, report)
    if not equal:
        written = "; no row is written" if arguments.csv else ""
        print(f"error: {what_differs(report['golden'])}{written}", file=sys.stderr)
    if arguments.csv and equal:  # last: what was measured is told, whatever becomes of the file
        folder = os.path.dirname(os.path.abspath(arguments.export))
        name = os.path.relpath(os.path.abspath(arguments.xmodel), folder)  # its code is what was measured, whoever wrote it
        append_rows(arguments.csv, name, report, ready.cores)
        for what in ("latency", "throughput"):
            if not report[what]["settled"]:
                spread = report[what]["spread"]
                print(f"warning: {what} did not settle (repeats within {spread:.1%}); measure again", file=sys.stderr)
    return 0 if equal else 1


def parse(words: list[str]) -> argparse.Namespace:
    """The command line; raises SystemExit(2) after a sentence."""
    parser = argparse.ArgumentParser(description="Run a compiled xmodel on the board: integers, latency, throughput, power.")
    parser.add_argument("xmodel", nargs="?", help="the compiled xmodel")
    parser.add_argument("--images", help="int8 (N, H, W, C), .npy; left out: the golden images of an export")
    parser.add_argument("--logits", help="write int8 (N, values) here")
    parser.add_argument("--labels", help="int64 (N,), .npy: count the right ones")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each figure is measured (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="in how many repeats (default: 5, which is the least)")
    parser.add_argument("--threads", type=int, default=0, help="threads of the throughput (default: two for each core)")
    parser.add_argument("--lock", help="hold this file's lock while the DPU is used")
    parser.add_argument("--lock-timeout", type=float, help=f"seconds to wait for it (default: {LOCK_SECONDS:g})")
    parser.add_argument("--result", help="write the report here, JSON")
    parser.add_argument("--probe", action="store_true", help="only say what the board is")
    parser.add_argument("--export", help="folder of the exported trial (default: this program's)")
    parser.add_argument("--csv", help="of an export: append the figures to this file, for `edgesearch calibrate`")
    parser.add_argument("--measure-anyway", action="store_true", help="of an export: measure although golden images differ")
    arguments = parser.parse_args(words)
    if not arguments.probe and arguments.xmodel is None:
        parser.error("give the compiled xmodel, or --probe")
    if (arguments.probe or arguments.images) and not arguments.result:
        parser.error("give --result, the file for the report")
    if arguments.probe and arguments.xmodel is not None:
        parser.error("the xmodel would not be looked at: --probe only says what the board is; leave it out")
    unread = unread_option(arguments)
    if unread:
        parser.error(unread)
    if not (0 < arguments.seconds <= 3600 and 1 <= arguments.repeats <= 100 and 0 <= arguments.threads <= 64):
        parser.error("--seconds must be in (0, 3600], --repeats in 1..100, --threads in 0..64")
    if arguments.lock_timeout is not None and not (arguments.lock and 0 <= arguments.lock_timeout <= 1e9):
        parser.error("--lock-timeout must be in [0, 1e9]" if arguments.lock else "--lock-timeout is for --lock; give both")
    arguments.lock_timeout = LOCK_SECONDS if arguments.lock_timeout is None else arguments.lock_timeout
    arguments.export = arguments.export or os.path.dirname(os.path.abspath(__file__))
    return arguments


def unread_option(arguments: argparse.Namespace) -> str | None:
    """The first option that is given and would not be looked at, as a sentence."""
    names: tuple[str, ...] = ("logits", "labels")
    why = "it is for --images, which are not given"
    if arguments.images:
        names, why = ("csv", "measure_anyway", "export"), "it is for the golden images of an export, not for --images"
    if arguments.probe:
        names, why = ("images", "logits", "labels", "csv", "measure_anyway", "export"), "--probe only says what the board is"
    given = [name.replace("_", "-") for name in names if getattr(arguments, name)]
    return f"--{given[0]} would not be looked at: {why}; leave it out" if given else None


def main() -> int:
    """Do what the command line asks for; returns the exit code."""
    arguments = parse(sys.argv[1:])
    work = run_probe if arguments.probe else run_job if arguments.images else run_export

    def guarded() -> int:
        try:
            check_place("--result", arguments.result)
            return work(arguments)
        except (Refused, BoardFault, BoardBusy) as error:
            print(f"error: {error}", file=sys.stderr)
            return {Refused: 2, BoardFault: 3, BoardBusy: 4}[type(error)]

    return watch(guarded)


if __name__ == "__main__":
    sys.exit(main())
