"""Running a study to a number of trials, measuring its front on the test images once, and compiling it for the board."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from edgesearch.board_eval import BoardPool
from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import ArtifactStore, Stage
from edgesearch.search.crew import BoardCrew, BoardRules, look_at
from edgesearch.search.engine import (
    Engine,
    Pool,
    Progress,
    StageRunner,
    Summary,
    form,
    make_pool,
    run_stages,
)
from edgesearch.search.foresight import ForesightProcess
from edgesearch.search.library._inputs import Inputs, check_vitis
from edgesearch.search.library._reading import stored_study
from edgesearch.search.library._sameness import keep_inputs, on_splits_of, refuse_other_inputs
from edgesearch.search.library._starts import fetch_weights
from edgesearch.search.library._stores import refuse_lost_store, study_store
from edgesearch.search.processes import ForkServer, share_machine
from edgesearch.search.study import (
    Home,
    Ledger,
    Record,
    StudyFile,
    StudyView,
    candidate_of,
    create_or_resume,
    database_errors,
    hold_lease,
    open_storage,
    pareto_front,
    quiet_optuna,
    read_study,
    store_places,
    store_use,
)

#: Finished trials whose keys are made again when a study is resumed; of more a part stands for all.
_LOOKED_AT = 200


@dataclass(frozen=True)
class Resources:
    """What a run may use: stages side by side (None: as many as cores and GPUs are enough for or the cluster has room for; 0:
    no Ray), a Ray cluster, a share of a GPU (None: an even one of this machine's, nothing of a cluster's) and bytes of memory
    per stage.

    board_wait_s: for a board to come back when all are in quarantine. hang_s: a worker that is silent for longer is stopped.
    """

    workers: int | None = None
    ray_address: str | None = None
    gpus_per_stage: float | None = None
    memory_per_stage: int = 0
    board_wait_s: float = 1800.0
    hang_s: float = 900.0

    def __post_init__(self) -> None:
        if self.workers == 0 and self.ray_address is not None:
            raise StudyError(
                f"workers = 0 runs stages without Ray, and ray_address = {self.ray_address!r} is a cluster of it; leave one out"
            )

    def pool(self, boards: BoardPool | None, threads: int, server: ForkServer) -> Pool:
        """Where the stages run, on so many threads each, in processes that are forked from this server's."""
        workers, gpus_per_job, gpus = self.workers, self.gpus_per_stage or 0.0, None
        if self.ray_address is None:
            share = share_machine(threads, self.workers, self.gpus_per_stage)
            workers, gpus_per_job, gpus = share.workers, share.gpus_per_job, share.gpus
        shares = {} if boards is None else dict.fromkeys((board.name for board in boards.members), self.rules.jobs_per_board)
        return make_pool(
            workers,
            address=self.ray_address,
            threads=threads,
            gpus_per_job=gpus_per_job,
            gpus=gpus,
            memory_per_job=self.memory_per_stage,
            boards=shares,
            hang_s=self.hang_s,
            server=server,
        )

    @property
    def rules(self) -> BoardRules:
        """How boards are shared and judged."""
        return BoardRules(wait_s=self.board_wait_s)

    def crew(self, boards: BoardPool | None, folder: Path, progress: Progress) -> BoardCrew | None:
        """The boards at work, where there are any."""
        if boards is None:
            return None
        return BoardCrew(boards.members, look=look_at(folder, self.rules), note=progress.note, rules=self.rules)


# Long for its arguments, and for what is told of them.
def run_study(
    inputs: Inputs,
    home: Home,
    storage: str | None,
    *,
    trials: int | None,
    resources: Resources,
    progress: Progress,
    retry_failed: bool,
    file: str = "",
) -> tuple[Summary, StudyView]:
    """Make or resume the study and go on until it has `trials` trials in all; what was done, and all that is stored in the end.

    `trials` None: as many as the settings ask for. `file` is where the settings are from, as results name it.
    Raises StudyError when it was started with other settings or images, when another process runs it, and when its first
    trials all fail; ToolchainMissing where it names Vitis AI's packages and they are not there; BoardUnfit, before anything is
    trained, when no board can measure before a person mends one.
    """
    settings, url = inputs.settings, storage or home.database
    inputs = inputs.on_packages(check_vitis(settings))
    fetch_weights(settings, progress.note)
    home.prepare()
    stored = stored_study(settings.name, storage, home)
    if stored is not None:
        refuse_lost_store(settings, home, stored)
    if settings.store:
        study_store(settings, home, warn=progress.note)  # one that does not serve is told before anything is stored
    with quiet_optuna():
        database = open_storage(url)
        with (
            database_errors(database.url),
            hold_lease(database, settings.name, folder=home.folder) as lease,
            closing(ForkServer()) as server,
        ):
            study = create_or_resume(database, settings)
            inputs = on_splits_of(study, inputs)
            settings = inputs.settings
            refuse_other_inputs(inputs, study)
            keep_inputs(inputs, study)
            store_places(study, settings, file)
            trials = _asked_for(settings, study) if trials is None else trials
            if made := made_otherwise(inputs, study):
                progress.note(made)
            crew = resources.crew(inputs.pool, settings.folder, progress)
            if crew is not None and _is_open(study, trials, retry_failed):
                crew.look_first()
            store, logs = study_store(settings, home, stored=study, warn=progress.note), home.logs(settings.name)
            with (
                closing(resources.pool(inputs.pool, inputs.conditions.threads, server)) as pool,
                closing(ForesightProcess(inputs.foresight, server)) as foresight,
            ):
                if pool.slots > 1 and _is_open(study, trials, retry_failed):
                    foresight.start()
                engine = Engine(
                    study=study,
                    settings=settings,
                    conditions=inputs.conditions,
                    estimator=inputs.estimator,
                    store=store,
                    pool=pool,
                    progress=progress,
                    logs=logs,
                    lease=lease,
                    folder=settings.folder,
                    boards=crew,
                    foresight=foresight,
                    retry_failed=retry_failed,
                )
                store_use(study)  # not of one that the engine refused
                summary = engine.run(trials)
                runner = _stage_runner(settings, store, pool, logs, progress)
                ledger = Ledger(study, lease, say=progress.note)
                forget = store.forget_failure if retry_failed else _keep_in_mind
                _test_chosen(inputs, study, runner, ledger, progress, forget)
                view = ledger.patiently(lambda: read_study(study))
                _compile_front(inputs, view, runner, progress, forget)
    return summary, view


