"""The loop: propose, check cheaply, run the missing stages, tell.

One process, the driver, writes the study. A trial begins and ends in one transaction each, so a driver that dies at any moment
leaves finished trials, and running ones that the next driver finishes; finished stages are in the store. Stages, not trials,
fill the workers: while one is free, further trials are begun, so many that the sampler still learns from what comes back.
Results are collected between any two proposals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import ArtifactStore, Conditions, Estimator, Stage, plan, teaching_figures
from edgesearch.search.engine._crew import BoardCrew
from edgesearch.search.engine._progress import Progress
from edgesearch.search.engine._proposals import Proposal, Proposer
from edgesearch.search.engine._rejections import Rejections
from edgesearch.search.engine._scoring import Scoring
from edgesearch.search.engine._stages import StageEnd, StageRunner
from edgesearch.search.engine._trials import ActiveTrial
from edgesearch.search.engine._workers import Pool
from edgesearch.search.study import Lease, Ledger, StudyFile, is_worse_teacher, teacher_sentence
from edgesearch.spaces import Candidate

#: A study whose first trials all fail stops, since the reason is then not the candidates'.
_HOPELESS = 8
#: Trials under way, per worker where there are several: enough that workers have stages while trials wait for a teacher. With
#: one worker a trial ends before the next is proposed.
_AHEAD = 2
#: Rejected candidates that are told, by reason; and so many repeats of a network.
_TOLD = 3


@dataclass(frozen=True)
class Summary:
    """What a run of the engine did. `exhausted`: nothing was left to propose before the study had its trials."""

    finished: int
    failed: int
    rejected: int
    repeats: int
    exhausted: bool


class Engine:
    """Runs one study to a number of trials.

    `lease`: held while this engine runs; nothing is written once it is lost. `folder`: where the user's own code is looked for
    first. `boards`: those that measure, where the study is scored by boards. Raises StudyError when the database, the disk or
    the pool fails, and when no board comes back; the same study then goes on with another engine.
    """

    def __init__(
        self,
        *,
        study: optuna.Study,
        settings: StudyFile,
        conditions: Conditions,
        estimator: Estimator,
        store: ArtifactStore,
        pool: Pool,
        progress: Progress,
        logs: Path,
        lease: Lease | None = None,
        folder: Path | None = None,
        boards: BoardCrew | None = None,
        retry_failed: bool = False,
    ) -> None:
        self._study, self._settings, self._conditions = study, settings, conditions
        self._estimator, self._store, self._progress = estimator, store, progress
        self._ledger = Ledger(study, lease, say=progress.note)
        self._scoring, self._boards = Scoring(settings, estimator.board), boards
        self._stages = StageRunner(
            store=store,
            pool=pool,
            data=settings.data,
            logs=logs,
            note=progress.note,
            folder=folder,
            vitis=settings.vitis,
            boards=boards,
        )
        self._most_active = 1 if pool.slots == 1 else _AHEAD * pool.slots
        if boards is not None and not pool.waits_for_boards:  # so that workers have stages while trials wait for a board
            self._most_active = _AHEAD * pool.slots + boards.places
        self._proposer = Proposer(settings, folder=folder)
        self._search: Iterator[Proposal] | None = None
        self._search_started = 0.0
        self._active: list[ActiveTrial] = []
        self._seen: set[str] = set()  # candidate keys
        self._networks: dict[str, str] = {}  # the estimator's key of a network -> the trial that has it
        self._repeats = int(study.user_attrs.get("repeats", 0))
        self._rejections = Rejections(settings.constraints, study.user_attrs, note=progress.note)
        self._finished = self._failed = 0
        self._retry: list[Candidate] = []
        self._exhausted = self._told_teacher = False
        self._told_repeats = 0
        self._count = self._ended = self._wanted = 0  # trials of the study: all, ended, asked for
        self._take_over(retry_failed)

    # --- the loop

    def run(self, trials: int) -> Summary:
        """Go on until the study has `trials` trials in all."""
        self._wanted = trials
        while True:
            self._advance()
            proposing = self._wants_trial()
            if proposing:
                self._consider_next()
            elif not self._active:
                break
            self._show()
            for end in self._stages.collect(timeout=0.0 if proposing else 0.25):
                self._settle(end)
        self._ledger.set_attributes(self._tallies())
        return Summary(self._finished, self._failed, self._rejections.count, self._repeats, self._exhausted)

    def _show(self) -> None:
        self._progress.update(self._ended, self._wanted, {trial.number: trial.missing().kind for trial in self._active})

    def _take_over(self, retry_failed: bool) -> None:
        """Learn from what is recorded, and go on with the trials of a driver that died."""
        for trial in self._study.get_trials(deepcopy=False):
            self._count += 1
            candidate = Candidate.model_validate(trial.user_attrs["candidate"])
            self._proposer.observe(trial)
            self._scoring.observe(trial)
            if trial.state == TrialState.RUNNING:
                self._activate(trial.number, candidate)
            else:
                self._ended += 1
            if trial.state == TrialState.FAIL and retry_failed:
                self._retry.append(candidate)
                continue
            self._seen.add(candidate.key)  # an earlier version may have stored another key for it
            if "network_key" in trial.user_attrs:
                self._networks.setdefault(trial.user_attrs["network_key"], f"trial {trial.number}, {candidate}")
        # What failed once and succeeded since is not tried again.
        self._retry = [c for i, c in enumerate(self._retry) if c.key not in self._seen and c not in self._retry[:i]]
        for candidate in self._retry:
            for last in ("measured", "on_board") if self._conditions.measures(candidate) else ("measured",):
                for stage in self._plan(candidate, last).walk():
                    self._store.forget_failure(stage.kind, stage.key)

    # --- beginning a trial

    def _wants_trial(self) -> bool:
        wanted = self._count < self._wanted and not self._exhausted
        return wanted and self._stages.has_room and len(self._active) < self._most_active

    def _consider_next(self) -> None:
        """Look at one proposal for the next trial."""
        if self._search is None:
            self._search, self._search_started = self._proposals(), time.perf_counter()
        proposal = next(self._search, None)
        if proposal is None:
            self._search, self._exhausted = None, True
            self._progress.note(self._proposer.why_none_is_left())
        elif proposal.candidate.key in self._seen:
            if proposal.drawn:
                self._repeats += 1
        else:
            estimate = self._screen(proposal)
            self._seen.add(proposal.candidate.key)
            if estimate is not None and not self._is_known_network(proposal.candidate):
                self._search = None
                self._create(proposal, estimate, time.perf_counter() - self._search_started)

    def _proposals(self) -> Iterator[Proposal]:
        while self._retry:
            yield Proposal(self._retry.pop(0))
        yield from self._proposer.proposals(self._count)

    def _screen(self, proposal: Proposal) -> dict[str, float] | None:
        """The metrics known before training, or None when a hard constraint or the DPU rules the candidate out."""
        try:
            estimate = self._scoring.corrected(self._estimator.estimate(proposal.candidate), proposal.candidate)
        except EdgesearchError as error:
            self._rejections.unsupported(proposal.candidate, error)
            return None
        violations = self._settings.constraints.violations(self._scoring.favourable(estimate))
        if violations:
            self._rejections.violated(proposal.candidate, estimate, violations)
        return None if violations else estimate

    def _is_known_network(self, candidate: Candidate) -> bool:
        """Whether a trial has this very network, made in another way: a repeat, of which the first few are told."""
        known = self._networks.get(self._estimator.network_key(candidate))
        if known is None:
            return False
        self._repeats += 1
        self._told_repeats += 1
        if self._told_repeats <= _TOLD:
            self._progress.note(
                f"not tried again: {candidate} is layer by layer the network of {known}; the study goes on without it"
            )
        return True

    def _create(self, proposal: Proposal, estimate: dict[str, float], ask_seconds: float) -> None:
        candidate = proposal.candidate
        network = self._estimator.network_key(candidate)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={
                "candidate": candidate.model_dump(mode="json"),
                "candidate_key": candidate.key,
                "network_key": network,
                "recipe": str(candidate),
                "deployable": candidate.deployable,
                "ask_seconds": round(ask_seconds, 4),
                **{f"estimated_{name}": value for name, value in estimate.items()},
            },
            system_attrs=proposal.system_attrs,
        )
        trial.number = self._ledger.create(trial)
        self._networks.setdefault(network, f"trial {trial.number}, {candidate}")
        self._proposer.observe(trial)
        self._count += 1
        self._activate(trial.number, candidate)

    def _activate(self, number: int, candidate: Candidate) -> None:
        trial = ActiveTrial(number, candidate, list(self._plan(candidate, "measured").walk()))
        if self._settings.score == "board" and self._conditions.measures(candidate):
            trial.add(self._plan(candidate, "on_board"))
        self._active.append(trial)

    def _plan(self, candidate: Candidate, last: str) -> Stage:
        return plan(candidate, self._settings.pipeline, self._conditions, last=last)

    # --- stages

    def _advance(self) -> None:
        """Begin what can begin, older trials first; end the trials that have all they need."""
        for trial in list(self._active):
            for stage in trial.ready(self._stages.artifact):
                if self._stages.can_start(stage):
                    self._stages.start(stage)
            if trial.is_complete and self._wants_board(trial):
                trial.add(self._plan(trial.candidate, "on_board"))
            elif trial.is_complete:
                self._complete(trial)

    def _wants_board(self, trial: ActiveTrial) -> bool:
        """Whether a trial whose stages are all there is measured, too."""
        simulated = trial.artifact("measured")
        if simulated is None or trial.artifact("on_board") is not None or not self._conditions.measures(trial.candidate):
            return False
        return self._scoring.wants_board(simulated.figures, trial.candidate)

    def _settle(self, end: StageEnd) -> None:
        waiting = [trial for trial in self._active if trial.needs(end.stage)]
        for trial in waiting:
            trial.faults += end.faults
        if end.failure is not None:
            for trial in waiting:
                self._fail(trial, end.failure)
        elif waiting:  # the first that asked for it paid for it; to the others it is a hit
            seconds = waiting[0].seconds
            seconds[end.stage.kind] = seconds.get(end.stage.kind, 0.0) + round(end.seconds, 3)

    # --- ending a trial

    def _complete(self, trial: ActiveTrial) -> None:
        simulated = trial.artifact("measured")
        assert simulated is not None  # every candidate has this stage
        figures = self._scoring.figures(simulated.figures, trial.artifact("on_board"), trial.candidate)
        figures |= teaching_figures(trial.stages, trial.artifacts)
        values = [float(figures[name]) for name in self._settings.objectives]
        odd = [
            f"{name} is {value}"
            for name, value in zip(self._settings.objectives, values, strict=True)
            if not math.isfinite(value)
        ]
        if odd:
            self._fail(trial, f"stage {trial.stages[-1].kind}: {', '.join(odd)}")
            return
        attributes = {
            **figures,
            "stage_seconds": trial.seconds,
            "cache_hits": trial.hits,
            "artifacts": {stage.kind: stage.key for stage in trial.stages},
            "violations": self._settings.constraints.violations(figures),
            **_faults(trial),
        }
        self._tell(trial, attributes, values, self._excesses(figures))
        self._finished += 1
        self._progress.finished(trial.number, trial.candidate, figures, None)
        if not self._told_teacher and is_worse_teacher(trial.candidate.model_dump(), figures):
            self._told_teacher = True
            self._progress.note(f"warning: {teacher_sentence(trial.number, figures)}")

    def _excesses(self, figures: dict[str, Any]) -> dict[str, float]:
        """Constraint -> how far beyond its limit, at most zero when it is kept: what Optuna's samplers read."""
        values = {}
        for name, limit in self._settings.constraints.model_dump(exclude_none=True).items():
            side, _, metric = name.partition("_")
            values[name] = float(limit - figures[metric] if side == "min" else figures[metric] - limit)
        return values

    def _fail(self, trial: ActiveTrial, reason: str) -> None:
        attributes = {"failure": reason, "stage_seconds": trial.seconds, "cache_hits": trial.hits, **_faults(trial)}
        self._tell(trial, attributes, None)
        self._failed += 1
        self._progress.finished(trial.number, trial.candidate, {}, reason)
        if self._failed >= _HOPELESS and self._finished == 0:
            raise StudyError(
                f"the first {self._failed} trials all failed, the last with: {reason}; nothing is lost, mend it and go on"
            )

    def _tell(
        self,
        trial: ActiveTrial,
        attributes: dict[str, Any],
        values: list[float] | None,
        constraints: dict[str, float] | None = None,
    ) -> None:
        self._ledger.finish(
            trial.number,
            values=values,
            attributes=attributes,
            constraints=constraints,
            study_attributes=self._tallies(),
        )
        self._active.remove(trial)
        self._ended += 1
        stored = self._stored(trial.number)
        self._proposer.observe(stored)
        self._scoring.observe(stored)
        self._show()  # before the line that speaks of this trial, so that its counts are right

    def _stored(self, number: int) -> FrozenTrial:
        return self._ledger.trial(number)

    def _tallies(self) -> dict[str, Any]:
        """The study's own attributes, where there is something to say."""
        tallies = self._rejections.attributes() | ({"repeats": self._repeats} if self._repeats else {})
        return tallies | ({"boards": dict(self._boards.summary())} if self._boards is not None else {})


def _faults(trial: ActiveTrial) -> dict[str, Any]:
    """What a trial keeps of the boards that lost its measurement."""
    return {"board_faults": list(trial.faults)} if trial.faults else {}
