"""A training on one, two, four and eight threads: safe in narrow layers, resumed to the same bits, equal within noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from edgesearch.objectives.training._device import _cpu_multiplies_bfloat16

# In a process of its own: a kernel that writes beyond its memory ends it. The network is a residual one whose blocks have 8
# channels and a strided 1 x 1 convolution beside them; batches are of odd sizes, which threads share unevenly.
_TRAINING = """
import json, sys, tempfile
from pathlib import Path
import torch
from edgesearch.objectives import DataSettings, load_data
from edgesearch.objectives.stages import Store
from edgesearch.objectives.training import Recipe, train
from edgesearch.spaces import Staged, Student, build

threads, precision = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(threads)
data = load_data(DataSettings(train_images=400, validation_images=300, calibration_images=20))
recipe = Recipe(epochs=6, batch_size=63, optimizer="sgd", lr=0.1, augmentation="shift", mixed_precision=precision)
student = Student(architecture="staged", staged=Staged.parse("staged 8 r1x8 r1x16/2 r1x32/2"), input_size=16)

def trained(**more):
    torch.manual_seed(0)
    model = build(student, channels=1, classes=10)
    training = train(model, data, recipe=recipe, input_size=16, seed=1, device="cpu", **more)
    return training, torch.cat([value.detach().flatten() for value in model.state_dict().values()])

whole, bits = trained()
with tempfile.TemporaryDirectory() as folder:
    checkpoints = Store(Path(folder)).checkpoints("0" * 64)
    trained(checkpoints=checkpoints, stop_after=2)
    resumed, resumed_bits = trained(checkpoints=checkpoints)
print(json.dumps({
    "threads": torch.get_num_threads(), "epochs": resumed.epochs_done,
    "accuracy": whole.accuracy, "resumed": torch.equal(resumed_bits, bits),
}))
"""


#: More threads than cores must not wait busily for each other.
_ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}


def run(threads: int, precision: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _TRAINING, str(threads), precision]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=_ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run(1, "off")


#: A processor without bfloat16 computes it in many times the time of float32; one case of it tells as much there.
_quick_bf16 = pytest.mark.skipif(
    not _cpu_multiplies_bfloat16(), reason="bfloat16 is emulated on this processor: two threads stand for all"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "precision"),
    [
        *(pytest.param(threads, "bf16", marks=_quick_bf16) for threads in (1, 8)),
        (2, "bf16"),
        *((threads, "off") for threads in (2, 4, 8)),
    ],
)
def test_narrow_networks_train_alike_on_any_number_of_threads(threads: int, precision: str, alone: dict[str, Any]) -> None:
    found = run(threads, precision)
    assert found["threads"] == threads
    assert found["epochs"] == 6
    assert found["resumed"], "the weights are not those of the training that was not interrupted"
    assert alone["accuracy"] > 0.7
    assert abs(found["accuracy"] - alone["accuracy"]) < 0.1  # of 300 images: three standard errors are 0.07
