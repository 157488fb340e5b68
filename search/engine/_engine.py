"""The loop: propose, check cheaply, run the missing stages, tell.

One process, the driver, writes the study. A trial begins and ends in one transaction each, so a driver that dies at any moment
leaves finished trials, and running ones that the next driver finishes; finished stages are in the store. Stages, not trials,
fill the workers: while one is free, further trials are begun, so many that the sampler still learns from what comes back.
Results are collected between any two proposals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial
from threadpoolctl import threadpool_limits

from edgesearch.objectives import ArtifactStore, Conditions, Estimator, Stage, StageMemory, teaching_figures
from edgesearch.search.crew import BoardCrew
from edgesearch.search.engine._ends import Ends
from edgesearch.search.engine._hard_limits import HardLimits
from edgesearch.search.engine._intake import Accepted, Intake
from edgesearch.search.engine._pace import Pace
from edgesearch.search.engine._plans import Plans, with_rungs
from edgesearch.search.engine._priorities import by_length, by_need
from edgesearch.search.engine._progress import Progress
from edgesearch.search.engine._retries import failures
from edgesearch.search.engine._stages import StageEnd, StageRunner
from edgesearch.search.engine._stopping import Stopping
from edgesearch.search.engine._summary import Summary
from edgesearch.search.engine._trials import ActiveTrial
from edgesearch.search.engine._workers import Pool
from edgesearch.search.foresight import Foresight, ForesightProcess, Scoring
from edgesearch.search.processes import give_back_large_blocks
from edgesearch.search.study import (
    Lease,
    Ledger,
    StudyFile,
    TrialAttributes,
    attributes_of,
    candidate_of,
    first_attributes,
    is_worse_teacher,
    teacher_sentence,
)
from edgesearch.spaces import Candidate


class Engine:
    """Runs one study to a number of trials.

    `lease`: held while this engine runs; nothing is written once it is lost. `ledger`: writes the study in another way.
    `folder`: where the user's own code is looked for first. `boards`: those that measure, where the study is scored by boards.
    `foresight`: looks at candidates beside this process while stages run.
    Raises StudyError when the database, the disk or the pool fails, and when no board comes back; the same study then goes on
    with another engine.
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
        ledger: Ledger | None = None,
        folder: Path | None = None,
        boards: BoardCrew | None = None,
        foresight: ForesightProcess | None = None,
        retry_failed: bool = False,
    ) -> None:
        self._study, self._settings, self._conditions = study, settings, conditions
        self._store, self._progress = store, progress
        self._ledger = Ledger(study, lease, say=progress.note) if ledger is None else ledger
        self._scoring, self._boards = Scoring(settings, estimator.board, progress.note), boards
        self._limits = HardLimits(settings, conditions)
        memory = StageMemory(conditions, folder) if pool.slots > 1 else None
        self._foresight = Foresight(estimator, memory, foresight, is_idle=lambda: self._stages.is_idle)
        self._stages = StageRunner(
            store=store,
            pool=pool,
            data=settings.data,
            logs=logs,
            note=progress.note,
            folder=folder,
            vitis=settings.vitis,
            limits=self._limits.limits,
            boards=boards,
            memory=self._foresight.memory,
        )
        self._pace = Pace(pool, boards)
        self._open = 0  # stages of trials under way that run or could
        self._active: list[ActiveTrial] = []
        self._plans, self._stopping = Plans(settings.pipeline, conditions), Stopping(settings, self._scoring)
        self._intake = Intake(
            settings,
            study.user_attrs,
            conditions=conditions,
            estimator=self._foresight,
            scoring=self._scoring,
            limits=self._limits,
            stopping=self._stopping,
            store=store,
            plans=self._plans,
            note=progress.note,
            folder=folder,
        )
        self._ends = Ends()
        self._told_teacher = False
        self._count = self._wanted = 0  # trials of the study: all, asked for
        self._take_over(retry_failed, folder)

    # --- the loop

    def run(self, trials: int) -> Summary:
        """Go on until the study has `trials` trials in all, or one more for each failed candidate that becomes one again.

        Meanwhile this process computes with one thread: several would wait for each other, busily, on cores of the workers.
        From now on it gives large blocks of memory back to the system as soon as they are free.
        """
        give_back_large_blocks()
        with threadpool_limits(1):
            return self._run(trials)

    def _run(self, trials: int) -> Summary:
        before = self._count
        while True:
            self._wanted = max(trials, before + len(self._intake.retried))
            self._advance()
            busy = self._take_up()
            wants = not busy and self._wants_trial()
            if wants and not self._foresight.is_pending:
                if (accepted := self._intake.look(self._count)) is not None:
                    self._create(accepted)
                busy = True
            if not (busy or wants or self._active) and self._stages.is_idle:
                if not self._stopping.paused:
                    break
                self._stop_hopeless()
            self._show()
            for end in self._stages.collect(0.0) if busy else self._foresight.meanwhile(self._stages.collect):
                self._settle(end)
        self._ledger.set_attributes(self._tallies())
        finished, failed, stopped = map(self._ends.in_this_run, (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED))
        rejected, repeats = self._intake.in_this_run
        return Summary(finished, failed, rejected, repeats, self._intake.exhausted, stopped)

    def _show(self) -> None:
        self._progress.update(self._ends.total, self._wanted, {trial.number: trial.waits_for().kind for trial in self._active})

    def _take_over(self, retry_failed: bool, folder: Path | None) -> None:
        """Learn from what is recorded, and go on with the trials of a driver that died."""
        paid: set[str] = set()  # keys of stages
        under_way, trials = [], self._study.get_trials(deepcopy=False)
        for trial in trials:
            self._count += 1
            candidate, attributes = candidate_of(trial), attributes_of(trial)
            self._scoring.observe(trial)
            self._intake.observe(trial)
            self._stopping.observe(trial, candidate)
            self._limits.observe(trial)
            if trial.state == TrialState.RUNNING:
                active = self._activate(trial.number, candidate, attributes)
                if "found" in attributes:  # else an earlier version began it, and nobody knows
                    under_way.append((active, attributes["found"]))
            else:
                self._ends.observe(trial.state)
                seconds = attributes.get("stage_seconds") or {}
                stages = self._plans.stages(candidate) if seconds else []
                kinds = {*seconds, "rung"} if "student" in seconds else set(seconds)  # a training counts with its rungs
                paid |= {part.key for stage in stages for part in with_rungs(stage) if part.kind in kinds}
            if trial.state != TrialState.FAIL or not retry_failed:  # an earlier version may have stored another key for it
                self._intake.has(candidate, attributes.get("network_key"), trial.number)
        for active, found in under_way:
            paid.update(found)
            active.credit(paid, self._stages.artifact)
        retry = failures(trials, folder) if retry_failed else []
        self._intake.try_again(retry)
        for each in retry:
            for part in self._plans.everything(each.candidate):
                self._store.forget_failure(part.kind, part.key)

    # --- beginning a trial

    @property
    def _is_last(self) -> bool:
        """Whether no trial will begin any more."""
        return self._count >= self._wanted or self._intake.exhausted

    @property
    def _has_room(self) -> bool:
        return self._stages.has_room and len(self._active) < self._pace.most_trials

    def _wants_trial(self) -> bool:
        return self._count < self._wanted and self._has_room and (not self._intake.exhausted or self._stopping.has_hope)

    def _take_up(self) -> bool:
        """Go on with a trial that waited at a rung, if there is room and one that may; whether there was.

        Where no trial will begin any more, several workers do so before they run out of stages: a training that begins when all
        else is done would have them wait.
        """
        is_early = self._is_last and self._pace.runs_dry(self._open)
        trial = self._stopping.next(last=self._is_last) if self._has_room or is_early else None
        self._go_on([] if trial is None else [trial])
        return trial is not None

    def _go_on(self, trials: Iterable[ActiveTrial]) -> None:
        """Let trials that waited run among the others, older ones first, as they would after a break."""
        self._active = sorted([*self._active, *trials], key=lambda trial: trial.number)

    def _create(self, accepted: Accepted) -> None:
        proposal, candidate = accepted.proposal, accepted.proposal.candidate
        found = [part.key for part in self._plans.everything(candidate) if self._store.has(part.kind, part.key)]
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs=first_attributes(
                candidate, accepted.network, accepted.estimate, found, seconds=accepted.seconds, again=proposal.again
            ),
            system_attrs=proposal.system_attrs,
        )
        trial.number = self._ledger.create(trial)
        self._intake.has(candidate, accepted.network, trial.number)
        self._intake.observe(trial)
        self._count += 1
        self._activate(trial.number, candidate, attributes_of(trial))

    def _activate(self, number: int, candidate: Candidate, attributes: TrialAttributes) -> ActiveTrial:
        trial = ActiveTrial(number, candidate, self._plans.stages(candidate))
        if self._settings.score == "board" and self._conditions.measures(candidate):
            trial.add(self._plans.on_board(candidate))
        self._stopping.enter(trial, attributes)
        if self._stopping.continues(trial, attributes, self._stages.artifact):
            self._active.append(trial)
        return trial

    # --- stages

    def _advance(self) -> None:
        """Begin what can begin, end the trials that have all they need."""
        self._stopping.let_work(spare=self._pace.has_spare(self._open, len(self._active)))
        ready: list[tuple[int, str]] = []
        starts: dict[str, Stage] = {}  # by the key of what is ready: a student begins with its next rung
        for trial in list(self._active):
            stages = trial.ready(self._stages.artifact)
            if stages and self._stopping.gives_up(trial):
                self._stop(trial)
                continue
            for stage in stages:
                start = self._judged(trial) if stage is trial.student else stage
                if start is None:
                    break
                ready.append((trial.number, stage.key))
                starts.setdefault(stage.key, start)
        self._open = len(starts)
        for key in self._in_line(ready):
            if self._stages.can_start(starts[key]):
                self._stages.start(starts[key])
        for trial in list(self._active):
            if trial.is_complete and self._wants_board(trial):
                trial.add(self._plans.on_board(trial.candidate))
            elif trial.is_complete:
                self._complete(trial)

    def _in_line(self, ready: Sequence[tuple[int, str]]) -> list[str]:
        """The keys of ready stages, in the order in which they start."""
        lacks = {trial.number: trial.lacks for trial in self._active}
        if not (self._is_last and self._pace.are_few(len(lacks))):
            return by_need(ready, lacks)
        missing = {t.number: [stage for stage in t.stages if stage.key in lacks[t.number]] for t in self._active}
        return by_length(ready, lacks, {number: self._intake.remaining_seconds(stages) for number, stages in missing.items()})

    def _judged(self, trial: ActiveTrial) -> Stage | None:
        """What a trial trains next of its student; None where it waits at a rung from now on, or was stopped."""
        step = self._stopping.climb(trial, self._stages.artifact)
        if isinstance(step, Stage):
            return step
        self._active.remove(trial)
        (self._pause if step == "pause" else self._stop)(trial)
        return None

    def _pause(self, trial: ActiveTrial) -> None:
        self._stopping.paused[trial.number] = trial
        self._ledger.note(trial.number, {"paused": self._stopping.account(trial)})
        self._intake.observe(self._ledger.trial(trial.number))

    def _wants_board(self, trial: ActiveTrial) -> bool:
        """Whether a trial whose stages are all there is measured, too."""
        simulated = trial.artifact("measured")
        if simulated is None or trial.artifact("on_board") is not None or not self._conditions.measures(trial.candidate):
            return False
        return self._scoring.wants_board(simulated.figures, trial.candidate)

    def _settle(self, end: StageEnd) -> None:
        self._go_on(self._stopping.woken(end.stage))
        waiting = [trial for trial in self._active if trial.needs(end.stage)]
        for trial in waiting:
            trial.faults += end.faults
        if end.infeasible is not None:
            for trial in waiting:
                self._rule_out(trial, end, seconds=end.seconds if trial is waiting[0] else 0.0)
        elif end.failure is not None:
            for trial in waiting:
                self._fail(trial, end.failure)
        elif waiting:  # the first that asked for it paid for it; to the others it is a hit
            waiting[0].pay(end.stage, end.seconds)
            if (artifact := self._stages.artifact(end.stage)) is not None:
                self._stopping.trained(end.stage, artifact)

    # --- ending a trial

    def _complete(self, trial: ActiveTrial) -> None:
        simulated = trial.artifact("measured")
        assert simulated is not None  # every candidate has this stage
        figures = self._scoring.figures(simulated.figures, trial.artifact("on_board"), trial.candidate)
        figures |= teaching_figures(trial.stages, trial.artifacts)
        values = [float(figures[name]) for name in self._settings.objectives]
        named = zip(self._settings.objectives, values, strict=True)
        odd = [f"{name} is {value}" for name, value in named if not math.isfinite(value)]
        if odd:
            self._fail(trial, f"stage {trial.stages[-1].kind}: {', '.join(odd)}")
            return
        attributes = {
            **figures,
            **trial.bookkeeping(),
            "artifacts": {stage.kind: stage.key for stage in trial.stages},
            "violations": self._settings.constraints.violations(figures),
            **self._stopping.record(trial),
        }
        self._tell(trial, attributes, values, self._settings.constraints.excesses(figures))
        self._progress.finished(trial.number, trial.candidate, attributes, None)
        self._stopping.finished(trial, attributes)
        self._stop_hopeless()
        if not self._told_teacher and is_worse_teacher(trial.candidate.model_dump(), figures):
            self._told_teacher = True
            self._progress.note(f"warning: {teacher_sentence(trial.number, figures)}")

    def _fail(self, trial: ActiveTrial, reason: str) -> None:
        self._tell(trial, {"failure": reason, **trial.bookkeeping()}, None)
        self._stopping.left(trial)
        self._progress.finished(trial.number, trial.candidate, {}, reason)
        self._ends.check_hope(reason)

    def _rule_out(self, trial: ActiveTrial, end: StageEnd, *, seconds: float) -> None:
        """A trial whose network, now that it is known, breaks a hard limit: the sampler is told so."""
        trial.pay(end.stage, seconds)
        figures = self._limits.figures(trial, end)
        violations = self._settings.constraints.violations(figures)
        self._intake.rejections.ruled_out(trial.candidate, figures, violations)
        self._end_early(trial, self._limits.account(trial, end), {"violations": violations, **figures})
        self._stopping.left(trial)

    def _stop(self, trial: ActiveTrial) -> None:
        """A trial whose student cannot come to the front is not trained any further."""
        self._end_early(trial, self._stopping.reasons(trial), {})

    def _end_early(self, trial: ActiveTrial, account: dict[str, Any], figures: dict[str, Any]) -> None:
        self._tell(trial, {"stopped": account, **figures, **trial.bookkeeping()}, None)
        self._progress.note(f"trial {trial.number}  {trial.candidate}  {account['reason']}")

    def _stop_hopeless(self) -> None:
        for trial in self._stopping.hopeless():
            self._stop(trial)

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
            state=TrialState.PRUNED if "stopped" in attributes else None,
        )
        self._active = [other for other in self._active if other is not trial]
        stored = self._ledger.trial(trial.number)
        self._ends.add(stored.state)
        self._scoring.observe(stored)
        self._intake.observe(stored)
        if "student" in attributes_of(stored).get("stopped", {}):  # it waits at a rung of that student's
            self._stopping.stopped(stored)
        self._show()  # before this trial's line, so that its counts are right

    def _tallies(self) -> dict[str, Any]:
        """The study's own attributes, where there is something to say."""
        return self._intake.tallies() | ({"boards": dict(self._boards.summary())} if self._boards is not None else {})
