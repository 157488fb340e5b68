from __future__ import annotations

import pytest
import torch
from torch import nn

from edgesearch.spaces import STUDENTS, Student, build


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("architecture", STUDENTS)
@pytest.mark.parametrize(("width", "channels", "size"), [(1.0, 3, 32), (0.25, 1, 28)])
def test_every_student_maps_images_to_logits(architecture: str, width: float, channels: int, size: int) -> None:
    student = Student(architecture=architecture, width=width, input_size=size)
    model = build(student, channels=channels, classes=7).eval()
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("architecture", STUDENTS)
def test_width_scales_the_parameters(architecture: str) -> None:
    sizes = [
        parameters(build(Student(architecture=architecture, width=width, input_size=32), channels=3, classes=10))
        for width in (0.5, 1.0, 2.0)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    # Published sizes of torchvision's networks with 1,000 classes.
    [("resnet18", 11_689_512), ("resnet50", 25_557_032), ("squeezenet1_0", 1_248_424), ("mobilenet_v2", 3_504_872)],
)
def test_full_width_with_the_imagenet_stem_is_torchvisions_network(architecture: str, expected: int) -> None:
    student = Student(architecture=architecture, stem="imagenet", input_size=224)
    assert parameters(build(student, channels=3, classes=1000)) == expected


def test_the_small_stem_keeps_the_resolution() -> None:
    sizes = {}
    for stem in ("small", "imagenet"):
        model = build(Student(architecture="resnet18", stem=stem, width=0.25, input_size=32), channels=3, classes=10).eval()
        layer: nn.Module = model.get_submodule("layer1")
        layer.register_forward_hook(lambda module, inputs, output, stem=stem: sizes.update({stem: output.shape[-1]}))
        model(torch.zeros(1, 3, 32, 32))
    assert sizes == {"small": 32, "imagenet": 8}


def test_the_thesis_networks_have_its_heads() -> None:
    head = build(Student(architecture="resnet18", head=256, stem="imagenet", input_size=224), channels=3, classes=10).fc
    assert isinstance(head, nn.Sequential)
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [(256, 512), (10, 256)]
    mlp = build(Student(architecture="mlp", input_size=28), channels=1, classes=10)
    assert [tuple(p.shape) for p in mlp.parameters() if p.ndim == 2] == [(64, 784), (64, 64), (10, 64)]
