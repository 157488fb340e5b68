"""From a quantized network to a file that was checked: its code in the machine computes what the network does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.compiler import Options, compile_graph, write_file
from edgesearch.board_eval.deployment._compiled_xmodel import CompiledXmodel
from edgesearch.board_eval.deployment._execute import execute_code
from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear, check_is_graph
from edgesearch.board_eval.machine import check
from edgesearch.board_eval.targets import Dpu, Target, check_target
from edgesearch.board_eval.xmodel import INPUT, PARAMETERS
from edgesearch.errors import CompileError, QuantizationError

__all__ = ["Miscompiled", "compile_xmodel"]

#: Images of random integers that code is tried on where none are given.
_RANDOM_IMAGES = 2


class Miscompiled(RuntimeError):
    """Code that does not compute what its network does, or that the hardware could execute in another way: our mistake."""


def compile_xmodel(
    graph: Graph, target: Target, options: Options | None = None, *, images: npt.NDArray[np.generic] | None = None
) -> CompiledXmodel:
    """The compiled xmodel of a network quantized to 8 bits, for a DPU: the same bytes for the same network, DPU and options.

    Before it is returned the file is read again and its code is checked: its order, its tokens and its limits; then it is
    executed in the machine on `images`, float32 (N, H, W, C), normalised, or int8 (None: two of random integers), where it must
    give what `execute` gives. Raises QuantizationError for a network that is not quantized, CompileError, GraphError or
    XmodelError for one that cannot be compiled, and Miscompiled, which is a mistake of this program, where a check fails.
    """
    dpu = _checked_dpu(graph, target)
    compiled = compile_graph(graph, dpu, options)
    with tempfile.TemporaryDirectory(prefix="edgesearch-") as folder:
        path = Path(folder) / "compiled.xmodel"
        write_file(compiled, path)
        xmodel = CompiledXmodel.read(path)
    _check_code(xmodel, dpu)
    _check_results(xmodel, dpu, graph, _random_images(graph) if images is None else images)
    return xmodel


def _checked_dpu(graph: Graph, target: Target) -> Dpu:
    check_is_graph(graph)
    check_target(target)
    if not isinstance(target, Dpu):
        raise CompileError(f"target {target.name!r} is no DPUCZDX8G, and there is no compiler here for another DPU")
    if not target.fingerprint:
        raise CompileError(f"the fingerprint of {target.name!r} is not known, and a board checks it; give the DPU one")
    weightless = any(isinstance(node, Conv | Depthwise | Linear) and node.weight is None for node in graph)
    if not graph.quantized or graph.bits != 8 or weightless:
        what = "has no weights" if weightless else f"has {graph.bits} bits" if graph.bits != 8 else "has no fix positions"
        raise QuantizationError(
            f"network {graph.name!r} {what}; quantize it to 8 bits before it is compiled: the DPU runs no other"
        )
    return target


def _check_code(xmodel: CompiledXmodel, dpu: Dpu) -> None:
    """How many tokens may wait is not known, and AMD's files have more than ours: no fault here."""
    sizes = {number: register.size for number, register in xmodel.model.registers.items()}
    faults = check(xmodel.program, dpu, sizes, constants=(PARAMETERS,), inputs=(INPUT,), max_tokens=None)
    if faults:
        raise Miscompiled(f"the code of {xmodel.name!r} has {len(faults)} faults, the first: {faults[0]}")


def _check_results(xmodel: CompiledXmodel, dpu: Dpu, graph: Graph, images: npt.NDArray[np.generic]) -> None:
    expected = execute(graph, images)
    expected = expected.reshape(len(expected), -1)
    (result,) = execute_code(xmodel.model, xmodel.program, dpu, images).values()
    different = (result.reshape(len(result), -1) != expected).any(axis=1)
    if different.any():
        raise Miscompiled(
            f"the code of {xmodel.name!r} gives other integers than the network on {different.sum()} of {len(images)} images"
        )


def _random_images(graph: Graph) -> npt.NDArray[np.int8]:
    shape = (_RANDOM_IMAGES, *graph.input.shape)
    return np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
