"""The head of a cluster: when its silence has lasted too long, and connections to one that does not answer."""

from __future__ import annotations

import socket
import threading

import pytest

from edgesearch.errors import StudyError
from edgesearch.search.cluster._head import HeadWatch, Node, patience_with


class Head:
    """Answers, or is silent, at a clock of its own."""

    def __init__(self) -> None:
        self.now, self.asked, self.is_silent = 0.0, 0, False

    def ask(self) -> dict[str, Node]:
        self.asked += 1
        if self.is_silent:
            self.now += 3.0
            raise TimeoutError("Deadline Exceeded\nmore of it")
        return {"a": Node("10.0.0.1", {"CPU": 2.0})}


def watch(head: Head) -> HeadWatch:
    return HeadWatch(head.ask, "10.0.0.1:6379", faults=(TimeoutError,), limit_s=30.0, clock=lambda: head.now)


def wait_for_ever(made: HeadWatch, head: Head) -> None:
    while True:
        head.now += 1.0
        made.look()


def test_the_head_is_asked_now_and_then_and_its_nodes_are_told() -> None:
    head = Head()
    made = watch(head)
    told = []
    for head.now in (0.0, 1.0, 2.9, 3.0, 3.1, 6.1):
        told.append(made.look())
    assert [nodes is not None for nodes in told] == [False, False, False, True, False, True]
    assert head.asked == 2
    assert told[3] == {"a": Node("10.0.0.1", {"CPU": 2.0})}


def test_a_head_that_is_silent_for_a_while_is_waited_for_and_one_that_stays_silent_ends_the_study() -> None:
    head = Head()
    made = watch(head)
    head.is_silent = True
    while head.now < 24.0:
        assert made.look() is None
        head.now += 1.0
    head.is_silent = False
    head.now += 3.0
    assert made.look() is not None
    answered, head.is_silent = head.now, True
    with pytest.raises(StudyError, match=r"at 10\.0\.0\.1:6379 does not answer for 30 s \(Deadline Exceeded\); nothing"):
        wait_for_ever(made, head)
    assert 30.0 < head.now - answered < 40.0


def test_a_connection_to_a_silent_head_is_cut_when_patience_ends_and_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as other:
        address = "{}:{}".format(*silent.getsockname())
        with socket.create_connection(silent.getsockname()) as cut, socket.create_connection(other.getsockname()) as kept:
            accepted, _ = other.accept()
            ended = threading.Event()

            def receive() -> None:
                assert cut.recv(1) == b""
                ended.set()

            threading.Thread(target=receive, daemon=True).start()
            with patience_with(address, limit_s=0.2):
                assert ended.wait(30.0)
            accepted.sendall(b"x")
            assert kept.recv(1) == b"x"
            accepted.close()


def test_a_head_that_answers_in_time_is_not_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        accepted, _ = server.accept()
        with patience_with("{}:{}".format(*server.getsockname()), limit_s=60.0):
            pass
        accepted.sendall(b"x")
        assert connection.recv(1) == b"x"
        accepted.close()


def test_a_driver_that_was_away_gives_the_head_its_time() -> None:
    head = Head()
    made = watch(head)
    head.now += 100.0  # it waited for its database
    head.is_silent = True
    assert made.look() is None
    with pytest.raises(StudyError, match="does not answer for 30 s"):
        wait_for_ever(made, head)
    assert head.now > 130.0
