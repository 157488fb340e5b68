"""Finding a better recipe for one network of a study, and a copy of the study with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesearch.errors import StudyError
from edgesearch.files import expanded
from edgesearch.objectives import Stage
from edgesearch.search.engine import StageRunner, make_pool, run_stages
from edgesearch.search.library._inputs import Inputs, check_teacher, read_inputs
from edgesearch.search.library._numbers import check_number, check_share
from edgesearch.search.library._reading import stored_study
from edgesearch.search.library._starts import check_starts, fetch_weights
from edgesearch.search.library._stores import store_place, study_store
from edgesearch.search.library._tune_file import check_place, read_text, tuned_text, write_text
from edgesearch.search.library._tune_journal import Journal, Tried
from edgesearch.search.library._tune_noise import Gain, compare
from edgesearch.search.library._tune_search import TuningBudget, search
from edgesearch.search.library._tune_space import Target
from edgesearch.search.library._tune_training import Task
from edgesearch.search.processes import share_machine
from edgesearch.search.study import Home, StudyFile
from edgesearch.spaces import digest

__all__ = ["TriedRecipe", "TunedRecipe", "tune"]


@dataclass(frozen=True)
class TriedRecipe:
    """One recipe that was tried: its settings, how many epochs it was given, and top-1 on the validation images after them.

    failure: why it cannot be trained, in one sentence; its accuracy is then 0.
    """

    settings: Mapping[str, Any]
    epochs: int
    accuracy: float
    failure: str = ""


@dataclass(frozen=True)
class TunedRecipe:
    """What a tuning found. Accuracies are top-1 of the float network on the validation images, 0..1.

    study, target, epochs: the study's name, the network in words, and the epochs of its whole training.
    own, best: the file's settings, and the best of those that were tried; the same where none was better.
    own_accuracies, best_accuracies: of whole trainings: with the study's seed, then with each further one.
    gain: of `best` over `own` in these; `gain.is_real` says whether it is more than noise.
    tried: every recipe, those that were trained longest first, then by accuracy.
    text: the study file with `settings`.
    """

    study: str
    target: str
    epochs: int
    own: Mapping[str, Any]
    best: Mapping[str, Any]
    own_accuracies: tuple[float, ...]
    best_accuracies: tuple[float, ...]
    gain: Gain
    tried: tuple[TriedRecipe, ...] = ()
    text: str = field(default="", repr=False)

    @property
    def is_better(self) -> bool:
        """Whether another recipe than the file's own is to be used."""
        return self.best != self.own and self.gain.is_real

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those to use: the best, or the file's own where the gain is within noise."""
        return self.best if self.is_better else self.own

    def write(self, output: str | Path, *, overwrite: bool = False) -> Path:
        """Write the copy of the study file with these settings; raises StudyError where it cannot be, or one is there."""
        place = expanded(output, "output", StudyError)
        write_text(self.text, place, overwrite=overwrite)
        return place


