from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval import execution, timing
from edgesearch.board_eval.boards import (
    BOARDS,
    Board,
    Compiler,
    Measurement,
    SimulatedBoard,
    _simulated,
    _speed,
    board_report,
    board_timing,
    find_board,
)
from edgesearch.board_eval.compiler import compile_graph
from edgesearch.board_eval.graph._graph import Conv, Graph, Input, Linear, Reshape
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.targets import load_profile
from edgesearch.errors import BoardError, CompileError, GraphError, PluginError, SettingsError, TargetError
from edgesearch.testing import BoardContract


def mlp() -> Graph:
    return Graph(
        "mlp",
        (
            Input(name="image", inputs=(), shape=(28, 28, 1)),
            Reshape(name="flat", inputs=("image",), shape=(784,)),
            Linear(name="hidden", inputs=("flat",), shape=(64,), activation="relu"),
            Linear(name="logits", inputs=("hidden",), shape=(10,)),
        ),
    )


@pytest.mark.parametrize("name", sorted(BOARDS))
class TestShippedBoards(BoardContract):
    """Every shipped board keeps the contract."""

    @pytest.fixture(autouse=True)
    def _board(self, name: str) -> None:
        self.name = name

    def make(self) -> Board:
        return find_board(self.name)


class TestBoardWithTheCppRunner(BoardContract):
    """So does the other runner."""

    def make(self) -> Board:
        return SimulatedBoard(load_profile("zcu104"), runner="cpp")


class TestBoardWithAmdsCompiler(BoardContract):
    """So does the other compiler."""

    def make(self) -> Board:
        return SimulatedBoard(load_profile("zcu104"), compiler="vai")


def test_a_simulated_board_is_a_board_and_measures_speed_without_images() -> None:
    board = SimulatedBoard(load_profile("zcu104"))
    assert isinstance(board, Board)
    measurement = board.measure(mlp())
    assert measurement.accuracy is None
    assert measurement.power_w is None
    assert measurement.latency_fps == pytest.approx(1 / measurement.latency_s)
    assert measurement.throughput_fps > measurement.latency_fps
    assert measurement.conditions["board"] == "zcu104"
    assert measurement.conditions["measured"] == "simulated"


def test_the_cpp_runner_costs_less_host_time_on_a_small_image() -> None:
    profile = load_profile("zcu104")
    script, cpp = (SimulatedBoard(profile, runner=runner).measure(mlp()) for runner in ("thesis_script", "cpp"))
    assert cpp.latency_s < script.latency_s


def test_accuracy_needs_labels_and_a_quantized_network() -> None:
    board = SimulatedBoard(load_profile("zcu104"))
    images = np.zeros((2, 28, 28, 1), np.float32)
    with pytest.raises(BoardError, match="both images and labels"):
        board.measure(mlp(), images)
    with pytest.raises(BoardError, match=r"2 images, labels of shape \(3,\)"):
        board.measure(mlp(), images, np.zeros(3, np.int64))
    with pytest.raises(BoardError, match=r"2 images, labels of shape \(2, 1\)"):
        board.measure(mlp(), images, np.zeros((2, 1), np.int64))
    with pytest.raises(BoardError, match="not quantized"):
        board.measure(mlp(), images, np.zeros(2, np.int64))


def test_an_xmodel_is_measured_with_its_images(reference_data: Path) -> None:
    folder = reference_data / "golden" / "resnet20"
    images = (np.load(folder / "images_u8_0_19.npy").astype(np.float32) / 255 - 0.5) / 0.5
    logits = np.load(folder / "logits_0_19.npy")
    labels = np.load(folder / "labels_0_19.npy")
    measurement = SimulatedBoard(load_profile("zcu104")).measure(folder / "ResNet20_int.xmodel", images, labels)
    assert measurement.accuracy == np.mean(logits.argmax(axis=1) == labels)
    assert (measurement.correct, measurement.images) == (np.sum(logits.argmax(axis=1) == labels), 20)
    assert measurement.throughput_fps > measurement.latency_fps > 100


def test_accuracy_is_counted_on_the_boards_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def executed(graph: Graph, images: np.ndarray, *, device: str) -> np.ndarray:  # type: ignore[type-arg]
        asked.append(device)
        return np.eye(10, dtype=np.float32)[:2]

    monkeypatch.setattr(execution, "execute", executed, raising=False)
    quantized = replace_fixes(mlp())
    images, labels = np.zeros((2, 28, 28, 1), np.float32), np.array([0, 5])
    measurement = SimulatedBoard(load_profile("zcu104"), device="cuda:1").measure(quantized, images, labels)
    assert (asked, measurement.correct) == (["cuda:1"], 1)


def replace_fixes(graph: Graph) -> Graph:
    """The graph with a fix position everywhere, as a quantized one has."""
    nodes = [
        dataclasses.replace(n, fix=4, **({"weight_fix": 4, "bias_fix": 4} if isinstance(n, Linear) else {})) for n in graph
    ]
    return Graph(graph.name, tuple(nodes))


