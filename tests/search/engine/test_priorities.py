"""What many trials wait for comes first, and what one waits for comes, too."""

from __future__ import annotations

import random
from collections.abc import Mapping, Set

from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.engine._priorities import by_length, by_need

#: Trials under way, by number -> what each lacks; the first of it is ready.
_LACKS = st.dictionaries(
    st.integers(0, 10_000), st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True), min_size=1, max_size=12
)


def ready(lacks: Mapping[int, list[str]]) -> list[tuple[int, str]]:
    return [(trial, lacks[trial][0]) for trial in sorted(lacks)]


def waiting(key: str, lacks: Mapping[int, list[str]]) -> Set[int]:
    return {trial for trial, missing in lacks.items() if key in missing}


def test_the_teacher_of_eight_starts_before_the_student_of_an_older_trial() -> None:
    lacks = {0: ["student 0"]} | {trial: ["teacher", f"student {trial}"] for trial in range(1, 9)}
    assert by_need(ready(lacks), lacks) == ["teacher", "student 0"]


def test_a_student_of_two_candidates_starts_before_that_of_one() -> None:
    lacks = {0: ["alone"], 1: ["shared", "pruned"], 2: ["shared"]}
    assert by_need(ready(lacks), lacks) == ["shared", "alone"]


def test_of_stages_that_serve_one_trial_each_the_oldest_trials_is_first_and_its_own_stay_in_order() -> None:
    lacks = {3: ["b", "a"], 4: ["c"]}
    assert by_need([(3, "b"), (3, "a"), (4, "c")], lacks) == ["b", "a", "c"]


@given(_LACKS)
def test_every_ready_stage_is_there_once(lacks: dict[int, list[str]]) -> None:
    assert sorted(by_need(ready(lacks), lacks)) == sorted({key for _, key in ready(lacks)})


@given(_LACKS)
def test_what_all_of_anothers_trials_and_more_wait_for_is_never_behind_it(lacks: dict[int, list[str]]) -> None:
    order = by_need(ready(lacks), lacks)
    for place, later in enumerate(order):
        for earlier in order[:place]:
            assert not waiting(earlier, lacks) < waiting(later, lacks)


@given(st.integers(1, 8), st.integers(0, 50))
def test_a_trial_that_has_waited_long_is_overtaken_no_more(others: int, start: int) -> None:
    """By whatever newer trials share, once so many have begun since that none of them could outweigh it."""
    count = others + 1
    newest = start + 2 * count * count
    lacks = {start: ["own"]} | {newest - place: ["shared"] for place in range(others)}
    assert by_need(ready(lacks), lacks)[0] == "own"


def test_the_longest_way_to_an_end_begins_first_and_what_ends_a_trial_before_it() -> None:
    lacks = {0: ["quantized", "measured"], 1: ["student", "pruned", "measured 1"], 2: ["measured 2"]}
    assert by_length(ready(lacks), lacks, {0: 3.0, 1: 9.0, 2: 0.1}) == ["measured 2", "student", "quantized"]


def test_a_stage_of_several_trials_is_as_long_as_the_longest_of_them() -> None:
    lacks = {0: ["alone", "b"], 1: ["shared", "c"], 2: ["shared", "d"]}
    assert by_length(ready(lacks), lacks, {0: 5.0, 1: 2.0, 2: 8.0}) == ["shared", "alone"]


def test_a_stage_of_a_trial_that_waits_at_a_rung_since_is_last() -> None:
    assert by_length([(0, "left"), (1, "a")], {1: ["a", "b"]}, {1: 2.0}) == ["a", "left"]


@given(_LACKS, st.randoms())
def test_by_length_every_ready_stage_is_there_once(lacks: dict[int, list[str]], dice: random.Random) -> None:
    seconds = {trial: dice.random() for trial in lacks}
    assert sorted(by_length(ready(lacks), lacks, seconds)) == sorted({key for _, key in ready(lacks)})
