"""One stage as a job: what a worker is told, what it answers, and how it runs it."""

from __future__ import annotations

import errno
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgesearch.errors import (
    BoardBusy,
    BoardError,
    BoardLost,
    DataError,
    DeviceError,
    EdgesearchError,
    Infeasible,
    PluginError,
    StoreError,
    ToolchainMissing,
)
from edgesearch.search.processes._heap import keep_freed_blocks
from edgesearch.search.processes._heartbeats import beating

#: done: the artifact is in the store. refused: the stage's own fault, in one sentence. bug: ours. blocked: disk, data, store or
#: Vitis AI's tools are at fault, so that no stage can run. lost: the worker died in this stage. interrupted: the worker went
#: down with the machine or the pool that it belonged to. board_lost: the board that it was given is at fault. board_busy:
#: another program has that board. board_refused: that board refused it, or it was not found, and nobody knows yet whose fault
#: that is. hung: the worker gave no sign of life for too long, and was stopped. infeasible: its network breaks a hard limit.
#: out_of_memory: the machine's memory did not suffice.
Outcome: TypeAlias = Literal[
    "done",
    "refused",
    "bug",
    "blocked",
    "lost",
    "interrupted",
    "board_lost",
    "board_busy",
    "board_refused",
    "hung",
    "infeasible",
    "out_of_memory",
]
#: Of a stage that was ended for it.
NO_MEMORY = "the machine ran out of memory (a smaller number of --workers needs less)"
#: Errors of the operating system that have nothing to do with the stage that met them: no room left, not writable, a bad disk,
#: too many files.
_BLOCKING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Job:
    """All that a worker needs, as plain JSON values.

    `memory`: bytes that its process is expected to take at its peak; 0 where that is not known. `pieces`: that it computes
    each batch in at least, since memory did not suffice for fewer. `folder` is where the user's
    own code is looked for first, `vitis` are the settings of Vitis AI's tools, `limits` those that the stage's network is held
    to, as `NetworkLimits`. `board` is a `BoardReference`, for a stage that runs on a board.
    """

    stage: Mapping[str, Any]
    data: Mapping[str, Any]
    store: str
    log: str
    device: str = "auto"
    folder: str | None = None
    board: Mapping[str, Any] | None = None
    vitis: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] | None = None
    memory: int = 0
    pieces: int = 1
    python_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))

    @property
    def board_name(self) -> str:
        """The board that the job holds while it runs; "" for one that computes."""
        return str(self.board["name"]) if self.board else ""

    @property
    def key(self) -> str:
        """The stage's key."""
        from edgesearch.objectives import Stage

        return Stage.from_json(self.stage).key


@dataclass(frozen=True)
class JobResult:
    """How a job ended; `message` is one sentence: why it is not done, or what to know of one that is (most often nothing).

    `figures`: of a network that is infeasible.
    """

    key: str
    outcome: Outcome
    seconds: float
    message: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


def run_job(content: Mapping[str, Any]) -> dict[str, Any]:
    """Run one stage in this process; what it prints goes to its log. Never raises: the answer says how it ended."""
    job = Job(**content)
    threads = int(job.stage["threads"])
    extend_path(job.python_path)
    from edgesearch.board_eval import BoardReference, VitisSettings
    from edgesearch.objectives import NetworkLimits, Stage, open_store, run_stage
    from edgesearch.objectives.training import give_back

    prepare_process(threads)
    stage = Stage.from_json(job.stage)
    folder = None if job.folder is None else Path(job.folder)
    board = None if job.board is None else BoardReference.from_json(job.board)
    started = time.perf_counter()
    outcome: Outcome = "done"
    message = ""
    figures: Mapping[str, float] = {}
    try:
        with _logged(Path(job.log)), beating(Path(job.log), waits=board is not None):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {stage.kind} {stage.key} in process {os.getpid()}")
            try:
                store = open_store(job.store, warn=print, folder=folder)
                vitis = VitisSettings.model_validate(job.vitis)
                made = run_stage(
                    stage,
                    store,
                    data_settings=job.data,
                    device=job.device,
                    folder=folder,
                    board=board,
                    vitis=vitis,
                    limits=None if job.limits is None else NetworkLimits(**job.limits),
                    pieces=job.pieces,
                )
                if (pieces := made.figures.get("pieces", 1)) > 1:
                    message = f"its batches were computed in {pieces} pieces each, since memory did not suffice for a whole one"
                print(f"done in {time.perf_counter() - started:.1f} s")
            except (Exception, SystemExit):
                traceback.print_exc()
                raise
    except (Exception, SystemExit) as error:  # the user's own code may end the process, which is no death of the worker
        outcome, message, figures = _ending(error, job)
    give_back()  # while the process waits for its next job, others may need it
    return asdict(JobResult(stage.key, outcome, time.perf_counter() - started, message, figures))


def _ending(error: BaseException, job: Job) -> tuple[Outcome, str, Mapping[str, float]]:
    """How a stage ended that raised this error, why, and figures that broke a limit."""
    from edgesearch.objectives.training import out_of_memory

    message, figures = str(error), dict[str, float]()
    outcome: Outcome = "refused"
    if isinstance(error, (StoreError, DataError, ToolchainMissing)):  # no other candidate fares better
        outcome = "blocked"
    elif isinstance(error, BoardBusy):
        outcome = "board_busy"
    elif isinstance(error, BoardLost):
        outcome = "board_lost"
    elif isinstance(error, DeviceError) or (isinstance(error, RuntimeError) and "CUDA error" in message):
        outcome = "lost"  # a GPU that fails is no fault of the stage, and may be back for the next process
    elif isinstance(error, Infeasible):
        outcome, figures = "infeasible", dict(error.figures)
    elif isinstance(error, EdgesearchError):
        is_boards = job.board is not None and isinstance(error, (BoardError, PluginError))
        outcome = "board_refused" if is_boards else "refused"
    elif out_of_memory(error):
        outcome, message = "out_of_memory", NO_MEMORY
    elif isinstance(error, OSError):
        is_log = str(error.filename) in (job.log, *map(str, Path(job.log).parents))
        outcome = "blocked" if error.errno in _BLOCKING or is_log else "refused"
        message = f"{error.strerror or error} ({error.filename or job.store})"
    else:
        outcome, message = "bug", f"{type(error).__name__}: {error}"
    return outcome, message, figures


def extend_path(python_path: tuple[str, ...]) -> None:
    """Look for modules where the driver does, too, behind this process's own places."""
    for folder in python_path:
        if folder not in sys.path:
            sys.path.append(folder)


def prepare_process(threads: int) -> None:
    """Let torch use so many threads, and keep the memory that a step frees for the next one."""
    import torch

    keep_freed_blocks()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What Python and what lies below it print goes to the file; so does where a crash happened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as file, _descriptors(file.fileno()):
        faulthandler.enable(file)
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            faulthandler.disable()


@contextmanager
def _descriptors(target: int) -> Iterator[None]:
    """Standard output and error of the process itself (libraries, the C runtime's last words) go to `target` meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in saved:
            os.dup2(target, number)
        yield
    finally:
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
