"""Starting weights are looked at when a study is opened, and ImageNet's are downloaded before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgesearch.errors import SpaceError
from edgesearch.objectives import check_start
from edgesearch.objectives.data import Normalisation, load_data
from edgesearch.search import Study, StudyFile
from edgesearch.search.library._findings import study_findings
from edgesearch.search.study._file import bundled_studies, load_study
from edgesearch.spaces import Candidate, Student, _imagenet, build, weights_fingerprint

CLASSES, CHANNELS = 10, 1
DATA = {"train_images": 100, "validation_images": 100, "calibration_images": 32, "test_images": 50}
CUSTOM = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, depth=1):
        super().__init__()
        self.body = nn.Sequential(*[nn.Conv2d(in_channels if not i else 8, 8, 3, padding=1) for i in range(depth)], nn.ReLU())
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.body(x))))
"""
TEACHERS: dict[str, dict[str, Any]] = {
    "own": {"architecture": "cnn_tiny", "input_size": 16},
    "torchvision": {"architecture": "squeezenet1_1"},
    "preset": {"architecture": "resnet8"},
    "staged": {"architecture": "staged 16 r1x16 i1x32e2/2", "head": 32},
    "custom": {"architecture": "my_nets:Net", "parameters": {"depth": 2}},
}


def study(folder: Path, **tables: Any) -> StudyFile:
    (folder / "my_nets.py").write_text(CUSTOM)
    content = {"name": "s", "data": DATA, "space": {"students": ["mlp"], "input_size": [8]}, "train": {"epochs": 1}} | tables
    return StudyFile.parse(content, folder=folder)


def state_of(folder: Path, student: dict[str, Any], classes: int = CLASSES) -> dict[str, torch.Tensor]:
    (folder / "my_nets.py").write_text(CUSTOM)
    return build(Student(**student), channels=CHANNELS, classes=classes, folder=folder).state_dict()


def saved(folder: Path, state: dict[str, torch.Tensor]) -> str:
    torch.save(state, folder / "w.pth")
    return str(folder / "w.pth")


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_trained_teacher_has_exactly_its_own_tensors(tmp_path: Path, kind: str) -> None:
    student = TEACHERS[kind]
    state = state_of(tmp_path, student)
    last = list(state)[-1]
    foreign, others = state | {"aux.weight": torch.zeros(3)}, state_of(tmp_path, student, classes=7)
    for content, complaint in (
        ({name: tensor for name, tensor in state.items() if name != last}, f"there is no {last}"),
        (foreign, "the network has no aux.weight"),
        (others, rf"{last} is \(7,.*\), expected \(10,.*\)"),
    ):
        teacher = student | {"weights": saved(tmp_path, content), "trained": True}
        with pytest.raises(SpaceError, match=rf"{complaint}; give the weights of this very network"):
            Study.open(study(tmp_path, teacher=teacher), tmp_path / "runs")
    teacher = student | {"weights": saved(tmp_path, state), "trained": True}
    Study.open(study(tmp_path, teacher=teacher), tmp_path / "runs")


def test_a_trained_teacher_adapts_nothing_and_has_weights(tmp_path: Path) -> None:
    student = TEACHERS["own"]
    for table, complaint in (
        (
            {"weights": saved(tmp_path, state_of(tmp_path, student)), "adapt": True},
            "and adapt = true does not; remove one of them",
        ),
        ({}, "needs teacher.weights = 'FILE'"),
        (
            {"weights": saved(tmp_path, state_of(tmp_path, student)), "recipe": {"epochs": 70}},
            "teacher.recipe trains nothing where teacher.trained = true takes weights as they are; remove one of them",
        ),
    ):
        with pytest.raises(SpaceError, match=complaint):
            study(tmp_path, teacher=student | table | {"trained": True})


