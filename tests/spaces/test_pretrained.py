"""ImageNet's weights as they lie in files of other people's making."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.spaces import Student, build, load_weights

#: Of ImageNet's pictures.
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def squeezenet(weights: Path | None, classes: int = 1000, **more: object) -> nn.Module:
    torch.manual_seed(0)
    student = Student.model_validate({"architecture": "squeezenet1_1", "stem": "imagenet", "input_size": 128} | more)
    model = build(student, channels=3, classes=classes)
    if weights is not None:
        load_weights(model, student.model_copy(update={"weights": str(weights)}))
    return model.eval()


@pytest.fixture(scope="module")
def pictures(reference_data: Path) -> tuple[Tensor, Tensor]:
    """400 test images of CIFAR-10 (N, 3, 128, 128), as ImageNet's are normalised, and their labels."""
    with Image.open(reference_data / "cifar10" / "test.webp") as picture:
        grid = np.asarray(picture.convert("RGB")).reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    images = (torch.from_numpy(grid[:400].astype(np.float32)) / 255 - MEAN) / STD
    large = F.interpolate(images.permute(0, 3, 1, 2), size=(128, 128), mode="bilinear")
    return large, torch.from_numpy(np.load(reference_data / "cifar10" / "test_labels.npy")[:400].astype(np.int64))


def told_apart(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the second half whose nearest mean of a class, of the first half's feature maps, is that of its own class."""
    with torch.no_grad():
        features = F.normalize(model.features(images).mean((2, 3)), dim=1)  # type: ignore[operator]
    half = len(images) // 2
    means = torch.stack([features[:half][labels[:half] == label].mean(0) for label in range(10)])
    nearest = torch.cdist(features[half:], means).argmin(1)
    return float((nearest == labels[half:]).float().mean())


def test_weights_of_squeezenet_see_what_random_ones_do_not(reference_data: Path, pictures: tuple[Tensor, Tensor]) -> None:
    path = reference_data / "weights" / "squeezenet1_1_imagenet_fp16.npz"
    with np.load(path) as file:
        state = squeezenet(path).state_dict()
        assert set(file.files) == set(state)
        assert all(torch.equal(state[name], torch.from_numpy(file[name].astype(np.float32))) for name in file.files)
    assert told_apart(squeezenet(path), *pictures) > told_apart(squeezenet(None), *pictures) + 0.2
    with pytest.raises(SpaceError, match=r"classifier.1.weight is \(1000, 512, 1, 1\), expected \(10, .*adapt = true"):
        squeezenet(path, classes=10)
    assert told_apart(squeezenet(path, classes=10, adapt=True), *pictures) == told_apart(squeezenet(path), *pictures)


def test_integers_without_their_scales_are_no_weights(reference_data: Path) -> None:
    path = reference_data / "weights" / "mobilenet_v2_imagenet_int8.npz"
    student = Student(architecture="mobilenet_v2", stem="imagenet", input_size=128, weights=str(path))
    with pytest.raises(SpaceError) as caught:
        load_weights(build(student, channels=3, classes=1000), student)
    assert str(path) in str(caught.value)
    assert "holds integers of eight bits, of a network that was quantized" in str(caught.value)
    assert "\n" not in str(caught.value)
