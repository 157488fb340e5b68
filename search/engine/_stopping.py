"""Trials on the rungs of their students' trainings, as the engine sees them: which run, which wait, what is kept of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from edgesearch.objectives import RUNG_FACTOR, Artifact, Stage, rung_epochs, rungs_of
from edgesearch.search.engine._trials import ActiveTrial
from edgesearch.search.foresight import Scoring
from edgesearch.search.rungs import Entrant, Rungs, Verdict
from edgesearch.search.study import OBJECTIVES, Objective, StudyFile, TrialAttributes, account_of, attributes_of, estimate_of
from edgesearch.spaces import Candidate

#: Trainings of fewer epochs are not stopped: too little is saved, and too little known.
_LEAST_EPOCHS = 3


def rung_ends(settings: StudyFile) -> tuple[int, ...]:
    """After how many epochs the study's trainings may be stopped; empty where they never are."""
    has_rungs = settings.search.rungs and settings.space is not None and "accuracy" in settings.objectives
    return rung_epochs(settings.train.epochs) if has_rungs and settings.train.epochs >= _LEAST_EPOCHS else ()


class Stopping:
    """Decides on trials at their rungs, and keeps those that wait. Without rungs every trial goes on.

    Rungs are for studies that search a space for accuracy; the study's own candidates are never stopped.
    """

    def __init__(self, settings: StudyFile, scoring: Scoring) -> None:
        self._settings, self._scoring = settings, scoring
        self._ends = rung_ends(settings)
        self._fixed = {candidate.key for candidate in settings.candidates}
        self._known: dict[int, Mapping[str, float]] = {}  # trial -> its metrics before training
        self._rungs = Rungs(
            [Objective(name, OBJECTIVES[name] == "maximize") for name in settings.objectives],
            rungs=len(self._ends),
            factor=RUNG_FACTOR,
            min_accuracy=settings.constraints.min_accuracy,
        )
        self.paused: dict[int, ActiveTrial] = {}
        self._stopped: dict[int, FrozenTrial] = {}
        self._had_news = False  # of what they may come to, since stopped trials were last looked at

    def let_work(self, *, spare: bool) -> None:
        """Say whether workers may run out of better ones: what has a small chance then goes on."""
        self._rungs.spare = spare

    # --- trials begin

    def enter(self, trial: ActiveTrial, attributes: TrialAttributes) -> None:
        """A trial begins, or goes on after a break, with these attributes; `again`: the number of one that was stopped."""
        self._stopped.pop(attributes.get("again", -1), None)
        if not self._ends:
            return
        is_known = estimate_of(attributes).keys() >= {*self._settings.objectives} - {"accuracy"}
        if is_known:  # a board of the user's own may tell no speed before it measures
            trial.student = trial.own_student
        if trial.student is not None:
            trial.rungs = rungs_of(trial.student)
        self._enter(trial.number, trial.candidate, attributes, "" if trial.student is None else trial.student.key)

    def continues(self, trial: ActiveTrial, attributes: TrialAttributes, find: Callable[[Stage], Artifact | None]) -> bool:
        """After `enter`: whether the trial runs on; one that waited at a rung still does unless the store has more by now."""
        if trial.student is None:
            return True
        if find(trial.student) is not None:  # nothing is left to judge, but there is to learn from
            self._climb(trial, find)
            return True
        account = attributes.get("paused")
        if account is None:
            return True
        self._learn(trial.student.key, account)
        trial.climbed = min(len(account["accuracies"]), len(trial.rungs))
        if any(find(rung) is not None for rung in trial.rungs[trial.climbed :]):
            return True
        self.paused[trial.number] = trial
        return False

    def observe(self, trial: FrozenTrial, candidate: Candidate) -> None:
        """Learn from a trial that ended in an earlier run."""
        attributes = attributes_of(trial)
        account = attributes.get("stopped") or attributes.get("rungs") or {}
        if candidate.quantization.from_scratch:  # an earlier version took its teacher for its student
            account = {}
        self._stopped.pop(attributes.get("again", -1), None)
        if not self._ends or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        self._enter(trial.number, candidate, attributes, str(account.get("student", "")))
        self._learn(str(account.get("student", "")), account)
        self._had_news = True
        if "pruned" in account:
            self._rungs.pruned(trial.number, account["pruned"])
        if trial.state == TrialState.COMPLETE:
            self._finish(trial.number, trial.user_attrs)
        elif "student" in account:
            self.stopped(trial)

    def _enter(self, number: int, candidate: Candidate, attributes: TrialAttributes, student: str) -> None:
        self._known[number] = known = estimate_of(attributes)
        pruning, quantization = candidate.pruning, candidate.quantization
        is_pruned = pruning.method != "none" and pruning.ratio > 0
        how = (pruning.method, pruning.backend, pruning.target) if is_pruned else ("none",)
        quantized = (quantization.method, f"int{quantization.bits}", quantization.algorithm, quantization.backend)
        self._rungs.enter(
            number,
            Entrant(
                student=student,
                method=" ".join((*how, *quantized)),
                quantized=" ".join(("pruned", *quantized)),
                ratio=pruning.ratio if is_pruned else 0.0,
                known=known,
                favourable=self._scoring.favourable(known),
                deployable=candidate.deployable,
                fixed=candidate.key in self._fixed,
            ),
        )

    def _learn(self, student: str, account: Mapping[str, Any]) -> None:
        for rung, accuracy in enumerate(account.get("accuracies", ())):
            self._rungs.climbed(student, rung, accuracy)
        if "trained" in account:
            self._rungs.trained(student, account["trained"])

    # --- rungs

    def climb(self, trial: ActiveTrial, find: Callable[[Stage], Artifact | None]) -> Stage | Verdict:
        """What a trial whose student is to be trained needs next: a rung, the whole training, or to pause or to be stopped."""
        assert trial.student is not None
        if self._climb(trial, find) and (verdict := self._rungs.verdict(trial.number)) != "go":
            return verdict
        return trial.rungs[trial.climbed] if trial.climbed < len(trial.rungs) else trial.student

    def gives_up(self, trial: ActiveTrial) -> bool:
        """Whether a trial is stopped whose student is trained, or whose network is pruned, since it was last asked about."""
        if trial.student is None or trial.student.key not in trial.artifacts:
            return False
        pruned = trial.artifact("pruned")
        reached: Literal["trained", "pruned"] = "trained" if pruned is None else "pruned"
        if trial.reached == reached:
            return False
        trial.reached = reached
        self.trained(trial.student, trial.artifacts[trial.student.key])
        if pruned is not None:
            self._rungs.pruned(trial.number, float(pruned.figures["accuracy"]))
        return bool(self._rungs.given_up([trial.number]))

    def _climb(self, trial: ActiveTrial, find: Callable[[Stage], Artifact | None]) -> bool:
        """Learn what the store has of the trial's rungs; whether it has one more than before."""
        assert trial.student is not None
        before = trial.climbed
        for rung in trial.rungs[before:]:
            artifact = find(rung)
            if artifact is None:
                break
            self._rungs.climbed(trial.student.key, trial.climbed, float(artifact.figures["accuracy"]))
            trial.climbed += 1
        if trial.climbed > before:
            of_student = (attributes_of(stopped)["stopped"]["student"] for stopped in self._stopped.values())
            self._had_news |= trial.student.key in of_student
        return trial.climbed > before

    def next(self, *, last: bool) -> ActiveTrial | None:
        """A paused trial that goes on now, no longer paused; see `Rungs.next`."""
        number = self._rungs.next(self.paused, last=last) if self.paused else None
        return None if number is None else self.paused.pop(number)

    def woken(self, stage: Stage) -> list[ActiveTrial]:
        """The trials that waited, and do no longer, since this stage of their student's training has ended."""
        if stage.kind not in ("rung", "student"):
            return []
        return [self.paused.pop(number) for number in [n for n, trial in self.paused.items() if trial.needs(stage)]]

    def hopeless(self) -> list[ActiveTrial]:
        """The paused trials that have too small a chance to reach the front; they are no longer paused."""
        return [self.paused.pop(number) for number in self._rungs.given_up(self.paused)]

    def stopped(self, trial: FrozenTrial) -> None:
        """A trial was stopped, as it is stored."""
        if "again" not in attributes_of(trial):  # twice is enough
            self._stopped[trial.number] = trial

    @property
    def has_hope(self) -> bool:
        """Whether there is a stopped trial that may reach the front by what is known now."""
        return self._hopeful() is not None

    def again(self) -> FrozenTrial | None:
        """A stopped trial that may reach the front by what is known now, and is no longer counted as stopped."""
        number = self._hopeful()
        return None if number is None else self._stopped.pop(number)

    def _hopeful(self) -> int | None:
        """The first of the stopped trials that may reach the front; they are looked at where there is news."""
        hopeful = self._stopped.keys() - set(self._rungs.hopeless(self._stopped)) if self._had_news else set()
        self._had_news = bool(hopeful)
        return min(hopeful, default=None)

    # --- ends

    def trained(self, stage: Stage, artifact: Artifact) -> None:
        """A student's training has ended."""
        if self._ends and stage.kind == "student":
            self._rungs.trained(stage.key, float(artifact.figures["accuracy"]))
            self._had_news = True  # of all students: what was learnt before a break is looked at behind it

    def finished(self, trial: ActiveTrial, attributes: Mapping[str, Any]) -> None:
        """A trial is complete, with these attributes."""
        if self._ends:
            student = None if trial.student is None else trial.artifacts.get(trial.student.key)
            if trial.student is not None and student is not None:
                self.trained(trial.student, student)
            if (pruned := trial.artifact("pruned")) is not None:  # also where it was there, and nobody asked about it
                self._rungs.pruned(trial.number, float(pruned.figures["accuracy"]))
            self._finish(trial.number, attributes)

    def _finish(self, number: int, attributes: Mapping[str, Any]) -> None:
        self._rungs.finished(number, attributes, feasible=not attributes.get("violations"))
        self._had_news = True

    def left(self, trial: ActiveTrial) -> None:
        """A trial failed."""
        self._rungs.leave(trial.number)

    # --- what is kept

    def record(self, trial: ActiveTrial) -> dict[str, Any]:
        """What a complete trial keeps of its rungs, as an attribute."""
        if trial.student is None or trial.student.key not in trial.artifacts:
            return {}
        return {"rungs": {"student": trial.student.key, "accuracies": self._climbed(trial), **_later(trial)}}

    def account(self, trial: ActiveTrial) -> dict[str, Any]:
        """What is kept of a trial that is at a rung, or behind its student's training.

        `rung`, counted from 1, `epochs` done `of` the recipe's, student and its `accuracies` by rung, that of the `trained`
        student and of the `pruned` network where there are any, the 90 % interval of the candidate's accuracy (`low`, `middle`,
        `high`), and what the sampler is told (`values`, `constraints`).
        """
        assert trial.student is not None
        interval = self._rungs.interval(trial.number)
        figures = {**self._known[trial.number], **self._rungs.expected(trial.number)}
        later = _later(trial)
        return {
            "rung": trial.climbed,
            "epochs": self._settings.train.epochs if later else self._ends[trial.climbed - 1],
            "of": self._settings.train.epochs,
            "student": trial.student.key,
            "accuracies": self._climbed(trial),
            **later,
            **{name: round(value, 4) for name, value in interval._asdict().items()},
            "values": [figures[name] for name in self._settings.objectives],
            "constraints": self._settings.constraints.excesses(figures),
        }

    def reasons(self, trial: ActiveTrial) -> dict[str, Any]:
        """The account of a trial that is stopped, and in one sentence its `reason`."""
        kept = self.account(trial)
        if "pruned" in kept:
            so_far = f"stopped before it was quantized: pruned, its network has {kept['pruned']:.2%}"
        elif "trained" in kept:
            so_far = f"stopped after its student's training: the student has {kept['trained']:.2%}"
        else:
            epochs = f"{kept['epochs']} of {kept['of']} epochs"
            so_far = f"stopped after {epochs}: its student has {kept['accuracies'][-1]:.2%} so far"
        expected = f"{kept['middle']:.2%} is expected of the candidate ({kept['low']:.2%} to {kept['high']:.2%})"
        least = self._settings.constraints.min_accuracy
        if least is not None and kept["high"] < least:
            why = f"which does not reach min_accuracy = {least:.2%}"
        else:
            why = "which has too small a chance to reach the front"
        return kept | {"reason": f"{so_far}; {expected}, {why}"}

    def _climbed(self, trial: ActiveTrial) -> list[float]:
        return [] if trial.student is None else list(self._rungs.results(trial.student.key))


def _later(trial: ActiveTrial) -> dict[str, float]:
    """Accuracies of the trained student and of the pruned network, as far as they are known."""
    later = {}
    if trial.student is not None and trial.student.key in trial.artifacts:
        later["trained"] = float(trial.artifacts[trial.student.key].figures["accuracy"])
    if (pruned := trial.artifact("pruned")) is not None:
        later["pruned"] = float(pruned.figures["accuracy"])
    return later


def foretold(trial: FrozenTrial) -> FrozenTrial:
    """The trial as a sampler is told of it: one that waits or was stopped is complete, with the values that it may end with."""
    account = account_of(trial)
    if account is None or trial.state not in (TrialState.PRUNED, TrialState.RUNNING):
        return trial
    told = copy.copy(trial)
    told.state, told.values = TrialState.COMPLETE, list(account["values"])
    told._system_attrs = trial.system_attrs | {f"constraints:{name}": v for name, v in account["constraints"].items()}
    told.datetime_complete = trial.datetime_complete or trial.datetime_start
    return told
