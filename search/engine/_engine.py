"""The loop: propose, check cheaply, run the missing stages, tell.

One process, the driver, writes the study. A trial is created in one transaction with all that is needed to go on with it, so
a driver that dies at any moment leaves finished trials, and running ones that the next driver finishes; finished stages are in
the store. Optuna is told COMPLETE with every value, or FAIL with the reason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import Artifact, Conditions, Estimator, Stage, Store, plan
from edgesearch.search.engine._jobs import Job, JobResult
from edgesearch.search.engine._progress import Progress
from edgesearch.search.engine._proposals import Proposal, Proposer
from edgesearch.search.engine._workers import Pool
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate

#: A stage whose worker died (killed, out of memory) is given to another worker this many times.
_LOST_RETRIES = 2
#: A study whose first trials all fail stops, since the reason is then not the candidates'.
_HOPELESS = 8
_CONSTRAINT_KEY = "constraints"  # where Optuna 5's Trial.set_constraint keeps its values


@dataclass
class ActiveTrial:
    """A trial under way."""

    number: int
    candidate: Candidate
    stages: list[Stage]
    seconds: dict[str, float] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # by the stage's key
    current: str = "starting"


@dataclass(frozen=True)
class Summary:
    """What a run of the engine did."""

    finished: int
    failed: int
    rejected: int
    repeats: int
    exhausted: bool


class Engine:
    """Runs one study to a number of trials."""

    def __init__(
        self,
        *,
        study: optuna.Study,
        settings: StudyFile,
        conditions: Conditions,
        estimator: Estimator,
        store: Store,
        pool: Pool,
        progress: Progress,
        logs: Path,
        threads: int,
        retry_failed: bool = False,
    ) -> None:
        self._study, self._settings, self._conditions = study, settings, conditions
        self._estimator, self._store, self._pool, self._progress = estimator, store, pool, progress
        self._logs, self._threads = logs, threads
        self._storage = study._storage
        self._proposer = Proposer(settings)
        self._active: list[ActiveTrial] = []
        self._in_flight: dict[str, tuple[Stage, str]] = {}  # stage key -> stage, log
        self._lost: Counter[str] = Counter()
        self._known: dict[str, Artifact] = {}
        self._seen: set[str] = set()  # candidate keys
        self._counts: Counter[str] = Counter({name: int(study.user_attrs.get(name, 0)) for name in ("rejected", "repeats")})
        self._rejections: Counter[str] = Counter(study.user_attrs.get("rejections", {}))
        self._finished = self._failed = 0
        self._retry: list[Candidate] = []
        self._exhausted = False
        self._take_over(retry_failed)

    # --- the loop

    def run(self, trials: int) -> Summary:
        """Go on until the study has `trials` trials in all."""
        while True:
            while len(self._active) < self._pool.slots and self._count < trials and not self._exhausted:
                self._start_next()
            self._advance_all()
            if not self._active:
                if self._count >= trials or self._exhausted:
                    break
                continue
            self._progress.update(self._ended, trials, {trial.number: trial.current for trial in self._active})
            for result in self._pool.wait(timeout=0.25):
                self._collect(result)
        self._save_counts()
        return Summary(self._finished, self._failed, self._counts["rejected"], self._counts["repeats"], self._exhausted)

    def _take_over(self, retry_failed: bool) -> None:
        """Learn from what is recorded, and go on with the trials of a driver that died."""
        self._count = self._ended = 0
        for trial in self._study.get_trials(deepcopy=False):
            self._count += 1
            candidate = Candidate.model_validate(trial.user_attrs["candidate"])
            if trial.state == TrialState.RUNNING:
                self._activate(trial.number, candidate)
            else:
                self._ended += 1
                self._proposer.observe(trial)
            if trial.state == TrialState.FAIL and retry_failed:
                self._retry.append(candidate)
            else:
                self._seen.add(candidate.key)  # an earlier version may have stored another key for it
        if retry_failed:  # what failed once and succeeded since is not tried again
            self._retry = [c for i, c in enumerate(self._retry) if c.key not in self._seen and c not in self._retry[:i]]

    # --- starting a trial

    def _start_next(self) -> None:
        started = time.perf_counter()
        for proposal in self._proposals():
            if proposal.candidate.key in self._seen:
                self._counts["repeats"] += proposal.params != {}
                continue
            estimate = self._screen(proposal)
            if estimate is None:
                self._seen.add(proposal.candidate.key)
                continue
            self._create(proposal, estimate, time.perf_counter() - started)
            return
        self._exhausted = True
        self._progress.note("the space has no more candidates that were not tried or rejected; the study ends here")

    def _proposals(self) -> Iterator[Proposal]:
        while self._retry:
            yield Proposal(self._retry.pop(0))
        yield from self._proposer.proposals(self._count)

    def _screen(self, proposal: Proposal) -> dict[str, float] | None:
        """The metrics known before training, or None when a hard constraint or the DPU rules the candidate out."""
        try:
            estimate = self._estimator.estimate(proposal.candidate)
        except EdgesearchError as error:
            self._reject("unsupported", f"{proposal.candidate}: {error}")
            return None
        violations = self._settings.constraints.violations(estimate)
        for name in violations:
            limit = getattr(self._settings.constraints, name)
            self._reject(name, f"{proposal.candidate}: {name} = {limit:g}, expected {estimate[name.partition('_')[2]]:g}")
        return None if violations else estimate

    def _reject(self, reason: str, message: str) -> None:
        self._counts["rejected"] += 1
        self._rejections[reason] += 1
        if self._rejections[reason] <= 3:
            self._progress.note(f"rejected before training ({reason}): {message}")

    def _create(self, proposal: Proposal, estimate: dict[str, float], ask_seconds: float) -> None:
        candidate = proposal.candidate
        attributes = {
            "candidate": candidate.model_dump(),
            "candidate_key": candidate.key,
            "recipe": str(candidate),
            "deployable": candidate.deployable,
            "ask_seconds": round(ask_seconds, 4),
            **{f"estimated_{name}": value for name, value in estimate.items()},
        }
        template = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs=attributes,
            system_attrs=proposal.system_attrs,
        )
        trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
        number = self._storage.get_trial(trial_id).number
        self._count += 1
        self._seen.add(candidate.key)
        self._activate(number, candidate)

    def _activate(self, number: int, candidate: Candidate) -> None:
        last = plan(candidate, self._settings.pipeline, self._conditions)
        self._active.append(ActiveTrial(number, candidate, list(last.walk())))

    # --- stages

    def _advance_all(self) -> None:
        for trial in list(self._active):
            missing = self._next_missing(trial)
            if missing is None:
                self._complete(trial)
            elif missing.key not in self._in_flight:
                self._submit(missing)

    def _next_missing(self, trial: ActiveTrial) -> Stage | None:
        for stage in trial.stages:
            if stage.key in trial.artifacts:
                continue
            artifact = self._known.get(stage.key) or self._store.get(stage.kind, stage.key)
            if artifact is None:
                trial.current = stage.kind
                return stage
            self._known[stage.key] = trial.artifacts[stage.key] = artifact
            if stage.kind not in trial.seconds:
                trial.hits.append(stage.kind)
        return None

    def _submit(self, stage: Stage) -> None:
        attempt = self._lost[stage.key]
        log = self._logs / f"{stage.kind}-{stage.key[:16]}{f'-retry{attempt}' if attempt else ''}.log"
        self._in_flight[stage.key] = (stage, str(log))
        self._pool.submit(
            Job(
                stage=stage.to_json(),
                data=self._settings.data.model_dump(mode="json"),
                store=self._store.location,
                log=str(log),
                threads=self._threads,
            )
        )

    def _collect(self, result: JobResult) -> None:
        stage, log = self._in_flight.pop(result.key)
        waiting = [trial for trial in self._active if any(s.key == stage.key for s in trial.stages)]
        if result.outcome == "done":
            for trial in waiting[:1]:  # the first that asked for it paid for it; to the others it is a hit
                trial.seconds[stage.kind] = trial.seconds.get(stage.kind, 0.0) + round(result.seconds, 3)
            return
        if result.outcome == "lost" and self._lost[stage.key] < _LOST_RETRIES:
            self._lost[stage.key] += 1
            self._progress.note(f"stage {stage.kind} {stage.key[:12]}: {result.message}; trying again")
            return
        for upstream in stage.walk():  # an input that was damaged on the disk is read, and made, anew
            self._known.pop(upstream.key, None)
        reason = f"stage {stage.kind}: {result.message} (log: {log})"
        for trial in waiting:
            self._fail(trial, reason)

    # --- telling

    def _complete(self, trial: ActiveTrial) -> None:
        figures = dict(trial.artifacts[trial.stages[-1].key].figures)
        violations = self._settings.constraints.violations(figures)
        attributes = {
            **figures,
            "stage_seconds": trial.seconds,
            "cache_hits": trial.hits,
            "artifacts": {stage.kind: stage.key for stage in trial.stages},
            "violations": violations,
        }
        values = [float(figures[name]) for name in self._settings.objectives]
        self._tell(trial, attributes, values)
        self._finished += 1
        self._progress.finished(trial.number, trial.candidate, figures, None)
        self._ended += 1

    def _fail(self, trial: ActiveTrial, reason: str) -> None:
        self._tell(trial, {"failure": reason, "stage_seconds": trial.seconds, "cache_hits": trial.hits}, None)
        self._failed += 1
        self._progress.finished(trial.number, trial.candidate, {}, reason)
        self._ended += 1
        if self._failed >= _HOPELESS and self._finished == 0:
            self._save_counts()
            raise StudyError(
                f"the first {self._failed} trials all failed, the last with: {reason}; nothing is lost, mend it and go on"
            )

    def _tell(self, trial: ActiveTrial, attributes: dict[str, Any], values: list[float] | None) -> None:
        self._active.remove(trial)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, trial.number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        if values is not None:
            for name, amount in self._constraint_values(attributes).items():
                self._storage.set_trial_system_attr(trial_id, f"{_CONSTRAINT_KEY}:{name}", amount)
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        self._study.tell(trial.number, values, state=state)
        self._proposer.observe(self._frozen(trial_id))
        self._save_counts()

    def _frozen(self, trial_id: int) -> FrozenTrial:
        return self._storage.get_trial(trial_id)

    def _constraint_values(self, figures: dict[str, Any]) -> dict[str, float]:
        """Constraint -> how far beyond its limit, at most zero when it is kept: what Optuna's samplers read."""
        values = {}
        for name, limit in self._settings.constraints.model_dump(exclude_none=True).items():
            side, _, metric = name.partition("_")
            values[name] = float(limit - figures[metric] if side == "min" else figures[metric] - limit)
        return values

    def _save_counts(self) -> None:
        for name in ("rejected", "repeats"):
            if self._counts[name] != self._study.user_attrs.get(name, 0):
                self._study.set_user_attr(name, self._counts[name])
        if self._rejections:
            self._study.set_user_attr("rejections", dict(self._rejections))
