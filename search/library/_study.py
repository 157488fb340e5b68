"""A study as a program sees it. Reading one that is stored imports neither torch nor what trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.board_eval import load_profile
from edgesearch.errors import StudyError
from edgesearch.files import expanded
from edgesearch.search.engine import Progress, Summary
from edgesearch.search.library._boards import board_changes
from edgesearch.search.library._front import Front, StudyRecord
from edgesearch.search.library._numbers import check_number, check_share
from edgesearch.search.library._progress import as_progress
from edgesearch.search.library._reading import find_study, stored_study
from edgesearch.search.library._stores import existing_store, no_store, store_place
from edgesearch.search.library._undrawn import undrawn
from edgesearch.search.study import (
    OBJECTIVES,
    Home,
    Miss,
    Objective,
    Score,
    StudyFile,
    StudyView,
    absolute_url,
    nearest_misses,
    pareto_front,
    quiet_optuna,
    read_study,
    reading_errors,
    stored_settings,
    study_file,
    teacher_note,
)

if TYPE_CHECKING:
    import optuna
    from torch import nn

    from edgesearch.board_eval import BoardProfile, Calibration, Compiler
    from edgesearch.objectives import ArtifactStore
    from edgesearch.search.library._deployment import Deployment
    from edgesearch.search.library._inputs import Inputs
    from edgesearch.spaces import Candidate

#: Told what a person should know of a store that is read.
_log = logging.getLogger("edgesearch.search")


class Study:
    """A study: opened to be run, or loaded to be read.

    `Study.open` reads a study file, its data and its board, and checks that the DPU can run its students; `optimize` then makes
    or resumes the study. `Study.load` reads one that is stored, also while another process runs it, and writes nothing.
    """

    def __init__(self, settings: StudyFile, home: Home, storage: str | None, inputs: Inputs | None, *, file: str = "") -> None:
        self.settings = settings
        self.home = home
        #: Database URL; None: SQLite in the home.
        self.storage = None if storage in (None, "") else absolute_url(storage)
        #: What the last `optimize` did.
        self.summary: Summary | None = None
        self._opened = inputs
        self._file = file  # the study's file, or the name of a bundled study

    @classmethod
    @undrawn()
    def open(
        cls,
        study: str | Path | StudyFile,
        home: str | Path = "runs",
        *,
        storage: str | None = None,
        store: str | Path | None = None,
        name: str | None = None,
        seed: int | None = None,
        board: str | Sequence[str] | None = None,
        score: Score | None = None,
        threads: int = 1,
    ) -> Study:
        """A study by its file, by the name of a bundled one, or made in Python; `name`, `seed`, `store`, `board`, `score` stand
        for the file's. Of several boards all but one are of the boards file: those measure. `store` is a folder or a URL, as
        s3://bucket/folder; a study that names none has its artifacts in `home`.

        `threads` are those of every stage: results are bit-equal for any number of workers, not for another number of threads.

        Nothing is written yet, and nothing downloaded but data that the study asks for. Raises StudyError when there is no such
        study and for `threads` below 1, SpaceError for settings that are not possible, for weights that do not fit and when no
        student can be built, PluginError for code of the user's own that is not there, DataError, TargetError, BoardError for
        boards that cannot be used, and LoweringError or GraphError when the DPU can run no student.
        """
        from edgesearch.search.library._inputs import check_code, check_teacher, read_inputs
        from edgesearch.search.library._starts import check_starts

        check_number("threads", threads, int, least=1)
        settings = study.checked() if isinstance(study, StudyFile) else StudyFile.load(study)
        changes: dict[str, Any] = {"name": name, "seed": seed, "score": score}
        changes["store"] = store_place(store) if store else None  # "": of a shell variable that is not set
        changes |= board_changes(board, score=score or settings.score)
        settings = settings.with_changes(**{key: value for key, value in changes.items() if value is not None})
        inputs = read_inputs(settings, threads=threads)
        file = "" if isinstance(study, StudyFile) else Path(study).name
        opened = cls(inputs.settings, Home.at(home), storage, inputs, file=file)
        _ = opened.unsupported
        check_code(inputs.settings)
        check_teacher(inputs)
        check_starts(inputs)
        return opened

    @classmethod
    def load(cls, name: str | None = None, home: str | Path = "runs", *, storage: str | None = None) -> Study:
        """A stored study by its name, or the one that was run last; read-only.

        `storage` is a database URL, as "postgresql+psycopg://user@host/studies"; default: SQLite in `home`. Networks are read
        from the store in `home`. Raises StudyError when there is no such study.
        """
        with quiet_optuna():
            study = find_study(name, storage, Home.at(home))
            return cls(stored_settings(study), Home.at(home), storage, None)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.settings.name

    @cached_property
    def unsupported(self) -> tuple[str, ...]:
        """Sentences on students that are left out, because the DPU cannot run them."""
        from edgesearch.search.library._inputs import unsupported_students

        with undrawn():
            return tuple(unsupported_students(self.inputs))

    @property
    def findings(self) -> tuple[str, ...]:
        """Sentences on what is known to cost accuracy or speed, warnings first."""
        note = teacher_note(self.view().records) if self.settings.teacher is not None else ""
        return (f"warning: {note}", *self._findings) if note else self._findings

    @cached_property
    def _findings(self) -> tuple[str, ...]:
        from edgesearch.search.library._findings import study_findings

        with undrawn():
            return tuple(study_findings(self.settings, self.inputs.data, target=self.inputs.board.target))

    @property
    def trials(self) -> int:
        """How many trials the study file asks for."""
        return self.settings.trials

    def optimize(
        self,
        trials: int | None = None,
        *,
        workers: int | None = None,
        ray_address: str | None = None,
        gpus_per_stage: float | None = None,
        memory_per_stage: float = 0,
        board_wait_s: float = 1800.0,
        hang_s: float = 900.0,
        retry_failed: bool = False,
        progress: Callable[[str], object] | Progress | None = None,
    ) -> Front:
        """Run until the study has `trials` trials in all (default: as its file says), resuming it if it was begun.

        `workers` stages run side by side as Ray tasks (default: as many as this machine's cores are enough for, with the
        threads of each, two for each of its GPUs, or as the cluster at `ray_address` has room for; 0: one, in a child
        process, without Ray). `gpus_per_stage` (default: this machine's GPUs are shared evenly, a cluster's are not used) and
        `memory_per_stage` (bytes) are what each is given of a node, beside its threads. `progress` is told each line of what
        happens, for example `print`; None: silence. `board_wait_s`: seconds for a board to come back when all that measure
        are in quarantine; then the study stops. `hang_s`: a worker that gives no sign of life for longer is stopped, and its
        stage begins again from its last checkpoint. Interrupted at any moment, the same call goes on.
        Raises StudyError for a number that is out of range, when the study was started with other settings or images, when
        another process runs it, when its first trials all fail, and for a study that was loaded to be read; BoardUnfit,
        before anything is trained, when no board that is to measure can before a person mends it.
        """
        from edgesearch.search.library._run import Resources, run_study

        if self._opened is None:
            raise StudyError(f"study {self.name!r} was loaded to be read; open it with its file (Study.open) to go on with it")
        check_number("trials", trials, int, least=1)
        check_number("workers", workers, int, least=0)
        check_number("memory_per_stage", memory_per_stage, float, least=0, finite=True)
        check_share("gpus_per_stage", gpus_per_stage)
        check_number("board_wait_s", board_wait_s, float, least=0)
        check_number("hang_s", hang_s, float, least=1)
        self.summary, view = run_study(
            self._opened,
            self.home,
            self.storage,
            trials=trials,
            resources=Resources(workers, ray_address, gpus_per_stage, int(memory_per_stage), board_wait_s, hang_s),
            progress=as_progress(progress),
            retry_failed=retry_failed,
            file=self._file,
        )
        return self._front_of(view)

    @undrawn()
    def evaluate(
        self,
        candidate: Candidate,
        *,
        test: bool = False,
        retry_failed: bool = False,
        progress: Callable[[str], object] | None = None,
    ) -> Mapping[str, Any]:
        """Take one candidate through the study's pipeline, in a child process, and return its figures by name.

        It becomes no trial; its stages are kept in the store. With `test` also its accuracy on the test images. A stage that is
        known to fail is run again with `retry_failed` alone. Raises StudyError when a stage fails, and where `inputs` does, and
        PluginError, before one runs, for code that cannot be imported.
        """
        from edgesearch.search.library._evaluate import evaluate_candidate

        def note(line: str) -> None:
            if progress is not None:
                progress(line)

        stored = stored_study(self.name, self.storage, self.home)
        return evaluate_candidate(
            self.inputs, self.home, candidate, test=test, note=note, stored=stored, retry_failed=retry_failed
        )

    def deploy(
        self,
        trial: int,
        board: str,
        *,
        compiler: Compiler | None = None,
        images: int = 1000,
        output: str | Path | None = None,
        csv: str | Path | None = None,
        note: Callable[[str], object] | None = None,
    ) -> Deployment:
        """Export a trial, run its compiled file on a board, and set what came of it beside what was predicted.

        `board` is a name in the boards file, or that of a pool there, of which the first free board is taken. It runs the first
        `images` validation images; its logits are compared with this program's integers (`logits.equal` of what is returned).
        Files go to `output`/trial-NUMBER (None: deployments/STUDY in the home), and a record of the deployment, as JSON, beside
        it. Rows that `edgesearch calibrate` reads are appended to `csv`, unless the integers differ. `note` is told each step.

        Raises StudyError as `StudyRecord.export` does, and for a trial that is not deployable; ToolchainError where Vitis AI is
        to compile and cannot; BoardError for a board that there is not, that does not serve or that the file is not for,
        BoardLost for one at fault or busy for too long; MeasurementError for a `csv` that cannot be appended to.
        """
        from edgesearch.search.library._deploy import deploy_record

        return deploy_record(
            self.record(trial),
            board,
            compiler=compiler,
            images=images,
            output=None if output is None else expanded(output, "output", StudyError),
            csv=None if csv is None else expanded(csv, "csv", StudyError),
            note=note or _silent,
        )

    # --- reading

    def view(self) -> StudyView:
        """All that is stored of the study now. Raises StudyError when its database cannot be read."""
        with quiet_optuna(), reading_errors(self.storage or self.home.database):
            study = self._stored()
            return read_study(study) if study is not None else _empty_view(self.settings)

    def front(self) -> Front:
        """The trials that no other beats in every objective; only those that keep every constraint and that the DPU can run."""
        return self._front_of(self.view())

    def _front_of(self, view: StudyView) -> Front:
        return Front([StudyRecord.of(record, self) for record in pareto_front(view)], view)

    def records(self) -> tuple[StudyRecord, ...]:
        """Every trial, by number: complete, failed and running ones."""
        return tuple(StudyRecord.of(record, self) for record in self.view().records)

    def record(self, number: int) -> StudyRecord:
        """One trial by its number; raises StudyError when there is none."""
        records = self.records()
        for record in records:
            if record.number == number:
                return record
        raise StudyError(f"study {self.name!r} has no trial {number}; it has {len(records)}, numbered from 0")

    def nearest_misses(self, limit: int | None = None) -> list[Miss]:
        """Trials that break a constraint, those that miss by least first."""
        view = self.view()
        return nearest_misses(view.records, view.constraints, limit=limit)

    def report(self, output: str | Path | None = None) -> Path:
        """Write the study's report, one HTML file, and return its path; default: reports/NAME.html in the home."""
        from edgesearch.search.report import write_report

        path = self.home.report(self.name) if output is None else expanded(output, "output", StudyError)
        write_report(self.view(), path)
        return path

    def results(self) -> dict[str, Any]:
        """What the study found, as JSON values that can be kept: settings, machine, versions, seconds, complete trials.

        Raises StudyError when the store is not there.
        """
        from edgesearch.search.library._results import results_of

        view, store, stored = self.view(), self._store(), self._stored()
        settings, file = (self.settings, self._file) if stored is None else (stored_settings(stored), study_file(stored))
        return results_of(view, settings, store, file=file)

    def calibrate(
        self, profile: BoardProfile | None = None, *, name: str | None = None, keep_unexplained: bool = False
    ) -> Calibration:
        """The profile (None: of the study's simulated board) fitted to what boards measured in this study.

        Raises MeasurementError when too little was measured, or when no constants explain it; TargetError when the simulated
        board has no profile.
        """
        from edgesearch.search.library._measurements import calibrate_by_study, study_measurements

        start = load_profile(self.settings.board, folder=self.settings.folder) if profile is None else profile
        return calibrate_by_study(
            study_measurements(self.view(), self._store(), start), start, name=name, keep_unexplained=keep_unexplained
        )

    # --- what it stands on

    @cached_property
    def inputs(self) -> Inputs:
        """The settings with the data set and the board that they name; a loaded study reads them when they are first needed.

        Raises StudyError where it was started with other images or another content of its board's profile.
        """
        if self._opened is not None:
            return self._opened
        from edgesearch.search.library._inputs import read_inputs
        from edgesearch.search.library._sameness import moved_data, same_inputs, threads_of

        stored = self._stored()
        with moved_data(self.settings.data.root):
            inputs = read_inputs(self.settings, threads=threads_of(stored), to_run=False)
        return same_inputs(inputs, self.settings, stored)

    def _stored(self) -> optuna.Study | None:
        if self._opened is not None:
            return stored_study(self.name, self.storage, self.home)
        return find_study(self.name, self.storage, self.home)

    def _store(self) -> ArtifactStore:
        stored = self._stored()
        store = existing_store(self.settings, self.home, stored=stored, warn=_log.warning)
        if store is None:
            raise StudyError(no_store(self.settings, self.home, stored))
        return store

    def _export(
        self, record: StudyRecord, output: Path, compiler: Compiler | None, note: Callable[[str], object] | None
    ) -> Path:
        from edgesearch.search.export import export_trial
        from edgesearch.search.library._sameness import same_inputs

        inputs = same_inputs(self.inputs, self.settings, self._stored())
        return export_trial(
            record,
            self.settings,
            inputs.data,
            self._store(),
            output,
            compiler=compiler or self.settings.compiler,
            compiled=lambda network: inputs.compiled_from(network, record.candidate),
            test_accuracy=self.view().test_accuracy.get(record.number),
            note=note,
        )

    def _network(self, record: StudyRecord) -> nn.Module:
        from edgesearch.search.export import float_network

        return float_network(record, self._store(), folder=self.settings.folder)


def _silent(line: str) -> None:
    """Nobody asked."""


def _empty_view(settings: StudyFile) -> StudyView:
    """A study that has no trial yet."""
    return StudyView(
        name=settings.name,
        objectives=tuple(Objective(name, OBJECTIVES[name] == "maximize") for name in settings.objectives),
        constraints=settings.constraints.model_dump(exclude_none=True),
        records=(),
        description=settings.description,
        board=settings.board,
    )
