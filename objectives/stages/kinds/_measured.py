"""What a quantized network scores: accuracy of its integers on the validation images, and speed on the board."""

from __future__ import annotations

from typing import Any

from edgesearch.board_eval import BoardProfile, Graph, execute, run_float
from edgesearch.objectives.data import DataSet, Split, prepare
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._metrics import describe
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.spaces import Settings

_BATCH = 512


class MeasuredSettings(Settings):
    """The content of the board's profile."""

    board: dict[str, Any]
    bits: int = 8


def _place(plan: Plan) -> Stage:
    settings = MeasuredSettings(board=dict(plan.conditions.board), bits=plan.candidate.quantization.bits)
    return plan.make("measured", settings, reads=("validation",), network=plan.stage("quantized"))


def _run(context: Context[MeasuredSettings]) -> Result:
    quantized = context.input("network")
    graph = load_graph(quantized)
    figures: dict[str, Any] = {
        "accuracy": accuracy_of(graph, context.data.validation, context.data),
        "float_accuracy": quantized.figures.get("float_accuracy"),
        **describe(graph, BoardProfile.model_validate(context.settings.board), context.settings.bits),
    }
    return Result(figures)


def accuracy_of(graph: Graph, split: Split, data: DataSet, *, batch: int = _BATCH) -> float:
    """Top-1 of a quantized network, computed in the DPU's integers; a float16 network (16 bits) in floating point."""
    right = 0
    size = graph.input.shape[0]
    for start in range(0, len(split), batch):
        images = prepare(split.images[start : start + batch], size, data.normalisation)
        logits = execute(graph, images) if graph.quantized else run_float(graph, images)
        right += int((logits.argmax(axis=1) == split.labels[start : start + batch]).sum())
    return right / len(split)


SPEC = StageSpec(
    name="measured",
    version=2,
    settings=MeasuredSettings,
    place=_place,
    run=_run,
    images=lambda settings, data: len(data.validation),
    random=False,
)