def test_a_student_of_the_space_is_refused_when_no_width_of_it_takes_the_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of(tmp_path, {"architecture": "cnn_tiny"}))
    space: dict[str, Any] = {"students": ["cnn_tiny"], "weights": path, "width": [0.5, 1.0]}
    Study.open(study(tmp_path, space=space), tmp_path / "runs")
    with pytest.raises(SpaceError, match=r"another network than cnn_tiny x0.5, .* it looks like cnn_tiny, so"):
        Study.open(study(tmp_path, space=space | {"width": [0.25, 0.5]}), tmp_path / "runs")
    for width in ({"low": 0.5, "high": 1.5, "step": 0.5}, {"low": 0.5, "high": 1.5}):
        Study.open(study(tmp_path, space=space | {"width": width}), tmp_path / "runs")
    with pytest.raises(SpaceError, match="another network than cnn_tiny"):
        Study.open(study(tmp_path, space=space | {"width": {"low": 0.4, "high": 1.6, "step": 0.4}}), tmp_path / "runs")
    seven = saved(tmp_path, state_of(tmp_path, {"architecture": "cnn_tiny"}, classes=7))
    with pytest.raises(SpaceError, match="write adapt = true"):
        Study.open(study(tmp_path, space=space | {"weights": seven}), tmp_path / "runs")
    Study.open(study(tmp_path, space=space | {"weights": seven, "adapt": True}), tmp_path / "runs")
    own = {"student": {"cnn_tiny": {"weights": seven, "adapt": True}}, "weights": ""}
    Study.open(study(tmp_path, space=space | own), tmp_path / "runs")


def test_a_student_of_the_space_is_refused_when_no_size_of_its_images_takes_the_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of(tmp_path, {"architecture": "mlp", "input_size": 8}))
    space: dict[str, Any] = {"students": ["mlp"], "weights": path}
    Study.open(study(tmp_path, space=space | {"input_size": [8, 16]}), tmp_path / "runs")
    with pytest.raises(SpaceError, match=r"layers.0.weight is \(64, 64\), expected"):
        Study.open(study(tmp_path, space=space | {"input_size": [16, 32]}), tmp_path / "runs")


def test_imagenets_normalisation_is_used_unless_the_study_says_another(tmp_path: Path) -> None:
    def of(**tables: Any) -> Any:
        return study(tmp_path, **tables).data.normalisation

    start = {"architecture": "resnet18", "weights": "imagenet"}
    assert of() is None
    for tables in (
        {"teacher": start},
        {"candidates": [{"student": start}]},
        {"space": {"students": ["mlp", "resnet18"], "student": {"resnet18": {"weights": "imagenet"}}}},
    ):
        assert of(**tables) == "imagenet"
        assert of(**tables, data=DATA | {"normalisation": "data"}) == "data"
        assert of(**tables, data={"name": "my_source:load"}) is None
    settings = study(tmp_path, teacher=start | {"adapt": True})
    opened = Study.open(settings, tmp_path / "runs")
    assert opened.inputs.data.normalisation == Normalisation((0.449,), (0.226,))
    assert not any("trained on ImageNet" in sentence for sentence in opened.findings)


def test_another_normalisation_than_the_weights_were_trained_with_is_a_warning(tmp_path: Path) -> None:
    settings = study(
        tmp_path,
        data=DATA | {"normalisation": {"mean": 0.5, "std": 0.5}},
        teacher={"architecture": "resnet18", "weights": "imagenet", "adapt": True},
    )
    found = study_findings(settings, Study.open(settings, tmp_path / "runs").inputs.data)
    (warning,) = [sentence for sentence in found if "trained on ImageNet" in sentence]
    assert warning.startswith("warning: resnet18 starts from weights")
    assert "mean [0.449] and std [0.226], but sees images with mean [0.5] and std [0.5]" in warning


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_a_file_with_a_classifier_of_1000_classes_is_probably_of_imagenet(tmp_path: Path, suffix: str) -> None:
    def warnings(classes: int, **data: Any) -> list[str]:
        state, path = state_of(tmp_path, TEACHERS["torchvision"], classes), tmp_path / f"w{suffix}"
        if suffix == ".npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
        elif suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        teacher = TEACHERS["torchvision"] | {"weights": str(path), "adapt": True}
        settings = study(tmp_path, data=DATA | data, teacher=teacher)
        assert settings.data.normalisation is None or "normalisation" in data  # it is not changed behind one's back
        found = study_findings(settings, load_data(settings.data))
        return [sentence for sentence in found if "1000 classes" in sentence]

    (warning,) = warnings(1000)
    assert warning.startswith(f"warning: squeezenet1_1 starts from {tmp_path / f'w{suffix}'}, whose classifier")
    assert 'write normalisation = "imagenet" into [data]' in warning
    assert "\n" not in warning
    assert warnings(100) == []
    assert warnings(1000, normalisation="imagenet") == []
    assert warnings(1000, normalisation={"mean": 0.5, "std": 0.5}) == []  # so it was trained, says the user


