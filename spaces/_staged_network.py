"""The torch module of a network of the staged family."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgesearch.spaces._chain import Chain, PooledNorm
from edgesearch.spaces._networks import make_head
from edgesearch.spaces._staged import STEMS, NetworkStage, Staged, sizes

__all__ = ["StagedNetwork"]

#: Narrow layers inside a block are made a multiple of what most DPUs compute side by side.
_PARALLEL = 16


class StagedNetwork(nn.Module):
    """Maps (N, channels, S, S) to (N, classes). `staged` is canonical for images of `input_size` = S pixels."""

    def __init__(self, staged: Staged, *, channels: int, classes: int, input_size: int) -> None:
        super().__init__()
        assert staged.stem_width is not None
        reads, window = staged.stem_width, STEMS[staged.stem]
        self.stem = nn.Sequential(*_conv_bn(channels, reads, window.kernel, window.stride, window.padding), nn.ReLU())
        stages = []
        for stage in staged.stages:
            stages.append(nn.Sequential(*_blocks(stage, reads)))
            reads = stage.width
        self.stages = nn.Sequential(*stages)
        left = sizes(staged, input_size)[-1]  # the ceiling lets smaller images through while the network is trained
        self.pool: nn.Module = nn.MaxPool2d(left, ceil_mode=True) if staged.pooling == "max" else nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = make_head(reads, staged.head, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(self.stem(x)))))
        return logits


def _blocks(stage: NetworkStage, reads: int) -> Iterator[nn.Module]:
    for number in range(stage.depth):
        first = number == 0
        stride = 2 if first and stage.down == "stride" else 1
        if first and stage.pools:
            yield _Pooled(reads, stage.width, knows=stage.down == "pool_norm")
        elif stage.block == "plain":
            yield _Plain(reads, stage.width, stride)
        elif stage.block == "residual":
            yield _Residual(reads, stage.width, stride)
        elif stage.block == "bottleneck":
            yield _Bottleneck(reads, stage.width, stride)
        elif stage.block == "inverted":
            yield _Inverted(reads, stage.width, stride, stage.expansion, stage.kernel)
        else:
            yield _Fire(reads, stage.width, stride)
        reads = stage.width


def _conv_bn(
    reads: int, width: int, kernel: int, stride: int = 1, padding: int | None = None, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and its batch-norm. Without `padding` it keeps the image's size but for its stride."""
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(reads, width, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(width)


def _narrow(width: int, share: int) -> int:
    """A `share`-th of `width` channels, rounded up to a multiple of 16."""
    return -(-width // (share * _PARALLEL)) * _PARALLEL


class _Plain(nn.Sequential):
    """relu(bn(conv x))."""

    def __init__(self, reads: int, width: int, stride: int = 1) -> None:
        super().__init__(*_conv_bn(reads, width, 3, stride), nn.ReLU())


class _Pooled(Chain):
    """pool(relu(bn(conv x))), a max pool of 2x2; batch-norm goes by what it passes on if it `knows` of it."""

    def __init__(self, reads: int, width: int, *, knows: bool) -> None:
        conv, norm = _conv_bn(reads, width, 3)
        super().__init__(conv, PooledNorm(width) if knows else norm, nn.ReLU(), nn.MaxPool2d(PooledNorm.window))


class _Shortcut(nn.Module):
    """relu(body(x) + x), x through a 1x1 convolution where its shape changes."""

    def __init__(self, body: nn.Sequential, reads: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = stride == 1 and reads == width
        self.shortcut: nn.Module = nn.Identity() if same else nn.Sequential(*_conv_bn(reads, width, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class _Residual(_Shortcut):
    """Two 3x3 convolutions (K. He et al. 2015)."""

    def __init__(self, reads: int, width: int, stride: int) -> None:
        body = nn.Sequential(*_conv_bn(reads, width, 3, stride), nn.ReLU(), *_conv_bn(width, width, 3))
        super().__init__(body, reads, width, stride)


class _Bottleneck(_Shortcut):
    """1x1 to a quarter of the width, 3x3, 1x1 (K. He et al. 2015)."""

    def __init__(self, reads: int, width: int, stride: int) -> None:
        inner = _narrow(width, 4)
        narrow, middle, wide = _conv_bn(reads, inner, 1), _conv_bn(inner, inner, 3, stride), _conv_bn(inner, width, 1)
        super().__init__(nn.Sequential(*narrow, nn.ReLU(), *middle, nn.ReLU(), *wide), reads, width, stride)


class _Inverted(nn.Module):
    """1x1 to `expansion` times what it reads, depthwise, 1x1 without an activation; plus x where shapes agree (MobileNetV2)."""

    def __init__(self, reads: int, width: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inner = reads * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [*_conv_bn(reads, inner, 1), nn.ReLU()]
        layers += [*_conv_bn(inner, inner, kernel, stride, groups=inner), nn.ReLU(), *_conv_bn(inner, width, 1)]
        self.body = nn.Sequential(*layers)
        self.adds = stride == 1 and reads == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


class _Fire(nn.Module):
    """1x1 to an eighth of the width, then a 1x1 and a 3x3 convolution side by side (SqueezeNet, F. Iandola et al. 2016)."""

    def __init__(self, reads: int, width: int, stride: int) -> None:
        super().__init__()
        inner = _narrow(width, 8)
        self.squeeze = nn.Sequential(*_conv_bn(reads, inner, 1), nn.ReLU())
        self.expand1x1 = nn.Sequential(*_conv_bn(inner, width // 2, 1, stride), nn.ReLU())
        self.expand3x3 = nn.Sequential(*_conv_bn(inner, width // 2, 3, stride), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        return torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], 1)
