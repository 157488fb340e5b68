"""A study as a program runs it, with real stages on tiny digits."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesearch.board_eval import load_profile
from edgesearch.errors import LoweringError, SpaceError, StudyError
from edgesearch.objectives import DataSettings, Recipe
from edgesearch.objectives.stages._run import _made_by
from edgesearch.search import Study, StudyFile
from edgesearch.search.engine import StageEnd
from edgesearch.search.library import _run
from edgesearch.spaces import Candidate, Distillation, Pruning, Space, Student


def test_a_study_is_run_once_and_read_as_often_as_one_likes(tiny: Study, tiny_home: Path) -> None:
    lines: list[str] = []
    before = tiny.front()
    again = tiny.optimize(4, workers=0, progress=lines.append)
    assert tiny.summary is not None
    assert tiny.summary.finished == 0
    assert [r.number for r in again] == [r.number for r in before]
    loaded = Study.load("tiny", tiny_home)
    assert [r.values for r in loaded.front()] == [r.values for r in before]
    assert loaded.settings == tiny.settings
    assert Study.load(home=tiny_home).name == "tiny"
    assert len(loaded.records()) == 4
    with pytest.raises(StudyError, match=r"read.*Study\.open"):
        loaded.optimize(5)


@pytest.mark.slow
def test_progress_is_told_line_by_line(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    Study.open(tiny_file, tmp_path).optimize(1, workers=0, progress=lines.append)
    assert sum("trial 0" in line for line in lines) == 1
    assert not any("\n" in line for line in lines)
    Study.open(tiny_file, tmp_path).optimize(2, workers=0)
    assert capsys.readouterr().out == ""
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_study_is_read_while_it_runs(tiny_file: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(line: str) -> None:
        loaded = Study.load("tiny", tmp_path)
        seen.append((loaded.view().counts["RUNNING"], len(loaded.front())))

    front = Study.open(tiny_file, tmp_path).optimize(2, workers=0, progress=look)
    assert len(seen) >= 2
    assert len(front) >= 1


@pytest.mark.slow
def test_where_a_study_names_its_candidates_all_are_measured_on_the_test_images(tmp_path: Path) -> None:
    student = {"architecture": "cnn_tiny", "input_size": 8}
    tables = {
        "name": "named",
        "data": {"train_images": 200, "validation_images": 50, "calibration_images": 16, "test_images": 40},
        "train": {"epochs": 1},
        "qat": {"epochs": 1},
        "candidates": [
            {"student": student, "quantization": {"bits": 16}},
            {"student": student},
            {"student": student, "quantization": {"method": "qat", "start": "scratch"}},
            {"student": student, "distillation": {"kind": "self"}, "quantization": {"method": "qat", "start": "scratch"}},
        ],
    }
    study = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path)
    study.optimize(workers=0)
    view = study.view()
    assert set(view.test_accuracy) == {0, 1, 2, 3}  # the first is not on the front: no DPU runs it
    assert set(view.float_test_accuracy) == {0, 1}  # the others never were float networks
    assert view.float_test_accuracy[0] == view.float_test_accuracy[1]
    assert all(40 * accuracy == round(40 * accuracy) for accuracy in view.test_accuracy.values())
    exported = study.record(3).export(tmp_path / "deploy")
    assert not list(exported.glob("*_float.safetensors"))  # what it learnt from is another network
    with pytest.raises(StudyError, match="trained in integers from scratch"):
        study.record(3).network()


def test_opening_writes_nothing_and_an_opened_study_has_an_empty_front(tiny_file: Path, tmp_path: Path) -> None:
    opened = Study.open(tiny_file, tmp_path / "home", name="other")
    front = opened.front()
    assert len(front) == 0
    assert front.hypervolume() == 0.0
    assert list(front.to_pandas().columns) == []
    with pytest.raises(StudyError, match="'other' has no feasible"):
        front.knee()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": 0}, "`trials` is 0, expected a whole number of at least 1"),
        ({"trials": 2.5}, "`trials` is 2.5, expected a whole number"),
        ({"workers": -1}, "`workers` is -1, expected a whole number of at least 0"),
        ({"gpus_per_stage": -0.5}, "`gpus_per_stage` is -0.5, expected a finite number of at least 0"),
        ({"gpus_per_stage": 0.00001}, "`gpus_per_stage` is 1e-05, expected 0, or a share of a GPU of at least 0.0001"),
        ({"hang_s": float("nan")}, "`hang_s` is nan"),
        ({"hang_s": 0}, "`hang_s` is 0, expected a number of at least 1"),
        ({"memory_per_stage": float("inf")}, "`memory_per_stage` is inf, expected a finite number of at least 0"),
        ({"memory_per_stage": -1}, "`memory_per_stage` is -1, expected a finite number of at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused_as_by_the_command(
    tiny_file: Path, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    study = Study.open(tiny_file, home=tmp_path / "h")
    with pytest.raises(StudyError, match=re.escape(said)):
        study.optimize(**given)
    with pytest.raises(StudyError, match="`threads` is 0, expected a whole number of at least 1"):
        Study.open(tiny_file, home=tmp_path / "h", threads=0)
    assert not (tmp_path / "h").exists()


def test_settings_made_in_python_are_checked_like_a_file(tmp_path: Path) -> None:
    space = Space(students=("cnn_tiny",), input_size=(8,))
    made = StudyFile.parse({"name": "made", "space": space, "data": {"root": "x.npz", "name": "npz"}}, folder=tmp_path)
    assert made.data.root == tmp_path / "x.npz"
    assert made.folder == tmp_path
    with pytest.raises(SpaceError, match="name = 'a b'"):
        StudyFile.parse({"name": "a b", "space": space})
    opened = Study.open(StudyFile(name="made", space=space), tmp_path)
    assert opened.trials == 100
    with pytest.raises(SpaceError, match="seed = -1"):
        Study.open(opened.settings, tmp_path, seed=-1)


def test_paths_of_settings_made_in_python_are_whole_when_the_study_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dice = np.random.default_rng(0)
    arrays = {"x_train": dice.integers(0, 256, (300, 8, 8), dtype=np.uint8), "y_train": np.arange(300) % 3}
    np.savez("mine.npz", **arrays)
    data = DataSettings(name="npz", root=Path("mine.npz"), validation_images=20, calibration_images=20, test_images=20)
    space = Space(students=("cnn_tiny",), input_size=(8,))
    opened = Study.open(StudyFile(name="made", data=data, space=space), tmp_path / "home")
    assert opened.settings.data.root == tmp_path / "mine.npz"
    tuned = {"name": "a", "finetune": Recipe(mix="mixup")}
    with pytest.raises(SpaceError, match="a study shows its training images in one way"):
        Study.open(StudyFile(space=space, **tuned), tmp_path / "home")


def test_a_student_that_the_dpu_cannot_run_is_named_when_the_study_is_opened(tmp_path: Path) -> None:
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(1, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(288, num_classes))\n"
    )
    path = list(sys.path)
    tables = {"name": "a", "space": {"students": ["odd_nets:Net", "cnn_tiny"], "input_size": [8]}}
    opened = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path)
    assert len(opened.unsupported) == 1
    assert "GELU" in opened.unsupported[0]
    with pytest.raises(LoweringError, match="GELU"):
        Study.open(StudyFile.parse({"name": "a", "space": {"students": ["odd_nets:Net"], "input_size": [8]}}, folder=tmp_path))
    assert sys.path == path


@pytest.mark.slow
def test_failed_candidates_are_tried_again_though_the_study_has_all_its_trials(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(
        "from pathlib import Path\nimport torch\nclass Net(torch.nn.Sequential):\n    def __init__(self, num_classes):\n"
        "        super().__init__(torch.nn.Conv2d(1, 16, 8), torch.nn.Flatten(), torch.nn.Linear(16, num_classes))\n"
        "    def forward(self, x):\n        if self.training and (Path(__file__).parent / 'bad').exists():\n"
        "            raise RuntimeError('in a bad mood')\n        return super().forward(x)\n"
    )
    few = {"train_images": 40, "validation_images": 40, "calibration_images": 20, "test_images": 20}
    tables = {
        "name": "moody",
        "data": {"name": "digits", **few},
        "train": {"epochs": 1},
        "candidates": [{"student": {"architecture": "moody:Net", "input_size": 8}}],
    }
    study = Study.open(StudyFile.parse(tables, folder=tmp_path), home=tmp_path / "runs")
    (tmp_path / "bad").touch()
    study.optimize(trials=1, workers=0)
    assert [record.state for record in study.records()] == ["FAIL"]
    (tmp_path / "bad").unlink()
    study.optimize(trials=1, workers=0)
    assert len(study.records()) == 1
    study.optimize(trials=1, workers=0, retry_failed=True)
    assert [record.state for record in study.records()] == ["FAIL", "COMPLETE"]
    study.optimize(trials=1, workers=0, retry_failed=True)  # it succeeded since
    assert len(study.records()) == 2


def test_one_candidate_is_evaluated_without_becoming_a_trial(tiny: Study) -> None:
    lines: list[str] = []
    candidate = Candidate(student=Student(architecture="cnn_tiny", input_size=8, width=0.5))
    figures = tiny.evaluate(candidate, test=True, progress=lines.append)
    assert {"accuracy", "fps", "test_accuracy", "float_test_accuracy"} <= set(figures)
    told = {line.split()[0]: line for line in lines[1:]}
    assert all(told[kind].endswith(" s") for kind in ("student", "quantized", "measured", "tested"))
    lines.clear()
    assert tiny.evaluate(candidate, test=True, progress=lines.append) == figures
    assert all("from the store" in line for line in lines[1:])
    assert len(tiny.records()) == 4
    for wrong in ("x", {"student": {"architecture": "mlp"}}):
        with pytest.raises(StudyError, match=rf"the candidate is of type {type(wrong).__name__}, expected a Candidate"):
            tiny.evaluate(wrong)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"no \[teacher\]"):
        tiny.evaluate(candidate.model_copy(update={"distillation": Distillation(kind="logit")}))
    for unread, said in (
        ({"pruning": Pruning(ratio=0.5)}, "pruning.ratio is 0.5, and pruning.method is not there"),
        ({"student": Student(architecture="cnn_tiny", stem="imagenet")}, "student.stem is 'imagenet', and cnn_tiny has no"),
    ):
        with pytest.raises(SpaceError, match=f"the candidate: {said}"):
            tiny.evaluate(candidate.model_copy(update=unread))


def test_a_candidate_whose_stage_is_known_to_fail_is_evaluated_again_when_asked(tiny: Study) -> None:
    candidate = Candidate(student=Student(architecture="cnn_tiny", input_size=8, width=0.75))
    stage, store = tiny.inputs.plan(candidate, last="tested"), tiny._store()
    store.record_failure(stage.kind, stage.key, message="a bad day", made_by=_made_by(torch.device("cpu")))
    with pytest.raises(StudyError, match=r"a bad day \(known from an earlier attempt; --retry-failed tries it again"):
        tiny.evaluate(candidate, test=True)
    assert "test_accuracy" in tiny.evaluate(candidate, test=True, retry_failed=True)


def test_a_study_does_not_go_on_with_another_content_of_its_board_profile(tiny: Study, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(load_profile("zcu104").to_json())
    study = Study.open(tiny.settings.with_changes(name="moved", board=str(path)), tmp_path)
    study.optimize(1, workers=0)
    Study.open(study.settings, tmp_path).optimize(1, workers=0)
    path.write_text(load_profile("zcu104").model_copy(update={"clock_mhz": 200.0}).to_json())
    with pytest.raises(StudyError, match=r"clock_mhz: was 300\.0, is 200\.0.*--name"):
        Study.open(study.settings, tmp_path).optimize(1, workers=0)


def test_a_study_says_which_compiler_makes_its_code(tiny: Study, tmp_path: Path) -> None:
    theirs = Study.open(tiny.settings.with_changes(name="theirs", compiler="vai"), tiny.home.root)
    (record,) = theirs.optimize(1, workers=0)
    own = tiny.record(0)
    assert record.candidate == own.candidate
    assert (record.conditions["compiler"], own.conditions["compiler"]) == ("vai", "edgesearch")
    assert record.artifacts["quantized"] == own.artifacts["quantized"]
    assert record.artifacts["measured"] != own.artifacts["measured"]
    assert record.latency_ms != own.latency_ms
    for study, compiler, expected in ((record, None, "vai"), (record, "edgesearch", "edgesearch"), (own, "vai", "vai")):
        manifest = json.loads((study.export(tmp_path / study.study.name, compiler=compiler) / "manifest.json").read_text())
        assert manifest["compiler"] == expected
        assert manifest["sha256"].keys() & {"compiled/cnn_tiny.xmodel"} == (
            {"compiled/cnn_tiny.xmodel"} if expected == "edgesearch" else set()
        )
    with pytest.raises(StudyError, match='compiler: was "vai", is "edgesearch"'):
        Study.open(tiny.settings.with_changes(name="theirs"), tiny.home.root).optimize(1, workers=0)


def test_a_front_that_cannot_be_compiled_is_told_and_ends_the_study_as_usual(
    tiny: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(_run, "run_stages", lambda runner, stages: [StageEnd(s, 0.1, "layer 'x' has no room") for s in stages])
    front = Study.open(tiny.settings, tiny.home.root).optimize(4, workers=0, progress=lines.append)
    said = [line for line in lines if "has no file for the board: layer 'x' has no room" in line]
    assert len(said) == len(front) > 0
