"""Recording a study for replay: every candidate of its space is made once, and what each stage gave and cost is kept.

Seconds are those of the processor that one thread used, so that other work on the machine does not count. A student's training
is taken epoch by epoch, as it is when it stops at a rung: the accuracy after an epoch is that of the weights that a training
would keep if it ended there.
"""

from __future__ import annotations

import io
import json
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from edgesearch.board_eval import find_board
from edgesearch.errors import DataError, EdgesearchError, PluginError, StoreError, StudyError
from edgesearch.files import write_atomically
from edgesearch.objectives import Conditions, DataSet, Estimator, Stage, Store, load_data, plan, run_stage, stage_specs
from edgesearch.objectives.stages import Context
from edgesearch.objectives.training import train
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate
from edgesearch.testing._table import Epoch, Recorded, Table, candidates_of, what_is

#: What a pruned stage says between choosing channels and the fine-tuning of what is left.
_CHOSEN = "pruned "


def record_study(study: StudyFile, folder: str | Path, *, note: Callable[[str], object] = print) -> Table:
    """Make every stage of every candidate of the study's space; what is in `folder` is not made again.

    Stages that fail are recorded with the reason. Raises StudyError for a study without a space, or with one that has no end,
    and for a folder in which another study was begun; DataError, PluginError, StoreError and TargetError as a run of the study
    would.
    """
    if study.space is None:
        raise StudyError(f"study {study.name!r} has no [space] whose candidates could be recorded; add one")
    recorder = _Recorder(study, Path(folder))
    candidates = recorder.candidates()
    for number, candidate in enumerate(candidates):
        recorder.make(candidate)
        note(f"{number + 1}/{len(candidates)} {candidate}  {sum(e.seconds for e in recorder.entries.values()):.1f} s of CPU")
    return recorder.table(candidates)


