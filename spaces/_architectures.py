"""The networks behind the names: torchvision's with width multipliers and a stem for small images, small CNNs, an MLP,
and the staged family.

Every builder takes image channels and classes from the data set, so that one student serves any of them. Widths are rounded to
multiples of eight channels, never below eight.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from edgesearch.plugins import import_torchvision, is_import_path
from edgesearch.spaces._candidate import STUDENTS, Student
from edgesearch.spaces._custom_network import build_custom
from edgesearch.spaces._networks import CifarResNet, Mlp, SmallCnn, make_head
from edgesearch.spaces._presets import PRESETS
from edgesearch.spaces._staged import scaled
from edgesearch.spaces._staged_network import StagedNetwork


def build(student: Student, *, channels: int, classes: int, folder: Path | None = None) -> nn.Module:
    """The untrained network of `student` for images of `channels` channels; maps (N, channels, S, S) to (N, classes).

    A model by import path is looked for in `folder` first. Starting weights are not read here (see `load_weights`). Raises
    PluginError for a model that cannot be imported, or whose code is not what `student.source_sha256` says; SpaceError for one
    that cannot be made or is no network.
    """
    if is_import_path(student.architecture):
        return build_custom(student, channels, classes, folder)
    if student.network is not None:
        return StagedNetwork(student.network, channels=channels, classes=classes, input_size=student.input_size)
    return _BUILDERS[student.architecture](student, channels, classes)


def _resnet(block: str, layers: tuple[int, int, int, int]) -> Callable[[Student, int, int], nn.Module]:
    def make(student: Student, channels: int, classes: int) -> nn.Module:
        resnet: Any = import_torchvision("models.resnet")
        kind = getattr(resnet, block)

        class ScaledResNet(resnet.ResNet):  # type: ignore[misc]
            """torchvision's ResNet with every stage's width multiplied."""

            def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
                if planes == 64:  # the first stage reads the stem, whose width was not known when it was made
                    self.inplanes = scaled(64, student.width)
                layer: nn.Sequential = super()._make_layer(block, scaled(planes, student.width), blocks, stride, dilate)
                return layer

        ScaledResNet.__name__ = ScaledResNet.__qualname__ = "ResNet"
        model: nn.Module = ScaledResNet(kind, list(layers), num_classes=classes)
        stem = scaled(64, student.width)
        small = student.stem == "small"
        model.conv1 = nn.Conv2d(channels, stem, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.bn1 = nn.BatchNorm2d(stem)
        if small:
            model.maxpool = nn.Identity()
        model.fc = make_head(scaled(512, student.width) * int(kind.expansion), student.head, classes)
        return model

    return make


def _squeezenet(version: str) -> Callable[[Student, int, int], nn.Module]:
    def make(student: Student, channels: int, classes: int) -> nn.Module:
        squeezenet: Any = import_torchvision("models.squeezenet")
        model: nn.Module = squeezenet.SqueezeNet(version=version, num_classes=classes)
        assert isinstance(model.features, nn.Sequential)
        first, width, small = model.features[0], student.width, student.stem == "small"
        assert isinstance(first, nn.Conv2d)
        stem = scaled(first.out_channels, width)
        stem_options = {"kernel_size": 3, "stride": 1, "padding": 1} if small else _conv_options(first)
        layers: list[nn.Module] = [nn.Conv2d(channels, stem, **stem_options)]
        reads = stem
        for i, module in enumerate(list(model.features)[1:], start=1):
            if isinstance(module, squeezenet.Fire):
                squeeze, expand = scaled(module.squeeze.out_channels, width), scaled(module.expand1x1.out_channels, width)
                layers.append(squeezenet.Fire(reads, squeeze, expand, expand))
                reads = 2 * expand
            elif small and i == 2:  # the pool right behind the stem
                layers.append(nn.Identity())
            else:
                layers.append(module)
        model.features = nn.Sequential(*layers)
        assert isinstance(model.classifier, nn.Sequential)
        logits = nn.Conv2d(reads, classes, 1)
        nn.init.normal_(logits.weight, std=0.01)
        model.classifier[1] = logits
        return model

    return make


def _conv_options(conv: nn.Conv2d) -> dict[str, Any]:
    return {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}


def _mobilenet_v2(student: Student, channels: int, classes: int) -> nn.Module:
    models: Any = import_torchvision("models")
    model: nn.Module = models.mobilenet_v2(num_classes=classes, width_mult=student.width)
    features: Any = model.features
    old = features[0][0]
    stride = 1 if student.stem == "small" else 2
    features[0][0] = nn.Conv2d(channels, old.out_channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(features[0][0].weight, mode="fan_out")
    if student.stem == "small":
        features[2].conv[1][0].stride = (1, 1)  # the first of the remaining four halvings
    if student.head:
        last = features[-1][0].out_channels
        model.classifier = nn.Sequential(nn.Dropout(0.2), make_head(last, student.head, classes))
    return model


def _cnn(widths: tuple[int, ...], per_stage: int, hidden: int = 0) -> Callable[[Student, int, int], nn.Module]:
    def make(student: Student, channels: int, classes: int) -> nn.Module:
        scaled_widths = tuple(scaled(width, student.width) for width in widths)
        wide = scaled(hidden, student.width) if hidden else 0
        return SmallCnn(channels, classes, scaled_widths, student.input_size, per_stage, wide)

    return make


def _mlp(student: Student, channels: int, classes: int) -> nn.Module:
    return Mlp(channels * student.input_size**2, scaled(64, student.width), classes)


def _resnet20(student: Student, channels: int, classes: int) -> nn.Module:
    return CifarResNet(channels, classes, (scaled(16, student.width), scaled(32, student.width), scaled(64, student.width)))


_BUILDERS: dict[str, Callable[[Student, int, int], nn.Module]] = {
    "cnn_large": _cnn((64, 128, 256), per_stage=2, hidden=768),
    "cnn_small": _cnn((32, 64, 128), per_stage=2),
    "cnn_tiny": _cnn((16, 32, 64), per_stage=1),
    "mlp": _mlp,
    "mobilenet_v2": _mobilenet_v2,
    "resnet18": _resnet("BasicBlock", (2, 2, 2, 2)),
    "resnet20": _resnet20,
    "resnet50": _resnet("Bottleneck", (3, 4, 6, 3)),
    "squeezenet1_0": _squeezenet("1_0"),
    "squeezenet1_1": _squeezenet("1_1"),
}
assert set(_BUILDERS) | set(PRESETS) == set(STUDENTS)
