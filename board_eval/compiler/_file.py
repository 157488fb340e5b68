"""From compiled code to the file that a board's runtime loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgesearch.board_eval.compiler._plan import External, LayerPlan, Plan
from edgesearch.board_eval.graph import Concat, Conv, Depthwise, Input, Linear, Node, Reshape
from edgesearch.board_eval.targets import Dpu
from edgesearch.board_eval.xmodel import WORKSPACE, CompiledProgram, ConstantPlace, ProgramLayer, TensorPlace, write_compiled
from edgesearch.errors import CompileError

if TYPE_CHECKING:
    from edgesearch.board_eval.compiler._compile import Compiled

__all__ = ["compiled_program", "write_file"]


def write_file(compiled: Compiled, path: str | Path) -> None:
    """Write the xmodel. It appears whole or not at all; raises XmodelError when it cannot be written."""
    write_compiled(compiled_program(compiled), path)


def compiled_program(compiled: Compiled) -> CompiledProgram:
    """What the file is written from: the plan's graph, with the address of every tensor and constant.

    Raises CompileError for a network without weights or fix positions.
    """
    plan = compiled.plan
    shapes_only = any(isinstance(node, Conv | Depthwise | Linear) and node.weight is None for node in plan.graph)
    if shapes_only or not plan.graph.quantized:
        raise CompileError(f"network {compiled.source.name!r} has no weights: its code can be timed, not run")
    assert isinstance(compiled.target, Dpu)
    weights = {node: address for (node, what), address in compiled.constants.items() if what == "weights"}
    return CompiledProgram(
        graph=plan.graph,
        target=compiled.target,
        code=compiled.code,
        parameters=compiled.parameters,
        workspace_bytes=plan.workspace_bytes,
        input_bytes=plan.input_bytes,
        output_bytes=plan.output_bytes,
        layers=tuple(ProgramLayer(nodes=nodes) for nodes in _layers(plan)),
        tensors={node.name: _place(plan, node) for node in plan.graph},
        constants={
            node: ConstantPlace(weight=address, bias=compiled.constants[node, "bias"]) for node, address in weights.items()
        },
        augmented=frozenset(layer.main.name for layer in plan.layers if layer.augmented),
        prefetch=True,
    )


def _layers(plan: Plan) -> list[tuple[str, ...]]:
    """The nodes of each layer in the order of the code, every node once: a thinned copy belongs to its reader."""
    seen: set[str] = set()
    out: list[tuple[str, ...]] = []
    for layer in plan.layers:
        names = tuple(name for name in _nodes(layer) if name not in seen)
        seen.update(names)
        if names:
            out.append(names)
    return out


def _nodes(layer: LayerPlan) -> tuple[str, ...]:
    if layer.layer.kind in ("downsample", "copy"):
        return ()
    return (layer.main.name,) if layer.post is None else (layer.main.name, layer.post.name)


def _place(plan: Plan, node: Node) -> TensorPlace:
    name = node.name
    while isinstance(source := plan.graph.by_name[name], Reshape):
        name = source.inputs[0]
    external = plan.external.get(name)
    if external is None:
        return TensorPlace(register=WORKSPACE, address=0, on_chip=True)
    if isinstance(node, Reshape | Input | Concat) and external.contiguous:
        return TensorPlace(register=external.register, address=external.address)
    return TensorPlace(register=external.register, address=external.address, stride=_stride(external, node))


def _stride(external: External, node: Node) -> tuple[int, ...]:
    if external.contiguous:
        return ()
    return (external.row_pitch, external.pixel_pitch, 1) if len(node.shape) == 3 else (1,)
