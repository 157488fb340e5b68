"""The command line: what stops, starts again and trains in processes of its own, what only reads in this one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import optuna
import pytest
from _studies import make_study

from edgesearch.search import StudyFile
from edgesearch.search.commands import run
from edgesearch.search.study._record import read_study

STUDY = """
name = "tiny"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 1
[finetune]
epochs = 1
[qat]
epochs = 1
[prune]
draws = 2
score_images = 50
recalibration_images = 50
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
pruning = ["none", "one_step"]
ratio = [0.5]
granularity = [8]
quantization = ["ptq", "qat"]
"""


def edgesearch(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgesearch.search", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, check=False)


def called(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported what each process would import anew."""
    words, out, err = list(map(str, arguments)), StringIO(), StringIO()
    with chdir(cwd or Path.cwd()), redirect_stdout(out), redirect_stderr(err):
        code = run(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, study_file: Path) -> Path:
    """A finished study of six trials."""
    path = tmp_path_factory.mktemp("home")
    result = edgesearch("optimize", study_file, "--trials", 6, "--workers", 0, "--home", path)
    assert result.returncode == 0, result.stderr
    assert "report: " in result.stdout
    assert f"edgesearch export --study tiny --home {path} --knee" in result.stdout
    assert (path / "reports" / "tiny.html").stat().st_size > 100_000
    return path


def test_help_needs_none_of_the_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['edgesearch', '--help']\n"
        "from edgesearch.search.commands._cli import run\n"
        "assert run(['--help']) == 0\n"
        "print([m for m in ('torch', 'ray', 'optuna', 'plotly', 'numpy', 'pydantic') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("[]")


