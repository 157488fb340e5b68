"""`edgesearch inspect`: what of a model the DPU runs, what it does not, and how fast."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from edgesearch.board_eval import (
    DEFAULT_BOARD,
    MODELLED,
    Activation,
    BoardProfile,
    Compiler,
    Feature,
    Finding,
    Graph,
    Timing,
    board_timing,
    check_fits,
    load_profile,
    preflight,
)
from edgesearch.errors import DataError, LoweringError
from edgesearch.search.commands._arrays import read_array
from edgesearch.search.commands._networks import find_network
from edgesearch.search.commands._show import make_console


def inspect(
    *,
    model: str,
    width: float | None,
    input_size: int | None,
    channels: int | None,
    classes: int | None,
    stem: str | None,
    style: str,
    compiler: Compiler,
    allow: tuple[Feature, ...],
    board: str | None,
    images: Path | None,
    test_images: Path | None,
) -> int:
    """Print what lowers, what does not, the speed and what is known to cost accuracy.

    `images` and `test_images` are .npy files of normalised images. Returns the exit code (2 when the DPU cannot run the model).
    """
    if test_images is not None and images is None:
        raise click.UsageError("--test-images is for --images, which must not be among them: give both")
    profile = load_profile(board or DEFAULT_BOARD)

    def seconds(graph: Graph) -> float:
        return board_timing(graph, profile, compiler=compiler, allow=allow, layers=False).dpu_s

    try:
        with redirect_stdout(sys.stderr):  # what the network's own code prints
            graph, built = find_network(
                model,
                width=width,
                input_size=input_size,
                channels=channels,
                classes=classes,
                stem=stem,
                target=profile.dpu,
                seconds=seconds,
            )
    except LoweringError as error:
        if style == "json":
            problems = [{"where": p.where, "operation": p.operation, "reason": p.reason} for p in error.problems]
            click.echo(json.dumps({"model": error.model, "runs": False, "problems": problems}, indent=1))
        else:
            count = "1 problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
            click.echo(f"{error.model} does not run on the {MODELLED} as it is; {count}:")
            for problem in error.problems:
                click.echo(f"  {problem}")
        return 2
    check_fits(graph, profile.dpu)
    calibration = None if images is None else _read_images(images, "--images", graph)
    test = None if test_images is None else _read_images(test_images, "--test-images", graph)
    findings = preflight(graph, calibration=calibration, test=test, model=built, target=profile.dpu)
    timing = board_timing(graph, profile, compiler=compiler, allow=allow, layers=False)
    if style == "json":
        click.echo(json.dumps(_facts(graph, timing, findings) | {"compiler": compiler}, indent=1))
    else:
        _print(graph, profile, timing, findings)
    return 0


def _read_images(path: Path, option: str, graph: Graph) -> npt.NDArray[np.float32]:
    array = read_array(path, option)
    if array.dtype != np.float32 or array.shape[1:] != graph.input.shape or not len(array):
        expected = " x ".join(map(str, graph.input.shape))
        raise DataError(
            f"{option} {str(path)!r} holds {array.dtype} of shape {array.shape}; "
            f"expected normalised float32 images, N x {expected}"
        )
    if not np.isfinite(array).all():
        raise DataError(f"{option} {str(path)!r} holds NaN or infinite values; give real pixel values")
    return array.astype(np.float32, copy=False)


def _facts(graph: Graph, timing: Timing, findings: list[Finding]) -> dict[str, Any]:
    return {
        "model": graph.name,
        "runs": True,
        "board": timing.board,
        "input": list(graph.input.shape),
        "output": list(graph.output.shape),
        "macs": graph.macs,
        "parameters": graph.parameters,
        "runner": timing.runner,
        "fps": timing.throughput_fps,
        "fps_interval": timing.throughput_fps_interval,
        "bound": timing.throughput_bound,
        "latency_ms": timing.latency_s * 1e3,
        "latency_fps": timing.latency_fps,
        "dpu_ms": timing.dpu_s * 1e3,
        "fits_on_chip": timing.fits_on_chip,
        "nodes": [{"name": n.name, "type": type(n).__name__, "shape": list(n.shape), "fix": n.fix} for n in graph],
        "findings": [{"severity": f.severity, "layer": f.layer, "message": f.message} for f in findings],
    }


def _print(graph: Graph, profile: BoardProfile, timing: Timing, findings: list[Finding]) -> None:
    console = make_console()
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for column in ("layer", "operation", "output (H, W, C)"):
        table.add_column(column, overflow="fold")
    for node in graph:
        activation = getattr(node, "activation", "none")
        kind = type(node).__name__.lower() + (
            f" + {activation}" if activation != "none" and not isinstance(node, Activation) else ""
        )
        table.add_row(Text(node.name), kind, " x ".join(map(str, node.shape)))
    console.print(table)
    click.echo(
        f"{graph.name}: every operation runs on the DPU. {graph.macs / 1e6:,.1f} million MACs, {graph.parameters:,} parameters"
    )
    low, high = timing.throughput_fps_interval
    sure = f", 90 % between {low:,.0f} and {high:,.0f}" if low < high else ""
    click.echo(
        f"{profile.name} (simulated, {timing.runner}): {timing.throughput_fps:,.0f} FPS with all {profile.cores} cores "
        f"(bound by {timing.throughput_bound}{sure}); one image in {timing.latency_s * 1e3:.2f} ms "
        f"({timing.latency_fps:,.0f} FPS), {timing.dpu_s * 1e3:.2f} ms of it on the DPU"
    )
    for finding in findings:
        click.echo(f"{finding.severity}: {finding.layer + ': ' if finding.layer else ''}{finding.message}")
