from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgesearch.board_eval import Conv, Graph, Input, Pool, compile_xmodel, load_profile
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import CompileError, DataError, EdgesearchError, LoweringError, MeasurementError, SpaceError, StudyError
from edgesearch.search.commands import _bench
from edgesearch.search.commands._cli import cli
from edgesearch.search.commands._networks import find_network, read_candidate


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_inspect_says_how_fast_a_student_is() -> None:
    facts = json.loads(run("inspect", "resnet18", "--stem", "small", "--input-size", 32, "--format", "json"))
    assert facts["runs"]
    assert facts["macs"] == 555_422_720  # ResNet-18 with a 3x3 stem on 32 x 32 images, ten classes
    assert facts["latency_fps"] == pytest.approx(1000 / facts["latency_ms"])


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_a_staged_network_is_found_by_its_name(command: str) -> None:
    preset, named = (
        json.loads(run(command, name, "--format", "json")) for name in ("resnet8", "staged 16 r1x16 r1x32/2 r1x64/2")
    )
    assert preset == named
    assert preset["macs"] == 12_501_632  # on 32 x 32 images
    with pytest.raises(SpaceError, match=r"'q1x16' .* is not understood"):
        run(command, "staged 16 q1x16 r1x32/2")
    with pytest.raises(SpaceError, match=r"unknown network 'resnet7'.*resnet8.*a staged network such as"):
        run(command, "resnet7")


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_the_code_of_either_compiler_is_timed(command: str) -> None:
    student = (command, "cnn_small", "--input-size", 32, "--format", "json")
    own, theirs = (json.loads(run(*student, *more)) for more in ((), ("--compiler", "vai")))
    assert (own["compiler"], theirs["compiler"]) == ("edgesearch", "vai")
    assert own["latency_fps"] != theirs["latency_fps"]
    assert own["latency_fps"] == pytest.approx(theirs["latency_fps"], rel=0.2)


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_what_the_code_may_use_is_said_there_too(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaky_net.py").write_text(
        "from torch import nn\nprint('imported')\n\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1015625))\n"
    )
    network = (command, "leaky_net:net", "--input-size", 16, "--format", "json")
    with pytest.raises(CompileError, match="allow 'leaky_relu'"):
        run(*network)
    assert json.loads(run(*network, "--allow", "leaky_relu"))["latency_fps"] > 0


def test_inspect_warns_of_relu6() -> None:
    assert "ReLU6" in run("inspect", "mobilenet_v2", "--stem", "small", "--input-size", 32)


def test_inspect_looks_at_images_when_it_is_given_some(tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 0.9, (4, 8, 8, 3)).astype(np.float32)
    images[2, 1, 1, 0] = 1.0
    np.save(tmp_path / "calibration.npy", images)
    np.save(tmp_path / "test.npy", images[3:])
    student = ("inspect", "cnn_tiny", "--input-size", 8, "--format", "json", "--images", tmp_path / "calibration.npy")
    messages = [f["message"] for f in json.loads(run(*student, "--test-images", tmp_path / "test.npy"))["findings"]]
    assert any("saturate" in message and "25%" in message for message in messages)
    assert any(
        "1 of 4 calibration images have exact duplicates among the test images" in message and "3 = 0" in message
        for message in messages
    )
    assert not any("saturate" in f["message"] for f in json.loads(run(*student[:6]))["findings"])


def test_inspect_refuses_images_that_do_not_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(DataError, match=r"--images .*\(2, 4, 4, 3\).* N x 8 x 8 x 3"):
        run("inspect", "cnn_tiny", "--input-size", 8, "--images", tmp_path / "small.npy")


def test_inspect_refuses_pixels_that_are_no_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "inf.npy", np.full((2, 8, 8, 3), np.inf, np.float32))
    with pytest.raises(DataError, match="NaN or infinite"):
        run("inspect", "cnn_tiny", "--input-size", 8, "--images", tmp_path / "inf.npy")


def test_a_faster_board_is_faster() -> None:
    one, two = (json.loads(run("bench", "resnet18", "--board", b, "--format", "json")) for b in ("kv260", "zcu104"))
    assert two["throughput_fps"] > 1.5 * one["throughput_fps"]  # one core, two cores


