"""Networks to compile, and what tells whether their code is right: the helpers of the benchmarks, and a few of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

_BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")
if _BENCHMARKS not in sys.path:
    sys.path.append(_BENCHMARKS)

from _comparison import differing, faults, random_images, register_sizes, run  # noqa: E402
from _extreme_networks import KINDS, extreme_network  # noqa: E402
from _random_integers import with_random_integers  # noqa: E402
from _random_networks import random_network  # noqa: E402

from edgesearch.board_eval.compiler import Compiled, Options, compile_graph  # noqa: E402
from edgesearch.board_eval.execution import execute  # noqa: E402
from edgesearch.board_eval.graph import Graph  # noqa: E402
from edgesearch.board_eval.targets import DPUS  # noqa: E402
from edgesearch.errors import GraphError  # noqa: E402

__all__ = [
    "EVERYTHING", "KINDS", "assert_right", "compiled_or_refused", "differing", "extreme_network", "faults", "quantized",
    "random_images",
    "random_network", "register_sizes", "run", "same_network", "with_random_integers",
]  # fmt: skip

#: What random networks are allowed: every activation there is.
EVERYTHING = Options(allow=frozenset({"leaky_relu", "relu6"}))


def quantized(graph: Graph, seed: int = 0) -> Graph:
    """A network of shapes with random integers."""
    return with_random_integers(graph, seed)


def assert_right(graph: Graph, size: str = "B4096", *, seed: int = 0, images: int = 1) -> Compiled:
    """The compiled network: no fault, and every integer in external memory that of the executor."""
    compiled = compile_graph(graph, DPUS[size], EVERYTHING)
    assert faults(compiled) == ()
    assert differing(compiled, random_images(graph, images, seed), seed) == 0
    return compiled


def compiled_or_refused(graph: Graph, size: str) -> Compiled | str:
    """The compiled network, or the sentence with which it is refused."""
    try:
        return compile_graph(graph, DPUS[size], EVERYTHING)
    except GraphError as refused:
        return str(refused)


def same_network(a: Graph, b: Graph, seed: int = 0) -> bool:
    """Whether two networks give the same results for three random images."""
    images: npt.NDArray[np.int8] = random_images(a, 3, seed)
    return bool(np.array_equal(execute(a, images).reshape(3, -1), execute(b, images).reshape(3, -1)))
