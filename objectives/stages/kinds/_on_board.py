"""What a real board says of a compiled network: its speed, and the logits of validation images beside our integers'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgesearch.board_eval import BoardRun, Graph, LogitsComparison, execute, quantize_images
from edgesearch.board_eval.boards import conditions, run_on
from edgesearch.errors import BoardError
from edgesearch.files import temporary_folder
from edgesearch.objectives.data import DataSet, Split, prepare
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._compiled import compiled_content
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.settings import Settings

#: Images that are prepared and executed at a time.
_BATCH = 256


class OnBoardSettings(Settings):
    """The board or pool, as `BoardPool.content`, whichever member serves, and how many validation images it is given."""

    pool: dict[str, Any]
    images: int


def _place(plan: Plan) -> Stage | None:
    conditions = plan.conditions
    if not conditions.measures(plan.candidate):
        return None
    settings = OnBoardSettings(pool=dict(conditions.pool), images=conditions.board_images)
    return plan.make(
        "on_board", settings, reads=("validation",), network=plan.stage("quantized"), compiled=plan.stage("compiled")
    )


def _run(context: Context[OnBoardSettings]) -> Result:
    if context.board is None:
        raise BoardError("stage on_board was given no board; name one with --board")
    graph, validation = load_graph(context.input("network")), context.data.validation
    count, fix = min(context.settings.images, len(validation)), graph.input.fix
    assert fix is not None  # only a quantized network is compiled
    split = Split(validation.images[:count], validation.labels[:count])
    images = np.concatenate([quantize_images(batch, fix) for batch in _batches(graph, split, context.data)])
    board = context.board.open(context.folder)
    with temporary_folder("edgesearch-") as folder:
        xmodel = folder / "network.xmodel"
        xmodel.write_bytes(compiled_content(context.input("compiled")))
        run = run_on(board, xmodel, images, split.labels)
    expected = np.concatenate([execute(graph, batch, device=context.device) for batch in _batches(graph, split, context.data)])
    position = _output_position(graph, run.report.output.fix_position)
    compared = LogitsComparison.of(run.logits, expected, position)
    figures = _figures(run) | {
        "conditions": conditions(run, board) | {"integers": compared.verdict},
        "board_images": count,
        "board_correct": int((run.logits.reshape(count, -1).argmax(axis=1) == split.labels).sum()),
        "logits_differ": compared.differing,
        "largest_difference": compared.largest,
    }
    logits = torch.from_numpy(np.ascontiguousarray(run.logits))
    return Result({"board": context.board.name, **figures}, {"logits": {"logits": logits}})


def _figures(run: BoardRun) -> dict[str, Any]:
    """What was measured, by the names of simulated figures, with the whole report beside it."""
    report = run.report
    latency, fps = report.latency, report.throughput.fps
    figures: dict[str, Any] = {"fps": fps, "latency_ms": latency.median_ms, "latency_fps": 1e3 / latency.mean_ms}
    if (power := report.power) is not None:
        figures |= {"joules": power.busy_w / fps, "net_joules": (power.busy_w - power.idle_w) / fps}
        figures |= {"power_w": power.busy_w, "idle_power_w": power.idle_w}
    return figures | {
        "measured_at": run.measured_at,
        "clock_skew_s": run.clock_skew_s,
        "report": report.model_dump(mode="json"),
    }


def _batches(graph: Graph, split: Split, data: DataSet) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(split), _BATCH):
        yield prepare(split.images[start : start + _BATCH], graph.input.shape[0], data.normalisation)


def _output_position(graph: Graph, reported: int | None) -> int:
    """The file's own, which may be finer than the network's."""
    position = graph.fix_of(graph.output.name) if reported is None else reported
    return position or 0


SPEC = StageSpec(name="on_board", version=1, settings=OnBoardSettings, place=_place, run=_run, random=False, on_board=True)
