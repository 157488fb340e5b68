from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.compiler import compile_graph
from edgesearch.board_eval.deployment import calibrate_file
from edgesearch.board_eval.graph._graph import Graph, Reshape
from edgesearch.board_eval.graph._serialise import graph_to_json
from edgesearch.board_eval.targets import BoardProfile, Contention, load_profile
from edgesearch.board_eval.timing._calibrate import calibrate
from edgesearch.board_eval.timing._code import LayeredCode
from edgesearch.board_eval.timing._measurements import MeasurementRow, read_measurements
from edgesearch.board_eval.timing._plausibility import convolution_seconds, moved, weight_load_seconds
from edgesearch.board_eval.timing._predicted import Foretold, MeasuredCode, program_runner, with_runner
from edgesearch.board_eval.timing._timing import input_pixels, time_graph
from edgesearch.errors import MeasurementError, XmodelError

from .._networks import residual_net

PROFILE = load_profile("zcu104")


def networks() -> dict[str, Graph]:
    sizes = ((16, (16, 32, 48)), (64, (32, 64, 128)), (32, (128, 256, 256)), (112, (32, 48, 64)), (96, (64, 64, 256)))
    return {f"net{i}": residual_net(size, widths) for i, (size, widths) in enumerate(sizes)}


def truth() -> BoardProfile:
    constants = PROFILE.constants.model_copy(update={"load": 45.0, "load_bytes_per_cycle": 18.0})
    board = PROFILE.model_copy(update={"constants": constants, "job_seconds": 2e-4})
    shared = PROFILE.runner("cpp").contention.model_copy(update={"fixed": 0.25})
    board = with_runner(board, "cpp", seconds=3e-4, seconds_per_pixel=1e-8, contention=shared)
    return with_runner(board, "vart_python", seconds=5e-4)


def measured(profile: BoardProfile) -> list[MeasurementRow]:
    rows = []
    for name, graph in networks().items():
        alone = time_graph(graph, profile.model_copy(update={"cores": 1}))
        rows.append(MeasurementRow(name, "throughput", alone.throughput_fps, cores=1))
        rows.append(MeasurementRow(name, "throughput", time_graph(graph, profile, runner="cpp").throughput_fps, runner="cpp"))
        rows.append(MeasurementRow(name, "latency", alone.latency_fps, runner="vart_python"))
        rows.append(MeasurementRow(name, "latency", time_graph(graph, profile, runner="cpp").latency_fps, runner="cpp"))
    return rows


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


def test_a_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "measurements.csv"
    path.write_text("network,what,fps,runner,cores\na,latency,100,,\nb,latency,90,java,\n")
    rows = read_measurements(path)
    assert [str(row) for row in rows] == ["line 2, latency of 'a'", "line 3, latency of 'b'"]
    graphs = {name: residual_net(size, (16, 16, 16)) for name, size in (("a", 16), ("b", 32))}
    with pytest.raises(MeasurementError, match="line 3, latency of 'b': runner is 'java'"):
        calibrate(rows, graphs, PROFILE)
    path.write_text("network,what,fps,cores\na,throughput,100,9\nb,latency,90,\n")
    with pytest.raises(MeasurementError, match="line 2, throughput of 'a': cores = 9, but zcu104 has 2"):
        calibrate(read_measurements(path), graphs, PROFILE)


def test_what_no_row_speaks_of_stays() -> None:
    rows = [row for row in measured(truth()) if row.runner == "cpp" and row.what == "latency"]
    one_core = MeasurementRow(
        "net0", "throughput", time_graph(networks()["net0"], PROFILE.model_copy(update={"cores": 1})).throughput_fps, cores=1
    )
    found = calibrate([*rows, one_core], networks(), PROFILE, keep_unexplained=True).profile
    assert found.runner("vart_python") == PROFILE.runner("vart_python")
    assert found.runner("cpp").contention == PROFILE.runner("cpp").contention
    assert found.runner("cpp").seconds != PROFILE.runner("cpp").seconds


def test_a_runner_that_the_profile_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(MeasurementError, match="'net0': runner is 'java'; zcu104 has cpp, thesis_script, vart_python"):
        calibrate(changed(2, runner="java"), networks(), PROFILE)
    former = calibrate(changed(2, runner="python"), networks(), PROFILE)  # what files of 0.1.0 call it
    assert former.mean_absolute == calibrate(measured(truth()), networks(), PROFILE).mean_absolute


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


