"""Rows for `calibrate` from what boards measured in a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesearch.board_eval import BoardProfile, RunReport, load_profile
from edgesearch.board_eval.timing import time_graph
from edgesearch.errors import MeasurementError
from edgesearch.search.library import _measurements
from edgesearch.search.library._deploy import _predicted_by, _with_threads
from edgesearch.search.library._measurements import (
    Measurements,
    calibrate_by_study,
    measurement_rows,
    name_in,
    study_measurements,
)

from ...board_eval._networks import residual_net
from ...board_eval._sshd import REPORT

RUN = RunReport.model_validate(REPORT)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measurements]:
    """What a study has whose boards measured trials 3, 4 and so on, with these figures beside the usual report."""
    monkeypatch.setattr(_measurements, "compiled_content", lambda artifact: b"")
    monkeypatch.setattr(_measurements.CompiledXmodel, "read", lambda path: SimpleNamespace(measured_on=lambda profile: None))

    def of(*figures: dict[str, Any]) -> Measurements:
        known = {str(number): {"report": REPORT, **one} for number, one in enumerate(figures, 3)}
        records = [
            SimpleNamespace(is_complete=True, measured_by="lab", number=int(key), artifacts={"on_board": key, "compiled": key})
            for key in known
        ]
        view: Any = SimpleNamespace(name="s", records=records)
        store: Any = SimpleNamespace(get=lambda kind, key: SimpleNamespace(figures=known[key]))
        return study_measurements(view, store, load_profile("zcu104"))

    return of


def at(mhz: float) -> dict[str, Any]:
    """Figures of a trial whose board told this clock."""
    return {"report": {**REPORT, "board": {**REPORT["board"], "dpu_mhz": mhz}}}


def test_rows_of_a_study_are_those_of_a_deployment_and_know_the_boards_cores(measured: Callable[..., Measurements]) -> None:
    rows = measured({}).rows
    assert rows == measurement_rows("trial-0003", RUN, 1)
    assert [(row.what, row.cores) for row in rows] == [("latency", None), ("throughput", 2)]
    assert {row.runner for row in rows} == {"vart_cpp"}  # the profile's `cpp` is another program


def test_a_profile_is_fitted_at_the_clock_that_the_boards_tell(
    measured: Callable[..., Measurements], monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Fitted:
        profile: BoardProfile
        notes: tuple[str, ...] = ()

    monkeypatch.setattr(_measurements, "calibrate", lambda rows, codes, profile, **_: Fitted(profile))
    start = load_profile("zcu104")
    fitted = calibrate_by_study(measured(at(150.0), at(151.0)), start)
    assert fitted.profile == start.model_copy(update={"clock_mhz": 150.0})
    assert fitted.notes == ("the boards' DPU ran at 150 MHz, which the fitted profile has; zcu104 has 300 MHz",)
    assert calibrate_by_study(measured(at(299.997)), start).profile == start  # as boards measure their clock
    with pytest.raises(MeasurementError, match=r"trial 3 was measured .* at 150 MHz, trial 4 at 300 MHz; a profile is of one"):
        measured(at(150.0), at(300.0))


def test_a_trial_whose_logits_differ_is_left_out_and_named(measured: Callable[..., Measurements]) -> None:
    found = measured({"logits_differ": 2}, {"logits_differ": 0}, {"logits_differ": 1})
    assert {row.network for row in found.rows} == set(found.codes) == {"trial-0004"}
    assert found.notes == ("left out: trials 3, 5, whose board gave other logits than its integers",)
    with pytest.raises(MeasurementError, match="other logits than the network's integers in every trial"):
        measured({"logits_differ": 2})


def test_a_trial_whose_figures_did_not_settle_is_named(measured: Callable[..., Measurements]) -> None:
    restless = {**REPORT, "throughput": {**REPORT["throughput"], "settled": False}}
    found = measured({}, {"report": restless})
    assert len(found.rows) == 4
    assert found.notes == ("figures of trial 4 did not settle while they were measured: less can be told from them",)


def test_a_board_that_does_not_tell_its_cores_has_those_of_its_profile() -> None:
    silent = RUN.model_copy(update={"board": RUN.board.model_copy(update={"dpu_cores": None})})
    assert [measurement_rows("n", silent, cores)[1].cores for cores in (1, None)] == [1, None]


def test_a_deployment_says_that_the_program_in_cpp_was_never_measured() -> None:
    profile = load_profile("zcu104")
    assert _predicted_by("python", "vart_python", profile, 300.0) == "zcu104, vart_python runner"
    words = _predicted_by("cpp", "vart_python", profile, None)
    assert words == "zcu104, vart_python runner (the time of the C++ program itself was never measured)"
    assert _predicted_by("cpp", "vart_cpp", profile, None) == "zcu104, vart_cpp runner"


def test_a_deployment_is_predicted_for_the_threads_that_its_board_is_set_to() -> None:
    """One thread keeps one core busy, and waits for it: an image takes the time of the core and of the host."""
    profile = load_profile("zcu104")
    assert _with_threads(profile, 0) is profile
    graph = residual_net(8, (16, 16, 16))
    few, many = (time_graph(graph, _with_threads(profile, threads), layers=False) for threads in (1, 0))
    assert few.latency_s == many.latency_s
    assert few.throughput_fps == pytest.approx(1 / few.latency_s)
    assert few.throughput_fps < many.throughput_fps
    assert _predicted_by("python", "vart_python", profile, None, 1) == "zcu104, vart_python runner (threads = 1)"


def test_a_deployment_says_that_the_board_has_another_clock_than_its_prediction() -> None:
    words = _predicted_by("python", "vart_python", load_profile("zcu104"), 150.0)
    assert words == "zcu104, vart_python runner (for 300 MHz, and the board's DPU runs at 150 MHz)"


def test_fewer_threads_than_cores_keep_only_so_many_busy() -> None:
    def cores(threads: int, told: int | None, known: int | None = None) -> int | None:
        board = RUN.board.model_copy(update={"dpu_cores": told})
        throughput = RUN.throughput.model_copy(update={"threads": threads})
        return measurement_rows("n", RUN.model_copy(update={"board": board, "throughput": throughput}), known)[1].cores

    assert [cores(threads, 2) for threads in (1, 2, 4)] == [1, 2, 2]
    assert [cores(threads, None, 3) for threads in (1, 2, 6)] == [1, 2, 3]
    assert [cores(threads, None) for threads in (1, 2)] == [1, None]


@pytest.mark.parametrize("linked", ["rows", "deploy"])
def test_a_row_leads_to_its_network_where_a_folder_is_a_link(linked: str, tmp_path: Path) -> None:
    other = {"rows": "deploy", "deploy": "rows"}[linked]
    (tmp_path / "far" / "away" / linked).mkdir(parents=True)
    (tmp_path / linked).symlink_to(tmp_path / "far" / "away" / linked)
    (tmp_path / other).mkdir()
    network = tmp_path / "deploy" / "net_int.xmodel"
    network.touch()
    name = name_in(tmp_path / "rows" / "rows.csv", network)
    assert (tmp_path / "rows" / name).samefile(network)
