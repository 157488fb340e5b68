"""Boards in this process that do as a script says: what they are given is really executed, and their speed follows a law."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import (
    BoardProbe,
    BoardRun,
    CompiledXmodel,
    Dpu,
    Graph,
    Measurement,
    RunReport,
    execute,
    load_profile,
)
from edgesearch.board_eval.remote import BoardFacts
from edgesearch.board_eval.xmodel import compiled_graph
from edgesearch.errors import BoardBusy, BoardError, BoardLost, BoardUnfit

#: Images of a look at a board; measurements of tests have more.
CANARY_IMAGES = 4
#: Their DPU is slower than the simulated one by this factor.
SLOWER = 1.25
#: A module of a study's folder with boards of these names, which `boards = ["lab:a", "lab:b"]` finds.
MODULE = "from pathlib import Path\nfrom _fake_boards import FakeBoard\n" + "".join(
    f'{name} = FakeBoard("{name}", Path(__file__).parent)\n' for name in "ab"
)


def write_boards(folder: Path, **scripts: Mapping[str, list[str]]) -> None:
    """The module `lab` with the boards a and b, and what each is to do: {"run": [...], "canary": [...]}, "ok" when it ends.

    A deed is ok, lost, busy, hang, refuse, unfit, wrong (logits), or off (lost, whatever the script says next, until NAME.on is
    there).
    """
    (folder / "lab.py").write_text(MODULE)
    for name, script in scripts.items():
        (folder / f"{name}.json").write_text(json.dumps(script))


def deeds(folder: Path, name: str) -> list[str]:
    """What a board did, as "run ok"."""
    log = folder / f"{name}.log"
    return log.read_text().splitlines() if log.exists() else []


class FakeBoard:
    is_pure = False

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    @property
    def target(self) -> Dpu:
        return load_profile("zcu104").dpu

    @property
    def resource(self) -> str:
        return f"board:{self.name}"

    @property
    def content(self) -> Mapping[str, Any]:
        return {"runner": "python"}

    def measure(self, network: Graph | str | Path, images: Any = None, labels: Any = None) -> Measurement:
        raise NotImplementedError

    def probe(self) -> BoardProbe:
        return BoardProbe(format=1, probe=True, board=BoardFacts(), free_bytes=1 << 30, vart_importable=True)

    def run(self, xmodel: str | Path, images: npt.NDArray[np.int8], labels: Any = None) -> BoardRun:
        deed = self._next("canary" if len(images) == CANARY_IMAGES else "run")
        match deed:
            case "lost" | "off":
                raise BoardLost(f"board {self.name!r} does not answer")
            case "busy":
                raise BoardBusy(f"board {self.name!r} is busy")
            case "refuse":
                raise BoardError(f"board {self.name!r} refused the network: it does not like it")
            case "unfit":
                raise BoardUnfit(f"board {self.name!r} shows another key")
            case "hang":
                time.sleep(3600)
        compiled = CompiledXmodel.read(xmodel)
        output = compiled.outputs[0]
        real = execute(compiled_graph(compiled.model), images).reshape(len(images), -1)
        logits = np.ldexp(real.astype(np.float64), output.fix).astype(np.int8)
        if deed == "wrong":
            logits[0, 0] ^= 1
        return BoardRun(
            report=_report(compiled, len(images)),
            images=images,
            logits=logits,
            correct=None if labels is None else int((logits.argmax(axis=1) == labels).sum()),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            clock_skew_s=0.0,
            pushed=0,
        )

    def _next(self, kind: str) -> str:
        log, script = self.folder / f"{self.name}.log", self.folder / f"{self.name}.json"
        planned = json.loads(script.read_text()).get(kind, []) if script.exists() else []
        done = [line for line in deeds(self.folder, self.name) if line.startswith(kind)]
        deed = planned[len(done)] if len(done) < len(planned) else "ok"
        if (
            any(line.endswith(" off") for line in deeds(self.folder, self.name))
            and not (self.folder / f"{self.name}.on").exists()
        ):
            deed = "off"
        with log.open("a") as file:
            file.write(f"{kind} {deed}\n")
        return str(deed)


def _report(compiled: CompiledXmodel, images: int) -> RunReport:
    timing = compiled.time(load_profile("zcu104"))
    ms = 1e3 * (timing.host_s + SLOWER * (timing.latency_s - timing.host_s))
    fps = timing.throughput_fps / SLOWER
    content = {
        "format": 1, "runner": "python", "runner_version": "1",
        "xmodel": {"sha256": compiled.sha256, "fingerprint": None},
        "board": {"fingerprint": "0x101000056010407", "vart": "3.5.0"},
        "input": {"shape": list(compiled.input.shape), "fix_position": compiled.input.fix},
        "output": {"shape": [10], "fix_position": compiled.outputs[0].fix},
        "images": {"count": images, "correct": None, "seconds": 0.1},
        "latency": {
            "threads": 1, "median_ms": ms, "mean_ms": ms, "p95_ms": ms, "p99_ms": ms, "min_ms": ms, "runs": 10,
            "repeats_ms": [ms] * 5, "spread": 0.0, "settled": True,
        },
        "throughput": {"threads": 4, "fps": fps, "images": 10, "repeats_fps": [fps] * 5, "spread": 0.0, "settled": True},
        "power": {"idle_w": 8.0, "busy_w": 12.0, "sensor": "ina226"}, "power_note": None, "temperature_c": None,
        "measured_at": None, "seconds": 1.0,
    }  # fmt: skip
    return RunReport.model_validate(content)
