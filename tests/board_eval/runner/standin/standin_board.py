"""A board without silicon: what `xir` and `vart` beside this file stand on. Put this folder on PYTHONPATH, `bin` on PATH.

The DPU is this project's: integers are those of the file's code in the machine, or of a quantized network that is known for the
file (`sources`, much faster); every job takes the time that the board's profile says, on one of two cores, asleep. As VART does
for the DPUCZDX8G, `execute_async` returns when the job is done; with `asynchronous` it queues the job and `wait` waits.

What it is and what goes wrong is told by knobs: a JSON file that VART_STANDIN names, or VART_STANDIN_KNOB in the environment,
which comes first. The file is read when the modules are imported, so that a test can break a board while a server runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

KNOBS: dict[str, Any] = {
    "profile": "zcu104",  # whose times
    "runner": "cpp",  # whose host: a runner of the profile
    "cores": 2,
    "mhz": 300,
    "version": "3.5.0",  # VART's
    "fingerprint": "0x101000056010407",  # of the board's DPU; "" tells none and takes every file
    "slower": 1.0,  # times are multiplied with it: sleeping is exact to about 0.1 ms
    "noise": 0.0,  # 0.3: times vary by 30 %, up and down, from one fifth of a second to the next
    "sources": "",  # folder with SHA256_OF_COMPILED_FILE.xmodel, the quantized network behind it
    "asynchronous": False,
    "devices": "USER,DPU,CPU",  # of the subgraphs
    "error": 0,  # added to every integer that comes out
    "create_fails": False,  # create_runner raises
    "crash_at": 0,  # the job, counted from 1, in which the process dies of SIGSEGV
    "hang_at": 0,  # the job that never ends
    "timeout_at": 0,  # the job that the DPU does not answer: VART aborts the process
    "raise_at": 0,  # the job that raises
    "status_at": 0,  # the job that returns a status that is not 0
}


def _knobs() -> dict[str, Any]:
    knobs = dict(KNOBS)
    path = os.environ.get("VART_STANDIN")
    if path and os.path.exists(path):
        knobs.update(json.loads(Path(path).read_text()))
    for name, usual in KNOBS.items():
        text = os.environ.get(f"VART_STANDIN_{name.upper()}")
        if text is not None:
            knobs[name] = text == "1" if isinstance(usual, bool) else type(usual)(text)
    unknown = set(knobs) - set(KNOBS)
    assert not unknown, f"the stand-in has no knobs {unknown}"
    return knobs


KNOB = _knobs()


def fatal(message: str) -> None:
    """End the process as a failed check of glog does."""
    print(f"F0101 00:00:00.000000 {os.getpid()} standin_board.py:1] {message}", file=sys.stderr, flush=True)
    os.abort()


def noise() -> float:
    """What times are multiplied with now."""
    return 1 + float(KNOB["noise"]) * (2 * random.Random(int(5 * time.perf_counter())).random() - 1)


class Network:
    """A compiled file: what it computes and how long that takes."""

    def __init__(self, path: str) -> None:
        from edgesearch.board_eval import CompiledXmodel

        self.xmodel = CompiledXmodel.read(path)
        self._known: dict[bytes, np.ndarray[Any, Any]] = {}
        self._lock = threading.Lock()

    @cached_property
    def seconds(self) -> tuple[float, float, float]:
        """Of one image: the host's, the DPU's alone, and a core's when all are busy."""
        from edgesearch.board_eval import load_profile

        timing = self.xmodel.time(load_profile(KNOB["profile"]), runner=KNOB["runner"])
        busy = max(timing.dpu_s, KNOB["cores"] / timing.throughput_fps)
        host, alone, busy = (KNOB["slower"] * t for t in (timing.latency_s - timing.dpu_s, timing.dpu_s, busy))
        return host, alone, busy

    def logits(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Int8 of one image (H, W, C), computed once."""
        key = image.tobytes()
        with self._lock:
            if key not in self._known:
                output = self.xmodel.outputs[0]
                self._known[key] = np.ldexp(self._execute(image[None]), output.fix).reshape(output.shape)
        return self._known[key] + np.int8(KNOB["error"])  # type: ignore[no-any-return]

    def _execute(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._executor is not None:
            return self._executor.logits(image)  # type: ignore[no-any-return]
        return self.xmodel.execute(image)

    @cached_property
    def _executor(self) -> Any:
        path = Path(KNOB["sources"]) / f"{self.xmodel.sha256}.xmodel"
        if not KNOB["sources"] or not path.exists():
            return None
        from edgesearch.board_eval import read_xmodel
        from edgesearch.board_eval.execution import Executor

        return Executor(read_xmodel(path))


class Cores:
    """The DPU's cores: when each is free again."""

    def __init__(self) -> None:
        self._free = [0.0] * KNOB["cores"]
        self._lock = threading.Lock()
        self._jobs = 0

    def job(self, network: Network) -> tuple[int, int, float]:
        """Queue a job: its number, its status, and when it will be done."""
        with self._lock:
            self._jobs += 1
            number = self._jobs
            self._fault(number)
            now = time.perf_counter()
            core = min(range(len(self._free)), key=self._free.__getitem__)
            others_busy = any(free > now for index, free in enumerate(self._free) if index != core)
            _, alone, busy = network.seconds
            duration = busy if others_busy else alone
            duration *= noise()
            self._free[core] = end = max(now, self._free[core]) + duration
        return number, 1 if number == KNOB["status_at"] else 0, end

    def _fault(self, number: int) -> None:
        if number == KNOB["crash_at"]:
            os.kill(os.getpid(), 11)
        if number == KNOB["timeout_at"]:
            fatal("dpu timeout! core_idx = 0")
        if number == KNOB["raise_at"]:
            raise RuntimeError("the DPU does not answer")
        while number == KNOB["hang_at"]:
            time.sleep(3600)


CORES = Cores()


def sha256(path: str) -> str:
    """Checksum of a file, as `sources` names it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
