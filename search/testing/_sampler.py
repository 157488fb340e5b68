"""What every sampler must do: propose candidates of a study's space, learn from trials, repeat itself given the same seed."""

from __future__ import annotations

from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

#: That ask side by side.
_WORKERS = 4


class SamplerContract:
    """Subclass it and override `make`; `directions`, `conditional` and `constrained` say what the sampler is tried with.

    `trials`: how many it is asked for, and some more by several workers; fewer for a sampler whose asks take long.
    """

    directions: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "maximize")
    conditional = True
    constrained = True
    trials = 16

    def make(self, seed: int) -> BaseSampler:
        """A new sampler whose random numbers follow from `seed`."""
        raise NotImplementedError

    def test_every_parameter_is_within_its_range(self) -> None:
        """As the space declares it."""
        for params in self._run(range(self.trials)):
            assert params["student"] in ("mlp", "cnn", "resnet")
            assert 0.25 <= params["width"] <= 4.0
            assert 0.1 <= params.get("ratio", 0.1) <= 0.9

    def test_the_same_seeds_and_trials_give_the_same_proposals(self) -> None:
        """Made anew for every proposal, as the engine does: what it knows must come from the trials."""
        assert self._run(range(self.trials)) == self._run(range(self.trials))

    def test_other_seeds_give_other_proposals(self) -> None:
        """Or a candidate that was turned down would be drawn for ever."""
        assert self._run(range(self.trials)) != self._run(range(1000, 1000 + self.trials))

    def test_failed_and_running_trials_do_no_harm(self) -> None:
        """Both are there while a study runs."""
        states = [(TrialState.COMPLETE, TrialState.FAIL, None)[number % 3] for number in range(self.trials)]
        assert len(self._run(range(self.trials), states)) == self.trials

    def test_several_workers_that_ask_before_others_tell_search_on(self) -> None:
        """Four trials at a time, told in another order than they were asked for, every sixth failing."""
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(directions=list(self.directions))
            running: list[optuna.Trial] = []
            for number in range(self.trials + _WORKERS):
                study.sampler = self.make(number)
                running.append(self._ask(study))
                if len(running) == _WORKERS:
                    self._tell(
                        study, running.pop(number % _WORKERS), TrialState.FAIL if number % 6 == 5 else TrialState.COMPLETE
                    )
        finally:
            optuna.logging.set_verbosity(before)
        states = [trial.state for trial in study.get_trials()]
        assert states.count(TrialState.RUNNING) == _WORKERS - 1
        assert len({tuple(sorted(trial.params.items())) for trial in study.get_trials()}) > self.trials // 2

    def _run(self, seeds: range, states: list[TrialState | None] | None = None) -> list[dict[str, Any]]:
        """The parameters of one trial per seed; a state of None leaves the trial running."""
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(directions=list(self.directions))
            for number, seed in enumerate(seeds):
                study.sampler = self.make(seed)
                self._trial(study, number, TrialState.COMPLETE if states is None else states[number])
        finally:
            optuna.logging.set_verbosity(before)
        return [dict(trial.params) for trial in study.get_trials()]

    def _trial(self, study: optuna.Study, number: int, state: TrialState | None) -> None:
        trial = self._ask(study)
        if state is not None:
            self._tell(study, trial, state)

    def _ask(self, study: optuna.Study) -> optuna.Trial:
        trial = study.ask()
        trial.suggest_categorical("student", ["mlp", "cnn", "resnet"])
        width = trial.suggest_float("width", 0.25, 4.0)
        if not self.conditional or trial.suggest_categorical("pruning", ["none", "one_step"]) == "one_step":
            trial.suggest_float("ratio", 0.1, 0.9, step=0.1)
        if self.constrained:
            trial.set_constraint("max_size_bytes", width - 2.0)
        return trial

    def _tell(self, study: optuna.Study, trial: optuna.Trial, state: TrialState) -> None:
        width = trial.params["width"]
        values = [1.0 - 1.0 / (1.0 + width), 1000.0 / width][: len(self.directions)]
        study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)
