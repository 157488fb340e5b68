"""Networks that benchmarks train themselves, on all of CIFAR-10, once: the weights stay in the store under `home`."""

from __future__ import annotations

from pathlib import Path

import cifar10_reference
import numpy as np
import numpy.typing as npt
import torch
from _report import REFERENCE_DATA
from torch import nn

from edgesearch.board_eval import find_board
from edgesearch.objectives import Conditions, DataSet, Store, load_data, plan
from edgesearch.objectives.pruning import resize_to
from edgesearch.objectives.stages import run_stage
from edgesearch.search.study import load_study
from edgesearch.spaces import Student, build

#: Where trained networks are kept between runs.
HOME = Path(__file__).parents[1] / "runs" / "benchmarks"


def pixels(file: str) -> npt.NDArray[np.uint8]:
    """The images of one file of the reference data's CIFAR-10, (10000, 32, 32, 3)."""
    return cifar10_reference.pixels(REFERENCE_DATA / "cifar10" / f"{file}.webp")


def labels(part: str) -> npt.NDArray[np.int64]:
    """The labels of "train" or "test"."""
    return cifar10_reference.labels(REFERENCE_DATA / "cifar10", part)


def cifar10_file(home: Path = HOME) -> Path:
    """The reference data's CIFAR-10 as one .npz that a study reads."""
    file = home / "cifar10.npz"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        train = np.concatenate([pixels(f"train_{number}") for number in range(1, 6)])
        partial = file.with_name("partial.npz")
        np.savez(
            partial, train_images=train, train_labels=labels("train"), test_images=pixels("test"), test_labels=labels("test")
        )
        partial.replace(file)
    return file


def trained(name: str, home: Path = HOME) -> tuple[nn.Module, Student, DataSet]:
    """The student of benchmarks/NAME.toml with trained weights in evaluation mode, and the data it was trained on."""
    settings = load_study(str(Path(__file__).with_name(f"{name}.toml")))
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": cifar10_file(home)})})
    data = load_data(settings.data)
    conditions = Conditions.of(data, settings.pipeline, find_board(settings.board), seed=settings.seed)
    stages = plan(settings.candidates[0], settings.pipeline, conditions).walk()
    stage = next(stage for stage in stages if stage.kind == "student")
    store = Store(home / "store")
    if store.get("student", stage.key) is None:
        print(f"training {settings.candidates[0].student.architecture} first; it is kept in {home}", flush=True)
    weights = run_stage(stage, store, data_settings=settings.data.model_dump(mode="json")).tensors("weights")
    student = settings.candidates[0].student
    model = build(student, channels=data.channels, classes=len(data.classes))
    return resize_to(model, weights).eval(), student, data


if __name__ == "__main__":
    import sys

    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else torch.get_num_threads())
    trained(sys.argv[1])
