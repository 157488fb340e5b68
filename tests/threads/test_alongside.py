"""A thread that works while something lasts, and no longer."""

from __future__ import annotations

import threading

import pytest

from edgesearch.threads import alongside


def test_it_works_while_the_rest_does_and_is_waited_for() -> None:
    begun, said = threading.Event(), list[str]()

    def work(over: threading.Event) -> None:
        begun.set()
        said.append(threading.current_thread().name)
        over.wait()
        said.append("done")

    with alongside(work, "beside"):
        assert begun.wait(30.0)
        assert said == ["beside"]
    assert said == ["beside", "done"]


def test_what_is_raised_beside_it_comes_out_and_ends_it_too() -> None:
    ended = threading.Event()

    def work(over: threading.Event) -> None:
        over.wait()
        ended.set()

    with pytest.raises(KeyError, match="gone"), alongside(work, "beside"):
        raise KeyError("gone")
    assert ended.is_set()
