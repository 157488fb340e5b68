"""The search for a recipe: Ray Tune's asynchronous successive halving, with Optuna's TPE for what is tried next.

Tune keeps the state of an experiment as pickles. Nothing of ours reads them: they go to a temporary folder outside the home,
which is removed with the search, however it ends short of a kill. What a search goes on from is `Journal`.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from edgesearch.errors import StudyError
from edgesearch.search.library._tune_journal import Journal
from edgesearch.search.library._tune_space import REDUCTION, Target, rungs
from edgesearch.search.library._tune_training import Rung, Task
from edgesearch.search.study import quiet_optuna, raise_if_interrupted

__all__ = ["TuningBudget", "search"]

#: Recipes whose worker died again and again, after which the machine is at fault.
_DEATHS = 3
#: Environment of Tune: no other working directory, no log files, no handler of Ctrl-C, nothing printed.
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # a training that is cut off has its checkpoint
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class TuningBudget:
    """How many recipes are tried, how many at a time, for how long at most, and what each may use."""

    samples: int
    workers: int
    seconds: float | None = None
    gpus_per_job: float = 0.0
    gpus: int | None = None


def search(
    target: Target, task: Task, journal: Journal, budget: TuningBudget, *, seed: int, note: Callable[[str], object]
) -> None:
    """Try recipes and note them in the journal, the file's own first; those that are there already are taken as they are.

    Needs a Ray that was started. Raises StudyError where no recipe can be trained, where workers die again and again, and
    where Ray goes down; KeyboardInterrupt as it comes.
    """
    with _environment(), warnings.catch_warnings(), quiet_optuna():
        warnings.simplefilter("ignore")
        folder = Path(tempfile.mkdtemp(prefix="edgesearch-tune-"))
        staged = _staging_folder()
        try:
            _fit(target, task, journal, budget, seed, note, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if staged is not None:
                shutil.rmtree(staged, ignore_errors=True)


def _fit(
    target: Target,
    task: Task,
    journal: Journal,
    budget: TuningBudget,
    seed: int,
    note: Callable[[str], object],
    folder: Path,
) -> None:
    import ray
    from ray import tune

    from edgesearch.search.library._tune_worker import TASK, Trainable

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    watch = Watch(journal, note)
    tuner = tune.Tuner(
        tune.with_resources(Trainable, {"cpu": 1, "gpu": budget.gpus_per_job}),
        param_space={TASK: task.to_text()},
        tune_config=_plan(target, journal, budget, seed),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            callbacks=[_make_callback(watch)],
            failure_config=tune.FailureConfig(max_failures=_DEATHS - 1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the store has them
        ),
    )
    try:
        tuner.fit()
        if watch.fault is not None:
            raise watch.fault
    except _Stopped as stopped:
        raise stopped.reason from None
    except (tune.TuneError, ray.exceptions.RayError, ConnectionError) as error:
        first = (str(error.__cause__ or error).splitlines() or [""])[0]
        raise StudyError(f"Ray went down ({type(error).__name__}: {first}); the same command goes on from here") from error


def _plan(target: Target, journal: Journal, budget: TuningBudget, seed: int) -> Any:
    """What is tried, in which order, and who goes on: Tune's configuration."""
    from optuna.samplers import TPESampler
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    points = [target.start, *(dict(tried.drawn) for tried in journal.tried if tried.drawn != target.start)]
    # A search that goes on draws what was not drawn before; numpy takes seeds of 32 bits.
    own_seed = (seed + len(journal.tried)) % 2**32
    sampler = TPESampler(seed=own_seed, n_startup_trials=max(5, budget.samples // 4), multivariate=True)
    steps = rungs(target.recipe.epochs)
    return tune.TuneConfig(
        search_alg=OptunaSearch(
            target.space, metric="accuracy", mode="max", points_to_evaluate=points[: budget.samples], sampler=sampler
        ),
        scheduler=ASHAScheduler(
            time_attr="epochs",
            metric="accuracy",
            mode="max",
            max_t=steps[-1],
            grace_period=steps[0],
            reduction_factor=REDUCTION,
        ),
        num_samples=budget.samples,
        max_concurrent_trials=budget.workers,
        time_budget_s=budget.seconds,
        reuse_actors=True,
    )


class _Stopped(BaseException):
    """Ends a search at once: Tune would take an Exception for a trial's failure, or first wait for its workers."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class Watch:
    """What the driver makes of rungs and of workers that die: the journal, and a fault that ends the search."""

    def __init__(self, journal: Journal, note: Callable[[str], object]) -> None:
        self.fault: Exception | None = None
        self._journal, self._note, self._deaths = journal, note, 0

    def rung(self, drawn: Mapping[str, Any], rung: Rung) -> None:
        """A training came to a rung, or failed."""
        if rung.outcome == "refused":
            self.fault = StudyError(rung.message)
        elif rung.outcome == "bug":
            self.fault = RuntimeError(f"a worker failed:\n{rung.message}")
        else:
            self._deaths = 0
            is_new = str(rung.epochs) not in self._journal.known.get(rung.key, {})
            try:
                self._journal.add(drawn, rung.key, epochs=rung.epochs, accuracy=rung.accuracy, failure=rung.message)
            except StudyError as error:
                self.fault = error
            if is_new:
                self._note(_line(rung))

    def death(self) -> None:
        """A recipe was given up, since its worker died each time."""
        self._deaths += 1
        if self._deaths >= _DEATHS and self.fault is None:
            self.fault = StudyError(
                f"workers died of {self._deaths} recipes in a row, {_DEATHS} times each; there may be too little memory: give "
                "fewer --workers; the same command goes on from here"
            )


def _make_callback(watch: Watch) -> Any:
    """Tune's callback, in the driver."""
    from ray import tune

    from edgesearch.search.library._tune_worker import TASK

    children = psutil.Process().children()
    daemons = [child for child in children if child.name() in ("raylet", "gcs_server")]

    class Callback(tune.Callback):
        def __reduce__(self) -> tuple[Any, ...]:  # Tune keeps its settings with the experiment; this is none
            return tune.Callback, ()

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            raise_if_interrupted()
            if not all(map(_runs, daemons)):
                raise _Stopped(StudyError("Ray went down with the trainings; the same command goes on from here"))
            if watch.fault is not None:
                raise _Stopped(watch.fault)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
            drawn = {name: value for name, value in trial.config.items() if name != TASK}
            watch.rung(drawn, Rung(**{field.name: result[field.name] for field in fields(Rung)}))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.death()

    return Callback()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _line(rung: Rung) -> str:
    epochs = f"{rung.epochs} epoch{'s' if rung.epochs != 1 else ''}"
    return f"  recipe {rung.key[:12]}  {epochs:<11} {f'failed: {rung.message}' if rung.message else f'{rung.accuracy:.2%}'}"


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    level = logging.getLogger("ray").level
    try:
        yield
    finally:
        logging.getLogger("ray").setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _staging_folder() -> Path | None:
    """Where Tune puts files on their way, inside the session's own folder."""
    from ray.train.constants import _get_ray_train_session_dir

    try:
        return Path(_get_ray_train_session_dir())
    except (AssertionError, AttributeError, RuntimeError):
        return None
