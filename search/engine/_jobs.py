"""One stage as a job: what a worker is told, what it answers, and how it runs it."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgesearch.errors import EdgesearchError

Outcome: TypeAlias = Literal["done", "refused", "bug", "lost"]


@dataclass(frozen=True)
class Job:
    """All that a worker needs, as plain JSON values."""

    stage: Mapping[str, Any]
    data: Mapping[str, Any]
    store: str
    log: str
    threads: int  # 0: as many as torch takes
    device: str = "auto"
    python_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))

    @property
    def key(self) -> str:
        """The stage's key."""
        from edgesearch.objectives import Stage

        return Stage.from_json(self.stage).key


@dataclass(frozen=True)
class JobResult:
    """How a job ended. refused: the input's fault, in one sentence; bug: ours; lost: the worker died."""

    key: str
    outcome: Outcome
    seconds: float
    message: str = ""


def run_job(content: Mapping[str, Any]) -> dict[str, Any]:
    """Run one stage in this process; what it prints goes to its log. Never raises: the answer says how it ended."""
    from edgesearch.objectives import Stage, Store, run_stage

    job = Job(**content)
    for folder in job.python_path:
        if folder not in sys.path:
            sys.path.append(folder)
    stage = Stage.from_json(job.stage)
    log = Path(job.log)
    started = time.perf_counter()
    outcome: Outcome = "done"
    message = ""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {stage.kind} {stage.key} in process {os.getpid()}")
            try:
                if job.threads:
                    _use_threads(job.threads)
                run_stage(stage, Store(Path(job.store), warn=print), data_settings=job.data, device=job.device)
                print(f"done in {time.perf_counter() - started:.1f} s")
            except Exception:
                traceback.print_exc()
                raise
    except EdgesearchError as error:
        outcome, message = "refused", str(error)
    except MemoryError:
        outcome, message = "refused", f"stage {stage.kind} ran out of memory; give --workers a smaller number"
    except OSError as error:
        outcome, message = "refused", f"stage {stage.kind}: {error.strerror or error} ({error.filename or job.store})"
    except Exception as error:
        outcome, message = "bug", f"{type(error).__name__}: {error}"
    return asdict(JobResult(stage.key, outcome, time.perf_counter() - started, message))


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)