def _stage_runner(settings: StudyFile, store: ArtifactStore, pool: Pool, logs: Path, progress: Progress) -> StageRunner:
    return StageRunner(
        store=store,
        pool=pool,
        data=settings.data,
        logs=logs,
        note=progress.note,
        folder=settings.folder,
        vitis=settings.vitis,
    )


def _asked_for(settings: StudyFile, study: optuna.Study) -> int:
    """How many trials there are to be: of candidates that are named, one more for each whose code is another than it was."""
    if settings.space is not None:
        return settings.trials
    tried = [candidate_of(trial) for trial in study.get_trials(deepcopy=False)]
    keys, forms = {candidate.key for candidate in tried}, {form(candidate) for candidate in tried}
    untried = [candidate for candidate in settings.candidates if candidate.key not in keys]
    is_changed = any(form(candidate) in forms for candidate in untried)
    return max(settings.trials, len(tried) + len(untried)) if is_changed else settings.trials


def _is_open(study: optuna.Study, trials: int, retry_failed: bool) -> bool:
    """Whether there is a trial left to be made, or to be finished."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    is_failed_tried = retry_failed and TrialState.FAIL in states
    return len(states) < trials or TrialState.RUNNING in states or is_failed_tried


def made_otherwise(inputs: Inputs, study: optuna.Study) -> str:
    """What to know of finished trials whose stages have other keys now; "" when there are none."""
    finished = [record for record in read_study(study).records if record.is_complete and "measured" in record.artifacts]
    looked_at = finished[:: len(finished) // _LOOKED_AT + 1]
    others = [record.number for record in looked_at if _key(inputs, record) != record.artifacts["measured"]]
    if not others:
        return ""
    count = str(len(others)) if looked_at == finished else f"about {len(finished) * len(others) // len(looked_at)}"
    return (
        f"note: {count} of {len(finished)} finished trials were made or measured otherwise (another version of "
        "edgesearch or of its compiler, another profile of the board, other packages of Vitis AI, other threads); their "
        "figures stay as they are, and new ones may not compare with them. For one front of one kind give the study another "
        "--name: stages that are the same come from the store"
    )


def _key(inputs: Inputs, record: Record) -> str:
    """The key of a trial's measurement as it would be made now; "" where its candidate cannot be made any more."""
    try:
        return inputs.plan(record.candidate).key
    except EdgesearchError:
        return ""


#: Of the stage that reads the test images -> the study's attribute of that name.
_TESTED = ("test_accuracy", "float_test_accuracy")


def _keep_in_mind(kind: str, key: str) -> None:
    """A failure that is known stays known."""


def _test_chosen(
    inputs: Inputs,
    study: optuna.Study,
    runner: StageRunner,
    ledger: Ledger,
    progress: Progress,
    forget: Callable[[str, str], object],
) -> None:
    """Measure on the test images, the one time that these are read: the front's members.

    Where the study names all its candidates nothing is chosen by a search, and all of them are measured.
    """
    view, attributes = ledger.patiently(lambda: (read_study(study), study.user_attrs))
    known = {name: dict(attributes.get(name, {})) for name in _TESTED}
    stages: dict[str, Stage] = {}
    for record in pareto_front(view) if inputs.settings.space else [r for r in view.records if r.is_complete]:
        number, quantized = str(record.number), inputs.plan(record.candidate, last="quantized")
        if any(number not in accuracies for accuracies in known.values()) and runner.artifact(quantized) is not None:
            stages[number] = stage = inputs.plan(record.candidate, last="tested")
            forget(stage.kind, stage.key)
    for end in run_stages(runner, stages.values()):
        if end.failure is not None:
            progress.note(f"a trial has no accuracy on the test images: {end.failure}")
    for number, stage in stages.items():
        tested = runner.artifact(stage)
        if tested is not None:
            for name, accuracies in known.items():
                accuracies[number] = tested.figures[name]
    ledger.set_attributes(known)


def _compile_front(
    inputs: Inputs, view: StudyView, runner: StageRunner, progress: Progress, forget: Callable[[str, str], object]
) -> None:
    """Make the files that the board runs of the front's members, so that their export need not wait for it."""
    if inputs.no_compiler:
        progress.note(f"no files for the board are compiled: {inputs.no_compiler}")
    stages = [stage for record in pareto_front(view) if (stage := inputs.compiled(record.candidate)) is not None]
    for stage in stages:
        forget(stage.kind, stage.key)
    for end in run_stages(runner, [stage for stage in stages if runner.artifact(stage.inputs["network"]) is not None]):
        if end.failure is not None:
            progress.note(f"a member of the front has no file for the board: {end.failure}")
