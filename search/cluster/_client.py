"""A Ray cluster by its address: HOST:6379 of its head, or `ray://HOST:10001` of the proxy beside it, from outside."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.search.cluster._head import Node

__all__ = ["connected", "is_outside", "nodes_of_client", "refuse_silent"]

#: Seconds in which somebody takes the call at an address.
_ANSWERS_S = 10.0


def refuse_silent(address: str) -> None:
    """Raise StudyError where nobody listens at `address`, of whom Ray would ask for minutes. Words ("auto") are left to Ray."""
    named = re.fullmatch(r"(?:ray://)?\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)", address)
    if named is None:
        return
    deadline = time.monotonic() + _ANSWERS_S  # a head that is being started listens soon
    while True:
        try:
            socket.create_connection((named["host"], int(named["port"])), timeout=_ANSWERS_S).close()
        except ConnectionRefusedError as error:
            if time.monotonic() > deadline:
                raise StudyError(_silent(address, error)) from error
            time.sleep(0.5)
        except (OSError, OverflowError, UnicodeError) as error:  # no such host, port or name
            raise StudyError(_silent(address, error)) from error
        else:
            return


def _silent(address: str, error: Exception) -> str:
    why = getattr(error, "strerror", None) or error
    return (
        f"nobody answers at --ray-address {address} ({why}); start the cluster's head there (ray start --head), or leave the "
        "option out to run on this machine alone"
    )


def is_outside(address: str | None) -> bool:
    """Whether this process takes no part in the cluster at `address`."""
    return address is not None and address.startswith("ray://")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Calls of Ray that need the connection. Raises StudyError where it is lost.

    Ray tries for half a minute to get it back before it says so; of a proxy that froze it knows after ten.
    """
    try:
        yield
    except EdgesearchError:
        raise
    except Exception as error:  # Ray raises plain ones where it is not connected any more
        from ray.exceptions import RayError
        from ray.util import client

        proxy: Any = client.ray  # without types
        is_lost = not proxy.is_connected() or (isinstance(error, ConnectionError) and not isinstance(error, RayError))
        if not is_outside(address) or not is_lost:
            raise
        raise StudyError(
            f"the connection to the Ray cluster at {address} is lost; nothing finished is lost: once the cluster answers, the "
            "same command goes on from here"
        ) from error


def nodes_of_client(ray: Any) -> dict[str, Node]:
    """The nodes that live, by their ids."""
    return {node["NodeID"]: Node(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]}
