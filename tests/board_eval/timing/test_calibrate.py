"""A profile that is fitted to measurements tells the times of the board that they were made on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgesearch.board_eval.compiler import compile_graph
from edgesearch.board_eval.deployment import calibrate_file
from edgesearch.board_eval.graph._graph import Graph
from edgesearch.board_eval.graph._serialise import graph_to_json
from edgesearch.board_eval.targets import BoardProfile, Contention
from edgesearch.board_eval.timing._calibrate import calibrate
from edgesearch.board_eval.timing._code import LayeredCode
from edgesearch.board_eval.timing._measurements import MeasurementRow
from edgesearch.board_eval.timing._plausibility import moved
from edgesearch.board_eval.timing._predicted import MeasuredCode, program_runner, with_runner
from edgesearch.board_eval.timing._timing import input_pixels, time_graph
from edgesearch.errors import MeasurementError

from .._networks import residual_net
from ._measured import PROFILE, measured, networks, truth


def test_a_board_that_follows_the_model_is_recovered() -> None:
    found = calibrate(measured(truth()), networks(), PROFILE, name="mine")
    assert found.profile.name == "mine"
    assert found.mean_absolute < 0.01
    assert calibrate(measured(truth()), networks(), PROFILE).mean_absolute == found.mean_absolute  # no randomness
    cpp, python = found.profile.runner("cpp"), found.profile.runner("vart_python")
    known = PROFILE.runner("cpp").contention
    for row in measured(truth())[5::4]:  # the parts of the contention together, on these networks
        seconds = time_graph(networks()[row.network], found.profile, runner="cpp").throughput_fps
        assert seconds == pytest.approx(row.fps, rel=0.02)
    assert cpp.contention.per_loaded_gb_s == known.per_loaded_gb_s  # five rows do not tell the parts apart
    assert python.seconds + found.profile.job_seconds == pytest.approx(7e-4, rel=0.05)
    assert cpp.seconds_per_pixel == pytest.approx(1e-8, rel=0.2)
    unfitted = [abs(row.fps * time_graph(networks()[row.network], PROFILE).latency_s - 1) for row in measured(truth())[2::4]]
    assert max(unfitted) > 0.2  # what there was to fit


def test_processing_that_is_known_is_not_taken_for_the_call() -> None:
    known = {"preprocess_seconds": 2e-3, "preprocess_seconds_per_pixel": 1e-7, "postprocess_seconds": 5e-4}
    board = with_runner(PROFILE, "cpp", seconds=3e-4, seconds_per_pixel=1e-8, **known)
    start = with_runner(PROFILE, "cpp", **known)
    found = calibrate(measured(board), networks(), start, keep_unexplained=True).profile.runner("cpp")
    assert {name: getattr(found, name) for name in known} == known
    assert found.seconds == pytest.approx(3e-4, rel=0.1)
    assert found.seconds_per_pixel == pytest.approx(1e-8, rel=0.1)


SIZES = {"tiny": (16, (16, 16, 16)), "small": (24, (16, 32, 32)), "middle": (80, (64, 64, 256)), "large": (112, (64, 64, 256))}


def slow_host(serial: float) -> tuple[BoardProfile, dict[str, Graph]]:
    """A board whose interpreter takes so many seconds of each image, one thread at a time; networks from tiny to large."""
    graphs = {name: residual_net(*size) for name, size in SIZES.items()}
    return with_runner(PROFILE, "vart_python", seconds=serial, serial_seconds=serial), graphs


@pytest.mark.parametrize("throughput", [True, False])
def test_a_slower_host_is_found_and_bounds_small_networks(throughput: bool) -> None:
    """From latencies alone, since the serial part is a part of the host's time; throughputs that it bounds blame no core."""
    truth, graphs = slow_host(3e-4)
    times = {name: time_graph(graph, truth) for name, graph in graphs.items()}
    assert [timing.throughput_bound == "host" for timing in times.values()] == [True, True, False, False]
    rows = [MeasurementRow(name, "latency", timing.latency_fps) for name, timing in times.items()]
    rows += [MeasurementRow(name, "throughput", timing.throughput_fps) for name, timing in times.items() if throughput]
    found = calibrate(rows, graphs, PROFILE).profile
    assert found.runner().contention.fixed == pytest.approx(PROFILE.runner().contention.fixed, abs=0.02)
    for name, timing in times.items():
        assert time_graph(graphs[name], found).throughput_fps == pytest.approx(timing.throughput_fps, rel=0.05)


def test_a_serial_part_is_found_in_throughputs_that_latencies_do_not_tell_of() -> None:
    _, graphs = slow_host(3e-4)
    truth = with_runner(PROFILE, "vart_python", serial_seconds=6e-4)
    rows = [
        MeasurementRow(name, "latency" if latency else "throughput", timing.latency_fps if latency else timing.throughput_fps)
        for name, timing in ((name, time_graph(graph, truth)) for name, graph in graphs.items())
        for latency in (True, False)
    ]
    found = calibrate(rows, graphs, PROFILE, hold_out=True)
    assert found.profile.runner().serial_seconds == pytest.approx(6e-4, rel=0.02)
    assert found.mean_absolute < 0.02