def tune(
    study: str | Path,
    target: str,
    home: str | Path = "runs",
    *,
    samples: int = 30,
    confirm: int = 2,
    workers: int | None = None,
    seconds: float | None = None,
    seed: int | None = None,
    store: str | Path | None = None,
    storage: str | None = None,
    threads: int = 1,
    gpus_per_stage: float | None = None,
    distillation: str | None = None,
    output: str | Path | None = None,
    progress: Callable[[str], object] | None = None,
) -> TunedRecipe:
    """Find learning rate, weight decay, augmentation and, where it is taught, the settings of distillation of one network.

    `target` is "teacher" or the name of a student of the study, of which the middle form is trained, with `distillation` or the
    first kind of the study that teaches. Ray Tune tries `samples` recipes, `workers` at a time, judged by validation accuracy
    after about a ninth and a third of the epochs, of which a third goes on; the search ends after `seconds`. The best one and
    the file's own are then trained to the end with `confirm` further seeds. `output` is where the copy is to be written, which
    is only checked here: `TunedRecipe.write` writes it.

    Every training is the stage that `optimize` would run, kept in `store`, else in the study's, else in the one that the study
    was run with (`storage`: the URL of its database; None: in `home`), else in that of `home`; what was tried is kept in
    tuning/ of `home`, and the same call goes on from it. Tune's own files, pickles among them, lie in a temporary folder and
    are removed.

    Raises StudyError for a target that cannot be tuned and where Ray does not go on, and what `Study.open` raises.
    """

    def note(line: str) -> None:
        if progress is not None:
            progress(line)

    _check_numbers(samples, confirm, workers, threads, gpus_per_stage, seconds)
    settings = StudyFile.load(study)
    text = read_text(str(study))
    if output is not None:
        check_place(text, settings, expanded(output, "output", StudyError))
    changes: dict[str, Any] = {"seed": seed, "store": store_place(store) if store else None}
    settings = settings.with_changes(**{name: value for name, value in changes.items() if value is not None})
    inputs = read_inputs(settings, threads=threads)
    found = Target.find(target, inputs, distillation=distillation)
    check_teacher(inputs)
    check_starts(inputs)
    if found.kind == "student":
        inputs.estimator.estimate(found.candidate)
    fetch_weights(inputs.settings, note, [found.candidate])
    share = share_machine(threads, workers, gpus_per_stage)
    budget = TuningBudget(samples, share.workers, seconds, share.gpus_per_job, share.gpus)
    return _Tuning(found, inputs, Home.at(home), storage, budget, confirm, text, note).run()


