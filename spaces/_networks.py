"""Networks of this project: small CNNs, an MLP and the CIFAR ResNet."""

from __future__ import annotations

from torch import Tensor, nn

from edgesearch.spaces._chain import Chain


def make_head(features: int, hidden: int, classes: int) -> nn.Module:
    """Features to logits, through a hidden layer with ReLU when `hidden` is not 0."""
    if hidden == 0:
        return nn.Linear(features, classes)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class SmallCnn(nn.Module):
    """Stages of conv-bn-relu, halved by max pooling between them, then global average pooling or a hidden layer."""

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...], input_size: int, per_stage: int, hidden: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        reads, size = channels, input_size
        for stage, width in enumerate(widths):
            if stage > 0 and size >= 4:
                layers.append(nn.MaxPool2d(2))
                size //= 2
            for _ in range(per_stage):
                layers += [nn.Conv2d(reads, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                reads = width
        self.features = Chain(*layers)
        if hidden:
            while size > 4:
                self.features.append(nn.MaxPool2d(2))
                size //= 2
            self.pool: nn.Module = nn.Identity()
            self.classifier: nn.Module = make_head(reads * size * size, hidden, classes)
        else:
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(reads, classes)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(x))))
        return logits


class Mlp(nn.Module):
    """Fully connected layers on the flattened image, as in the thesis's Figures 5 and 6: 784-64-64-10 on MNIST."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(self.flatten(x))
        return logits


class _BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1 x)))) + shortcut)."""

    def __init__(self, reads: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(reads, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        same = stride == 1 and reads == width
        self.downsample: nn.Module = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(reads, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


class CifarResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2015 (arXiv 1512.03385), section 4.2, 1x1 projection shortcuts, three blocks a stage."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        reads = widths[0]
        stages = []
        for stage, width in enumerate(widths):
            blocks = [_BasicBlock(reads, width, 2 if stage else 1), _BasicBlock(width, width, 1), _BasicBlock(width, width, 1)]
            stages.append(nn.Sequential(*blocks))
            reads = width
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(reads, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits
