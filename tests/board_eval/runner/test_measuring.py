"""What the program makes of times, temperatures and pictures."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgesearch.board_eval.runner import _run_on_board as program


@given(
    cores=st.integers(1, 4),
    per_core=st.integers(1, 3),
    jobs=st.integers(8, 60),
    seconds=st.floats(1e-4, 0.1),
    batch=st.integers(1, 3),
    in_step=st.booleans(),
)
def test_the_rate_is_that_of_the_cores_whatever_the_ends(
    cores: int, per_core: int, jobs: int, seconds: float, batch: int, in_step: bool
) -> None:
    """Threads take turns on cores that need the same time for each job; cores go in step, or evenly apart."""
    offsets = [0.0 if in_step else core * seconds / cores for core in range(cores)]
    ends: list[list[float]] = [[] for _ in range(cores * per_core)]
    for core, turn in itertools.product(range(cores), range(jobs * per_core)):
        ends[core * per_core + turn % per_core].append(offsets[core] + seconds * (turn + 1))
    found = program.rate(ends, batch)
    assert found["value"] == pytest.approx(batch * cores / seconds, rel=1e-6)
    assert found["images"] == batch * cores * per_core * jobs


def test_a_thread_that_gets_little_of_the_dpu_spoils_no_rate() -> None:
    ends = [[0.1 * turn for turn in range(1, 9)], [], [], [5.0]]
    ends[1] = ends[2] = [2.0, 3.0]
    assert program.rate(ends, 1)["value"] == pytest.approx(12 / 4.9)


def results(values: list[float], degrees: list[float | None] | None = None) -> Any:
    """Stands for a measurement: one result after the other."""
    pairs = zip(values, degrees or [None] * len(values), strict=True)
    return iter([{"value": value, "degrees": one} for value, one in pairs])


def repeats(monkeypatch: pytest.MonkeyPatch, values: list[float], degrees: list[float | None] | None = None) -> Any:
    series = list(results(values, degrees))
    warmth = iter(result["degrees"] for result in series)
    once = iter({"value": result["value"]} for result in series)
    monkeypatch.setattr(program, "temperature", lambda: next(warmth))
    return program.repeat("latency", lambda: next(once), 5)


def test_five_repeats_that_agree_are_enough(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kept, spread, settled = repeats(monkeypatch, [100, 101, 102, 101, 100])
    assert [result["value"] for result in kept] == [100, 101, 102, 101, 100]
    assert spread == pytest.approx(2 / 101)
    assert settled
    assert capsys.readouterr().err.splitlines()[-1] == "latency 5/5"


def test_what_was_measured_before_the_board_settled_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _, settled = repeats(monkeypatch, [100, 90, 81, 80, 80, 80, 81, 70])
    assert [result["value"] for result in kept] == [81, 80, 80, 80, 81]
    assert settled


def test_repeats_that_agree_while_the_chip_warms_up_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _, settled = repeats(monkeypatch, [100] * 7, [40, 42, 44, 44.5, 45, 45.5, 46])
    assert [result["degrees"] for result in kept] == [44, 44.5, 45, 45.5, 46]
    assert settled


def test_after_twice_as_many_repeats_it_is_said_that_they_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, spread, settled = repeats(monkeypatch, [100.0, 130.0] * 5)
    assert len(kept) == 5
    assert spread == pytest.approx(0.3 / 1.3)
    assert not settled


@given(
    shape=st.tuples(st.integers(3, 40), st.integers(3, 40), st.sampled_from([1, 3])),
    size=st.integers(2, 40),
    seed=st.integers(0, 1000),
)
def test_resizing_gives_pillows_bytes(shape: tuple[int, int, int], size: int, seed: int) -> None:
    pictures = np.random.default_rng(seed).integers(0, 256, (2, *shape)).astype(np.uint8)
    along_rows = program.resize(pictures, 2, size)
    for picture, found in zip(pictures, along_rows, strict=True):
        for channel in range(shape[2]):
            expected = Image.fromarray(picture[:, :, channel]).resize((size, shape[0]), Image.Resampling.BILINEAR)
            assert np.array_equal(found[:, :, channel], np.asarray(expected))


def test_preparing_rounds_half_up_and_saturates() -> None:
    entry = {"shape": [1, 5, 1], "mean": [0.0], "std": [1 / 255], "fix_position": -1}
    pictures = np.array([0, 1, 3, 250, 255], np.uint8).reshape(1, 1, 5, 1)
    assert program.prepare(pictures, {"input": entry}).ravel().tolist() == [0, 1, 2, 125, 127]
    entry |= {"mean": [1.0], "std": [1 / 255]}
    assert program.prepare(pictures, {"input": entry}).ravel().tolist() == [-127, -127, -126, -2, 0]


def test_pictures_that_were_not_cut_are_refused() -> None:
    crop = {"shape": [8, 8], "of": "centre", "method": "Pillow's ImageOps.fit, BILINEAR"}
    manifest = {"input": {"shape": [8, 8, 1], "crop": crop, "mean": [0.5], "std": [0.5], "fix_position": 6}}
    with pytest.raises(program.Refused, match=r"have 8 x 16 pixels.*asks for 8 x 8; cut them as it says first \(Pillow's"):
        program.prepare(np.zeros((2, 8, 16, 1), np.uint8), manifest)
    assert program.prepare(np.zeros((2, 8, 8, 1), np.uint8), manifest).shape == (2, 8, 8, 1)


def test_pictures_that_were_not_brought_to_the_first_size_are_refused() -> None:
    first = {"shape": [12, 12], "method": "Pillow's resize, BILINEAR"}
    manifest = {"input": {"shape": [8, 8, 1], "first_resize": first, "mean": [0.5], "std": [0.5], "fix_position": 6}}
    with pytest.raises(program.Refused, match=r"have 8 x 8 pixels.*`input.first_resize` asks for 12 x 12; resize them as"):
        program.prepare(np.zeros((2, 8, 8, 1), np.uint8), manifest)
    assert program.prepare(np.zeros((2, 12, 12, 1), np.uint8), manifest).shape == (2, 8, 8, 1)


class Core:
    """Stands for one thread's runner, on a clock of its own: the jobs of this thread end at `ends`."""

    batch = 1

    def __init__(self, ends: list[float], *, queues: bool) -> None:
        self._ends, self._queues, self._now = iter(ends), queues, 0.0

    def perf_counter(self) -> float:
        return self._now

    def start(self, slot: int, images: Any) -> float:
        end = next(self._ends)
        if not self._queues:  # as VART does for the DPUCZDX8G: the call is the job
            self._now = end
        return end

    def finish(self, slot: int, job: float) -> float:
        self._now = max(self._now, job)
        return job


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (1, 2), (2, 2), (2, 4), (3, 6), (1, 3)])
@pytest.mark.parametrize("jobs", [8, 9, 30])
def test_a_runner_that_executes_in_the_call_is_as_fast_as_it_is(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, jobs: int, queues: bool
) -> None:
    """Jobs of 100 ms: ten images a second and core, of which the threads of a core have theirs in turns."""
    per_core = threads // cores
    ends: list[list[float]] = [[] for _ in range(threads)]
    for thread, mine in enumerate(ends):
        core = Core([0.1 * (turn * per_core + thread // cores + 1) for turn in range(jobs)], queues=queues)
        monkeypatch.setattr(program, "time", core)
        program.feed(core, np.zeros((1, 1)), iter([0] * jobs), None, mine)  # type: ignore[arg-type]
    assert program.rate(ends, 1)["value"] == pytest.approx(10 * cores)