def test_nothing_is_executed_when_there_are_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are not even looked at: shapes are enough."""

    def fail(*_: object) -> None:
        raise AssertionError("executed")

    monkeypatch.setattr("edgesearch.board_eval.execution._execute.Executor.__init__", fail)
    measurement = SimulatedBoard(load_profile("zcu104")).measure(mlp())
    assert (measurement.correct, measurement.images, measurement.accuracy) == (None, 0, None)


def test_figures_are_those_of_the_networks_own_code() -> None:
    profile = load_profile("zcu104")
    expected = compile_graph(mlp(), profile.dpu).time(profile)
    assert SimulatedBoard(profile).measure(mlp()).figures() == {
        "fps": expected.throughput_fps,
        "latency_ms": expected.latency_s * 1e3,
        "latency_fps": expected.latency_fps,
        "fps_error": expected.throughput_error,
        "latency_error": expected.latency_error,
    }


def test_figures_with_amds_compiler_are_the_timing_models() -> None:
    profile = load_profile("zcu104")
    expected = timing.time_graph(mlp(), profile)
    board = SimulatedBoard(profile, compiler="vai")
    assert board.measure(mlp()).figures() == {
        "fps": expected.throughput_fps,
        "latency_ms": expected.latency_s * 1e3,
        "latency_fps": expected.latency_fps,
        "fps_error": expected.throughput_error,
        "latency_error": expected.latency_error,
    }
    assert board.measure(mlp()).conditions["compiler"] == "vai"
    assert SimulatedBoard(profile).measure(mlp()).conditions["compiler"] == "edgesearch"


def test_a_network_is_compiled_once_for_all_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Graph] = []

    def counted(graph: Graph, profile: object, **options: object) -> timing.Timing:
        compiled.append(graph)
        return timing.time_graph(graph, load_profile("zcu104"))

    monkeypatch.setattr(_simulated, "board_timing", counted)
    board, graph = SimulatedBoard(load_profile("zcu104")), mlp()
    assert board.measure(graph) == board.measure(graph)
    board.measure(mlp())
    board.with_compiler("vai").measure(graph)
    assert len(compiled) == 3


def test_a_network_that_is_not_for_the_dpu_is_timed_by_its_shapes() -> None:
    """Five bits and float16 are for analysis: their code is never made, its time is that of eight bits."""
    board = SimulatedBoard(load_profile("zcu104"))
    five = Graph("mlp", replace_fixes(mlp()).nodes, 5)
    assert board.measure(five).figures() == board.measure(mlp()).figures()


def test_a_network_that_cannot_be_compiled_is_refused_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: Graph, target: object, options: object) -> None:
        raise CompileError("layer 'hidden' has no room")

    monkeypatch.setattr(_speed, "compile_graph", refuse)
    with pytest.raises(GraphError, match="layer 'hidden' has no room; compiler = 'vai'"):
        SimulatedBoard(load_profile("zcu104")).measure(mlp())


@pytest.mark.parametrize("compiler", ["edgesearch", "vai"])
def test_a_report_by_layer_adds_up_with_either_compiler(compiler: Compiler) -> None:
    profile = load_profile("zcu104")
    report = board_report(mlp(), profile, compiler=compiler)
    assert sum(layer.seconds for layer in report.timing.layers) == pytest.approx(report.timing.dpu_s)
    assert report.timing.throughput_fps == board_timing(mlp(), profile, compiler=compiler).throughput_fps
    with pytest.raises(TargetError, match="java"):
        board_report(mlp(), profile, compiler=compiler, runner="java")


def test_feature_maps_that_found_no_room_are_named_with_this_compiler_too() -> None:
    nodes = (
        Input(name="image", inputs=(), shape=(128, 128, 3)),
        Conv(name="wide", inputs=("image",), shape=(128, 128, 128), kernel=(3, 3), padding=(1, 1, 1, 1)),
        Conv(name="narrow", inputs=("wide",), shape=(128, 128, 8), kernel=(1, 1)),
    )
    advice = [a for a in board_report(Graph("large", nodes), load_profile("zcu104")).advice if a.kind == "spill"]
    assert [a.layer for a in advice] == ["wide"]
    assert "2097 kB go to external memory and back" in advice[0].text


def test_parts_of_concats_and_flattened_images_found_no_lack_of_room() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Twice(), nn.Conv2d(32, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 10))
    report = board_report(lower(model, (3, 8, 8)), load_profile("zcu104"))
    assert [advice for advice in report.advice if advice.kind == "spill"] == []


class Twice(nn.Module):
    """What it is given beside its activation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.relu(x)], 1)


def test_energy_is_the_power_of_a_second_shared_among_its_images() -> None:
    measurement = Measurement(latency_s=0.01, throughput_fps=250.0, power_w=5.0)
    assert measurement.figures() == {"fps": 250.0, "latency_ms": 10.0, "latency_fps": 100.0, "joules": 0.02}
    assert Measurement(latency_s=0.01, throughput_fps=250.0).energy_j is None