def test_a_pruned_candidate_is_timed_pruned(tmp_path: Path) -> None:
    student = 'student = { architecture = "resnet18", input_size = 32 }\n'
    (tmp_path / "whole.toml").write_text(student)
    (tmp_path / "pruned.toml").write_text(student + 'pruning = { method = "one_step", ratio = 0.6 }\n')
    whole, pruned = (json.loads(run("bench", tmp_path / f"{n}.toml", "--format", "json")) for n in ("whole", "pruned"))
    assert 1 - pruned["macs"] / whole["macs"] == pytest.approx(0.6, abs=0.05)  # in steps of sixteen channels
    assert pruned["throughput_fps"] > 1.2 * whole["throughput_fps"]


def test_a_candidates_file_is_read_as_editors_save_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('student = { architecture = "cnn_tiny", input_size = 8 }\n', encoding="utf-8-sig")
    assert json.loads(run("bench", path, "--format", "json"))["macs"] > 0
    path.write_text('# Löwe\nstudent = { architecture = "cnn_tiny" }\n', encoding="latin-1")
    with pytest.raises(SpaceError, match=r"c\.toml is not valid TOML: line 1 is not UTF-8; save the file in that encoding"):
        run("bench", path)


def test_code_that_a_candidates_file_names_is_found_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from torch import nn\ndef net(num_classes, in_channels):\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, WIDTH, 1), *head)\n"
    )
    for folder, width in (("here", "8"), ("there", "16")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "beside_nets.py").write_text(code.replace("WIDTH", width))
    path = tmp_path / "there" / "c.toml"
    path.write_text('student = { architecture = "beside_nets:net", input_size = 8 }\n')
    monkeypatch.chdir(tmp_path / "here")
    for command in ("bench", "inspect"):
        assert json.loads(run(command, path, "--format", "json"))["macs"] == 3 * 64 * 16 + 160
    (tmp_path / "there" / "beside_nets.py").unlink()
    assert json.loads(run("bench", path, "--format", "json"))["macs"] == 3 * 64 * 8 + 80


def test_bench_shows_every_layer_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "layers.html"
    facts = json.loads(
        run("bench", "squeezenet1_1", "--per-layer", "--format", "json", "--picture", picture).partition("picture:")[0]
    )
    assert sum(layer["seconds"] for layer in facts["layers"]) == pytest.approx(facts["dpu_s"], rel=1e-6)
    assert picture.stat().st_size > 1_000_000  # plotly.js is inside: the page needs no network
    assert "layers" not in json.loads(run("bench", "squeezenet1_1", "--format", "json"))
    (tmp_path / "study.toml").write_text("name = 'mine'")
    monkeypatch.setattr(_bench, "board_report", None)  # refused before the work
    with pytest.raises(StudyError, match=r"study\.toml is no HTML"):
        run("bench", "squeezenet1_1", "--picture", tmp_path / "study.toml")
    with pytest.raises(DataError, match=r"--picture .* cannot be written: there is no folder"):
        run("bench", "squeezenet1_1", "--picture", tmp_path / "none" / "layers.html")
    assert (tmp_path / "study.toml").read_text() == "name = 'mine'"


def test_a_calibrated_profile_can_be_used(tmp_path: Path) -> None:
    from edgesearch.board_eval import graph_to_json, lower
    from edgesearch.spaces import Student, build

    rows = ["network,what,fps"]
    for name, speed in (("resnet18", 150.0), ("squeezenet1_1", 700.0)):
        model = build(Student(architecture=name, input_size=224, stem="imagenet"), channels=3, classes=10)
        content, _ = graph_to_json(lower(model, (3, 224, 224)))
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        rows.append(f"{name}.json,latency,{speed}")
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    profile = tmp_path / "board.json"
    assert "mean absolute error" in run("calibrate", "--measurements", tmp_path / "mine.csv", "-o", profile)
    assert load_profile(profile).name == "my-board"
    facts = json.loads(run("bench", "resnet18", "--board", profile, "--format", "json"))
    assert facts["board"] == "my-board"


