"""A small trained network, a fresh one of the same architecture, and a file of weights between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edgesearch.spaces import Student, build


def trained(classes: int = 10, channels: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return build(Student(architecture="cnn_tiny", width=0.5), channels=channels, classes=classes)


def save(model: nn.Module, path: Path) -> None:
    state = model.state_dict()
    match path.suffix:
        case ".safetensors":
            save_file(state, path)
        case ".npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
        case _:
            torch.save(state, path)


def student(path: Path | str) -> Student:
    return Student(architecture="cnn_tiny", width=0.5, weights=str(path))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def fresh() -> nn.Module:
    torch.manual_seed(2)
    return build(Student(architecture="cnn_tiny", width=0.5), channels=3, classes=10)
