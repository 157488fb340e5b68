"""What boards measured in a study, as rows that a board's profile is fitted to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgesearch.board_eval import (
    BoardProfile,
    Calibration,
    CompiledXmodel,
    MeasuredCode,
    MeasurementRow,
    RunReport,
    calibrate,
)
from edgesearch.board_eval.timing import CPP_RUNNER
from edgesearch.errors import MeasurementError
from edgesearch.objectives import ArtifactStore, compiled_content
from edgesearch.search.study import Record, StudyView


@dataclass(frozen=True)
class Measurements:
    """Two rows for each network that boards measured, and the code that they ran, by the rows' names of networks."""

    rows: tuple[MeasurementRow, ...]
    codes: dict[str, MeasuredCode]


def study_measurements(view: StudyView, store: ArtifactStore, profile: BoardProfile) -> Measurements:
    """The rows of a study's trials that boards measured, each network once, to fit `profile` to.

    Raises MeasurementError when there are none, when the store has their files no more, or where these are for another DPU.
    """
    measured: dict[str, Record] = {}
    for record in view.records:
        if record.is_complete and record.measured_by:
            measured.setdefault(record.artifacts.get("on_board", ""), record)
    if not measured:
        raise MeasurementError(f"no trial of study {view.name!r} was measured by a board; run it with --score board-front")
    rows: list[MeasurementRow] = []
    codes: dict[str, MeasuredCode] = {}
    with TemporaryDirectory(prefix="edgesearch-") as folder:
        for key, record in measured.items():
            found, compiled = store.get("on_board", key), store.get("compiled", record.artifacts.get("compiled", ""))
            if found is None or compiled is None:
                continue
            network = f"trial-{record.number:04}"
            path = Path(folder) / f"{network}.xmodel"
            path.write_bytes(compiled_content(compiled))
            codes[network] = CompiledXmodel.read(path).measured_on(profile)
            rows += measurement_rows(network, RunReport.model_validate(found.figures["report"]))
    if not rows:
        raise MeasurementError(
            f"the store has the measurements of study {view.name!r} no more; give the home that it was run in"
        )
    return Measurements(tuple(rows), codes)


def measurement_rows(network: str, report: RunReport, cores: int | None = None) -> tuple[MeasurementRow, MeasurementRow]:
    """Latency and throughput of a run, as `calibrate` reads them. `cores`: of a board whose report does not tell them.

    Fewer threads than cores keep only so many busy; a board with cores that nobody knows has one at least.
    """
    runner = CPP_RUNNER if report.runner == "cpp" else report.runner
    known, threads = report.board.dpu_cores or cores, report.throughput.threads
    busy = min(known, threads) if known else 1 if threads == 1 else None
    return (
        MeasurementRow(network, "latency", round(1e3 / report.latency.mean_ms, 3), runner),
        MeasurementRow(network, "throughput", round(report.throughput.fps, 3), runner, busy),
    )


def name_in(csv: Path, network: Path) -> str:
    """The network as a row of `csv` names it: by its path from the file's folder, which the system goes behind links."""
    return os.path.relpath(network.resolve(), csv.parent.resolve())


def calibrate_by_study(
    measurements: Measurements, profile: BoardProfile, *, name: str | None = None, keep_unexplained: bool = False
) -> Calibration:
    """The profile fitted to a study's measurements, each row timed by the very code that was run; raises MeasurementError.

    A runner that the profile does not have counts as its default one.
    """
    known = (*profile.runners, "python", *((CPP_RUNNER,) if "vart_python" in profile.runners else ()))
    return calibrate(
        _of_runners(measurements.rows, known),
        measurements.codes,
        profile,
        name=name,
        hold_out=True,
        keep_unexplained=keep_unexplained,
    )


def _of_runners(rows: Sequence[MeasurementRow], known: Sequence[str]) -> list[MeasurementRow]:
    return [row if row.runner in known else replace(row, runner="") for row in rows]
