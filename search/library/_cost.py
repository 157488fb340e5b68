"""What a study would train, and its expected cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from optuna.trial import TrialState

from edgesearch.errors import EdgesearchError, ToolchainError
from edgesearch.objectives import ArtifactStore, Stage, recorded_stages, work_of
from edgesearch.search.engine import rung_ends
from edgesearch.search.foresight import CostModel
from edgesearch.search.library._inputs import Inputs, check_vitis
from edgesearch.search.library._preview import preview
from edgesearch.search.library._reading import stored_study
from edgesearch.search.library._sameness import same_inputs
from edgesearch.search.library._stores import existing_store
from edgesearch.search.processes import share_machine
from edgesearch.search.study import Home, StudyFile, duration
from edgesearch.spaces import Candidate, Student


def _packages(settings: StudyFile) -> dict[str, str]:
    """Those that the study would run with; where they are not there, nothing was made with them either."""
    try:
        return check_vitis(settings)
    except ToolchainError:
        return {}


def describe_cost(inputs: Inputs, home: Home, trials: int, *, storage: str | None = None) -> str:
    """The candidates of a study, or a sample of its space, with the stages that are missing and their cost, as lines.

    storage: the database where the study may have been begun, with a store that the file does not name. Raises StudyError where
    it was begun with other settings or inputs.
    """
    settings, data = inputs.settings, inputs.data
    previewed = preview(inputs, trials)
    stored = stored_study(settings.name, storage, home)
    states = [] if stored is None else [trial.state for trial in stored.get_trials(deepcopy=False)]
    inputs = same_inputs(inputs, settings, stored) if states else inputs.on_packages(_packages(settings))
    store = existing_store(settings, home, stored=stored, warn=lambda message: None)
    stages: dict[str, Stage] = {}
    lines = []
    for one in previewed.kept:
        macs = one.estimate["macs"]
        fresh = [
            stage
            for stage in inputs.plan(one.candidate).walk()
            if stage.key not in stages and not (store and store.has(stage.kind, stage.key))
        ]
        stages |= {stage.key: stage for stage in fresh}
        words = " ".join(dict.fromkeys(stage.kind for stage in fresh if stage.kind != "measured")) or "nothing new"
        lines.append(f"  {one.candidate!s:<58} {macs / 1e6:>9,.1f} MMAC  {_speed(one.estimate)}  {words}")
    what = f"{trials} trials; the study's own candidates, then a sample" if settings.space else "the study's own candidates"
    head = [
        f"study {settings.name}: {what}",
        f"data {data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.calibration):,} calibration, {len(data.test):,} test images, {len(data.classes)} classes",
    ]
    if states:
        head.append(_what_is_left(states, trials))
    tail = [f"rejected before training: {previewed.rejected}"] if previewed.rejected else []
    if not previewed.kept:
        return "\n".join([*head, *tail, previewed.why_empty()])
    costs = RecordedCosts(inputs, store)
    seconds = sum(costs.seconds(stage) for stage in stages.values())
    kinds = Counter(stage.kind for stage in stages.values() if stage.kind != "measured")
    tail += [
        "would run: " + (", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "nothing, all is in the store"),
        f"expected cost: about {duration(seconds)} of {_worker(inputs.conditions.threads, costs)} ({costs.basis})",
    ]
    if ends := rung_ends(settings):
        tail.append(f"at most: students may be stopped after {' or '.join(map(str, ends))} of {settings.train.epochs} epochs")
    return "\n".join(head + lines + tail)


def _what_is_left(states: Sequence[TrialState], trials: int) -> str:
    """Of a study whose trials are in these states, and that is to have `trials`."""
    begun, left = states.count(TrialState.RUNNING), max(0, trials - len(states))
    what = [f"{begun} of them begun and not ended, which {'goes' if begun == 1 else 'go'} on"] if begun else []
    what += [f"{left} more are left of {trials}; listed is what a new study would try"] if left else []
    there = f"it has {len(states)} {'trial' if len(states) == 1 else 'trials'} already"
    return f"{there}: {'; '.join(what) or 'nothing is left to run'}"


def _speed(estimate: Mapping[str, float]) -> str:
    """In a column; a board of the user's own may tell no speed before it measures."""
    return f"~{estimate['fps']:>7,.0f} FPS" if "fps" in estimate else "FPS: measured by the board"


def _worker(threads: int, costs: RecordedCosts) -> str:
    """Whose seconds are told."""
    cores = f"{threads} cores" if threads > 1 else "one core"
    if not share_machine(threads).gpus:
        return cores
    return "one worker" if costs.is_recorded else f"{cores}, of which trainings on this machine's GPU take a small part"


class RecordedCosts:
    """Expected seconds of a study's stages, by what the store has of stages on the same data."""

    def __init__(self, inputs: Inputs, store: ArtifactStore | None) -> None:
        self._inputs = inputs
        self._model = CostModel(bfloat16=inputs.conditions.bfloat16)
        self._macs: dict[str, float] = {}  # by student
        for stage, seconds in [] if store is None else recorded_stages(store):
            if all(inputs.data.fingerprints.get(part) == known for part, known in stage.data.items()):
                self._learn(stage, seconds)

    @property
    def is_recorded(self) -> bool:
        """Whether any stage on these images is, as fast as it was where it was made."""
        return self._model.observations > 0

    @property
    def basis(self) -> str:
        """What the seconds rest on, in words."""
        if not self.is_recorded:
            return "from multiply-accumulates, as nothing is recorded yet; the order of magnitude only"
        count = self._model.observations
        return f"from {count:,} recorded {'stage' if count == 1 else 'stages'} on these images, and multiply-accumulates"

    def seconds(self, stage: Stage) -> float:
        """Of one stage, with as many threads as the study's have."""
        work = work_of(stage, self._inputs.data)
        return self._model.seconds(work, self._of(work.student))

    def _learn(self, stage: Stage, seconds: float) -> None:
        try:
            work = work_of(stage, self._inputs.data)
        except (EdgesearchError, ValueError):  # of another version of this program
            return
        self._model.observe(work, self._of(work.student), seconds)

    def _of(self, student: Student | None) -> float:
        """Multiply-accumulates of a student's whole network; 0 where they cannot be told."""
        if student is None:
            return 0.0
        key = student.model_dump_json()
        if key not in self._macs:
            try:
                self._macs[key] = self._inputs.estimator.estimate(Candidate(student=student))["macs"]
            except EdgesearchError:
                self._macs[key] = 0.0
        return self._macs[key]
