"""The engine on a table: it finds what there is, in the seconds that it would have taken."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from _replay_tables import small_study, small_table

from edgesearch.errors import StudyError
from edgesearch.search.study import StudyFile
from edgesearch.testing import History, Volume, digits_table, replay

#: A part of the table's space: 8 candidates of 2 students.
PART = {
    "students": ["cnn_tiny"],
    "width": [1.0, 2.0],
    "input_size": [8],
    "pruning": ["none", "one_step"],
    "ratio": [0.5],
    "granularity": [8],
    "quantization": ["ptq", "qat"],
}


def part_of(**changes: Any) -> StudyFile:
    return small_study().with_changes(space=PART, **changes)


def searched(study: StudyFile | None = None, **options: Any) -> History:
    return replay(study or part_of(search={"sampler": "random", "rungs": False}), table=small_table(), **options)


def test_the_whole_of_a_space_is_found_for_what_its_stages_cost() -> None:
    history = searched(trials=8)
    last, table = history.points[-1], small_table()
    part = [c for c in table.candidates.values() if _is_in_part(c)]
    stages = {entry.name: entry.seconds for candidate in part for entry in table.chain(candidate)}
    assert last.trials == len(part) == 8
    assert last.worker_seconds == last.seconds == pytest.approx(sum(stages.values()))
    assert history.busy == pytest.approx(1.0)
    volume = Volume(table, part_of())
    figures = [table.figures(candidate) for candidate in part]
    assert last.hypervolume == pytest.approx(volume.of([volume.losses(f) for f in figures if f]))


def _is_in_part(candidate: Any) -> bool:
    taught, ratio = candidate.distillation.kind == "logit", candidate.pruning.ratio
    return not taught and ratio in (0.0, 0.5) and candidate.student.width in (1.0, 2.0)


def test_one_search_is_like_another_with_its_seed() -> None:
    first, second, other = (searched(trials=6, seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_more_workers_take_less_time_and_as_much_work() -> None:
    one, two = (searched(trials=8, workers=workers).points[-1] for workers in (1, 2))
    assert two.seconds < one.seconds
    assert two.worker_seconds == pytest.approx(one.worker_seconds)
    assert two.hypervolume == pytest.approx(one.hypervolume)


def test_points_say_what_the_front_was() -> None:
    points = searched(trials=8).points
    assert [point.trials for point in points] == list(range(1, 9))
    assert [point.share for point in points] == sorted(point.share for point in points)
    for accuracy, fps in points[-1].front:
        assert 0.5 <= accuracy <= 1.0
        assert fps >= 500.0
    assert all(a >= b for (a, _), (b, _) in zip(points[-1].front, points[-1].front[1:], strict=False))


def test_a_search_ends_once_it_has_found_enough() -> None:
    whole = searched(trials=8)
    share = whole.points[2].share
    assert searched(trials=8, until=share).points == whole.points[: 1 + whole.points.index(whole.reached(share))]  # type: ignore[arg-type]
    assert whole.reached(1.5) is None
    assert whole.after(3) == whole.points[2]
    assert whole.after(0) is None


def test_a_sampler_of_ones_own_is_searched_with() -> None:
    study = part_of(search={"sampler": "optuna.samplers:RandomSampler", "rungs": False})
    assert searched(study, trials=3).points[-1].trials == 3


def test_what_is_not_in_the_table_is_refused_before_anything_starts() -> None:
    with pytest.raises(StudyError, match="is not in table 'small'; search a part of its space"):
        searched(small_study().with_changes(space={**PART, "ratio": [0.6]}))
    with pytest.raises(StudyError, match="trains, prunes, quantizes or measures otherwise"):
        searched(part_of(train={"epochs": 3}))
    with pytest.raises(StudyError, match="no candidate of table 'small' keeps"):
        searched(part_of(constraints={"min_accuracy": 0.99}))


def test_the_last_trainings_do_not_wait_until_workers_have_nothing_else_to_do() -> None:
    """Of the study that comes with this program, where one teacher, a third of all the time, has most trials wait."""
    table = digits_table()
    busy = [replay(table.study, table=table, seed=seed, trials=64, workers=8).busy for seed in range(5)]
    assert statistics.median(busy) > 0.9
