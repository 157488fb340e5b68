"""From a Graph to the program a DPU would execute: fusion, placement, instructions. Weights are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph, check_is_graph
from edgesearch.board_eval.targets import NetworkKind, Target, check_target
from edgesearch.board_eval.timing._allocation import Allocation, allocate
from edgesearch.board_eval.timing._certainty import kind_of
from edgesearch.board_eval.timing._emission import emit
from edgesearch.board_eval.timing._fusion import Layer, fuse
from edgesearch.board_eval.timing._instructions import Instruction, Kind, Tape
from edgesearch.errors import GraphError


@dataclass(frozen=True)
class Program:
    """What a DPU executes for one image."""

    network: str
    dpu: Target
    image: str
    allocation: Allocation
    tape: Tape
    #: Whether weights are loaded ahead of the layer that needs them: the compiler does so iff nothing spills.
    prefetch: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in execution order."""
        return self.allocation.layers

    @property
    def kind(self) -> NetworkKind:
        """What the width of its interval goes by."""
        return kind_of(self.layers)

    @property
    def instructions(self) -> Iterator[Instruction]:
        """The program, entry by entry."""
        return self.tape.instructions(tuple(layer.name for layer in self.layers))

    def __str__(self) -> str:
        return "\n".join(f"{i:6d} {instruction}" for i, instruction in enumerate(self.instructions))

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """The program as arrays: kind, layer, repeat, bytes, words, cycles."""
        names = ("kind", "layer", "repeat", "bytes", "words", "cycles")
        return {name: np.array(getattr(self.tape, name), dtype=np.int64) for name in names}

    def count(self, *kinds: Kind) -> int:
        """Instructions of these kinds."""
        return self._sum(kinds, None)

    def bytes(self, *kinds: Kind) -> int:
        """Bytes that instructions of these kinds move."""
        return self._sum(kinds, "bytes")

    def cycles(self, *kinds: Kind) -> int:
        """Cycles of work in instructions of these kinds, without their issue."""
        return self._sum(kinds, "cycles")

    def _sum(self, kinds: tuple[Kind, ...], column: str | None) -> int:
        chosen = np.isin(self.columns["kind"], kinds)
        per_one = self.columns[column][chosen] if column else 1
        return int((self.columns["repeat"][chosen] * per_one).sum())

    @property
    def weight_loads(self) -> int:
        """LOADs of weights and biases."""
        return self.count(Kind.LOAD_WEIGHTS, Kind.LOAD_BIAS)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases loaded."""
        return self.bytes(Kind.LOAD_WEIGHTS, Kind.LOAD_BIAS)

    @property
    def spilled_bytes(self) -> int:
        """Bytes of feature maps read back from external memory."""
        return self.bytes(Kind.LOAD_ROWS)

    @property
    def image_bytes(self) -> int:
        """Bytes of the input image loaded, its columns repeated where the first convolution wants them so."""
        return self.bytes(Kind.LOAD_IMAGE)

    @property
    def loaded_bytes(self) -> int:
        """Bytes loaded: parameters, feature maps and the image."""
        return self.weight_bytes + self.spilled_bytes + self.image_bytes

    @property
    def saved_bytes(self) -> int:
        """Bytes of feature maps written to external memory, the result included."""
        return self.bytes(Kind.SAVE)

    @property
    def fits_on_chip(self) -> bool:
        """Whether only the image and the result touch external memory."""
        return self.prefetch


def schedule(graph: Graph, dpu: Target) -> Program:
    """The program of `graph` on `dpu`.

    Raises GraphError naming the layer that `check_fits` refuses, and for a network without layers.
    """
    check_fits(graph, dpu)
    fused = fuse(graph, longest=dpu.limits.channel_groups * dpu.input_parallel)
    allocation = allocate(fused, dpu)
    if not allocation.layers:
        raise GraphError(f"network {graph.name!r} has no layers: its result is the image itself; nothing is left for the DPU")
    result = fused.result
    prefetch = all(allocation.on_chip(layer.output) or layer.output == result for layer in allocation.layers)
    tape = emit(allocation, fused.image, dpu, prefetch=prefetch)
    return Program(graph.name, dpu, fused.image, allocation, tape, prefetch)


def check_fits(graph: Graph, target: Target) -> None:
    """Raise GraphError, naming each layer that breaks a limit of `target`, that nobody reads, or whose value it cannot hold."""
    check_is_graph(graph)
    check_target(target)
    for node in graph:
        if len(node.shape) not in (1, 3):
            raise GraphError(
                f"network {graph.name!r}: {node.name!r} has shape {node.shape}; the DPU holds images (height, width, channels) "
                "and vectors (features,), without a batch"
            )
        if node is not graph.output and not graph.consumers[node.name]:
            raise GraphError(
                f"network {graph.name!r}: nobody reads {node.name!r}, and the output is {graph.output.name!r}; "
                "leave it out, or make it the last node"
            )
    found = target.violations(graph)
    if found:
        listed = ". ".join(f"layer {violation.layer!r}: {violation}" for violation in found)
        raise GraphError(f"network {graph.name!r} does not fit on {target.name}: {listed}")
