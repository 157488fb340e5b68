"""Measurements that no board can give, that are too few or that cannot be read are refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.compiler import compile_graph
from edgesearch.board_eval.deployment import calibrate_file
from edgesearch.board_eval.graph._graph import Graph, Reshape
from edgesearch.board_eval.targets import Contention
from edgesearch.board_eval.timing._calibrate import calibrate
from edgesearch.board_eval.timing._code import LayeredCode
from edgesearch.board_eval.timing._measurements import MeasurementRow, read_measurements
from edgesearch.board_eval.timing._plausibility import convolution_seconds, weight_load_seconds
from edgesearch.board_eval.timing._predicted import Foretold, MeasuredCode, with_runner
from edgesearch.board_eval.timing._timing import input_pixels, time_graph
from edgesearch.errors import MeasurementError, XmodelError

from .._networks import residual_net
from ._measured import PROFILE, measured, networks, truth


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


def test_a_runner_that_the_profile_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(MeasurementError, match="'net0': runner is 'java'; zcu104 has cpp, thesis_script, vart_python"):
        calibrate(changed(2, runner="java"), networks(), PROFILE)
    former = calibrate(changed(2, runner="python"), networks(), PROFILE)  # what files of 0.1.0 call it
    assert former.mean_absolute == calibrate(measured(truth()), networks(), PROFILE).mean_absolute


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