def test_code_that_a_candidates_file_names_is_found_beside_it_by_the_stages_too(study_file: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluated_nets.py").write_text(
        "from torch import nn\ndef net(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
    )
    (tmp_path / "c.toml").write_text('student = { architecture = "evaluated_nets:net", input_size = 8 }\n')
    path = list(sys.path)
    result = called("evaluate", tmp_path / "c.toml", "--study", study_file, "--home", tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert "  measured " in result.stdout
    assert sys.path == path


@pytest.mark.slow
def test_a_network_of_the_users_own_is_found_beside_the_study_and_made_anew_when_its_code_changes(tmp_path: Path) -> None:
    own = (
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__(nn.Conv2d(in_channels, WIDTH, 3), nn.Flatten(), nn.Linear(WIDTH * 36, num_classes))\n"
    )
    (tmp_path / "own.toml").write_text(STUDY.partition("[space]")[0] + '[space]\nstudents = ["nets:Net"]\ninput_size = [8]\n')
    command = [Path(sys.executable).with_name("edgesearch"), "optimize", "own.toml"]
    for trials, width, workers in ((1, 8, 0), (2, 16, 1)):
        (tmp_path / "nets.py").write_text(own.replace("WIDTH", str(width)))
        words = [*command, "--workers", str(workers), "--trials", str(trials)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    view = read_study(optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'runs' / 'studies.db'}"))
    small, large = (record.metrics["parameters"] for record in view.records)
    assert small == 80 + 8 * 36 * 10 + 10
    assert large == 160 + 16 * 36 * 10 + 10


@pytest.mark.slow
def test_the_same_command_again_changes_nothing_and_more_trials_go_on(home: Path, study_file: Path) -> None:
    before = json.loads(called("pareto", "--home", home, "--format", "json").stdout)
    again = edgesearch("optimize", study_file, "--trials", 6, "--workers", 0, "--home", home)
    assert "0 trials finished now" in again.stdout
    assert json.loads(called("pareto", "--home", home, "--format", "json").stdout) == before
    more = edgesearch("optimize", study_file, "--trials", 7, "--workers", 0, "--home", home)
    assert "1 trial finished now" in more.stdout


def test_a_front_is_shown_in_three_ways(home: Path) -> None:
    table = called("pareto", "--home", home)
    rows = json.loads(called("pareto", "--home", home, "--format", "json").stdout)["front"]
    csv = called("pareto", "--home", home, "--format", "csv").stdout.splitlines()
    assert table.returncode == 0
    assert len(csv) == len(rows) + 1
    assert all(0 <= row["accuracy"] <= 1 and row["fps"] > 0 for row in rows)
    assert all(row["test_accuracy"] is not None for row in rows)


def test_a_front_is_drawn_where_it_is_wanted(home: Path, tmp_path: Path) -> None:
    done = called("pareto", "--home", home, "--format", "json", "--picture", tmp_path / "front.svg")
    assert json.loads(done.stdout)["validation_images"] == 100
    assert (tmp_path / "front.svg").read_text().startswith("<svg")
    refused(called("pareto", "--home", home, "--picture", tmp_path / "front.svg" / "x.svg"), "cannot be written")


def test_what_only_reads_a_study_imports_nothing_that_trains(home: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom edgesearch.search.commands._cli import run\n"
        f"assert run(['pareto', '--home', {str(home)!r}, '--picture', {str(tmp_path / 'f.svg')!r}]) == 0\n"
        f"assert run(['report', '--home', {str(home)!r}, '-o', {str(tmp_path / 'report.html')!r}]) == 0\n"
        f"assert run(['pareto', '--study', 'nonsense', '--home', {str(home)!r}]) == 2\n"
        "print([m for m in ('torch', 'ray', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("[]")


def test_results_are_kept_in_one_file(home: Path, tmp_path: Path) -> None:
    done = called("results", "--home", home, "-o", tmp_path / "kept", "--manifests")
    (run,) = json.loads((tmp_path / "kept" / "results.json").read_text())["runs"]
    front = [trial for trial in run["trials"] if trial["front"]]
    rows = json.loads(called("pareto", "--home", home, "--format", "json").stdout)["front"]
    assert {trial["trial"]: trial["test_accuracy"] for trial in front} == {row["trial"]: row["test_accuracy"] for row in rows}
    assert all(0 < trial["float_test_accuracy"] <= 1 for trial in front)
    assert run["machine"]["threads"] == [1]
    assert run["versions"]["edgesearch"]
    assert run["command"].startswith("edgesearch optimize tiny.toml --trials ")
    for trial in front:
        manifest = json.loads((tmp_path / "kept" / f"manifests/tiny-{trial['trial']:04d}.json").read_text())
        assert manifest["scores"]["test_accuracy"] == trial["test_accuracy"]
        assert any(file.startswith("compiled/") for file in manifest["sha256"])
    written = ["results.json", "study.toml", "front.svg", *(f"manifests/tiny-{trial['trial']:04d}.json" for trial in front)]
    assert sorted(done.stdout.split()) == sorted(str(tmp_path / "kept" / name) for name in written)
    refused(called("results", "nonsense", "--home", home, "-o", tmp_path / "kept"), "nonsense")


def test_a_study_without_a_complete_trial_has_no_results_and_replaces_none(tmp_path: Path) -> None:
    study = make_study(0, storage=f"sqlite:///{tmp_path / 'studies.db'}", name="begun")
    study.set_user_attr("study", StudyFile.parse(tomllib.loads(STUDY) | {"name": "begun"}).to_json())
    refused(called("results", "--home", tmp_path, "-o", tmp_path / "kept"), "begun", "no complete trial")
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_an_exported_xmodel_simulates_to_the_logits_of_its_onnx(home: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    result = called("export", "--home", home, "--front", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    folders = sorted((tmp_path / "out").iterdir())
    assert folders
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert set(manifest["sha256"]) == files - {"manifest.json"}
        images = np.random.default_rng(0).uniform(-1, 1, (20, *manifest["input"]["shape"])).astype(np.float32)
        np.save(tmp_path / "images.npy", images)
        xmodel = next(folder.glob("*.xmodel"))
        done = called("simulate", xmodel, "--images", tmp_path / "images.npy", "--logits", tmp_path / "logits.npy")
        assert done.returncode == 0, done.stderr
        session = onnxruntime.InferenceSession(str(next(folder.glob("*.onnx"))), providers=["CPUExecutionProvider"])
        feed = images if session.get_inputs()[0].shape[-1] == images.shape[-1] else images.transpose(0, 3, 1, 2)
        (theirs,) = session.run(None, {session.get_inputs()[0].name: feed})
        ours = np.load(tmp_path / "logits.npy")
        assert (ours.argmax(1) == theirs.reshape(ours.shape).argmax(1)).mean() >= 0.95
        compiled = folder / manifest["compiled"]["file"]
        done = called("simulate", compiled, "--images", tmp_path / "images.npy", "--logits", tmp_path / "logits.npy")
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), ours)


def test_one_way_of_choosing_a_trial_is_needed(home: Path, tmp_path: Path) -> None:
    refused(called("export", "--home", home, "-o", tmp_path), "--knee")
    refused(called("export", "--home", home, "--trial", 99, "-o", tmp_path), "no trial 99")
    refused(called("export", "--home", home, "--min-accuracy", 1.0, "--min-fps", 1e9, "-o", tmp_path), "the front is")


def test_a_changed_study_file_is_refused(home: Path, study_file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "tiny.toml"
    changed.write_text(STUDY.replace("epochs = 1\n[finetune]", "epochs = 2\n[finetune]"))
    refused(called("optimize", changed, "--trials", 6, "--workers", 0, "--home", home), "train.epochs: was 1, is 2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optimize", "nonsense"], ["nonsense", "quickstart"]),
        (["optimize", "--trials", "0"], ["0"]),
        (["optimise"], ["optimize"]),
        (["pareto", "--home", "/nonexistent"], ["/nonexistent", "optimize"]),
        (["inspect", "resnet19"], ["resnet19", "resnet18"]),
        (["bench", "resnet18", "--board", "zcu999"], ["zcu999", "zcu104"]),
        (["simulate", "missing.xmodel", "--images", "x.npy", "--logits", "y.npy"], ["missing.xmodel"]),
        (["evaluate", "missing.toml"], ["missing.toml"]),
        (["compile", "missing.xmodel"], ["missing.xmodel"]),
        (["compile", "."], ["is a folder", "NAME_int.xmodel"]),
        (["compile", "/"], ["is a folder", "NAME_int.xmodel"]),
        (["disassemble", "."], ["."]),
        (["optimize", "--store", "~nosuchuser/store"], ["~nosuchuser"]),
        (["optimize", "--storage", "postgresql+psycopg://user@host:port/studies"], ["is not a database URL"]),
        (["pareto", "--storage", "postgresql+psycopg://user@host:port/studies"], ["is not a database URL"]),
        (["compile", "x.xmodel", "--fingerprint", "0x10100005601040f"], ["0x10100005601040f", "B4096"]),
        (["compile", "x.xmodel", "--fingerprint", "0x103000056010407"], ["instruction set 3"]),
        (["compile", "x.xmodel", "--board", "zcu999"], ["zcu999", "zcu104"]),
        (["compile", "typo/net_int.xmodel"], ["typo/net_int.xmodel is not there", "NAME_int.xmodel"]),
        (["disassemble", "missing.xmodel"], ["missing.xmodel"]),
        (["inspect", "resnet18", "--test-images", "t.npy"], ["--images"]),
        (["calibrate", "--measurements", "m.csv", "-o", "m.csv"], ["is the measurements itself"]),
        (["calibrate", "--measurements", "m.csv", "-o", "no/b.json"], ["there is no folder 'no'"]),
        (["pareto", "--home", "x" * 300], ["--home: 'xxx", "longer than 255 bytes"]),
        (["disassemble", "x" * 300], ["xmodel: 'xxx", "longer than 255 bytes"]),
        (["calibrate", "--measurements", "m.csv", "-o", "x" * 300 + ".json"], ["--output: 'xxx", "longer than 255 bytes"]),
        (["inspect", "cnn_tiny", "--classes", "1000000000"], ["1000000000", "65536"]),
        (["inspect", "cnn_tiny", "--channels", "1000000000"], ["1000000000", "4096"]),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    refused(called(*arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def _with_few_rights() -> list[str]:
    """What a command line begins with so that the files of others are closed to it; root may open them all otherwise."""
    if os.geteuid():
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.skipif(
    not os.geteuid() and not shutil.which("setpriv"), reason="root may read everything, and there is no setpriv"
)
def test_files_of_another_user_are_one_sentence(home: Path, tmp_path: Path) -> None:
    """Those in a closed folder cannot be looked at, and a closed file can be, but not opened."""
    (tmp_path / "closed" / "home").mkdir(parents=True)
    shutil.copytree(home, tmp_path / "mine", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    (tmp_path / "folder.toml").write_text(STUDY.replace('name = "digits"', 'name = "folder"\nroot = "closed/pictures"'))
    commands = [
        (["pareto", "--home", "closed/home"], "studies.db cannot be read: Permission denied"),
        (["pareto", "--storage", "sqlite:///closed/home/studies.db"], "studies.db cannot be read: Permission denied"),
        (["pareto", "--home", "mine"], "cannot be read: "),
        (["optimize", "quickstart", "--dry-run", "--home", "closed/home"], "studies.db cannot be read: Permission denied"),
        (["optimize", "quickstart", "--dry-run", "--home", "h", "--board", "closed/b.json"], "closed/b.json"),
        (["optimize", "folder.toml", "--dry-run", "--home", "h"], "closed/pictures"),
        (["compile", "closed/x.xmodel"], "'closed/x.xmodel' may not be read or written by this user; change its rights"),
        (["calibrate", "--measurements", "m.csv", "-o", "closed/b.json"], "closed/b.json"),
        (["disassemble", "closed/x.xmodel"], "closed/x.xmodel"),
    ]
    script = (
        "import sys; from edgesearch.search.commands import run\n"
        f"for command in {[command for command, _ in commands]}: print(run(command), file=sys.stderr)"
    )
    closed = [tmp_path / "closed", tmp_path / "mine" / "studies.db"]
    for path in closed:
        path.chmod(0)
        if not os.geteuid():
            os.chown(path, 65534, 65534)
    (tmp_path / "mine").chmod(0o500)
    done = subprocess.run(
        [*_with_few_rights(), sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    for path in (*closed, tmp_path / "mine"):
        path.chmod(0o700)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    for line, code, (_, words) in zip(said[::2], said[1::2], commands, strict=True):
        assert (code, line[:7]) == ("2", "error: "), done.stderr
        assert words in line


def test_a_reader_that_goes_away_is_no_error() -> None:
    for words in ("--help", "inspect mlp --channels 1 --input-size 28"):
        command = f"{Path(sys.executable).with_name('edgesearch')} {words} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_bad_input_ends_the_process_with_the_same_code_and_sentence(tmp_path: Path) -> None:
    refused(edgesearch("optimize", "nonsense", cwd=tmp_path), "nonsense", "quickstart")


def test_a_file_that_is_no_xmodel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.xmodel").write_bytes(b"certainly not a network")
    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8, 1), np.float32))
    refused(
        called("simulate", tmp_path / "x.xmodel", "--images", tmp_path / "images.npy", "--logits", tmp_path / "l"),
        "x.xmodel",
    )


def test_code_that_ends_the_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "leaving_samplers.py").write_text("import sys\ndef make(seed): sys.exit(3)\n")
    (tmp_path / "study.toml").write_text(STUDY + "[search]\nsampler = 'leaving_samplers:make'\n")
    refused(
        called("optimize", tmp_path / "study.toml", "--dry-run", cwd=tmp_path), "leaving_samplers.py, line 2", "sys.exit(3)"
    )


def test_inspect_names_what_the_dpu_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 900, num_classes))\n"
    )
    result = called("inspect", "nets:Net", "--input-size", 32, "--format", "json", cwd=tmp_path)
    assert result.returncode == 2
    problems = json.loads(result.stdout)["problems"]
    assert [problem["operation"] for problem in problems] == ["GELU"]


def test_a_dry_run_lists_and_trains_nothing(study_file: Path, tmp_path: Path) -> None:
    result = called("optimize", study_file, "--dry-run", "--trials", 4, "--home", tmp_path / "h")
    assert result.returncode == 0, result.stderr
    assert "expected cost" in result.stdout
    assert result.stdout.count("FPS") == 4
    assert not (tmp_path / "h").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 0), (signal.SIGKILL, 1)])
def test_a_stopped_study_goes_on_with_the_same_command(
    study_file: Path, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    arguments = ["optimize", str(study_file), "--trials", "4", "--workers", str(workers), "--home", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "edgesearch.search", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("store/artifacts/student/*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "goes on from here" in errors
        assert "Traceback" not in errors
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/artifacts/*/*/artifact.json")}
    result = edgesearch(*arguments)
    assert result.returncode == 0, result.stderr
    assert all(path.stat().st_mtime_ns == moment for path, moment in kept.items())
    rows = json.loads(called("pareto", "--home", tmp_path, "--format", "json").stdout)
    assert rows
