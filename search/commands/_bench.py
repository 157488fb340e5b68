"""`edgesearch bench` and `edgesearch calibrate`: how fast a network is, where its time goes, a board profile of one's own."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import click

from edgesearch.board_eval import (
    DEFAULT_BOARD,
    BoardProfile,
    Compiler,
    Feature,
    Graph,
    LayerReport,
    MeasuredCode,
    board_report,
    board_timing,
    calibrate_file,
    is_compiled,
    is_profile_path,
    load_measured,
    load_profile,
)
from edgesearch.errors import MeasurementError, TargetError
from edgesearch.files import write_atomically
from edgesearch.search.commands._networks import find_network
from edgesearch.search.commands._outputs import check_output
from edgesearch.search.library import Study
from edgesearch.search.report import check_replaceable


def bench(
    *,
    network: str,
    per_layer: bool,
    style: str,
    picture: Path | None,
    input_size: int | None,
    runner: str | None,
    compiler: Compiler,
    allow: tuple[Feature, ...],
    board: str | None,
) -> int:
    """Time a network's code on the simulated board, fed by one of its runners; returns the exit code."""
    profile = load_profile(board or DEFAULT_BOARD)
    profile.runner(runner)
    if picture is not None:
        check_output(picture, "--picture", {"the network": Path(network)})
        check_replaceable(picture, "HTML")

    def seconds(graph: Graph) -> float:
        return board_timing(graph, profile, compiler=compiler, allow=allow, layers=False).dpu_s

    with redirect_stdout(sys.stderr):  # what the network's own code prints
        graph, _ = find_network(network, input_size=input_size, target=profile.dpu, seconds=seconds)
    report = board_report(graph, profile, compiler=compiler, allow=allow, runner=runner)
    if style == "json":
        facts = json.loads(report.to_json()) | {"macs": graph.macs, "parameters": graph.parameters}
        facts |= {"compiler": compiler, "simulated": True}
        kept = {name: value for name, value in facts.items() if per_layer or name not in ("layers", "advice")}
        click.echo(json.dumps(kept, indent=1))
    else:
        click.echo(report.to_text() if per_layer else report.summary())
    if picture is not None:
        _draw(report, picture)
        click.echo(f"picture: {picture}", err=style == "json")
    return 0


def _draw(report: LayerReport, picture: Path) -> None:
    from edgesearch.board_eval.timing import figure

    page = figure(report).to_html(include_plotlyjs=True, full_html=True)
    try:
        write_atomically(picture, page.encode())
    except OSError as error:
        raise TargetError(f"--picture {str(picture)!r} cannot be written: {error.strerror or error}") from error


# Long for its arguments, and for what is told of them.
def calibrate(
    *,
    measurements: Path | None,
    study_name: str | None,
    home: Path,
    storage: str | None,
    name: str,
    output: Path,
    board: str | None,
    keep_unexplained: bool,
) -> int:
    """Fit a board's constants to measurements and write its profile; returns the exit code."""
    if (measurements is None) == (study_name is None):
        raise MeasurementError("calibrate needs either --measurements FILE.csv or --study NAME, whose boards measured")
    check_output(output, "-o", {"the measurements": measurements})
    if output.suffix != ".json" and (output.is_file() or not output.exists()):
        raise MeasurementError(f"-o {str(output)!r} would be no profile that --board reads; give a name that ends in .json")
    if measurements is not None:
        profile = load_profile(board or DEFAULT_BOARD)
        result = calibrate_file(
            measurements,
            profile,
            name=name,
            find=partial(_measured_network, profile=profile),
            hold_out=True,
            keep_unexplained=keep_unexplained,
        )
    else:
        study = Study.load(study_name, home, storage=storage)
        profile = load_profile(board or study.settings.board, folder=study.settings.folder)
        result = study.calibrate(profile, name=name, keep_unexplained=keep_unexplained)
    held_out = {error.row: error for error in result.held_out}
    for error in result.errors:
        click.echo(
            f"  {error.row.network}  {error.row.what}  measured {error.row.fps:,.1f} FPS, model {error.predicted_fps:,.1f}  "
            f"({error.relative:+.1%} time; {held_out[error.row].relative:+.1%} fitted without this network)"
        )
    for error in result.outliers:
        click.echo(
            f"warning: {error.row.network} {error.row.what} {error.row.fps:g} is {abs(error.relative):.1%} off, far more than "
            "most rows: measure it again or check the row",
            err=True,
        )
    if len(result.errors) < result.constants:
        click.echo(
            f"note: {len(result.errors)} measurements for {result.constants} constants: what they leave open stays near "
            f"{profile.name}; more networks of other sizes determine more"
        )
    for note in result.notes:
        click.echo(f"note: {note}")
    for constant, factor in result.moved.items():
        click.echo(
            f"note: {constant} ended at {factor:.2g} times {profile.name}'s: another host or DPU, or wrong rows; "
            "check the clock, --board and the measurements"
        )
    try:
        write_atomically(output, (result.profile.to_json() + "\n").encode())
    except OSError as error:
        raise TargetError(f"the profile cannot be written to {output}: {error.strerror or error}; give another -o") from error
    click.echo(
        f"mean absolute error {result.mean_absolute:.1%} over {len(result.errors)} measurements, "
        f"{result.mean_absolute_held_out:.1%} where each network is predicted by a fit to the others; "
        f"use it with --board {output}"
    )
    return 0


def _measured_network(name: str, folder: Path, *, profile: BoardProfile) -> Graph | MeasuredCode:
    """A network of a measurement file: an .xmodel or a candidate's .toml beside it, a student's name, or a graph as JSON.

    A compiled .xmodel is timed by its own code; raises MeasurementError where that is for another DPU than the profile's.
    """
    if is_profile_path(name) or (name.endswith(".xmodel") and (folder / name).is_file() and is_compiled(folder / name)):
        return load_measured(name, folder, profile=profile)
    if name.endswith((".xmodel", ".toml")):
        name = str(folder / name)
    return find_network(name, folder=folder, target=profile.dpu)[0]
