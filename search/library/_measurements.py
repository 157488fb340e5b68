"""What boards measured in a study, as rows that a board's profile is fitted to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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

#: How many times faster the fastest clock of boards may be than the slowest, and both count as one.
_ONE_CLOCK = 1.03


@dataclass(frozen=True)
class Measurements:
    """Two rows for each network that boards measured, and the code that they ran, by the rows' names of networks.

    clock_mhz: of their DPU, where they tell it. notes: what is worth knowing of them, a sentence each.
    """

    rows: tuple[MeasurementRow, ...]
    codes: dict[str, MeasuredCode]
    clock_mhz: float | None = None
    notes: tuple[str, ...] = ()


def study_measurements(view: StudyView, store: ArtifactStore, profile: BoardProfile) -> Measurements:
    """The rows of a study's trials that boards measured, each network once, to fit `profile` to.

    A board that gave other logits than the network's integers ran something else, and what it measured is left out. Raises
    MeasurementError when there are none, when the store has their files no more, where these are for another DPU, and
    where boards of several clocks measured.
    """
    measured: dict[str, Record] = {}
    for record in view.records:
        if record.is_complete and record.measured_by:
            measured.setdefault(record.artifacts.get("on_board", ""), record)
    if not measured:
        raise MeasurementError(f"no trial of study {view.name!r} was measured by a board; run it with --score board-front")
    rows: list[MeasurementRow] = []
    codes: dict[str, MeasuredCode] = {}
    reports: dict[int, RunReport] = {}
    differing: list[int] = []
    with TemporaryDirectory(prefix="edgesearch-") as folder:
        for key, record in measured.items():
            found, compiled = store.get("on_board", key), store.get("compiled", record.artifacts.get("compiled", ""))
            if found is None or compiled is None:
                continue
            if found.figures.get("logits_differ"):
                differing.append(record.number)
                continue
            network = f"trial-{record.number:04}"
            path = Path(folder) / f"{network}.xmodel"
            path.write_bytes(compiled_content(compiled))
            codes[network] = CompiledXmodel.read(path).measured_on(profile)
            reports[record.number] = RunReport.model_validate(found.figures["report"])
            rows += measurement_rows(network, reports[record.number])
    if not rows and differing:
        raise MeasurementError(
            f"the board gave other logits than the network's integers in every trial of study {view.name!r} that it measured; "
            "see what `edgesearch deploy` says of one"
        )
    if not rows:
        raise MeasurementError(
            f"the store has the measurements of study {view.name!r} no more; give the home that it was run in"
        )
    notes = [f"left out: {_trials(differing)}, whose board gave other logits than its integers"] if differing else []
    if restless := [number for number, report in reports.items() if unsettled(report)]:
        notes.append(f"figures of {_trials(restless)} did not settle while they were measured: less can be told from them")
    return Measurements(tuple(rows), codes, _clock(reports), tuple(notes))


def _trials(numbers: Sequence[int]) -> str:
    """Their numbers, in words."""
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _clock(reports: Mapping[int, RunReport]) -> float | None:
    """The clock of the DPU that measured trials of these numbers, in MHz. Raises MeasurementError where there are several."""
    told = {mhz: number for number, report in reports.items() if (mhz := report.board.dpu_mhz) is not None}
    if told and max(told) > _ONE_CLOCK * min(told):
        slowest, fastest = min(told), max(told)
        raise MeasurementError(
            f"trial {told[slowest]} was measured with the DPU at {slowest:g} MHz, trial {told[fastest]} at {fastest:g} MHz; a "
            "profile is of one clock: measure with boards of one"
        )
    return next(iter(told), None)


def measurement_rows(network: str, report: RunReport, cores: int | None = None) -> tuple[MeasurementRow, MeasurementRow]:
    """Latency and throughput of a run, as `calibrate` reads them. `cores`: of a board whose report does not tell them.

    Fewer threads than cores keep only so many busy; a board with cores that nobody knows has one at least.
    """
    runner = CPP_RUNNER if report.runner == "cpp" else report.runner
    known, threads = report.board.dpu_cores or cores, report.throughput.threads
    busy = min(known, threads) if known else 1 if threads == 1 else None
    return (
        MeasurementRow(network, "latency", round(1e3 / report.latency.median_ms, 3), runner),
        MeasurementRow(network, "throughput", round(report.throughput.fps, 3), runner, busy),
    )


def unsettled(report: RunReport) -> tuple[str, ...]:
    """Which of its figures did not settle: their repeats were far apart, or the chip warmed up meanwhile."""
    settled = {"latency": report.latency.settled, "throughput": report.throughput.settled}
    return tuple(name for name, is_settled in settled.items() if not is_settled)


def name_in(csv: Path, network: Path) -> str:
    """The network as a row of `csv` names it: by its path from the file's folder, which the system goes behind links."""
    return os.path.relpath(network.resolve(), csv.parent.resolve())


def calibrate_by_study(
    measurements: Measurements, profile: BoardProfile, *, name: str | None = None, keep_unexplained: bool = False
) -> Calibration:
    """The profile fitted to a study's measurements, each row timed by the very code that was run; raises MeasurementError.

    A runner that the profile does not have counts as its default one. A clock that the boards told takes the place of the
    profile's where it is another.
    """
    notes, clock = measurements.notes, measurements.clock_mhz
    if clock is not None and not profile.has_clock(clock):
        had = f"{profile.name} has {profile.clock_mhz:g} MHz"
        notes = (*notes, f"the boards' DPU ran at {clock:g} MHz, which the fitted profile has; {had}")
        profile = profile.model_copy(update={"clock_mhz": clock})
    known = (*profile.runners, "python", *((CPP_RUNNER,) if "vart_python" in profile.runners else ()))
    fitted = calibrate(
        _of_runners(measurements.rows, known),
        measurements.codes,
        profile,
        name=name,
        hold_out=True,
        keep_unexplained=keep_unexplained,
    )
    return replace(fitted, notes=notes)


def _of_runners(rows: Sequence[MeasurementRow], known: Sequence[str]) -> list[MeasurementRow]:
    return [row if row.runner in known else replace(row, runner="") for row in rows]