def test_a_simulated_boards_content_is_its_profile_and_makes_it_again() -> None:
    profile = load_profile("zcu104")
    content = SimulatedBoard(profile).content
    assert content["constants"] == profile.constants.model_dump()
    assert set(content["runners"]) == {profile.default_runner}  # another runner's figures change no result
    assert "compiler" not in content  # the default is in no key
    made = (SimulatedBoard(profile), SimulatedBoard(profile, runner="cpp"), SimulatedBoard(profile, compiler="vai"))
    for board in made:
        again = SimulatedBoard.of_content(board.content)
        assert (again.content, again.runner, again.compiler) == (board.content, board.runner, board.compiler)
    assert SimulatedBoard(profile, compiler="vai").content == content | {"compiler": "vai"}


def test_boards_by_name_by_profile_and_by_import_path(tmp_path: Path) -> None:
    assert list(BOARDS) == ["kv260", "ultra96", "zcu102", "zcu104"]
    (tmp_path / "mine.json").write_text(load_profile("zcu104").model_copy(update={"name": "mine", "cores": 1}).to_json())
    assert find_board("mine.json", folder=tmp_path).name == "mine"
    assert find_board(str(tmp_path / "mine.json")).name == "mine"
    (tmp_path / "my_lab.py").write_text(
        "from edgesearch.board_eval import SimulatedBoard, load_profile\n"
        "def board(): return SimulatedBoard(load_profile('kv260'))\n"
        "made = board()\n"
        "class Bench(SimulatedBoard):\n    def __init__(self): super().__init__(load_profile('zcu102'))\n"
        "nothing = 'a board'\ndef broken(host): return None\ndef leaving(): raise SystemExit(3)\n"
    )
    names = [find_board(f"my_lab:{thing}", folder=tmp_path).name for thing in ("board", "made", "Bench")]
    assert names == ["kv260", "kv260", "zcu102"]
    for name in ("zcu104", "mine.json", "my_lab:made", "my_lab:Bench"):
        assert find_board(name, folder=tmp_path, compiler="vai").content["compiler"] == "vai"
        assert "compiler" not in find_board(name, folder=tmp_path).content
    with pytest.raises(PluginError, match="is a str; expected a Board"):
        find_board("my_lab:nothing", folder=tmp_path)
    with pytest.raises(PluginError, match=r"'my_lab:leaving' cannot be made \(SystemExit: 3\)"):
        find_board("my_lab:leaving", folder=tmp_path)
    with pytest.raises(PluginError, match=r"'my_lab:broken' cannot be made \(TypeError: .*'host'"):
        find_board("my_lab:broken", folder=tmp_path)
    with pytest.raises(PluginError, match=r"unknown board 'zcu999'; expected one of kv260, .* or the path of a \.json profile"):
        find_board("zcu999")
    with pytest.raises(TargetError, match="cannot be read"):
        find_board("none.json", folder=tmp_path)


def clipped() -> Graph:
    """A convolution with ReLU6 at fix position 4, which takes two more steps unless an instruction may clamp."""
    rng = np.random.default_rng(0)
    image = Input(name="image", inputs=(), shape=(32, 32, 3), fix=6)
    weight = rng.integers(-9, 9, (64, 3, 3, 3)).astype(np.float32) / 64
    conv = Conv(
        name="conv", inputs=("image",), shape=(32, 32, 64), fix=4, weight=weight, weight_fix=6, has_bias=False,
        activation="relu6", kernel=(3, 3), padding=(1, 1, 1, 1),
    )  # fmt: skip
    return Graph("clipped", (image, conv))


def test_what_the_code_may_use_is_content_and_decides_the_speed() -> None:
    graph, profile = clipped(), load_profile("zcu104")
    plain, allowed = SimulatedBoard(profile), SimulatedBoard(profile, allow=["relu6"])
    assert "allow" not in plain.content
    assert allowed.content["allow"] == ["relu6"]
    again = SimulatedBoard.of_content(allowed.content)
    assert again.measure(graph).latency_s == allowed.measure(graph).latency_s < plain.measure(graph).latency_s
    assert find_board("zcu104", compiler="edgesearch", allow=["relu6"]).content == allowed.content
    assert "allow" not in allowed.with_compiler("vai").content


def test_a_compiler_that_there_is_not_is_refused_wherever_one_is_given() -> None:
    profile = load_profile("zcu104")
    words = "compiler is 'VAI', expected 'edgesearch' or 'vai'"
    unknown: Any = "VAI"
    with pytest.raises(SettingsError, match=words):
        SimulatedBoard(profile, compiler=unknown)
    with pytest.raises(SettingsError, match=words):
        SimulatedBoard(profile).with_compiler(unknown)
    with pytest.raises(SettingsError, match=words):
        find_board("zcu104", compiler=unknown)
    with pytest.raises(SettingsError, match=words):
        board_timing(mlp(), profile, compiler=unknown)
    with pytest.raises(SettingsError, match=words):
        board_report(mlp(), profile, compiler=unknown)


def test_a_boards_name_is_no_profile() -> None:
    name: Any = "zcu104"
    with pytest.raises(TargetError, match="the profile is of type str, expected the BoardProfile of `load_profile`"):
        SimulatedBoard(name)