def changed(number: int, **fields: object) -> list[MeasurementRow]:
    rows = measured(truth())
    rows[number] = dataclasses.replace(rows[number], **fields)  # type: ignore[arg-type]
    return rows


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_measurement_that_no_board_can_give_is_refused(number: int) -> None:
    row = measured(truth())[number]
    cores = PROFILE.cores if row.what == "throughput" else 1
    program = Foretold.of(networks()[row.network], PROFILE)
    highest = cores / convolution_seconds(program, PROFILE)
    assert row.fps < highest
    with pytest.raises(MeasurementError, match=r"'net0'.*, but .* allows? [0-9,]+ on zcu104"):
        calibrate(changed(number, fps=1.2 * highest), networks(), PROFILE)


def test_a_network_of_many_weights_is_bound_by_its_memory_ports() -> None:
    few, many = (
        Foretold.of(residual_net(size, widths), PROFILE) for size, widths in ((64, (32, 64, 128)), (4, (512, 512, 512)))
    )
    assert weight_load_seconds(few, PROFILE) < convolution_seconds(few, PROFILE)
    least = weight_load_seconds(many, PROFILE)
    assert least > convolution_seconds(many, PROFILE)
    weights = residual_net(4, (512, 512, 512)).parameters
    assert least == pytest.approx(weights / 32 / 300e6, rel=0.05)
    graphs = networks() | {"heavy": residual_net(4, (512, 512, 512))}
    rows = [*measured(truth()), MeasurementRow("heavy", "throughput", 1.2 / least, cores=1)]
    with pytest.raises(MeasurementError, match=r"'heavy'.*loading its weights alone allows"):
        calibrate(rows, graphs, PROFILE)


@pytest.mark.parametrize("number", range(4))
def test_the_model_itself_is_never_called_impossible(number: int) -> None:
    """The bounds are laws: no profile's constants make a network faster than they allow."""
    quick = with_runner(PROFILE.model_copy(update={"job_seconds": 0.0}), "vart_python", contention=Contention(), threads=64)
    graph = list(networks().values())[number]
    program = Foretold.of(graph, quick)
    least = max(convolution_seconds(program, quick), weight_load_seconds(program, quick))
    assert time_graph(graph, quick).throughput_fps <= quick.cores / least


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


def test_a_network_that_cannot_be_timed_is_named_with_its_measurement() -> None:
    graph = networks()["net0"]
    dead = dataclasses.replace(graph.nodes[1], name="dead")
    broken = Graph("broken", (*graph.nodes[:2], dead, *graph.nodes[2:]))
    with pytest.raises(MeasurementError, match="measurement of 'net0': network 'broken': nobody reads 'dead'"):
        calibrate(measured(truth()), {**networks(), "net0": broken}, PROFILE)
    idle = Graph(
        "idle", (graph.input, Reshape(name="flat", inputs=(graph.input.name,), shape=(int(np.prod(graph.input.shape)),)))
    )
    with pytest.raises(MeasurementError, match="measurement of 'net0': network 'idle' has no layers"):
        calibrate(measured(truth()), {**networks(), "net0": idle}, PROFILE)
    rows = [dataclasses.replace(row, line=number) for number, row in enumerate(measured(truth()), 2)]
    with pytest.raises(MeasurementError, match=r"^line 2, measurement of 'net0': "):
        calibrate(rows, {**networks(), "net0": broken}, PROFILE)


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbfnetwork,what,fps\na,latency,10\na,latency,11\n")
    assert read_measurements(path) == (MeasurementRow("a", "latency", 10.0), MeasurementRow("a", "latency", 11.0))


def test_more_cores_than_the_board_has_are_refused() -> None:
    with pytest.raises(MeasurementError, match="cores = 7, but zcu104 has 2"):
        calibrate(changed(1, cores=7), networks(), PROFILE)


def test_measurements_of_one_network_are_too_few() -> None:
    with pytest.raises(MeasurementError, match="at least 2"):
        calibrate(measured(truth())[:4], networks(), PROFILE)


