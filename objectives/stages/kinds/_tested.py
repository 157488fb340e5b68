"""Accuracy on the test images: read for the members of the final front, and for nothing else."""

from __future__ import annotations

from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._measured import INTEGER_PASSES, accuracy_of
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.spaces import Settings


class HeldOutSettings(Settings):
    """Nothing to set."""


def _place(plan: Plan) -> Stage:
    return plan.make("tested", HeldOutSettings(), reads=("test",), network=plan.stage("quantized"))


def _run(context: Context[HeldOutSettings]) -> Result:
    graph = load_graph(context.input("network"))
    return Result({"test_accuracy": accuracy_of(graph, context.data.test, context.data, device=context.device)})


SPEC = StageSpec(
    name="tested",
    version=2,
    settings=HeldOutSettings,
    place=_place,
    run=_run,
    images=lambda settings, data: INTEGER_PASSES * len(data.test),
    random=False,
)
