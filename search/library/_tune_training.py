"""One tried recipe: its training, rung by rung, in a worker.

It is the very stage that `optimize` would run with these settings: it goes on from the stage's checkpoint in the store, under
the stage's lease, and a training that comes to its end leaves the stage's artifact there.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgesearch.errors import EdgesearchError, OutOfMemory, StageFailed, TrainingError
from edgesearch.objectives import ArtifactStore, DataSet, DataSettings, Stage, load_data, open_store, run_stage, stage_specs
from edgesearch.objectives.stages import Context
from edgesearch.objectives.training import choose_device, out_of_memory, train
from edgesearch.search.library._tune_space import Target, rungs
from edgesearch.search.processes import NO_MEMORY, prepare_process
from edgesearch.spaces import Distillation

__all__ = ["Rung", "Task", "Training"]

#: trained: the accuracy is there. failed: this recipe cannot be trained. refused: no recipe can. bug: ours.
Outcome: TypeAlias = Literal["trained", "failed", "refused", "bug"]


@dataclass(frozen=True)
class Task:
    """What is the same for every recipe: plain JSON values, and `known`, stage key -> epochs -> accuracy of earlier runs."""

    target: str
    data: Mapping[str, Any]
    store: str
    logs: str
    folder: str | None = None
    threads: int = 1
    known: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    python_path: tuple[str, ...] = ()

    def to_text(self) -> str:
        """As JSON, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Task:
        """The inverse of `to_text`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Rung:
    """Where a training stands: epochs done, top-1 on the validation images (0 where it failed), and why it failed."""

    key: str
    epochs: int
    accuracy: float
    is_last: bool
    outcome: Outcome = "trained"
    message: str = ""


class Training:
    """One recipe's training; each `step` goes on to the next rung."""

    def __init__(self, task: Task, drawn: Mapping[str, Any]) -> None:
        self._task, self._target = task, Target.from_text(task.target)
        self._stage = self._target.stage(self._target.settings(drawn))
        self._rungs = list(rungs(self._target.recipe.epochs))
        self._known = task.known.get(self._stage.key, {})

    def step(self) -> Rung:
        """Train to the next rung, unless it is known what comes there. Never raises: the answer says how it ended."""
        stage, epochs = self._stage, self._rungs.pop(0)
        known = self._known.get(str(epochs))
        if known is not None:
            return Rung(stage.key, epochs, known, is_last=not self._rungs)
        outcome: Outcome = "bug"
        try:
            with _logged(Path(self._task.logs), stage):
                store = open_store(self._task.store, warn=print, folder=self._folder)
                if store.has(stage.kind, stage.key):
                    epochs = self._rungs[-1] if self._rungs else epochs
                    self._rungs.clear()
                accuracy = self._train(store, None if not self._rungs else epochs)
                return Rung(stage.key, epochs, accuracy, is_last=not self._rungs)
        except (OutOfMemory, OSError) as error:
            outcome, message = "refused", str(error)
        except (StageFailed, TrainingError) as error:
            outcome, message = "failed", str(error)
        except EdgesearchError as error:
            outcome, message = "refused", str(error)
        except Exception as error:
            message = traceback.format_exc()
            if out_of_memory(error):
                outcome, message = "refused", NO_MEMORY
        return Rung(stage.key, epochs, 0.0, True, outcome, message)

    @property
    def _folder(self) -> Path | None:
        return None if self._task.folder is None else Path(self._task.folder)

    def _train(self, store: ArtifactStore, stop_after: int | None) -> float:
        """The accuracy after so many epochs, or None: at the end."""
        stage, options = self._stage, dict[str, Any](data_settings=self._task.data, folder=self._folder)
        for upstream in stage.walk():
            if upstream.key != stage.key:
                run_stage(upstream, store, **options)
        if stop_after is None:
            return float(run_stage(stage, store, **options).figures["accuracy"])
        settings: Any = stage_specs().find(stage.kind).settings_of(stage)
        data = _data(DataSettings.model_validate(self._task.data).model_dump_json(), self._folder)
        device = str(choose_device("auto"))
        context = Context(stage, settings, store, data, device, print, self._folder)
        with store.lease(stage.key, waiting=lambda holder: print(f"{holder} makes this stage; waiting for it")):
            training = train(
                context.start(settings.student),
                data,
                recipe=settings.recipe,
                input_size=settings.student.input_size,
                seed=context.seed,
                supervision=context.supervision(getattr(settings, "distillation", Distillation())),
                checkpoints=store.checkpoints(stage.key),
                stop_after=stop_after,
                device=device,
            )
        print(f"{stop_after} epochs: accuracy {training.accuracy:.4f}")
        return training.accuracy


@lru_cache(maxsize=1)
def _data(settings: str, folder: Path | None) -> DataSet:
    return load_data(DataSettings.model_validate_json(settings), folder=folder)


@contextmanager
def _logged(folder: Path, stage: Stage) -> Iterator[None]:
    """What Python prints meanwhile goes to the stage's log."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stage.kind}-{stage.key[:16]}.log"
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {stage.kind} {stage.key}, tried by tune")
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise


def prepare_worker(task: Task) -> None:
    """Let this process find the user's own code, and train as a stage does, with as many threads as the task says."""
    sys.path.extend(folder for folder in task.python_path if folder not in sys.path)
    prepare_process(task.threads)