def test_one_network_under_two_names_or_compiled_is_one() -> None:
    graphs = networks()
    compiled = compile_graph(graphs["net0"], PROFILE.dpu)
    code = MeasuredCode(LayeredCode("net0", compiled.program, (0,) * len(compiled.program), ()), input_pixels(graphs["net0"]))
    rows = measured(truth())
    again = [dataclasses.replace(row, network="./net0", fps=1.001 * row.fps) for row in rows[:4]]
    for other in (graphs["net0"], code):
        with pytest.raises(MeasurementError, match=r"one network \(./net0, net0 have the same image.*at least 2"):
            calibrate(rows[:4] + again, {**graphs, "./net0": other}, PROFILE)
    found = calibrate(rows + again, {**graphs, "./net0": graphs["net0"]}, PROFILE, hold_out=True)
    assert "24 measurements of 5 networks" in found.profile.origin
    alone = {error.row: error for error in calibrate(rows, graphs, PROFILE, hold_out=True).held_out}
    held_out = {error.row: error for error in found.held_out}
    for row in rows[:4]:  # predicted without its other name's rows
        assert held_out[row].predicted_fps == pytest.approx(alone[row].predicted_fps)


def test_a_profile_that_is_far_from_a_measurement_is_kept_on_demand_only() -> None:
    rows = changed(2, fps=3.0)
    with pytest.raises(MeasurementError, match=r"1 of 20 .*latency of 'net0': measured 3 FPS.*--keep-unexplained"):
        calibrate(rows, networks(), PROFILE)
    kept = calibrate(rows, networks(), PROFILE, keep_unexplained=True)
    assert max(abs(error.relative) for error in kept.errors) > 0.25
    honest = [error for error in kept.errors if error.row.fps != 3.0]
    assert max(abs(error.relative) for error in honest) < 0.1  # one wrong row does not bend the fit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network,what\na,latency\n", "no column 'fps'"),
        ("network,what,fps\n", "no measurements"),
        ("network;what;fps\na;latency;3\n", "separated by commas"),
        ("network,what,fps\na,latency,3\nb,latency,3\na,latency,3\n", "line 4: the same measurement as line 2"),
        ("network,what,fps\nx/a,latency,3\nb,latency,3\n./x//a,latency,3\n", "line 4: the same measurement as line 2"),
        ("network,what,fps\na,latency,3,python\n", "line 2: more values than the header"),
        ("network,what,fps,core\na,latency,3,1\n", "unknown column 'core'"),
        ("network,what,fps\na,latency,10\n,latency,10\n", "line 3: no network"),
        ("network,what,fps\na,speed,10\n", "line 2: what is 'speed'"),
        ("network,what,fps\na,latency,fast\n", "line 2: fps is 'fast'"),
        ("network,what,fps\na,latency,\n", "line 2: fps is ''"),
        ("network,what,fps\na,latency,-3\n", "line 2: fps is -3"),
        ("network,what,fps\na,latency,nan\n", "line 2: fps is nan"),
        ("network,what,fps\na,latency,inf\n", "line 2: fps is inf"),
        ("network,what,fps,cores\na,throughput,10,0\n", "line 2: cores is '0'"),
        ("network,what,fps,cores\na,latency,10,2\n", "line 2: cores is 2 in a row of latency"),
        ("network,what,fps,fps\na,latency,10,11\n", "two columns 'fps'; leave one of them out"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(MeasurementError, match=message):
        read_measurements(path)


def test_networks_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("network,what,fps\n\nnone.xmodel,latency,10\nnone.xmodel,throughput,20\n")
    with pytest.raises(MeasurementError, match=r"m\.csv, line 3: network 'none.xmodel': there is no file"):
        calibrate_file(path, PROFILE)

    def find(name: str, folder: Path) -> Graph:
        raise XmodelError(f"{name} cannot be read")

    with pytest.raises(MeasurementError, match=r"m\.csv, line 3: none.xmodel cannot be read"):
        calibrate_file(path, PROFILE, find=find)
    (tmp_path / "none.xmodel").write_bytes(b"nonsense")
    with pytest.raises(MeasurementError, match=r"'none.xmodel'"):
        calibrate_file(path, PROFILE)
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_measurements(tmp_path / "missing.csv")
    with pytest.raises(MeasurementError, match="no such network"):
        calibrate([MeasurementRow("a", "latency", 10.0)], {}, PROFILE)
    with pytest.raises(MeasurementError, match="at least one row"):
        calibrate([], {}, PROFILE)


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
