"""Networks that were measured with Python runners: Accel-NASBench's on a ZCU102, and two of AMD's CIFAR-10 tutorials."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from _report import REFERENCE_DATA
from _zoo import Net

from edgesearch.board_eval.graph import Graph

_OUTPUTS = (16, 24, 40, 80, 112, 192, 320)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
#: Networks of AMD's CIFAR-10 tutorials on a ZCU102 (three cores): frames per second with one thread and with five.
TUTORIALS = {"LeNet": (773.87, 1063.76), "miniVggNet": (1559.15, 3838.19)}


def nasbench() -> list[dict[str, str]]:
    """The rows of nasbench_zcu102.csv."""
    with (REFERENCE_DATA / "dpu" / "nasbench_zcu102.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def nasbench_graph(row: Mapping[str, str]) -> Graph:
    """The network of a row: blocks of expansion, depthwise convolution and projection, with additions where shapes match."""
    net = Net(row["network"], 224)
    x = net.conv("image", 32, 3, 2)
    for block, (width, first) in enumerate(zip(_OUTPUTS, _STRIDES, strict=True)):
        expansion, kernel, layers = (int(row[f"{what}{block}"]) for what in ("expansion", "kernel", "layers"))
        for layer in range(layers):
            stride = first if layer == 0 else 1
            channels = net.shapes[x][2]
            y = x if expansion == 1 else net.conv(x, max(8, (channels * expansion + 4) // 8 * 8))
            y = net.conv(net.depthwise(y, kernel, stride), width)
            x = net.add(y, x) if stride == 1 and channels == width else y
    return net.head(net.conv(x, 1280), 1000)


def tutorial(name: str) -> Graph:
    """LeNet or miniVggNet, 32 x 32 pixels."""
    net = Net(name, 32)
    if name == "LeNet":
        return net.classifier(net.pool(net.conv("image", 50, 5), "max", 2, 2, "valid"), 500, 10)
    x = net.pool(net.conv(net.conv("image", 32, 3), 32, 3), "max", 2, 2, "valid")
    return net.classifier(net.pool(net.conv(net.conv(x, 64, 3), 64, 3), "max", 2, 2, "valid"), 512, 10)
