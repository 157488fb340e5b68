"""What a stage asks of the node that runs it, and how many stages that lets a cluster run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesearch.errors import StudyError

__all__ = ["Request", "places"]

_GIB = 2**30


@dataclass(frozen=True)
class Request:
    """What one stage that computes is given: processors, a share of a GPU, bytes of memory (0: no say)."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """As Ray's tasks take them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **({"memory": self.memory} if self.memory else {})}

    def times_in(self, node: Mapping[str, float]) -> int:
        """How many such stages a node has room for, by all the resources that it has."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in asked.items() if amount)

    def __str__(self) -> str:
        return _in_words(self.cpus, self.gpus, self.memory)


def places(request: Request, nodes: Sequence[Mapping[str, float]], where: str) -> int:
    """How many stages run side by side on nodes with these resources.

    Raises StudyError where no node has room for one: it would be waited for in vain.
    """
    count = sum(request.times_in(node) for node in nodes)
    if count:
        return count
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
    has = _in_words(largest.get("CPU", 0.0), largest.get("GPU", 0.0), int(largest.get("memory", 0.0)))
    raise StudyError(
        f"{where} can run no stage: each is to have {request}, and the largest of its {len(nodes)} nodes has {has}; ask for "
        "less (--threads-per-stage, --gpus-per-stage, --memory-per-stage), or add a node and give the same command again"
    )


def _in_words(cpus: float, gpus: float, memory: int) -> str:
    parts = [f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'}"]
    parts += [f"{gpus:g} GPU"] if gpus else []
    parts += [f"{memory / _GIB:.3g} GiB of memory"] if memory else []
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
