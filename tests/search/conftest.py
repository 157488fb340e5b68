"""The helper modules beside the tests can be imported by their names; a finished study of four trials, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgesearch.search import Study

sys.path.insert(0, str(Path(__file__).parent))

STUDY = """
name = "tiny"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
test_images = 40
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
students = ["cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
pruning = { method = "one_step", ratio = 0.5, granularity = 8 }
[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
quantization = { method = "qat", start = "scratch" }
[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
quantization = { bits = 5 }
"""


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_home: Path, tiny_file: Path) -> Study:
    opened = Study.open(tiny_file, tiny_home)
    opened.optimize(4, workers=0)
    return opened
