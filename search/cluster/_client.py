"""A Ray cluster that is reached from outside, through the proxy beside its head (`ray://HOST:10001`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.search.cluster._head import Node

__all__ = ["connected", "is_outside", "nodes_of_client"]


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
