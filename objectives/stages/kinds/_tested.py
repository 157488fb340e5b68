"""Accuracy on the test images, in integers and before quantization: read when a study is over, for what it then shows."""

from __future__ import annotations

from typing import Any

from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._measured import INTEGER_PASSES, accuracy_of
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.objectives.training import evaluate
from edgesearch.settings import Settings


class HeldOutSettings(Settings):
    """Nothing to set."""


def _place(plan: Plan) -> Stage:
    trained = None if plan.candidate.quantization.from_scratch else plan.first("pruned", "student")
    return plan.make("tested", HeldOutSettings(), reads=("test",), network=plan.stage("quantized"), trained=trained)


def _run(context: Context[HeldOutSettings]) -> Result:
    data = context.data
    figures: dict[str, Any] = {
        "test_accuracy": accuracy_of(load_graph(context.input("network")), data.test, data, device=context.device),
        "float_test_accuracy": None,
    }
    if "trained" in context.stage.inputs:
        student, model = context.network("trained")
        figures["float_test_accuracy"] = evaluate(
            model.eval(),
            data.test,
            input_size=student.input_size,
            normalisation=data.normalisation,
            device=context.device,
            note=context.report,
        )
    return Result(figures)


SPEC = StageSpec(
    name="tested",
    version=3,
    settings=HeldOutSettings,
    place=_place,
    run=_run,
    images=lambda settings, data: INTEGER_PASSES * len(data.test),
    random=False,
)
