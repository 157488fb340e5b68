from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgesearch.errors import EdgesearchError, SpaceError, StudyError
from edgesearch.objectives import DataSettings
from edgesearch.search.study._file import Constraints, StudyFile, bundled_studies, load_study, parse_study
from edgesearch.spaces import Candidate, Student


def parse(text: str, folder: Path = Path("/base")) -> object:
    return parse_study(text.encode(), where="my.toml", folder=folder)


def test_the_bundled_studies_are_valid() -> None:
    names = [
        *("cifar10", "cifar10_evening", "cifar10_gpu", "cifar10_hour", "fashion_mnist"),
        *("mnist_mlp", "quickstart", "thesis", "thesis_32"),
    ]
    assert bundled_studies() == names
    for name in bundled_studies():
        assert load_study(name).name == name


def test_the_small_thesis_study_is_the_thesis_at_another_size_with_controls() -> None:
    whole, small = load_study("thesis"), load_study("thesis_32")
    known = {key: value for key, value in whole.model_dump().items() if key not in ("name", "description", "teacher")}
    own = {key: value for key, value in small.model_dump().items() if key in known}
    assert {key for key in own if own[key] != known[key]} == {"compiler", "candidates", "data"}
    data, others = own["data"], known["data"]
    assert {key for key in data if data[key] != others[key]} == {
        "normalisation",
        "train_images",
    }  # ImageNet's comes with its weights
    at_32 = [c.model_copy(update={"student": _at_32(c.student)}) for c in whole.candidates]
    assert [c for c in small.candidates if c in at_32] == at_32
    controls = [c for c in small.candidates if c not in at_32]
    alone, as_long = controls[:3], controls[3:]
    assert [c.student.architecture for c in alone] == ["squeezenet1_0", "resnet18", "mobilenet_v2"]
    assert {(c.distillation.kind, c.pruning.method) for c in alone} == {("none", "none")}
    table = [c.model_copy(update={"pruning": c.pruning.model_copy(update={"ratio": 0.01})}) for c in at_32[:11]]
    assert all(c in table for c in as_long)  # pruned rows of Table I, as long trained and hardly pruned
    assert [c.student.architecture for c in as_long] == ["resnet50", "resnet18", "mobilenet_v2"]


def _at_32(student: Student) -> Student:
    """A quarter as wide, but for the small CNNs, which the thesis trained from random weights too."""
    width = student.width if student.architecture.startswith("cnn_") else 0.25
    return student.model_copy(update={"input_size": 32, "weights": "", "adapt": False, "width": width})


def test_the_thesis_study_holds_every_experiment_once() -> None:
    candidates = load_study("thesis").candidates
    assert len({candidate.key for candidate in candidates}) == len(candidates) == 23
    table = candidates[:11]  # Table I
    assert [c.student.architecture for c in table].count("resnet50") == 5
    assert sum(c.pruning.method == "iterative" for c in table) == 1
    assert {c.pruning.ratio for c in candidates if c.pruning.method == "one_step"} == {0.2, 0.4, 0.6, 0.8, 0.95}


def test_a_study_survives_json() -> None:
    for name in bundled_studies():
        study = load_study(name)
        assert type(study).model_validate(study.to_json()) == study


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\n', ["space", "candidates"]),
        ('name = "a b"\n[space]\nstudents = ["mlp"]\n', ["name", "a b"]),
        ('name = "a"\n[space]\nstudents = ["resnet19"]\n', ["resnet19", "resnet18"]),
        ('name = "a"\n[space]\nstudents = ["mlp"]\nwidths = [1]\n', ["space.widths", "did you mean width"]),
        ('name = "a"\n[space]\nstudents = ["mlp"]\nratio = [0.99]\n', ["ratio", "0.99", "0.95"]),
        ('name = "a"\n[space]\nstudents = ["mlp"]\npruning = ["some"]\n', ["pruning", "some", "one_step"]),
        ('name = "a"\nobjectives = ["speed"]\n[space]\nstudents = ["mlp"]\n', ["objectives", "speed", "accuracy"]),
        ('name = "a"\nobjectives = ["fps", "fps"]\n[space]\nstudents = ["mlp"]\n', ["twice"]),
        ('name = "a"\n[space]\nstudents = ["mlp"]\ndistillation = ["logit"]\n', ["teacher"]),
        ('name = "a"\n[train]\nepochs = 0\n[space]\nstudents = ["mlp"]\n', ["train.epochs", "0"]),
        (
            'name = "a"\n[constraints]\nmin_acuracy = 0.9\n[space]\nstudents = ["mlp"]\n',
            ["min_acuracy", "did you mean min_accuracy"],
        ),
        *(
            (f'name = "a"\n[constraints]\n{limit} = inf\n[space]\n', [f"constraints.{limit} = inf", "expected"])
            for limit in ("min_accuracy", "min_fps", "max_latency_ms", "max_size_bytes")
        ),
        ('name = "a"\ncompiler = "gcc"\n[space]\nstudents = ["mlp"]\n', ["compiler", "gcc", "edgesearch", "vai"]),
        ('name = "a"\ncompiler = "vai"\nallow = ["relu6"]\n[space]\nstudents = ["mlp"]\n', ["allow", "relu6", "vai", "leave"]),
        ('name = "a"\nallow = ["tanh"]\n[space]\nstudents = ["mlp"]\n', ["allow", "tanh", "relu6"]),
        ("name = ", ["TOML"]),
        ('name = "a"\n[data]\nname = "npz"\nroot = "~nosuchuser/a.npz"\n', ["my.toml: root", "no home folder ~nosuchuser"]),
        ('name = "a"\nboard = "~nosuchuser/b.json"\n', ["my.toml: board", "no home folder ~nosuchuser"]),
        ('name = "a"\nstore = "~nosuchuser/store"\n', ["my.toml: store", "no home folder ~nosuchuser"]),
        (
            'name = "a"\n[[candidates]]\nstudent = { architecture = "mlp", wdth = 2.0 }\n',
            ["candidates.0.student.wdth", "did you mean width"],
        ),
        (
            'name = "a"\n[[candidates]]\nstudents = { architecture = "mlp" }\n',
            ["candidates.0.students", "did you mean student"],
        ),
    ],
)
def test_mistakes_are_named_with_key_and_value(text: str, words: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        parse(text)
    assert all(word in str(caught.value) for word in ["my.toml", *words]), str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_studies_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="quickstart"):
        load_study("quickstrat")
    with pytest.raises(StudyError, match=r"missing\.toml"):
        load_study(str(tmp_path / "missing.toml"))