class _Tuning:
    def __init__(
        self,
        target: Target,
        inputs: Inputs,
        home: Home,
        storage: str | None,
        budget: TuningBudget,
        confirm: int,
        text: str,
        note: Callable[[str], None],
    ) -> None:
        self._target, self._inputs, self._home, self._storage, self._budget = target, inputs, home, storage, budget
        self._confirm, self._text, self._note = confirm, text, note
        self._failed: dict[str, str] = {}  # key of a stage -> why it has no result

    def run(self) -> TunedRecipe:
        """Search, confirm, decide."""
        target, settings, home = self._target, self._inputs.settings, self._home
        home.prepare()
        self._store = study_store(settings, home, stored=stored_study(settings.name, self._storage, home), warn=self._note)
        own = target.stage(target.own)
        identity = digest({"own": own.key, "space": {name: repr(each) for name, each in target.space.items()}})
        name = f"{settings.name}-{target.kind}-{identity[:12]}"
        with self._store.lease(f"tune-{identity}", waiting=_refuse):
            journal = Journal(home.folder / "tuning" / f"{name}.json")
            pool = make_pool(self._budget.workers, gpus_per_job=self._budget.gpus_per_job, gpus=self._budget.gpus)
            try:
                self._runner = StageRunner(
                    store=self._store,
                    pool=pool,
                    data=settings.data,
                    logs=home.logs(settings.name),
                    note=self._note,
                    folder=settings.folder,
                    vitis=settings.vitis,
                )
                self._train(upstream for upstream in own.walk() if upstream.kind == "teacher" and upstream.key != own.key)
                self._raise_failures()
                search(target, self._task(journal), journal, self._budget, seed=settings.seed, note=self._note)
                best = self._best(journal)
                own_accuracies, best_accuracies = self._confirmed(best)
            finally:
                pool.close()
            self._forget_checkpoints(journal)
        return self._result(journal, best, own_accuracies, best_accuracies)

    def _task(self, journal: Journal) -> Task:
        settings = self._inputs.settings
        return Task(
            target=self._target.to_text(),
            data=settings.data.model_dump(mode="json"),
            store=self._store.location,
            logs=str(self._home.logs(settings.name).resolve()),
            folder=str(settings.folder),
            threads=self._inputs.conditions.threads,
            known=journal.known,
            python_path=tuple(map(os.path.abspath, sys.path)),
        )

    def _best(self, journal: Journal) -> Mapping[str, Any]:
        """The most accurate of those that were trained longest; the file's own where none can be trained."""
        trained = [tried for tried in journal.tried if not tried.failure]
        if not trained:
            return self._target.own
        return self._target.settings(max(trained, key=lambda tried: (tried.epochs, tried.accuracy)).drawn)

    # --- whole trainings

    def _confirmed(self, best: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Accuracies of the file's own recipe and the best one, by seed."""
        recipes = [self._target.own] if best == self._target.own else [self._target.own, best]
        seeds = range(1 if len(recipes) == 1 else 1 + self._confirm)
        stages = [[self._target.stage(recipe, seed=seed) for seed in seeds] for recipe in recipes]
        if len(recipes) > 1:
            self._note(f"whole trainings of the file's own recipe and the best one, {len(seeds)} of each")
        self._train(stage for recipe in stages for stage in recipe)
        accuracies = [tuple(self._accuracy(stage) for stage in recipe) for recipe in stages]
        if all(self._failed.get(stage.key) for recipe in stages for stage in recipe):
            self._raise_failures()
        return accuracies[0], accuracies[-1]

    def _train(self, stages: Iterable[Stage]) -> None:
        """Run the stages with all that they need, from the ground up."""
        needed = {stage.key: stage for last in stages for stage in last.walk()}
        while needed:
            ready = [s for s in needed.values() if not any(upstream.key in needed for upstream in s.inputs.values())]
            for end in run_stages(self._runner, [s for s in ready if not self._lacks_input(s)]):
                if end.failure is not None:
                    self._failed[end.stage.key] = end.failure
            for stage in ready:
                del needed[stage.key]

    def _lacks_input(self, stage: Stage) -> bool:
        lacking = [self._failed[each.key] for each in stage.inputs.values() if each.key in self._failed]
        if lacking:
            self._failed[stage.key] = lacking[0]
        return bool(lacking)

    def _accuracy(self, stage: Stage) -> float:
        """0 for a training that failed."""
        artifact = None if stage.key in self._failed else self._runner.artifact(stage)
        if artifact is None:
            self._note(f"  failed: {self._failed.get(stage.key, 'its result is not in the store any more')}")
            return 0.0
        return float(artifact.figures["accuracy"])

    def _raise_failures(self) -> None:
        if self._failed:
            raise StudyError(next(iter(self._failed.values())))

    # --- the end

    def _forget_checkpoints(self, journal: Journal) -> None:
        """Those of trainings that were stopped early, which nobody goes on with."""
        for tried in journal.tried:
            if not self._store.has(self._target.kind, tried.key):
                self._store.checkpoints(tried.key).clear()

    def _result(
        self, journal: Journal, best: Mapping[str, Any], own: tuple[float, ...], accuracies: tuple[float, ...]
    ) -> TunedRecipe:
        target, settings = self._target, self._inputs.settings
        gain = compare(own, accuracies, images=len(self._inputs.data.validation)) if best != target.own else Gain(0.0, None)
        is_better = best != target.own and gain.is_real
        return TunedRecipe(
            study=settings.name,
            target=_in_words(target),
            epochs=target.recipe.epochs,
            own=target.own,
            best=best,
            own_accuracies=own,
            best_accuracies=accuracies,
            gain=gain,
            tried=tuple(sorted((self._tried(each) for each in journal.tried), key=lambda t: (-t.epochs, -t.accuracy))),
            text=tuned_text(self._text, target, best, name=settings.name) if is_better else self._text,
        )

    def _tried(self, tried: Tried) -> TriedRecipe:
        return TriedRecipe(self._target.settings(tried.drawn), tried.epochs, tried.accuracy, tried.failure)


def _in_words(target: Target) -> str:
    words = f"{target.student.name} @{target.student.input_size}"
    kind = target.candidate.distillation.kind
    if target.kind == "teacher":
        return f"the teacher, {words}"
    return words if kind == "none" else f"{words}, distillation {kind}"


def _check_numbers(
    samples: int, confirm: int, workers: int | None, threads: int, gpus_per_stage: float | None, seconds: float | None
) -> None:
    for name, value, least in (
        ("samples", samples, 1),
        ("workers", workers, 1),
        ("threads", threads, 1),
        ("confirm", confirm, 0),
    ):
        check_number(name, value, int, least=least)
    check_share("gpus_per_stage", gpus_per_stage)
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise StudyError(f"the time for the search is {seconds!r} s; expected more than 0")


def _refuse(holder: str) -> None:
    raise StudyError(f"{holder} tunes this network in this store already; wait for it, or name another --store")
