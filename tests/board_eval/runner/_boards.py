"""What tests of the programs on a board share: a small network, folders, and how a program is run."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Conv, Graph, Input, Linear, Pool, Reshape

STANDIN = Path(__file__).parent / "standin"
#: Long enough for sleeping to be exact.
SLOWER = "8"


def small() -> Graph:
    """Convolution, pooling, linear: 8 x 8 x 3 to 5 values."""
    draw = np.random.default_rng(0)
    nodes = (
        Input(name="in", inputs=(), shape=(8, 8, 3), fix=5),
        Conv(
            name="conv",
            inputs=("in",),
            shape=(8, 8, 16),
            kernel=(3, 3),
            padding=(1, 1, 1, 1),
            activation="relu",
            weight=draw.integers(-128, 128, (16, 3, 3, 3)).astype(np.float32) / 2**9,
            bias=draw.integers(-128, 128, 16).astype(np.float32) / 2**7,
            weight_fix=9,
            bias_fix=7,
            fix=5,
        ),
        Pool(name="pool", inputs=("conv",), shape=(4, 4, 16), kind="max", kernel=(2, 2), stride=(2, 2), fix=5),
        Reshape(name="flat", inputs=("pool",), shape=(256,)),
        Linear(
            name="out",
            inputs=("flat",),
            shape=(5,),
            weight=draw.integers(-128, 128, (5, 256)).astype(np.float32) / 2**10,
            bias=draw.integers(-128, 128, 5).astype(np.float32) / 2**7,
            weight_fix=10,
            bias_fix=7,
            fix=4,
        ),
    )
    return Graph("small", nodes)


@dataclass(frozen=True)
class Case:
    """A folder with NAME.xmodel, its source by checksum, images, labels, and the integers that must come out."""

    folder: Path
    xmodel: Path
    source: Path
    images: Path
    labels: Path
    expected: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Done:
    """What a program on the board did."""

    code: int
    progress: str
    report: dict[str, Any]

    @property
    def sentence(self) -> str:
        return self.progress.splitlines()[-1]


Run = Callable[..., Done]


def execute_program(program: list[str], words: tuple[object, ...], environment: dict[str, str], folder: Path) -> Done:
    """Run a program with --result in `folder`, unless the words name another one."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [*program, *map(str, words), *([] if "--result" in words else ["--result", str(result)])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120, check=False)
    assert list(folder.glob("*.part")) == []
    return Done(done.returncode, done.stderr, json.loads(result.read_text()) if result.exists() else {})


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def stop_while_it_waits(command: list[str], environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Send SIGINT to a program once it waits for the lock: its exit code, and its last line."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        while not _catches(process.pid, signal.SIGHUP):  # the last signal that it takes care of
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().splitlines()
    return process.returncode, said[-1]


def slow_programs(folder: Path) -> Path:
    """A folder with an xdputil and a show_dpu that take two seconds each and tell nothing."""
    for name in ("xdputil", "show_dpu"):
        program = folder / "slow" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nsleep 2\nexit 1\n")
        program.chmod(0o755)
    return folder / "slow"


def make_sensors(root: Path) -> None:
    """/sys of a board: an INA226, a regulator whose input must not be counted, and the chip's own thermometer."""
    for path, content in {
        "sys/class/hwmon/hwmon0/name": "ina226_u183",
        "sys/class/hwmon/hwmon0/power1_input": "11500000",
        "sys/class/hwmon/hwmon1/name": "irps5401",
        "sys/class/hwmon/hwmon1/power1_input": "4000000",
        "sys/class/hwmon/hwmon1/power1_label": "pin",
        "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_raw": "42000",
        "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_offset": "-36058",
        "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_scale": "7.771514892",
        "proc/device-tree/model": "ZynqMP ZCU104 RevC\0",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content + "\n")
