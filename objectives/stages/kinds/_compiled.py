"""The file that a board runs, of either compiler: a quantized network compiled, checked and executed on the golden images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgesearch.board_eval import (
    CODE_VERSION,
    TIMING_VERSION,
    CompiledXmodel,
    Compiler,
    Dpu,
    Feature,
    Graph,
    Options,
    VitisCompiled,
    VitisSettings,
    compile_with_vitis,
    compile_xmodel,
    execute,
    find_compiler,
    write_xmodel,
)
from edgesearch.errors import ToolchainMissing, XmodelError
from edgesearch.files import temporary_folder
from edgesearch.objectives.data import DataSet, prepare
from edgesearch.objectives.stages._artifact import Artifact
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Conditions, Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.settings import Settings

#: Calibration images that a network is tried on: test images are read once, for the final front, and not for this.
GOLDEN_IMAGES = 8


class CompiledSettings(Settings):
    """The DPU that the code is for, as a board's profile stores it, features of it that no measured file has, the compiler.

    `toolchain` is the one of Vitis AI that compiles with `compiler` "vai": its packages' versions, or its image's id.
    `code_version` is that of the compiler "edgesearch", see `code_version`.
    """

    dpu: dict[str, Any]
    allow: tuple[Feature, ...] = ()
    compiler: Compiler = "edgesearch"
    toolchain: str = ""
    code_version: int = 1


def code_version(conditions: Conditions) -> int:
    """The version of this program's compiler, where it makes the code that a board runs or is simulated with."""
    return CODE_VERSION if conditions.compiler == "edgesearch" else 1


def timing_version(conditions: Conditions) -> int:
    """The version of what tells the time of a network on a simulated board: this compiler's code, or the model of AMD's."""
    return code_version(conditions) if conditions.compiler == "edgesearch" else TIMING_VERSION


def _place(plan: Plan) -> Stage | None:
    if not plan.conditions.compiles(plan.candidate):
        return None
    conditions = plan.conditions
    settings = CompiledSettings(
        dpu=dict(conditions.dpu),
        allow=conditions.allow,
        compiler=conditions.compiler,
        toolchain=conditions.toolchain,
        code_version=code_version(conditions),
    )
    return plan.make("compiled", settings, reads=("calibration",), network=plan.stage("quantized"))


def _run(context: Context[CompiledSettings]) -> Result:
    graph = load_graph(context.input("network"))
    settings, images = context.settings, golden_images(graph, context.data)
    dpu = Dpu.model_validate(settings.dpu)
    if settings.compiler == "vai":
        compiled = vitis_file(graph, dpu, context.vitis, toolchain=settings.toolchain)
        print(compiled.log)
        xmodel = compiled.xmodel
        figures = {**compiled.facts(), "simulated": _simulated(xmodel, graph, images)}
    else:
        xmodel = compile_xmodel(graph, dpu, Options(allow=frozenset(settings.allow)), images=images)
        figures = xmodel.facts()
    content = torch.from_numpy(np.frombuffer(xmodel.content, np.uint8).copy())
    return Result({**figures, "golden_images": GOLDEN_IMAGES}, {"xmodel": {"content": content}})


def vitis_file(graph: Graph, dpu: Dpu, settings: VitisSettings, *, toolchain: str = "") -> VitisCompiled:
    """What AMD's compiler makes of a quantized network.

    Raises what `compile_with_vitis` does, and ToolchainMissing where the tools of this machine are not `toolchain`.
    """
    if toolchain and (found := find_compiler(settings).identity) != toolchain:
        raise ToolchainMissing(
            f"vai_c_xir of this machine is of {found}, and the study's is of {toolchain}; have the same Vitis AI on every "
            "machine"
        )
    with temporary_folder("edgesearch-") as folder:
        path = folder / "network_int.xmodel"
        write_xmodel(graph, path)
        return compile_with_vitis(path, dpu, settings)


def _simulated(xmodel: CompiledXmodel, graph: Graph, images: npt.NDArray[np.float32]) -> dict[str, Any]:
    """On how many images the file's code gives the network's logits in the machine; what it does not execute is told."""
    expected = execute(graph, images)
    try:
        differ = (xmodel.execute(images) != expected.reshape(len(expected), -1)).any(axis=1)
    except XmodelError as error:
        return {"images": len(images), "equal_images": None, "problem": str(error)}
    return {"images": len(images), "equal_images": int((~differ).sum()), "problem": None}


def golden_images(graph: Graph, data: DataSet) -> npt.NDArray[np.float32]:
    """The images that a network's code is tried on: (N, H, W, C), normalised."""
    return prepare(data.calibration.images[:GOLDEN_IMAGES], graph.input.shape[0], data.normalisation)


def compiled_content(artifact: Artifact) -> bytes:
    """The bytes of the compiled xmodel of a "compiled" artifact."""
    return bytes(artifact.tensors("xmodel")["content"].numpy().tobytes())


SPEC = StageSpec(
    name="compiled",
    version=1,
    settings=CompiledSettings,
    place=_place,
    run=_run,
    images=lambda settings, data: GOLDEN_IMAGES,
    random=False,
)
