"""A job for Vitis AI's Python: a folder with all that it needs, and the runner that works in it.

The folder holds model.py (plain torch code), weights.npz (arrays by the names of the network's state), the arrays of its task
as .npy, and job.json. Images are float32 (N, C, H, W), normalised; those for training are bytes (N, H, W, C), with the mean and
standard deviation, and as two products of matrices the resize, that make images of them. Nothing in it is pickled.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.vitis import VitisSettings, run_python_job
from edgesearch.files import Watcher
from edgesearch.objectives.vitis._results import FORMAT, Results
from edgesearch.objectives.vitis._source import ModelSource

__all__ = ["Array", "Job", "Task", "check_packages", "finished"]

Array: TypeAlias = npt.NDArray[np.generic]
Task: TypeAlias = Literal["check", "ptq", "qat", "prune_one_step", "prune_iterative"]

RUNNER = Path(__file__).with_name("_run_vitis.py")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done. `settings` are those of the task, `arrays` go into files of their names with .npy behind.

    `packages`: versions that Vitis AI's Python must have, by name; of those that are not named any will do.

    An array that is given as a function is made when it is written, and not kept.
    """

    task: Task
    source: ModelSource | None = None
    seed: int = 0
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    packages: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array | Callable[[], Array]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Put it into an empty folder. Raises OSError."""
        content = {
            "format": FORMAT,
            "task": self.task,
            "seed": self.seed % 2**32,
            "threads": self.threads,
            "device": self.device,
            "packages": dict(self.packages),
            **self.settings,
        }
        if self.source is not None:
            content |= {"model": self.source.name, "input_shape": list(self.source.input_shape)}
            (folder / "model.py").write_text(self.source.text, encoding="utf-8")
            with (folder / "weights.npz").open("wb") as file:
                np.savez(file, **_arrays(self.source.weights))
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array() if callable(array) else array, allow_pickle=False)
        (folder / "job.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


@contextmanager
def finished(job: Job, settings: VitisSettings) -> Iterator[Results]:
    """Run the job and give what came of it; its folder goes when the context ends, but for the log where something failed.

    Raises ToolchainMissing where there is no Python for it, or one with other packages; ToolchainError where it fails, takes
    too long or refuses, and for results that are none.
    """
    folder = Path(tempfile.mkdtemp(prefix="edgesearch-vitis-"))
    failed = True
    with Watcher(folder=folder):
        try:
            job.write(folder)
            run_python_job(RUNNER, folder, settings)
            yield Results.read(folder, job.task, job.source)
            failed = False
        finally:
            _clear(folder, keep_log=failed)


def check_packages(settings: VitisSettings, *tasks: Task) -> Mapping[str, str]:
    """Versions of Vitis AI's packages; raises ToolchainMissing in one sentence where jobs for these tasks could not run."""
    with finished(Job(task="check", settings={"needs": list(tasks)}), settings) as results:
        return results.versions


def _arrays(weights: Mapping[str, Array]) -> Any:
    """For a function whose other arguments have names of their own."""
    return dict(weights)


def _clear(folder: Path, *, keep_log: bool) -> None:
    logs = list(folder.glob("*.log")) if keep_log else []
    for path in folder.iterdir():
        if path in logs:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not logs:
        shutil.rmtree(folder, ignore_errors=True)
