from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgesearch.errors import SpaceError
from edgesearch.spaces import Student, build, load_weights, weights_fingerprint


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


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_weights_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    source, path = trained(), tmp_path / f"weights{suffix}"
    save(source, path)
    torch.manual_seed(2)
    model = build(Student(architecture="cnn_tiny", width=0.5), channels=3, classes=10)
    assert load_weights(model, Student(architecture="cnn_tiny", width=0.5, weights=str(path))) == ()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True))


def test_another_head_keeps_its_random_start_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(trained(classes=1000), path)
    model = build(Student(architecture="cnn_tiny", width=0.5), channels=3, classes=10)
    fresh = load_weights(model, Student(architecture="cnn_tiny", weights=str(path)))
    assert set(fresh) == {"classifier.weight", "classifier.bias"}


def test_grey_images_are_given_the_sum_of_the_colour_kernels(tmp_path: Path) -> None:
    source, path = trained(), tmp_path / "weights.safetensors"
    save(source, path)
    model = build(Student(architecture="cnn_tiny", width=0.5), channels=1, classes=10)
    load_weights(model, Student(architecture="cnn_tiny", weights=str(path)))
    grey = torch.rand(1, 1, 32, 32)
    assert torch.allclose(model.eval()(grey), source.eval()(grey.expand(1, 3, 32, 32)), atol=1e-5)


@pytest.mark.parametrize("name", ["missing.safetensors", "text.npz", "text.safetensors", "text.pth", "weights.bin"])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    if name != "missing.safetensors":
        (tmp_path / name).write_text("not weights")
    with pytest.raises(SpaceError, match=name):
        load_weights(trained(), Student(architecture="cnn_tiny", weights=str(tmp_path / name)))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"something.else": torch.zeros(3)}, path)
    with pytest.raises(SpaceError, match=r"no tensor that fits"):
        load_weights(trained(), Student(architecture="cnn_tiny", weights=str(path)))


def test_imagenet_weights_exist_for_torchvisions_networks_only() -> None:
    with pytest.raises(SpaceError, match="cnn_tiny"):
        load_weights(trained(), Student(architecture="cnn_tiny", weights="imagenet"))


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"2")
    a, b, c = (weights_fingerprint(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert weights_fingerprint("") == weights_fingerprint("imagenet") == ""
    with pytest.raises(SpaceError, match="missing"):
        weights_fingerprint(str(tmp_path / "missing"))