def test_imagenet_weights_are_asked_for_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EDGESEARCH_WEIGHTS", str(tmp_path / "weights"))
    urls = {"squeezenet1_1": "http://127.0.0.1:9/squeezenet1_1-00000000.pth"}
    monkeypatch.setattr(_imagenet, "_urls", lambda: urls)
    space: dict[str, Any] = {"students": ["squeezenet1_1"], "weights": "imagenet", "adapt": True}
    opened = Study.open(study(tmp_path, space=space), tmp_path / "runs")
    with pytest.raises(SpaceError, match=r"refused\); put a copy of squeezenet1_1-00000000.pth into .*weights"):
        opened.optimize(1, workers=0)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SpaceError, match="put a copy"):
        opened.evaluate(opened.settings.space.suggest(_First()))  # type: ignore[union-attr]
    with pytest.raises(SpaceError, match=r"classifier.1.weight is .*adapt = true"):
        Study.open(study(tmp_path, space=space | {"adapt": False}), tmp_path / "runs")


class _First:
    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        return low


def test_adapting_is_another_key_and_nothing_without_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of(tmp_path, TEACHERS["own"]))
    plain = Student(architecture="cnn_tiny", weights=path, weights_sha256=weights_fingerprint(path))
    assert plain.canonical() != plain.model_copy(update={"adapt": True}).canonical()
    assert Student(architecture="cnn_tiny", adapt=True).canonical() == Student(architecture="cnn_tiny").canonical()


@pytest.mark.parametrize("name", bundled_studies())
def test_the_weights_that_a_study_of_this_program_starts_from_fit(name: str) -> None:
    """Without a download, which only a run needs."""
    settings = load_study(name)
    teacher = settings.pipeline.teacher
    for student in (*([teacher.student] if teacher else []), *(candidate.student for candidate in settings.candidates)):
        check_start(student, channels=3, classes=10)


def test_a_width_that_starting_weights_do_not_fit_spends_no_trial(tmp_path: Path) -> None:
    weights = saved(tmp_path, state_of(tmp_path, {"architecture": "cnn_tiny", "width": 0.5, "input_size": 8}))
    space = {"students": ["cnn_tiny"], "input_size": [8], "width": [0.25, 0.5, 1.0], "weights": weights}
    opened = Study.open(study(tmp_path, space={**space, "algorithm": ["vitis"]}), tmp_path / "home")
    lines: list[str] = []
    opened.optimize(trials=3, workers=0, progress=lines.append)
    assert {(record.state, record.candidate.student.width) for record in opened.view().records} == {("COMPLETE", 0.5)}
    assert any("rejected before training" in line and "of another network" in line for line in lines)


def test_a_candidate_is_evaluated_with_its_own_weights_or_not_at_all(tmp_path: Path) -> None:
    state = state_of(tmp_path, {"architecture": "squeezenet1_1", "input_size": 32}, classes=1000)
    student = {"architecture": "squeezenet1_1", "input_size": 32, "weights": saved(tmp_path, state), "adapt": True}
    candidate = Candidate.model_validate({"student": student, "quantization": {"algorithm": "vitis"}})
    opened = Study.open(study(tmp_path, teacher=TEACHERS["own"]), tmp_path / "home")
    lines: list[str] = []
    narrow = {"student": {**student, "width": 0.5}, "distillation": {"kind": "logit"}}
    with pytest.raises(SpaceError, match="of another network"):
        opened.evaluate(Candidate.model_validate(narrow), progress=lines.append)
    assert lines == []
    opened.evaluate(candidate, progress=lines.append)
    assert sum("likely that they are of ImageNet" in line for line in lines) == 1
