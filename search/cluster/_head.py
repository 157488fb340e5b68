"""The head of a Ray cluster: what it says of the nodes, and how to leave it. Ray itself waits for ever for one that freezes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from edgesearch.errors import StudyError
from edgesearch.threads import alongside

__all__ = ["HeadWatch", "Node", "head_client", "living_nodes", "patience_with"]

#: Seconds for which a head may be silent: Ray's nodes end what they run when they cannot reach it for 60 s.
_HEAD_S = 30.0
#: Seconds between two looks at it, and for an answer.
_LOOK_S, _ANSWER_S = 3.0, 3.0
#: Seconds for a head to answer when Ray takes leave of it, and between two cuts after that.
_LEAVE_S, _CUT_S = 5.0, 1.0


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that takes part: where it is, and what it offers (CPU, GPU, memory in bytes)."""

    address: str
    resources: Mapping[str, float]


class HeadWatch:
    """Asks the head of a cluster for its nodes, now and then. Ray itself waits for a head that is gone, or frozen, in silence.

    `ask` gives the nodes that live, by their ids, or raises one of `faults` within seconds. `clock` tells seconds.
    """

    def __init__(
        self,
        ask: Callable[[], Mapping[str, Node]],
        address: str,
        *,
        faults: tuple[type[Exception], ...],
        limit_s: float = _HEAD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._address, self._faults, self._limit_s, self._clock = ask, address, faults, limit_s, clock
        self._looked = self._answered = clock()

    def look(self) -> Mapping[str, Node] | None:
        """The nodes, where it is time to ask and the head answers. To be called often.

        Raises StudyError where the head was silent for longer than `limit_s`.
        """
        away = self._clock() - self._looked
        if away < _LOOK_S:
            return None
        if away > self._limit_s:  # nobody asked meanwhile
            self._answered += away
        try:
            nodes = self._ask()
        except self._faults as error:
            if self._clock() - self._answered > self._limit_s:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise StudyError(
                    f"the head of the Ray cluster at {self._address} does not answer for {self._limit_s:.0f} s ({first}); "
                    "nothing finished is lost: start it again, and the same command goes on from here"
                ) from error
            return None
        finally:
            self._looked = self._clock()
        self._answered = self._looked
        return nodes


def head_client(ray: Any) -> Any:
    """Asks the head of the cluster that `ray` is connected to."""
    from ray import _raylet

    core: Any = _raylet  # compiled, without types
    return core.GcsClient(address=ray.get_runtime_context().gcs_address)


def living_nodes(client: Any) -> dict[str, Node]:
    """The nodes that live, by their ids. Raises RayError where no answer comes; `ray.nodes` would wait for ever."""
    return {
        identity.hex(): Node(node.node_manager_address, dict(node.resources_total))
        for identity, node in client.get_all_node_info(timeout=_ANSWER_S).items()
        if node.state == node.ALIVE
    }


@contextmanager
def patience_with(address: str, *, limit_s: float = _LEAVE_S) -> Iterator[None]:
    """While Ray takes leave of the head at `address` (host:port): cut this process's connections to it after `limit_s`.

    Ray has no limit of its own for it, and ends when a connection does.
    """

    def cut(over: threading.Event) -> None:
        wait = limit_s
        while not over.wait(wait):
            _cut(address)
            wait = _CUT_S

    with alongside(cut, "patience"):
        yield


def _cut(address: str) -> None:
    host, _, port = address.rpartition(":")
    for connection in psutil.Process().net_connections("tcp"):
        there = connection.raddr
        if there and there.port == int(port) and there.ip.removeprefix("::ffff:") == host.strip("[]"):
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as cut:  # it was closed meanwhile
                cut.shutdown(socket.SHUT_RDWR)
