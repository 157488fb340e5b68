"""What a quantized network scores: accuracy of its integers on the validation images, and speed on the board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgesearch.board_eval import Board, Graph, Measurement, execute, run_float
from edgesearch.board_eval.boards import measure_on
from edgesearch.objectives.data import DataSet, Split, prepare
from edgesearch.objectives.quantization import has_channel_positions, with_one_position
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._limits import board_of
from edgesearch.objectives.stages._metrics import describe
from edgesearch.objectives.stages._nndct import compared_figures
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._compiled import timing_version
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.settings import Settings

_BATCH = 512
#: Passes that one in the DPU's integers is worth; for estimates only.
INTEGER_PASSES = 4
#: Bytes of prepared images that a board is given at a time.
_BOARD_BYTES = 512 << 20


class MeasuredSettings(Settings):
    """The board: what decides its results, and where a board of the user's own is found; `resource` is what it needs alone.

    source_sha256: the code of a board of the user's own. code_version: of the compiler that a simulated board asks.
    """

    board: dict[str, Any]
    import_path: str = ""
    source_sha256: str = ""
    resource: str = ""
    bits: int = 8
    code_version: int = 1

    def find(self, context: Context[MeasuredSettings]) -> Board:
        """The board itself."""
        return board_of(self.board, self.import_path, context.folder, self.source_sha256, device=context.device)


def _place(plan: Plan) -> Stage:
    conditions = plan.conditions
    settings = MeasuredSettings(
        board=dict(conditions.board),
        import_path=conditions.board_import_path,
        source_sha256=conditions.board_source_sha256,
        resource=conditions.board_resource,
        bits=plan.candidate.quantization.bits,
        code_version=1 if conditions.board_import_path else timing_version(conditions),
    )
    return plan.make("measured", settings, reads=("validation",), network=plan.stage("quantized"))


def _run(context: Context[MeasuredSettings]) -> Result:
    quantized = context.input("network")
    graph, split, data = load_graph(quantized), context.data.validation, context.data
    board = context.settings.find(context)
    if graph.quantized and not has_channel_positions(graph):
        measurement, accuracy = _measure(board, graph, split, data)
    else:  # for analysis; no DPU runs it, and what it would take is that of the same network with a position for each tensor
        measurement = measure_on(board, with_one_position(graph))
        accuracy = accuracy_of(graph, split, data, device=context.device)
    figures: dict[str, Any] = {
        "accuracy": accuracy,
        "float_accuracy": quantized.figures.get("float_accuracy"),
        **compared_figures(quantized.figures),
        **measurement.figures(),
        **describe(graph, context.settings.bits),
        "conditions": dict(measurement.conditions),
    }
    if measurement.measured_at is not None:
        figures["measured_at"] = measurement.measured_at
    return Result(figures)


def _measure(board: Board, graph: Graph, split: Split, data: DataSet) -> tuple[Measurement, float]:
    """Speed, and the share of the split's images that the board tells right."""
    height, width, channels = graph.input.shape
    batch = max(1, _BOARD_BYTES // (4 * height * width * channels))
    first: Measurement | None = None
    right = 0
    for start in range(0, len(split), batch):
        images = prepare(split.images[start : start + batch], height, data.normalisation)
        measurement = measure_on(board, graph, images, split.labels[start : start + batch])
        first = first or measurement
        right += measurement.correct or 0
    assert first is not None  # a split has images
    return first, right / len(split)


def _resources(settings: MeasuredSettings) -> Mapping[str, float]:
    return {settings.resource: 1.0} if settings.resource else {}


def accuracy_of(graph: Graph, split: Split, data: DataSet, *, batch: int = _BATCH, device: str = "cpu") -> float:
    """Top-1 of a quantized network, computed in the DPU's integers; a float16 network (16 bits) in floating point."""
    right = 0
    size = graph.input.shape[0]
    for start in range(0, len(split), batch):
        images = prepare(split.images[start : start + batch], size, data.normalisation)
        logits = execute(graph, images, device=device) if graph.quantized else run_float(graph, images)
        right += int((logits.argmax(axis=1) == split.labels[start : start + batch]).sum())
    return right / len(split)


SPEC = StageSpec(
    name="measured",
    version=4,
    settings=MeasuredSettings,
    place=_place,
    run=_run,
    resources=_resources,
    images=lambda settings, data: INTEGER_PASSES * len(data.validation),
    random=False,
)