def test_a_path_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9").mkdir()
    (tmp_path / "caf\udce9" / "my.toml").write_text('name = "a"\n[data]\nname = "npz"\nroot = "a.npz"\n')
    with pytest.raises(SpaceError, match=r"root leads to '.*/caf\\udce9/a.npz', a path that is not UTF-8"):
        load_study(str(tmp_path / "caf\udce9" / "my.toml"))


def test_relative_paths_start_at_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"1")
    (tmp_path / "study.toml").write_text(
        'name = "a"\n[data]\nname = "npz"\nroot = "images.npz"\n'
        '[[candidates]]\nstudent = { architecture = "mlp", weights = "weights.npz" }\n'
    )
    study = load_study(str(tmp_path / "study.toml"))
    assert study.data.root == tmp_path / "images.npz"
    assert study.candidates[0].student.weights == str(tmp_path / "weights.npz")
    assert len(study.candidates[0].student.weights_sha256) == 64
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(EdgesearchError, match=r"weights\.npz"):
        load_study(str(tmp_path / "study.toml"))


def test_paths_of_settings_that_were_made_in_python_start_there_too(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    candidate = Candidate(student=Student(architecture="cnn_tiny", weights="w.safetensors"))
    written = {"student": {"architecture": "cnn_tiny", "weights": "w.safetensors"}}
    studies = [
        StudyFile.parse({"name": "a", "data": data, "candidates": candidates}, folder=tmp_path)
        for data in (DataSettings(name="npz", root=Path("mine.npz")), {"name": "npz", "root": "mine.npz"})
        for candidates in ([candidate], (candidate,), (written,), [written])
    ]
    assert all(study == studies[0] for study in studies)
    assert studies[0].data.root == tmp_path / "mine.npz"
    assert studies[0].candidates[0].student.weights == str(tmp_path / "w.safetensors")


def test_a_folder_called_imagenet_is_a_folder_and_weights_called_so_are_torchvisions(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'name = "a"\nstore = "imagenet"\n[data]\nname = "folder"\nroot = "imagenet"\n'
        '[[candidates]]\nstudent = { architecture = "resnet18", weights = "imagenet", adapt = true }\n'
    )
    study = load_study(str(tmp_path / "study.toml"))
    assert (study.data.root, study.store) == (tmp_path / "imagenet", str(tmp_path / "imagenet"))
    assert study.candidates[0].student.weights == "imagenet"


def test_a_tilde_means_the_users_folder_wherever_a_study_names_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    text = 'name = "a"\nboard = "~/mine.json"\nstore = "~/store"\n[data]\nname = "npz"\nroot = "~/d.npz"\n[space]\n'
    (tmp_path / "study.toml").write_text(text)
    study = load_study(str(tmp_path / "study.toml"))
    places = [study.board, study.store, str(study.data.root)]
    assert places == [str(tmp_path / "user" / name) for name in ("mine.json", "store", "d.npz")]


def test_constraints_say_by_how_much_they_are_missed() -> None:
    constraints = Constraints(min_accuracy=0.9, min_fps=100, max_latency_ms=5)
    assert constraints.violations({"accuracy": 0.85, "fps": 120, "latency_ms": 7.5}) == pytest.approx(
        {"min_accuracy": 0.05, "max_latency_ms": 2.5}
    )
    assert constraints.violations({"fps": 100.0}) == {}  # a limit that is just met is kept; accuracy is not known yet


def test_a_teacher_of_the_staged_family_is_one_network_however_it_is_named() -> None:
    table = {"stages": [{"width": 16}, {"width": 32, "down": "stride"}, {"width": 64, "down": "stride", "expansion": 6}]}
    teachers = (
        {"architecture": "resnet8"},
        {"architecture": "staged 16 r1x16 r1x32/2 r1x64/2"},
        {"architecture": "staged", "staged": table},
    )
    pipelines = [StudyFile.parse({"name": "a", "space": {}, "teacher": teacher}).pipeline for teacher in teachers]
    assert pipelines[0] == pipelines[1] == pipelines[2]
    assert pipelines[0].teacher is not None
    assert pipelines[0].teacher.student.name == "resnet8"


def test_mixed_images_are_not_for_the_training_of_pytorch_nndct() -> None:
    space = {"students": ["cnn_tiny"], "quantization": ["qat"], "quantization_backend": ["edgesearch", "nndct"]}
    StudyFile.parse({"name": "a", "space": space})
    StudyFile.parse({"name": "a", "space": space | {"quantization": ["ptq"]}, "train": {"mix": "mixup"}})
    with pytest.raises(
        SpaceError, match=r"pytorch_nndct trains on single images, and train\.mix = 'mixup' mixes them; leave out"
    ):
        StudyFile.parse({"name": "a", "space": space, "train": {"mix": "mixup"}})


def test_a_wrong_key_of_the_family_is_told_with_the_right_one() -> None:
    with pytest.raises(SpaceError, match=r"unknown key space\.student\.staged\.widht = \[16\]; did you mean width\?"):
        StudyFile.parse({"name": "a", "space": {"students": ["staged"], "student": {"staged": {"widht": [16]}}}})
    staged = {"stage1": {"bloc": ["plain"]}}
    with pytest.raises(SpaceError, match="did you mean block"):
        StudyFile.parse({"name": "a", "space": {"students": ["staged"], "student": {"staged": staged}}})


@pytest.mark.parametrize(
    "tables",
    [
        {"data": {"name": "npz", "root": "/a.npz", "normalisation": {"mean": [0.5], "std": [0.5]}}},
        {"data": {"name": "npz", "root": "/a.npz", "normalisation": {"mean": [0.4, 0.5, 0.6], "std": [0.5, 0.4, 0.3]}}},
        {"data": {"normalisation": "data", "noise": 0.25}},
        {"data": {"name": "os.path:join", "options": {"a": [1, 2.5, "x"], "b": {"c": True}, "d": None}}},
        {"train": {"epochs": 1}, "finetune": {"epochs": 1, "optimizer": "sgd"}, "qat": {"epochs": 2, "warmup_epochs": 0.1}},
        {"teacher": {"architecture": "resnet8", "input_size": 8, "recipe": {"epochs": 3, "optimizer": "sgd"}}},
        {"constraints": {"min_fps": 100.0}, "objectives": ["accuracy", "latency_ms"], "search": {"sampler": "nsga2"}},
        {
            "space": {
                "students": ["mlp", "staged"],
                "width": {"low": 0.5, "high": 2.0},
                "student": {"staged": {"stages": [2]}},
            },
            "candidates": [
                {"student": {"architecture": "mlp"}, "pruning": {"method": "one_step", "ratio": 0.5}},
                {"student": {"architecture": "mlp", "width": 2.0}, "quantization": {"method": "qat"}},
            ],
        },
    ],
)
def test_a_study_written_as_a_file_is_the_same_study(tables: dict[str, Any]) -> None:
    given = {"name": "a", "space": {"students": ["mlp"], "input_size": [8]}} | tables
    study = StudyFile.parse(given)
    again = parse_study(study.to_toml().encode(), where="again", folder=Path.cwd())
    options = again.data.options | dict.fromkeys(study.data.options.keys() - again.data.options.keys())
    assert again.model_copy(update={"data": again.data.model_copy(update={"options": options})}).to_json() == study.to_json()


def test_what_follows_from_others_is_not_written() -> None:
    text = StudyFile.parse({"name": "a", "space": {"students": ["mlp"]}, "train": {"epochs": 1, "optimizer": "sgd"}}).to_toml()
    assert "warmup_epochs" not in text
    assert "weight_decay" not in text


def test_options_without_a_form_in_toml_are_refused() -> None:
    study = StudyFile.parse(
        {"name": "a", "space": {"students": ["mlp"]}, "data": {"name": "os.path:join", "options": {"a": [None]}}}
    )
    with pytest.raises(StudyError, match="the study cannot be written as TOML"):
        study.to_toml()


def test_a_folder_may_be_a_text(tmp_path: Path) -> None:
    tables = {"name": "x", "data": {"name": "digits"}, "candidates": [{"student": {"architecture": "mlp", "input_size": 8}}]}
    assert StudyFile.parse(tables, folder=str(tmp_path)).folder == tmp_path
