"""A pruned network that turns out to break a hard limit ends its trial before it is fine-tuned."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from _inline import InlinePool
from optuna.trial import TrialState
from rich.console import Console

from edgesearch.board_eval import find_board
from edgesearch.errors import Infeasible
from edgesearch.objectives import Conditions, Estimator, NetworkLimits, Store, load_data
from edgesearch.search.engine import Engine, PlainProgress, Summary
from edgesearch.search.engine._asking import whole_stages
from edgesearch.search.study import Home, StudyFile, create_or_resume, open_storage
from edgesearch.spaces import Candidate, Student, build

CNN = {"architecture": "cnn_tiny", "input_size": 8, "width": 2.0}
HALF = {"method": "one_step", "ratio": 0.5, "granularity": 8}
TABLES = {
    "name": "tiny",
    "data": {"name": "digits", "train_images": 120, "validation_images": 100, "calibration_images": 20},
    "train": {"epochs": 1},
    "finetune": {"epochs": 1},
    "qat": {"epochs": 1},
    "prune": {"draws": 2, "score_images": 50, "recalibration_images": 50},
    "candidates": [
        {"student": CNN, "pruning": HALF},
        {"student": CNN, "pruning": HALF, "quantization": {"method": "qat"}},
        {"student": CNN},
    ],
}


class Inexact(Estimator):
    """Takes pruned networks for so much faster than is expected."""

    factor = 1.3

    def estimate(self, candidate: Candidate) -> dict[str, float]:
        figures = super().estimate(candidate)
        return figures | {"fps": figures["fps"] * self.factor} if candidate.pruning.ratio else figures


class Bench:
    """A study in a folder, run in this process by as many engines as a test likes."""

    def __init__(self, folder: Path, **constraints: float) -> None:
        self.home = Home(folder)
        self.home.prepare()
        self.settings = StudyFile.parse({**TABLES, "constraints": constraints})

    def study(self) -> optuna.Study:
        return create_or_resume(open_storage(self.home.database), self.settings)

    def run(self, trials: int, *, factor: float = 1.3) -> Summary:
        data, board = load_data(self.settings.data), find_board(self.settings.board)
        estimator = Inexact(channels=data.channels, classes=len(data.classes), board=board)
        estimator.factor = factor
        engine = Engine(
            study=self.study(),
            settings=self.settings,
            conditions=Conditions.of(data, self.settings.pipeline, board),
            estimator=estimator,
            store=Store(self.home.store),
            pool=InlinePool(),
            progress=PlainProgress(Console(quiet=True)),
            logs=self.home.logs(self.settings.name),
        )
        return engine.run(trials)


def test_a_pruned_network_that_breaks_a_limit_is_not_fine_tuned_and_the_sampler_is_told(tmp_path: Path) -> None:
    free = Bench(tmp_path / "free")
    free.run(1)
    (known,) = free.study().get_trials()
    name, metric = "min_fps", "fps"
    limit = 1.1 * known.user_attrs[metric]
    bench = Bench(tmp_path / "held", min_fps=limit)
    summary = bench.run(1)
    (ended,) = bench.study().get_trials()
    assert (ended.state, summary.stopped, summary.failed) == (TrialState.PRUNED, 1, 0)
    account = ended.user_attrs["stopped"]
    assert f"{name} = {limit:g}" in account["reason"]
    assert account["constraints"][name] > 0
    assert ended.user_attrs[metric] == known.user_attrs[metric]  # what the whole pipeline would have found
    store = Store(bench.home.store)
    assert {kind for kind, _ in store} == {"student", "sensitivity"}
    assert bench.study().user_attrs["nearest_rejected"]["misses"][name]["expected"] == known.user_attrs[metric]

    again = bench.run(2)  # the second has the same pruned network: another driver knows that, and begins no trial; the
    assert (again.rejected, again.exhausted) == (2, True)  # third, which is whole, is slower still
    assert len(bench.study().get_trials()) == 1


def test_a_network_has_the_size_that_its_own_bits_make(tmp_path: Path) -> None:
    """It is looked at with the fewest bits of the study, since its stage is one for all of them."""
    known = Bench(tmp_path / "free")
    known.run(1)
    (whole,) = known.study().get_trials()
    bench = Bench(tmp_path / "held", min_fps=1.1 * whole.user_attrs["fps"], max_size_bytes=1e9)
    narrow = Candidate.model_validate({"student": CNN, "quantization": {"bits": 5}})
    bench.settings = bench.settings.model_copy(update={"candidates": (*bench.settings.candidates[:1], narrow)})
    bench.run(1)
    (ended,) = bench.study().get_trials()
    assert ended.user_attrs["size_bytes"] == whole.user_attrs["size_bytes"]
    assert ended.user_attrs["stopped"]["constraints"]["max_size_bytes"] == whole.user_attrs["size_bytes"] - 1e9


def test_what_was_cut_off_teaches_no_costs() -> None:
    attributes = {"stage_seconds": {"student": 3.0, "pruned": 0.1}}
    assert whole_stages(attributes) == {"student": 3.0, "pruned": 0.1}
    assert whole_stages({**attributes, "stopped": {"made_by": "0" * 64}}) == {"student": 3.0}


def test_a_network_that_was_pruned_under_other_limits_is_not_quantized(tmp_path: Path) -> None:
    Bench(tmp_path).run(1)
    store = Store(Home(tmp_path).store)
    (measured,) = [key for kind, key in store if kind == "measured"]
    fps = store.get("measured", measured).figures["fps"]  # type: ignore[union-attr]
    before = set(store)

    bench = Bench(tmp_path, min_fps=1.1 * fps)
    bench.settings = bench.settings.model_copy(update={"name": "held", "candidates": bench.settings.candidates[1:]})
    summary = bench.run(1)
    (ended,) = bench.study().get_trials()
    assert (ended.state, summary.stopped, summary.failed) == (TrialState.PRUNED, 1, 0)
    assert ended.user_attrs["fps"] == fps
    account = ended.user_attrs["stopped"]
    assert account["made_by"] in {key for kind, key in before if kind == "pruned"}
    assert {kind for kind, _ in set(store) - before} <= {"logits"}  # nothing was trained for it


def test_a_pruned_network_that_is_expected_just_below_a_limit_and_keeps_it_is_a_trial(tmp_path: Path) -> None:
    free = Bench(tmp_path / "free")
    free.run(1, factor=1.0)
    (known,) = free.study().get_trials()
    true, even = known.user_attrs["fps"], known.user_attrs["estimated_fps"]
    for name, expected, rejected in (("near", 0.9 * true, 0), ("far", 0.5 * true, 2)):
        bench = Bench(tmp_path / name, min_fps=true)
        assert bench.run(2, factor=expected / even).rejected == rejected
        trials = bench.study().get_trials()
        pruned = [trial for trial in trials if trial.user_attrs["candidate"]["pruning"]["ratio"]]
        assert [trial.state for trial in pruned] == [TrialState.COMPLETE] * (2 - rejected)
        assert not any(trial.user_attrs["violations"] for trial in pruned)


def test_limits_name_what_is_broken_and_by_what() -> None:
    board = find_board("zcu104")
    model = build(Student(architecture="cnn_tiny", input_size=8), channels=1, classes=10)
    NetworkLimits({"min_fps": 1.0, "max_latency_ms": 1e3, "max_size_bytes": 1e9}, board.content).check(model, (1, 8, 8))
    with pytest.raises(Infeasible, match=r"min_fps = 1e\+06, and it has [\d,.]+; max_size_bytes = 10, and it has") as caught:
        NetworkLimits({"min_fps": 1e6, "max_size_bytes": 10.0}, board.content).check(model, (1, 8, 8))
    assert caught.value.figures["fps"] > 0
