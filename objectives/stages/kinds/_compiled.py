"""The file that a board runs: a quantized network compiled, checked and executed in the machine on the golden images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgesearch.board_eval import Dpu, Feature, Graph, Options, compile_xmodel
from edgesearch.objectives.data import DataSet, prepare
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages._store import Artifact
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.spaces import Settings

#: Calibration images that a network is tried on: test images are read once, for the final front, and not for this.
GOLDEN_IMAGES = 8


class CompiledSettings(Settings):
    """The DPU that the code is for, as a board's profile stores it, and features of it that no measured file has."""

    dpu: dict[str, Any]
    allow: tuple[Feature, ...] = ()


def _place(plan: Plan) -> Stage | None:
    if not plan.conditions.compiles(plan.candidate):
        return None
    settings = CompiledSettings(dpu=dict(plan.conditions.dpu), allow=plan.conditions.allow)
    return plan.make("compiled", settings, reads=("calibration",), network=plan.stage("quantized"))


def _run(context: Context[CompiledSettings]) -> Result:
    graph = load_graph(context.input("network"))
    dpu = Dpu.model_validate(context.settings.dpu)
    options = Options(allow=frozenset(context.settings.allow))
    xmodel = compile_xmodel(graph, dpu, options, images=golden_images(graph, context.data))
    content = torch.from_numpy(np.frombuffer(xmodel.content, np.uint8).copy())
    return Result({**xmodel.facts(), "golden_images": GOLDEN_IMAGES}, {"xmodel": {"content": content}})


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