def test_code_of_another_dpu_is_not_calibrated_with(tmp_path: Path) -> None:
    image = Input(name="in", inputs=(), shape=(6, 6, 3), fix=3)
    pool = Pool(name="pool", inputs=("in",), shape=(3, 3, 3), kind="max", kernel=(2, 2), stride=(2, 2), fix=3)
    compile_xmodel(Graph("few", (image, pool)), DPUS["B512"]).write(tmp_path / "few.xmodel")
    (tmp_path / "m.csv").write_text("network,what,fps\nfew.xmodel,latency,100\n")
    words = r"m\.csv, line 2: 'few' is compiled for a B512, and the DPU of 'zcu104' is a B4096"
    with pytest.raises(MeasurementError, match=words):
        run("calibrate", "--measurements", tmp_path / "m.csv", "-o", tmp_path / "mine.json")


def test_a_profile_that_no_board_option_reads_is_refused_before_the_fit(tmp_path: Path) -> None:
    with pytest.raises(
        EdgesearchError, match=r"'mine' would be no profile that --board reads; give a name that ends in \.json"
    ):
        run("calibrate", "--measurements", tmp_path / "missing.csv", "-o", "mine")


FIXED = """
from torch import nn
class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
"""


def test_a_network_with_outputs_of_its_own_is_inspected_unless_others_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fixed_outputs.py").write_text(FIXED)
    monkeypatch.chdir(tmp_path)
    network = ("inspect", "fixed_outputs:Fixed", "--input-size", 32, "--format", "json")
    assert json.loads(run(*network))["output"][-1] == 7
    assert json.loads(run(*network, "--classes", 7))["runs"]
    with pytest.raises(SpaceError, match=r"has 7 outputs, not the 10 of --classes.*num_classes"):
        run("inspect", "fixed_outputs:Fixed", "--classes", 10)


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_a_network_that_cannot_be_compiled_is_one_sentence_and_left_to_amds_compiler(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean of 222 x 222 pixels keeps the DPU's limits, and its columns find no room on the chip."""
    (tmp_path / "wide_mean.py").write_text(FIXED)
    monkeypatch.chdir(tmp_path)
    network = (command, "wide_mean:Fixed", "--input-size", 224, "--format", "json")
    with pytest.raises(CompileError, match=r"layer '2' .*; compiler = 'vai' leaves the network to Vitis AI's compiler"):
        run(*network)
    assert json.loads(run(*network, "--compiler", "vai"))["latency_fps"] > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("class Net(:\n", "cannot be imported (SyntaxError"),
        ("import nowhere_at_all\n", "No module named 'nowhere_at_all'"),
        ("Net = 3\n", "is a int; expected a torch.nn.Module class"),
        ("Other = 3\n", "has no 'Net'; check the name"),
        (
            "class Net:\n    def __init__(self):\n        raise OSError('no such thing')\n",
            "cannot be made: OSError: no such thing",
        ),
        ("def Net():\n    return 3\n", "expected a torch.nn.Module"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_what_is_wrong_with_a_users_file_is_one_sentence(
    command: str, content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"users_file_{abs(hash((command, content)))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgesearchError) as caught:
        run(command, f"{name}:Net")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_a_student_does_not_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixed_width.py").write_text(FIXED)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=r"--width is 0\.25, and fixed_width:Fixed takes none; leave it out"):
        run("inspect", "fixed_width:Fixed", "--width", 0.25)
    for name in ("fixed_width:Fixed", "resnet8", "cnn_tiny"):
        with pytest.raises(SpaceError, match=f"stem is 'imagenet', and {name} has no such choice; .* have two stems"):
            run("inspect", name, "--stem", "imagenet")
    assert json.loads(run("inspect", "cnn_tiny", "--stem", "small", "--width", 0.5, "--format", "json"))["runs"]


@pytest.mark.parametrize("options", [("--input-size", 64), ("--width", 0.5), ("--stem", "small")])
def test_options_that_a_candidates_file_decides_are_refused(options: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('student = { architecture = "cnn_tiny", input_size = 32 }\n')
    assert json.loads(run("inspect", path, "--channels", 1, "--classes", 4, "--format", "json"))["input"] == [32, 32, 1]
    with pytest.raises(SpaceError, match=rf"{options[0]} cannot be used with .*c\.toml"):
        run("inspect", path, *options)


def test_doctor_says_what_is_modelled_and_which_database_is_used(tmp_path: Path) -> None:
    lines = run("doctor", "--home", tmp_path / "home").splitlines()
    facts = dict(line[11:].split(": ", 1) for line in lines)
    assert facts["modelled"] == "the DPUCZDX8G (ISA 1) of Vitis AI 3.5"
    assert facts["database"] == "sqlite (pysqlite), studies: none yet"
    assert facts["vector instructions"].split(";")[0] == torch.backends.cpu.get_cpu_capability()
    assert not any(line.startswith("  FAILED") for line in lines)


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x", "sqlite:////nowhere/at/all.db"])
def test_doctor_goes_on_where_the_database_fails(url: str, tmp_path: Path) -> None:
    lines = run("doctor", "--home", tmp_path, "--storage", url).splitlines()
    (database,) = (line for line in lines if " database: " in line)
    assert database.startswith("  FAILED")
    assert "--storage" in database
    assert any(line.startswith("  ok       board: zcu104") for line in lines)


def test_what_the_dpu_cannot_run_is_an_error_for_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_networks.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 900, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LoweringError, match="Tanh"):
        run("bench", "odd_networks:Net", "--input-size", 32)
    with pytest.raises(EdgesearchError, match=r"missing\.csv"):
        run("calibrate", "--measurements", "missing.csv", "-o", "x.json")


def test_a_network_is_read_for_the_dpu_that_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = json.loads(load_profile("zcu104").model_dump_json())
    (tmp_path / "small.json").write_text(json.dumps(profile | {"name": "small", "dpu": DPUS["B512"].model_dump(mode="json")}))
    layers = "nn.Conv2d(3, 3000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3000, 10)"
    (tmp_path / "wide_net.py").write_text(f"from torch import nn\n\n\ndef net():\n    return nn.Sequential({layers})\n")
    network = ("wide_net:net", "--input-size", 16)
    assert json.loads(run("bench", *network, "--format", "json"))["macs"] > 0
    assert "3000 output channels; B512 takes at most 2048" in run("inspect", *network, "--board", "small.json")
    with pytest.raises(LoweringError, match="B512 takes at most 2048"):
        run("bench", *network, "--board", "small.json")


def test_a_pruned_candidate_keeps_the_channels_that_fill_its_dpu(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        'student = { architecture = "cnn_tiny", input_size = 16 }\npruning = { method = "one_step", ratio = 0.4 }\n'
    )
    widths = {}
    for name in ("B512", "B4096"):
        graph, _ = find_network(str(tmp_path / "c.toml"), target=DPUS[name])
        widths[name] = [node.shape[-1] for node in graph if isinstance(node, Conv)]
        assert all(width % DPUS[name].channel_parallel == 0 for width in widths[name])
    assert widths["B512"] != widths["B4096"]


def test_a_profile_finds_its_dpu_beside_itself_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "dpu_of_mine.py").write_text(
        "from edgesearch.board_eval.targets import DPUS\nSMALL = DPUS['B1152'].model_copy(update={'name': 'small'})\n"
    )
    profile = json.loads(load_profile("zcu104").to_json()) | {"name": "mine", "dpu": "dpu_of_mine:SMALL"}
    board = study / "board.json"
    board.write_text(json.dumps(profile))
    (study / "study.toml").write_text(
        'name = "s"\nboard = "board.json"\n[data]\nname = "digits"\n[space]\nstudents = ["cnn_tiny"]\ninput_size = [8]\n'
    )
    monkeypatch.chdir(tmp_path)
    for command in ("inspect", "bench"):
        figures = json.loads(run(command, "cnn_tiny", "--board", board, "--format", "json"))
        assert figures["latency_fps"] < json.loads(run(command, "cnn_tiny", "--format", "json"))["latency_fps"]
    assert "candidates" in run("optimize", study / "study.toml", "--dry-run", "--home", tmp_path / "home")


def test_a_head_of_a_candidate_that_has_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "candidate.toml"
    path.write_text("student = { architecture = 'cnn_tiny', head = 64 }\n")
    with pytest.raises(SpaceError, match=r"candidate.toml: student.head is 64, and cnn_tiny has no such choice"):
        read_candidate(path)