@pytest.mark.parametrize(("what", "runner"), [("latency", "cpp"), ("throughput", "vart_python")])
def test_one_network_decides_nothing_of_a_host_and_of_cores(what: str, runner: str) -> None:
    _, graphs = slow_host(3e-4)
    rows = [MeasurementRow(name, "latency", time_graph(graph, PROFILE).latency_fps) for name, graph in graphs.items()]
    timing = time_graph(graphs["large"], PROFILE, runner=runner)
    found = calibrate([*rows, MeasurementRow("large", what, 0.85 * getattr(timing, f"{what}_fps"), runner)], graphs, PROFILE)  # type: ignore[arg-type]
    before, after = PROFILE.runner(runner), found.profile.runner(runner)
    assert after.contention == before.contention
    assert after.seconds == pytest.approx(before.seconds, rel=1e-3)
    assert [error.row.what for error in found.outliers] == [what]


def test_images_of_nearly_one_size_do_not_tell_what_grows_with_them() -> None:
    sizes = {f"net{size}": residual_net(size, (64, 64, 256)) for size in (112, 120)}
    rows = [
        MeasurementRow(name, "latency", time_graph(graph, PROFILE, runner="cpp").latency_fps * noise, "cpp")
        for (name, graph), noise in zip(sizes.items(), (1.02, 0.98), strict=True)
    ]
    found = calibrate(rows, sizes, PROFILE).profile.runner("cpp")
    assert found.seconds_per_pixel == PROFILE.runner("cpp").seconds_per_pixel
    assert found.of(224 * 224) == pytest.approx(PROFILE.runner("cpp").of(224 * 224), rel=0.1)


def test_intervals_hold_what_was_found_of_networks_left_out() -> None:
    truth, graphs = slow_host(1.5e-4)
    noise = {"tiny": 1.0, "small": 0.9, "middle": 1.12, "large": 0.95}
    rows = [
        MeasurementRow(name, "latency", time_graph(graph, truth).latency_fps * noise[name]) for name, graph in graphs.items()
    ]
    found = calibrate(rows, graphs, PROFILE, hold_out=True)
    worst = max(abs(error.relative) for error in found.held_out)
    assert worst > 0.05
    host = found.profile.runner()
    assert host.latency_error == pytest.approx(worst)
    assert all(widths.latency == pytest.approx(worst) for widths in host.errors_by_kind.values())
    assert host.throughput_error == PROFILE.runner().throughput_error
    many = {f"net{size}": residual_net(size, (16, 32, 32)) for size in range(20, 64, 4)}
    exact = [MeasurementRow(name, "latency", time_graph(graph, truth).latency_fps) for name, graph in many.items()]
    assert calibrate(exact, many, PROFILE, hold_out=True).profile.runner().latency_error < 0.01
    assert calibrate(exact, many, PROFILE).profile.runner().latency_error == PROFILE.runner().latency_error


def test_a_row_that_bends_the_fit_is_named_though_it_is_near_it() -> None:
    graphs = {name: residual_net(*size) for name, size in SIZES.items()}
    rows = [MeasurementRow(name, "latency", time_graph(graph, PROFILE).latency_fps) for name, graph in graphs.items()]
    rows[0] = dataclasses.replace(rows[0], fps=200_000.0)
    with pytest.raises(
        MeasurementError, match=r"without latency of 'tiny', 200,000 FPS, all others are explained, so look at it"
    ):
        calibrate(rows, graphs, PROFILE)


def test_what_no_row_speaks_of_stays() -> None:
    rows = [row for row in measured(truth()) if row.runner == "cpp" and row.what == "latency"]
    one_core = MeasurementRow(
        "net0", "throughput", time_graph(networks()["net0"], PROFILE.model_copy(update={"cores": 1})).throughput_fps, cores=1
    )
    found = calibrate([*rows, one_core], networks(), PROFILE, keep_unexplained=True).profile
    assert found.runner("vart_python") == PROFILE.runner("vart_python")
    assert found.runner("cpp").contention == PROFILE.runner("cpp").contention
    assert found.runner("cpp").seconds != PROFILE.runner("cpp").seconds


def test_many_rows_tell_the_parts_of_the_contention_apart() -> None:
    shared = Contention(fixed=0.05, per_loaded_gb_s=0.1, per_saved_gb_s=0.2)
    board = with_runner(PROFILE, "cpp", contention=shared, serial_seconds=0.0)
    more = {f"more{i}": residual_net(size, (64, 32, 96)) for i, size in enumerate((24, 40, 72, 120))}
    graphs = networks() | more
    rows = [
        MeasurementRow(n, "throughput", time_graph(g, board, runner="cpp").throughput_fps, runner="cpp")
        for n, g in graphs.items()
    ]
    start = with_runner(PROFILE, "cpp", serial_seconds=0.0)
    found = calibrate(rows, graphs, start, keep_unexplained=True).profile.runner("cpp").contention
    assert found.fixed == pytest.approx(0.05, rel=0.05)
    assert found.per_loaded_gb_s == pytest.approx(0.1, rel=0.05)