class _Recorder:
    """One study under way. `entries.jsonl` in its folder has a line for each stage that was made."""

    def __init__(self, study: StudyFile, folder: Path) -> None:
        torch.set_num_threads(1)
        self._store = Store(folder / "store")
        self._lines = folder / "entries.jsonl"
        self._data: DataSet = load_data(study.data, folder=study.folder)
        board = find_board(study.board, folder=study.folder, compiler=study.compiler, allow=study.allow)
        self.study = study = study.resolved(granularity=board.target.channel_parallel)  # as a run makes its candidates
        self._estimator = Estimator(
            channels=self._data.channels, classes=len(self._data.classes), board=board, folder=study.folder
        )
        self._conditions = Conditions.of(self._data, study.pipeline, board, seed=study.seed)
        self._claim(folder)
        self.entries: dict[str, Recorded] = {entry.name: entry for entry in self._read()}

    def _claim(self, folder: Path) -> None:
        """The folder is this study's; raises StudyError where it is that of one whose stages are others."""
        study = self.study
        own = {"pipeline": study.pipeline.model_dump(mode="json"), "board": study.board, "seed": study.seed}
        file = folder / "study.json"
        if not file.exists():
            write_atomically(file, json.dumps(own).encode())
        elif json.loads(file.read_text()) != own:
            raise StudyError(f"{folder} has stages of another study than {study.name!r} as it is now; give another folder")

    def _read(self) -> list[Recorded]:
        """What was recorded; a line that was not written to its end is taken away."""
        whole, end, _ = (self._lines.read_text() if self._lines.exists() else "").rpartition("\n")
        write_atomically(self._lines, (whole + end).encode())
        return [Recorded.from_json(json.loads(line)) for line in whole.splitlines()]

    def candidates(self) -> list[Candidate]:
        """All of the space, each once, in layers that are spaces of their own: the longest way of pruning comes last."""
        assert self.study.space is not None  # else nothing is recorded

        def layer(candidate: Candidate) -> tuple[bool, bool, float, float]:
            taught = candidate.distillation
            return candidate.pruning.method == "iterative", taught.kind != "none", taught.temperature, taught.alpha

        return sorted(candidates_of(self.study.space, self.study.folder), key=layer)

    def make(self, candidate: Candidate) -> None:
        """The candidate's stages, as far as none refuses it."""
        for stage in plan(candidate, self.study.pipeline, self._conditions).walk():
            name = what_is(stage)
            if name not in self.entries:
                self._record(name, stage)
            if self.entries[name].failure:
                return

    def table(self, candidates: list[Candidate]) -> Table:
        """What was recorded."""
        estimates: dict[str, dict[str, Any]] = {}
        for candidate in candidates:
            try:
                estimates[candidate.key] = self._estimator.estimate(candidate)
            except EdgesearchError as error:
                estimates[candidate.key] = {"unsupported": str(error)}
        return Table(self.study, tuple(self.entries.values()), estimates, self._conditions.images)

    def _record(self, name: str, stage: Stage) -> None:
        if self._store.has(stage.kind, stage.key):  # made, but its line was not written: its seconds are not known
            shutil.rmtree(self._store.root / "artifacts" / stage.kind / stage.key)
        self._store.checkpoints(stage.key).clear()  # of an earlier run, whose seconds are not known
        self._store.forget_failure(stage.kind, stage.key)
        epochs, overhead = self._epochs(stage) if stage.kind == "student" else ([], 0.0)
        lines = _Clocked()
        started = time.process_time()
        try:
            with redirect_stdout(lines):
                artifact = run_stage(
                    stage, self._store, data_settings=self.study.data.model_dump(mode="json"), folder=self.study.folder
                )
        except (PluginError, DataError, StoreError):  # of this moment, and no property of the candidate
            raise
        except EdgesearchError as error:
            entry = Recorded(name, time.process_time() - started, failure=str(error))
        else:
            last = time.process_time() - started
            figures = {
                name: value
                for name, value in artifact.figures.items()
                if isinstance(value, int | float | str) and name != "seconds"  # by the clock on the wall
            }
            seconds = sum(epoch.seconds for epoch in epochs) + last
            if epochs:
                loss = artifact.figures["history"][-1][0]
                epochs.append(Epoch(artifact.figures["accuracy"], loss, last - overhead))
            chosen = next((at - started for at, line in lines.lines if line.startswith(_CHOSEN)), 0.0)
            entry = Recorded(name, seconds, figures, epochs=tuple(epochs), overhead=overhead, chosen_seconds=chosen)
        self.entries[name] = entry = Recorded.from_json(entry.to_json())  # as it is read again
        with self._lines.open("a") as file:
            file.write(json.dumps(entry.to_json()) + "\n")

    def _epochs(self, stage: Stage) -> tuple[list[Epoch], float]:
        """Every epoch but the last, and the seconds that a training takes beside its epochs.

        Each is trained to in a run of its own, from the checkpoint of the one before, which `stage` itself goes on from.
        """
        settings: Any = stage_specs().find(stage.kind).settings_of(stage)
        context = Context(stage, settings, self._store, self._data, "cpu", lambda line: None, self.study.folder)
        checkpoints = _Timed(self._store.checkpoints(stage.key))
        epochs: list[Epoch] = []
        besides: list[float] = []
        for epoch in range(1, settings.recipe.epochs):
            begun = time.process_time()
            ended: list[float] = []
            model = context.start(settings.student)
            checkpoints.loaded = begun
            training = train(
                model,
                self._data,
                recipe=settings.recipe,
                input_size=settings.student.input_size,
                seed=context.seed,
                supervision=context.supervision(settings.distillation),
                checkpoints=checkpoints,
                stop_after=epoch,
                on_epoch=lambda epoch, loss, ended=ended: ended.append(time.process_time()),  # type: ignore[misc]
                device="cpu",
            )
            cost = ended[-1] - checkpoints.loaded
            epochs.append(Epoch(training.accuracy, training.history[-1].loss, cost))
            besides.append(time.process_time() - begun - cost)
        return epochs, statistics.median(besides) if besides else 0.0


class _Timed:
    """Checkpoints that say when they were loaded: an epoch begins then."""

    def __init__(self, checkpoints: Any) -> None:
        self._checkpoints, self.loaded = checkpoints, 0.0

    def latest(self) -> Any:
        found = self._checkpoints.latest()
        self.loaded = time.process_time()
        return found

    def save(self, epoch: int, tensors: Any, meta: Any) -> None:
        self._checkpoints.save(epoch, tensors, meta)

    def clear(self) -> None:
        self._checkpoints.clear()


class _Clocked(io.TextIOBase):
    """Keeps every line with the processor's time at which it was written."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.lines.append((time.process_time(), text))
        return len(text)
