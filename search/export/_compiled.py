"""The file that the board runs, beside the exported network, and what the manifest says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesearch.board_eval import Board, CompiledXmodel, Feature, Graph, Options, SimulatedBoard, compile_xmodel
from edgesearch.errors import CompileError, QuantizationError
from edgesearch.objectives import DataSet, Stage, Store, compiled_content, golden_images
from edgesearch.search.export._golden import INPUT

#: Folder of the compiled file, where vai_c_xir is told to write it, too.
FOLDER = "compiled"

_VERIFIED = (
    "its instructions were checked (their order, tokens and limits), and executed in a simulation of the DPU they gave the "
    f"integers of the network on every image of {INPUT}"
)
_SILICON = (
    "what the instructions mean was confirmed with published results of AMD's own programs on boards; programs of this "
    "compiler are verified in simulation, and this project has not yet run one on silicon"
)


def write_compiled(
    folder: Path, name: str, graph: Graph, board: Board, data: DataSet, store: Store, stage: Stage | None, quantized: str
) -> CompiledXmodel:
    """Write `compiled`/NAME.xmodel: the artifact of `stage` if the store has it, else compiled now.

    `quantized` is the key of the network's stage, which an earlier version of this program may have made. Raises CompileError
    for a network that cannot be compiled, with what else can be done.
    """
    artifact = None
    if stage is not None and stage.inputs["network"].key == quantized:
        artifact = store.get(stage.kind, stage.key)
    path = folder / FOLDER / f"{name}.xmodel"
    path.parent.mkdir()
    if artifact is not None:
        path.write_bytes(compiled_content(artifact))
        return CompiledXmodel.read(path)
    try:
        options = Options(allow=frozenset(allowed_features(board)))
        xmodel = compile_xmodel(graph, board.target, options, images=golden_images(graph, data))
    except (CompileError, QuantizationError) as error:
        raise CompileError(f"{error}; --compiler vai exports what Vitis AI's compiler takes") from error
    xmodel.write(path)
    return xmodel


def allowed_features(board: Board) -> tuple[Feature, ...]:
    """What the code may use beyond what measured files have."""
    return board.allow if isinstance(board, SimulatedBoard) else ()


def describe_compiled(xmodel: CompiledXmodel, name: str, board: Board) -> dict[str, Any]:
    """The manifest's words on the compiled file."""
    file = f"{FOLDER}/{name}.xmodel"
    return {
        "file": file,
        **xmodel.facts(),
        "predicted": _predicted(xmodel, board),
        "verified": _VERIFIED,
        "silicon": _SILICON,
        "confirm": f"python3 run_on_board.py {file}",
    }


def _predicted(xmodel: CompiledXmodel, board: Board) -> dict[str, Any] | None:
    """The time of its code; None for a board that measures."""
    if not isinstance(board, SimulatedBoard):
        return None
    timing = xmodel.time(board.profile, runner=board.runner)
    return {
        "board": board.name,
        "runner": timing.runner,
        "dpu_us": round(timing.dpu_s * 1e6, 3),
        "latency_ms": round(timing.latency_s * 1e3, 6),
        "fps": round(timing.throughput_fps, 3),
    }
