"""A stage that starts from weights says what it took of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgesearch.errors import SpaceError
from edgesearch.objectives import Normalisation, normalisation_warning
from edgesearch.spaces import Student, build

from ._chains import run, stages


def test_a_training_says_what_it_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pth"
    model = build(Student(architecture="mlp", input_size=8), channels=1, classes=7)
    torch.save({"state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()}}, path)
    student = {"architecture": "mlp", "input_size": 8, "weights": str(path)}
    with pytest.raises(SpaceError, match="adapt = true"):
        run(stages({"student": student})[:1], tmp_path / "first")
    capsys.readouterr()
    run(stages({"student": student | {"adapt": True}})[:1], tmp_path / "second")
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"4 of 6 tensors start from {path}; at random, because of another shape: layers.")
    assert said.endswith("is (7,), expected (10,)")


def test_only_imagenets_weights_have_a_scale_that_is_known() -> None:
    usual, imagenet = Normalisation(), Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    start = Student(architecture="resnet18", weights="imagenet")
    assert "mean [0.485, 0.456, 0.406]" in normalisation_warning(start, usual, 3)
    assert normalisation_warning(start, imagenet, 3) == ""
    assert "mean [0.449]" in normalisation_warning(start, usual, 1)
    torchvisions = Student(architecture="resnet18", weights="copies/resnet18-f37072fd.pth")
    assert normalisation_warning(torchvisions, usual, 3)
    assert normalisation_warning(Student(architecture="resnet18", weights="own.pth"), usual, 3) == ""
    assert normalisation_warning(Student(architecture="resnet18"), usual, 3) == ""
