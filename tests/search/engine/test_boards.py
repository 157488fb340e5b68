"""Studies that boards score: fake boards that really execute what they are given."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from _board_bench import TEXT, Bench, Spy
from _fake_boards import SLOWER, deeds, write_boards
from optuna.trial import TrialState

from edgesearch.search.processes._jobs import Job
from edgesearch.search.study import pareto_front, read_study


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_measured_values_replace_simulated_ones_and_both_are_kept(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    assert bench.run(2).finished == 2
    for trial in bench.trials():
        a = trial.user_attrs
        assert trial.values == [a["accuracy"], a["fps"]]
        assert a["fps"] == pytest.approx(a["simulated_fps"] / SLOWER)
        assert a["fps_difference"] == pytest.approx(1 / SLOWER - 1)
        assert a["latency_ms"] > a["simulated_latency_ms"]
        assert a["latency_fps"] == pytest.approx(1e3 / a["latency_ms"])
        assert a["simulated"]["fps"] == a["simulated_fps"]
        assert (a["accuracy_of"], a["accuracy"]) == ("integers", a["simulated_accuracy"])
        assert (a["board_images"], a["logits_differ"]) == (60, 0)
        assert "fps_error" not in a  # it is of the prediction
        told = a["conditions"]
        assert told["integers"] == "equal to this program's integers on all 60 images"
        assert told["power"] == "12 W busy, 8 W idle, the difference 4 W (ina226)"
        assert told["dpu"] == "B4096"  # neither the board nor a profile tells more
        assert (told["fingerprint"], told["vart"], told["temperature"]) == ("0x101000056010407", "3.5.0", "not available")
        assert "5 repeats within 0.0%" in told["throughput"]
        assert (a["joules"], a["net_joules"]) == (pytest.approx(12 / a["fps"]), pytest.approx(4 / a["fps"]))
        assert (a["power_w"], a["idle_power_w"]) == (12.0, 8.0)
        assert {"compiled", "on_board"} <= set(a["artifacts"])


def test_boards_share_the_work_and_the_key_does_not_say_which_served(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    bench.run(4)
    assert {trial.user_attrs["measured_by"] for trial in bench.trials()} == {"lab:a", "lab:b"}
    again = Bench(tmp_path, TEXT.replace('"tiny"', '"other"').replace('["lab:a", "lab:b"]', '["lab:b", "lab:a"]'))
    before = len(deeds(tmp_path, "a")) + len(deeds(tmp_path, "b"))
    assert again.run(4).finished == 4
    assert len(deeds(tmp_path, "a")) + len(deeds(tmp_path, "b")) == before  # measured once per network and pool


def test_where_logits_differ_the_accuracy_is_the_boards_own_and_says_so(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["wrong"] * 9}, b={"run": ["wrong"] * 9})
    bench = Bench(tmp_path)
    bench.run(1)
    a = bench.trials()[0].user_attrs
    assert (a["accuracy_of"], a["logits_differ"], a["largest_difference"]) == ("board", 1, 1)
    assert a["accuracy"] == a["board_correct"] / 60
    assert a["conditions"]["integers"].endswith("the simulated accuracy does not hold")
    assert a["accuracy_difference"] == a["accuracy"] - a["simulated_accuracy"]


def test_a_driver_killed_at_any_job_leaves_a_study_that_loses_nothing(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    for limit in (1, 4, 5, 3):
        left = [limit]

        def event(job: Job, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise Killed

        with contextlib.suppress(Killed):
            bench.run(3, Spy(event))
    bench.run(3)
    assert [t.state for t in bench.trials()] == [TrialState.COMPLETE] * 3
    runs = [deed for name in "ab" for deed in deeds(tmp_path, name)]
    assert runs == ["run ok"] * 3  # nothing was measured twice


#: Networks some of which are slower than others beyond any doubt, which the host's part in small ones leaves much of.
FRONT = TEXT.replace('"board"', '"board-front"').replace(
    'students = ["mlp", "cnn_tiny"]\nwidth = [0.5, 1.0]', 'students = ["mlp", "cnn_tiny", "cnn_small"]\nwidth = [0.5, 2.0, 4.0]'
)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A study of eight trials whose front was measured."""
    folder = tmp_path_factory.mktemp("front")
    write_boards(folder)
    bench = Bench(folder, FRONT)
    bench.run(8)
    return bench


def test_board_front_measures_all_of_the_front_and_not_all_trials(front: Bench) -> None:
    view = read_study(front.study())
    measured = [record for record in view.records if record.measured_by]
    assert 0 < len(measured) < len(view.records)
    assert all(record.measured_by for record in pareto_front(view))
    runs = [deed for name in "ab" for deed in deeds(front.folder, name)]
    assert len(runs) == len(measured)


def test_later_simulated_scores_are_corrected_by_what_was_measured(front: Bench) -> None:
    trials = front.trials()
    assert "correction" not in trials[0].user_attrs or trials[0].user_attrs["correction"]["measurements"] == 0
    told = [t.user_attrs for t in trials if "measured_by" not in t.user_attrs]
    assert told
    for a in told:
        assert a["correction"]["measurements"] > 0
        assert a["correction"]["dpu"] > 1.0
        assert a["simulated_fps"] / SLOWER * 0.98 < a["fps"] < a["simulated_fps"]
        assert a["fps_error"] >= a["simulated"]["fps_error"]
    last = [t.user_attrs for t in trials if "measured_by" in t.user_attrs][-1]
    assert abs(last["expected_fps"] / last["fps"] - 1) < abs(last["simulated_fps"] / last["fps"] - 1)
