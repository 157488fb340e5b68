"""A board profile fitted to a file of measurements, whose networks lie beside it: compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgesearch.board_eval.deployment._compiled_xmodel import CompiledXmodel
from edgesearch.board_eval.graph import Graph, graph_from_json
from edgesearch.board_eval.targets import BoardProfile, check_profile
from edgesearch.board_eval.timing import Calibration, MeasuredCode, calibrate, read_measurements
from edgesearch.board_eval.xmodel import is_compiled, read_xmodel
from edgesearch.errors import EdgesearchError, MeasurementError
from edgesearch.files import parse_json

__all__ = ["calibrate_file", "load_measured"]


def calibrate_file(
    path: str | Path,
    profile: BoardProfile,
    *,
    name: str | None = None,
    find: Callable[[str, Path], Graph | MeasuredCode] | None = None,
    hold_out: bool = False,
    keep_unexplained: bool = False,
) -> Calibration:
    """Fit `profile` to a measurement file.

    Its networks are those of `load_measured`, relative to the file; or what `find`, called with a name and the file's folder,
    makes of them. Raises MeasurementError as `calibrate` does, and with its row's place in the file for a network that cannot
    be had.
    """
    check_profile(profile)
    path = Path(path)
    rows = read_measurements(path)
    find, graphs = find or partial(load_measured, profile=profile), dict[str, Graph | MeasuredCode]()
    for row in rows:
        if row.network not in graphs:
            try:
                graphs[row.network] = find(row.network, path.parent)
            except EdgesearchError as error:
                raise MeasurementError(f"{path}, line {row.line}: {error}") from error
    return calibrate(rows, graphs, profile, name=name, hold_out=hold_out, keep_unexplained=keep_unexplained)


def load_measured(network: str, folder: str | Path, *, profile: BoardProfile) -> Graph | MeasuredCode:
    """The code of a compiled .xmodel, or the network of another one or of a graph as JSON.

    Raises MeasurementError when there is none, and for code of another DPU than the profile's.
    """
    path = Path(folder) / network
    if not path.is_file():
        raise MeasurementError(
            f"network {network!r}: there is no file {path}; give the path of an .xmodel, relative to the CSV file"
        )
    try:
        if path.suffix == ".json":
            return graph_from_json(parse_json(path.read_text(encoding="utf-8")), {})
        if is_compiled(path):
            return CompiledXmodel.read(path).measured_on(profile)
        return read_xmodel(path)
    except MeasurementError:
        raise
    except (EdgesearchError, ValueError) as error:
        raise MeasurementError(f"network {network!r}: {error}") from error
