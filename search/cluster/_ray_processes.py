"""Which processes a local Ray has: those that run stages, and none for what nobody here asks of it.

Beside its table and its scheduler Ray starts three Python programs: one that would ask a cloud for more machines, one that
would show a dashboard, even where none is wanted, and one that would print what workers write. Each takes time of a processor
to begin, and memory as long as it lives, and Ray's own start waits for the second. `ray.init` has no words to leave them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["few_processes"]

#: What starts them, of Ray's own class of a node. A version of Ray that has one of these no more starts what it likes.
_STARTERS = ("start_monitor", "start_api_server", "start_log_monitor")


@contextmanager
def few_processes() -> Iterator[None]:
    """A node that Ray starts within it has no processes but those that it needs."""
    from ray._private import node

    kind: Any = node.Node  # without types
    own = {name: getattr(kind, name) for name in _STARTERS if hasattr(kind, name)}
    for name in own:
        setattr(kind, name, _nothing)
    try:
        yield
    finally:
        for name, starter in own.items():
            setattr(kind, name, starter)


def _nothing(node: object, **options: object) -> None:
    """In the place of a starter: nobody asks for what it would leave behind."""
