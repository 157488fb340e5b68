"""Fair shares of a cluster: what each study may use, and how the book of them is kept."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from _training_jobs import job
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.cluster._ray import RayPool
from edgesearch.search.cluster._shares import ShareBook, fair, slots

WANTS = st.lists(st.integers(0, 40), min_size=1, max_size=8).map(
    lambda parts: {str(number): part / 40 for number, part in enumerate(parts)}
)


def filled(wants: dict[str, float], steps: int = 4000) -> dict[str, Fraction]:
    """Slow reference: little by little, to whoever has least of those who want more."""
    drop = Fraction(1, steps)
    parts = dict.fromkeys(wants, Fraction(0))
    for _ in range(steps):
        hungry = [name for name in wants if parts[name] + drop <= Fraction(wants[name]).limit_denominator(1000)]
        if hungry:
            parts[min(hungry, key=parts.__getitem__)] += drop
    return parts


@given(wants=WANTS)
def test_the_whole_is_divided_evenly_and_what_one_does_not_need_goes_to_the_others(wants: dict[str, float]) -> None:
    parts = fair(wants)
    assert list(parts) == list(wants)
    assert sum(parts.values()) == pytest.approx(min(1.0, sum(wants.values())))
    for name, part in filled(wants, 400).items():
        assert parts[name] == pytest.approx(float(part), abs=0.01)


@given(places=st.integers(1, 300), studies=st.integers(1, 12))
def test_studies_with_equal_stages_fill_the_cluster_and_no_more(places: int, studies: int) -> None:
    wants = {str(number): 1.0 for number in range(studies)}
    given_to = [slots(places, wants, name) for name in wants]
    assert min(given_to) >= 1
    assert max(given_to) - min(given_to) <= 1
    if places >= studies:
        assert sum(given_to) == places


def test_one_alone_has_all_and_a_small_one_leaves_the_rest() -> None:
    assert slots(7, {"a": 1.0}, "a") == 7
    assert [slots(8, {"a": 1.0, "b": 0.125}, name) for name in "ab"] == [7, 1]
    assert [slots(8, {"a": 1.0, "b": 1.0, "c": 0.25}, name) for name in "abc"] == [3, 3, 2]
    assert [slots(8, {"a": 0.5, "b": 0.0, "c": 1.0}, name) for name in "abc"] == [4, 1, 4]  # the one place that each has
    assert slots(1, {"a": 1.0, "b": 1.0}, "b") == 1  # none starves; Ray lets its stages wait


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_book_forgets_who_leaves_and_who_says_nothing() -> None:
    clock = Clock()
    book = ShareBook(clock)
    assert book.tell("a", 1.0) == {"a": 1.0}
    assert book.tell("b", 0.5) == {"a": 1.0, "b": 0.5}
    clock.now = 20.0
    assert book.tell("a", 0.25) == {"a": 0.25, "b": 0.5}
    clock.now = 40.0
    assert book.tell("a", 1.0) == {"a": 1.0}  # b was silent for longer than half a minute
    book.tell("c", 1.0)
    assert not book.leave("a")
    assert book.leave("c")


OTHER = """
import sys
import ray
from edgesearch.search.cluster._shares import Shares
ray.init(address=sys.argv[1], log_to_driver=False)
shares = Shares(ray)
print(shares.slots(4), flush=True)
sys.stdin.read()
shares.leave()
"""


def until(pool: RayPool, slots: int) -> None:
    deadline = time.monotonic() + 120
    while pool.slots != slots:
        assert time.monotonic() < deadline, pool.slots
        pool.wait(0.5)


@pytest.mark.slow
def test_a_study_makes_room_for_another_one_and_takes_it_back(tmp_path: Path, cluster: Any) -> None:
    command = [sys.executable, "-W", "ignore", "-c", OTHER, cluster.address]
    cluster.add_node(num_cpus=4)
    first = RayPool(None, address=cluster.address)
    second = None
    try:
        assert first.slots == 4
        for number in range(4):  # it has enough to do
            (tmp_path / str(number)).mkdir()
            first.submit(job(tmp_path / str(number), epochs=100_000, width=0.25 * (number + 1)))
        second = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert second.stdin is not None
        assert second.stdout is not None
        with ThreadPoolExecutor(1) as threads:
            said = threads.submit(second.stdout.readline)
            while not said.done():  # a study that is silent for long has no share
                first.wait(0.5)
        assert said.result() == "2\n"
        until(first, 2)
        second.stdin.close()
        assert second.wait(60) == 0
        until(first, 4)
    finally:
        first.close()
        if second is not None:
            second.kill()
            second.wait()
            second.stdout.close()  # type: ignore[union-attr]
