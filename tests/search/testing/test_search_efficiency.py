"""The benchmark of searches: what its baselines pay, and how seeds are compared."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from _replay_tables import EPOCH, EPOCHS, OVERHEAD, SECONDS, small_study, small_table
from optuna.samplers import RandomSampler

from edgesearch.testing import Volume

_BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")
if _BENCHMARKS not in sys.path:
    sys.path.append(_BENCHMARKS)

from _whole_pipeline import Reached, search_whole  # noqa: E402
from search_efficiency import quartiles, run, speedup  # noqa: E402

STUDENT = OVERHEAD + EPOCH * EPOCHS


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume(small_table(), small_study())


def test_a_baseline_pays_every_stage_of_every_candidate_and_the_teacher_once(volume: Volume) -> None:
    everything = search_whole(small_table(), volume, RandomSampler(seed=0), until=1.0 - 1e-9)
    assert everything.share == pytest.approx(1.0)
    per_trial = STUDENT + SECONDS["quantized"] + SECONDS["measured"]
    assert everything.seconds >= everything.trials * per_trial
    most = SECONDS["teacher"] + SECONDS["logits"] + everything.trials * (per_trial + SECONDS["sensitivity"] + SECONDS["pruned"])
    assert everything.seconds <= most


def test_a_baseline_ends_where_it_has_found_enough(volume: Volume) -> None:
    some, more = (search_whole(small_table(), volume, RandomSampler(seed=3), until=share) for share in (0.5, 0.9))
    assert some.share >= 0.5
    assert some.seconds < more.seconds
    assert some.trials < more.trials


def test_what_never_comes_to_its_end_says_so(volume: Volume) -> None:
    never = search_whole(small_table(), volume, RandomSampler(seed=0), until=1.1)
    assert math.isinf(never.seconds)
    assert never.trials == len(small_table().candidates)


def test_sharing_stages_costs_less_than_sharing_none(volume: Volume) -> None:
    table = small_table()
    shared, alone = (run(table, volume, name, 1).seconds for name in ("reuse_only", "tpe"))
    assert shared < alone


def test_quartiles_put_what_never_ended_last() -> None:
    assert quartiles([4.0, 1.0, math.inf, 2.0, 3.0]) == [2.0, 3.0, 4.0]
    assert quartiles([1.0, math.inf, math.inf]) == [None, None, None]
    assert quartiles([1.0, 3.0]) == [1.5, 2.0, 2.5]


def test_a_speedup_is_taken_seed_by_seed() -> None:
    def searches(*seconds: float) -> list[Reached]:
        return [Reached(each, 1, 1.0) for each in seconds]

    assert speedup(searches(2.0, 9.0, 8.0), searches(1.0, 3.0, 2.0)) == [2.5, 3.0, 3.5]
    # One that ours never ends counts as none, one that neither ends is left out.
    assert speedup(searches(4.0, 4.0, math.inf), searches(math.inf, 1.0, math.inf)) == [1.0, 2.0, 3.0]