def test_a_file_with_graphs_beside_it(tmp_path: Path) -> None:
    lines = ["network,what,fps,runner,cores"]
    for name, graph in list(networks().items())[:2]:
        (tmp_path / f"{name}.json").write_text(json.dumps(graph_to_json(graph)[0]))
        timing = time_graph(graph, truth())
        lines += [f"{name}.json,latency,{timing.latency_fps},python,", f"{name}.json,throughput,{timing.throughput_fps},,2"]
    path = tmp_path / "measurements.csv"
    path.write_text("\n".join(lines) + "\n")
    result = calibrate_file(path, PROFILE, hold_out=True)
    assert [error.row.network for error in result.errors] == ["net0.json", "net0.json", "net1.json", "net1.json"]
    assert max(abs(error.relative) for error in result.errors) < 0.2  # two networks do not pull far from where it started
    assert len(result.held_out) == 4
    assert result.mean_absolute_held_out is not None
    together = {error.row: error.predicted_fps for error in result.errors}
    assert all(error.predicted_fps != pytest.approx(together[error.row], rel=1e-3) for error in result.held_out)
    assert calibrate_file(path, PROFILE).mean_absolute_held_out is None


def test_constants_that_few_rows_leave_open_and_that_ended_far_away_are_told() -> None:
    rows = measured(truth())
    assert calibrate(rows, networks(), PROFILE).constants == 15
    slow = with_runner(PROFILE, "cpp", seconds=10 * PROFILE.runner("cpp").seconds)
    found = calibrate(measured(slow), networks(), PROFILE)
    assert list(found.moved) == ["runners.cpp.seconds"]
    assert found.moved["runners.cpp.seconds"] == pytest.approx(10, rel=0.1)
    assert moved({"a": 1.0, "b": 1.0}, {"a": 4.9, "b": 5.1}) == {"b": pytest.approx(1 / 5.1)}


def test_rows_of_our_program_in_cpp_are_not_those_of_vitis_ais_library() -> None:
    """They get a runner of their own, and leave the two that others were fitted to alone."""
    board = with_runner(PROFILE, "vart_python", seconds=2e-4)
    rows = [
        MeasurementRow(name, "latency", time_graph(graph, board, runner="vart_python").latency_fps, "vart_cpp")
        for name, graph in networks().items()
    ]
    found = calibrate(rows, networks(), PROFILE).profile
    assert found.runner("vart_cpp").of(0) == pytest.approx(2e-4, rel=0.1)
    assert (found.runner("cpp"), found.runner("vart_python")) == (PROFILE.runner("cpp"), PROFILE.runner("vart_python"))
    assert "vart_python" in found.runner("vart_cpp").origin
    again = calibrate(rows, networks(), found).profile
    assert set(again.runners) == {*PROFILE.runners, "vart_cpp"}
    assert "vart_cpp" not in calibrate(measured(PROFILE), networks(), PROFILE).profile.runners


def test_a_programs_figures_are_foretold_by_a_runner_like_it() -> None:
    former = PROFILE.model_copy(update={"runners": {"python": PROFILE.runner(), "cpp": PROFILE.runner("cpp")}})
    mine = PROFILE.model_copy(update={"runners": {**PROFILE.runners, "vart_cpp": PROFILE.runner()}})
    assert [program_runner("cpp", profile) for profile in (PROFILE, mine, former)] == ["vart_python", "vart_cpp", "python"]
    assert [program_runner("python", profile) for profile in (PROFILE, former)] == ["vart_python", "python"]
    assert program_runner("cpp", PROFILE.model_copy(update={"runners": {"cpp": PROFILE.runner("cpp")}})) is None


def test_a_row_that_lies_far_from_the_others_is_told() -> None:
    rows = measured(truth())
    wrong = dataclasses.replace(rows[6], fps=0.88 * rows[6].fps)
    found = calibrate([*rows[:6], wrong, *rows[7:]], networks(), PROFILE)
    assert [error.row for error in found.outliers] == [wrong]
    assert calibrate(rows, networks(), PROFILE).outliers == ()


def test_rows_of_code_that_was_measured_itself_are_timed_by_that_code() -> None:
    """Constants come back from times of this program's own code, which the model of AMD's compiler would not explain."""
    slower = PROFILE.constants.model_copy(update={"load": 1.5 * PROFILE.constants.load, "conv": 1.4 * PROFILE.constants.conv})
    real = PROFILE.model_copy(update={"constants": slower})
    graphs = networks()
    codes, rows = {}, []
    for name, graph in graphs.items():
        compiled = compile_graph(graph, PROFILE.dpu)
        code = LayeredCode(name, compiled.program, (0,) * len(compiled.program), ())
        codes[name] = MeasuredCode(code, input_pixels(graph))
        timing = compiled.time(real, layers=False)
        rows += [MeasurementRow(name, "latency", timing.latency_fps), MeasurementRow(name, "throughput", timing.throughput_fps)]
    by_code = calibrate(rows, codes, PROFILE)
    assert by_code.mean_absolute < 0.01
    assert by_code.mean_absolute < calibrate(rows, graphs, PROFILE, keep_unexplained=True).mean_absolute
