"""Networks of AMD's Model Zoo 3.0 (classification, unpruned) as graphs without weights, from their published block tables.

TF-Slim: resnet_v1, inception_v1, inception_v3, mobilenet_v1, vgg. Keras: ResNet50, MobileNet, InceptionV3. torchvision:
resnet18, resnet50, inception_v3. EfficientNet-lite0 and EfficientNet-EdgeTPU: the block strings of their builders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from edgesearch.board_eval.graph import Add, Concat, Conv, Depthwise, Graph, Input, Linear, Node, Pool, Reshape


class Net:
    """Builds a graph node by node; every method returns the name of the node it made."""

    def __init__(self, name: str, size: int, channels: int = 3) -> None:
        self.name = name
        self.shapes: dict[str, tuple[int, ...]] = {"image": (size, size, channels)}
        self.nodes: list[Node] = [Input(name="image", inputs=(), shape=(size, size, channels))]

    def _put(self, node: Node) -> str:
        self.nodes.append(node)
        self.shapes[node.name] = node.shape
        return node.name

    def _window(
        self, x: str, kernel: tuple[int, int], stride: int, pad: str | int
    ) -> tuple[tuple[int, int, int, int], int, int]:
        height, width, _ = self.shapes[x]
        pads, out = [], []
        for length, k in ((height, kernel[0]), (width, kernel[1])):
            if pad == "same":
                n = -(-length // stride)
                total = max(0, (n - 1) * stride + k - length)
                pads.append((total // 2, total - total // 2))
            else:
                p = 0 if pad == "valid" else int(pad)
                pads.append((p, p))
                n = (length + 2 * p - k) // stride + 1
            out.append(n)
        (top, bottom), (left, right) = pads
        return (left, right, top, bottom), out[0], out[1]

    def conv(self, x: str, channels: int, k: int | tuple[int, int] = 1, s: int = 1, pad: str | int = "same") -> str:
        kernel = (k, k) if isinstance(k, int) else k
        padding, h, w = self._window(x, kernel, s, pad)
        name, shape = f"conv{len(self.nodes)}", (h, w, channels)
        return self._put(Conv(name=name, inputs=(x,), shape=shape, kernel=kernel, stride=(s, s), padding=padding))

    def depthwise(self, x: str, k: int, s: int = 1) -> str:
        padding, h, w = self._window(x, (k, k), s, "same")
        name, shape = f"dw{len(self.nodes)}", (h, w, self.shapes[x][2])
        return self._put(Depthwise(name=name, inputs=(x,), shape=shape, kernel=(k, k), stride=(s, s), padding=padding))

    def pool(self, x: str, kind: Literal["max", "avg"], k: int, s: int, pad: str | int = "same", *, ceil: bool = False) -> str:
        padding, h, w = self._window(x, (k, k), s, pad)
        if ceil:
            h, w = (-(-(n + 2 * int(pad) - k) // s) + 1 for n in self.shapes[x][:2])
        shape = (h, w, self.shapes[x][2])
        name = f"pool{len(self.nodes)}"
        return self._put(
            Pool(name=name, inputs=(x,), shape=shape, kind=kind, kernel=(k, k), stride=(s, s), padding=padding, ceil_mode=ceil)
        )

    def head(self, x: str, classes: int) -> Graph:
        """Global average and one linear layer."""
        h, w, c = self.shapes[x]
        x = self._put(Pool(name="gap", inputs=(x,), shape=(1, 1, c), kind="avg", kernel=(h, w), stride=(1, 1), is_global=True))
        x = self._put(Reshape(name="flat", inputs=(x,), shape=(c,)))
        self._put(Linear(name="logits", inputs=(x,), shape=(classes,)))
        return self.graph()

    def classifier(self, x: str, *widths: int) -> Graph:
        """Linear layers on the flattened image."""
        h, w, c = self.shapes[x]
        x = self._put(Reshape(name="flat", inputs=(x,), shape=(h * w * c,)))
        for width in widths:
            x = self._put(Linear(name=f"linear{len(self.nodes)}", inputs=(x,), shape=(width,)))
        return self.graph()

    def add(self, a: str, b: str) -> str:
        return self._put(Add(name=f"add{len(self.nodes)}", inputs=(a, b), shape=self.shapes[a], activation="relu"))

    def concat(self, parts: Iterable[str]) -> str:
        parts = tuple(parts)
        shape = (*self.shapes[parts[0]][:2], sum(self.shapes[p][2] for p in parts))
        return self._put(Concat(name=f"cat{len(self.nodes)}", inputs=parts, shape=shape))

    def graph(self) -> Graph:
        return Graph(self.name, tuple(self.nodes))


def resnet(name: str, blocks: tuple[int, ...], classes: int, style: str) -> Graph:
    """Bottleneck ResNet: the stride lies in the first 3x3 ("v1.5"), the first 1x1 ("keras") or the last unit ("slim")."""
    net = Net(name, 224)
    x = net.pool(net.conv("image", 64, 7, 2, 3), "max", 3, 2, "same" if style == "slim" else 1)
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for unit in range(count):
            strided = (unit == count - 1 and stage < 3) if style == "slim" else (unit == 0 and stage > 0)
            stride = 2 if strided else 1
            first, second = (stride, 1) if style == "keras" else (1, stride)
            y = net.conv(net.conv(x, width, 1, first), width, 3, second, 1)
            y = net.conv(y, 4 * width)
            if unit == 0:
                x = net.add(y, net.conv(x, 4 * width, 1, stride))
            else:
                x = net.add(y, net.pool(x, "max", 1, stride, 0) if stride > 1 else x)
    return net.head(x, classes)


def resnet18(name: str, classes: int) -> Graph:
    net = Net(name, 224)
    x = net.pool(net.conv("image", 64, 7, 2, 3), "max", 3, 2, 1)
    for stage in range(4):
        width = 64 << stage
        for unit in range(2):
            stride = 2 if unit == 0 and stage else 1
            y = net.conv(net.conv(x, width, 3, stride, 1), width, 3, 1, 1)
            x = net.add(y, net.conv(x, width, 1, stride) if stride > 1 else x)
    return net.head(x, classes)


def vgg16(name: str, classes: int) -> Graph:
    net, x = Net(name, 224), "image"
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.conv(x, width, 3)
        x = net.pool(x, "max", 2, 2, "valid")
    net.conv(net.conv(net.conv(x, 4096, 7, 1, "valid"), 4096), classes)
    return net.graph()


def inception_v1(name: str, classes: int, *, third: int = 3) -> Graph:
    """TF-Slim's; the original's third branch has kernels of 5 instead of 3."""
    net = Net(name, 224)
    x = net.pool(net.conv("image", 64, 7, 2), "max", 3, 2)
    x = net.pool(net.conv(net.conv(x, 64), 192, 3), "max", 3, 2)
    table: tuple[tuple[int, ...] | str, ...] = (
        (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), "3",
        (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), "2",
        (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
    )  # fmt: skip
    for row in table:
        if isinstance(row, str):
            x = net.pool(x, "max", int(row), 2)
            continue
        a, b0, b1, c0, c1, d = row
        branches = (net.conv(x, a), net.conv(net.conv(x, b0), b1, 3), net.conv(net.conv(x, c0), c1, third))
        x = net.concat((*branches, net.conv(net.pool(x, "max", 3, 1), d)))
    return net.head(x, classes)


def inception_v3(name: str, classes: int) -> Graph:
    net = Net(name, 299)
    x = net.conv(net.conv(net.conv("image", 32, 3, 2, "valid"), 32, 3, 1, "valid"), 64, 3)
    x = net.conv(net.conv(net.pool(x, "max", 3, 2, "valid"), 80), 192, 3, 1, "valid")
    x = net.pool(x, "max", 3, 2, "valid")
    for pooled in (32, 64, 64):
        a, b = net.conv(x, 64), net.conv(net.conv(x, 48), 64, 5)
        c = net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3)
        x = net.concat((a, b, c, net.conv(net.pool(x, "avg", 3, 1), pooled)))
    a = net.conv(x, 384, 3, 2, "valid")
    b = net.conv(net.conv(net.conv(x, 64), 96, 3), 96, 3, 2, "valid")
    x = net.concat((a, b, net.pool(x, "max", 3, 2, "valid")))
    for mid in (128, 160, 160, 192):
        a = net.conv(x, 192)
        b = net.conv(net.conv(net.conv(x, mid), mid, (1, 7)), 192, (7, 1))
        c = net.conv(x, mid)
        for width, kernel in ((mid, (7, 1)), (mid, (1, 7)), (mid, (7, 1)), (192, (1, 7))):
            c = net.conv(c, width, kernel)
        x = net.concat((a, b, c, net.conv(net.pool(x, "avg", 3, 1), 192)))
    a = net.conv(net.conv(x, 192), 320, 3, 2, "valid")
    b = net.conv(net.conv(net.conv(net.conv(x, 192), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, "valid")
    x = net.concat((a, b, net.pool(x, "max", 3, 2, "valid")))
    for _ in range(2):
        a, b = net.conv(x, 320), net.conv(x, 384)
        b1, b2 = net.conv(b, 384, (1, 3)), net.conv(b, 384, (3, 1))
        c = net.conv(net.conv(x, 448), 384, 3)
        c1, c2 = net.conv(c, 384, (1, 3)), net.conv(c, 384, (3, 1))
        x = net.concat((a, b1, b2, c1, c2, net.conv(net.pool(x, "avg", 3, 1), 192)))
    return net.head(x, classes)


def mobilenet_v1(name: str, size: int, alpha: float, classes: int) -> Graph:
    net = Net(name, size)
    x = net.conv("image", int(32 * alpha), 3, 2)
    rows = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for width, stride in rows:
        x = net.conv(net.depthwise(x, 3, stride), int(width * alpha))
    return net.head(x, classes)


def _inverted(net: Net, x: str, expand: int, width: int, k: int, s: int, *, fused: bool = False, skip: bool = True) -> str:
    channels = net.shapes[x][2]
    y = x
    if fused:
        y = net.conv(y, channels * expand, k, s)
    else:
        if expand != 1:
            y = net.conv(y, channels * expand)
        y = net.depthwise(y, k, s)
    y = net.conv(y, width)
    return net.add(y, x) if skip and s == 1 and channels == width else y


def mobilenet_v2(name: str, classes: int) -> Graph:
    net = Net(name, 224)
    x = net.conv("image", 32, 3, 2)
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, width, count, stride in rows:
        for i in range(count):
            x = _inverted(net, x, expand, width, 3, stride if i == 0 else 1)
    return net.head(net.conv(x, 1280), classes)


def efficientnet_lite0(name: str, classes: int) -> Graph:
    net = Net(name, 224)
    x = net.conv("image", 32, 3, 2)
    rows = (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )  # fmt: skip
    for count, k, stride, expand, width in rows:
        for i in range(count):
            x = _inverted(net, x, expand, width, k, stride if i == 0 else 1)
    return net.head(net.conv(x, 1280), classes)


def efficientnet_edgetpu(name: str, size: int, width_scale: float, depth_scale: float, classes: int) -> Graph:
    def width(channels: int) -> int:
        scaled = channels * width_scale
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    net = Net(name, size)
    x = net.conv("image", width(32), 3, 2)
    rows = (
        (1, 3, 1, 4, 24, True), (2, 3, 2, 8, 32, True), (4, 3, 2, 8, 48, True),
        (5, 5, 2, 8, 96, False), (4, 5, 1, 8, 144, False), (2, 5, 2, 8, 192, False),
    )  # fmt: skip
    for row, (count, k, stride, expand, channels, fused) in enumerate(rows):
        for i in range(math.ceil(count * depth_scale)):
            x = _inverted(net, x, expand, width(channels), k, stride if i == 0 else 1, fused=fused, skip=row > 0)
    return net.head(net.conv(x, width(1280)), classes)


#: Rows of model_zoo_fps.csv -> family and builder. Classes of the two vehicle networks after VCoR's 15 colours are unpublished.
ZOO: dict[str, tuple[str, Callable[[str], Graph]]] = {
    "pt_resnet50_imagenet_224_224_8.2G": ("resnet", lambda n: resnet(n, (3, 4, 6, 3), 1000, "v1.5")),
    "tf_mlperf_resnet50_imagenet_224_224_8.19G": ("resnet", lambda n: resnet(n, (3, 4, 6, 3), 1001, "v1.5")),
    "tf_resnetv1_50_imagenet_224_224_6.97G": ("resnet", lambda n: resnet(n, (3, 4, 6, 3), 1000, "slim")),
    "tf_resnetv1_101_imagenet_224_224_14.4G": ("resnet", lambda n: resnet(n, (3, 4, 23, 3), 1000, "slim")),
    "tf2_resnet50_imagenet_224_224_7.76G": ("resnet", lambda n: resnet(n, (3, 4, 6, 3), 1000, "keras")),
    "pt_vehicle-color-classification_VCoR_224_224_3.64G": ("resnet18", lambda n: resnet18(n, 15)),
    "pt_vehicle-make-classification_VMMR_224_224_3.64G": ("resnet18", lambda n: resnet18(n, 15)),
    "pt_vehicle-type-classification_CarBodyStyle_224_224_3.64G": ("resnet18", lambda n: resnet18(n, 15)),
    "tf_vgg16_imagenet_224_224_30.96G": ("vgg", lambda n: vgg16(n, 1000)),
    "tf_inceptionv1_imagenet_224_224_3G": ("inception_v1", lambda n: inception_v1(n, 1001)),
    "pt_inceptionv3_imagenet_299_299_11.4G": ("inception_v3", lambda n: inception_v3(n, 1000)),
    "tf_inceptionv3_imagenet_299_299_11.45G": ("inception_v3", lambda n: inception_v3(n, 1001)),
    "tf2_inceptionv3_imagenet_299_299_11.5G": ("inception_v3", lambda n: inception_v3(n, 1000)),
    "tf_mobilenetv1_0.25_imagenet_128_128_27M": ("mobilenet_v1", lambda n: mobilenet_v1(n, 128, 0.25, 1001)),
    "tf_mobilenetv1_0.5_imagenet_160_160_150M": ("mobilenet_v1", lambda n: mobilenet_v1(n, 160, 0.5, 1001)),
    "tf_mobilenetv1_1.0_imagenet_224_224_1.14G": ("mobilenet_v1", lambda n: mobilenet_v1(n, 224, 1.0, 1001)),
    "tf2_mobilenetv1_imagenet_224_224_1.15G": ("mobilenet_v1", lambda n: mobilenet_v1(n, 224, 1.0, 1000)),
    "tf_mobilenetv2_1.0_imagenet_224_224_602M": ("mobilenet_v2", lambda n: mobilenet_v2(n, 1001)),
    "tf2_Efficientnet-lite_imagenet_224_224_0.77G": ("efficientnet_lite", lambda n: efficientnet_lite0(n, 1000)),
    "tf_efficientnet-edgetpu-S_imagenet_224_224_4.72G": ("edgetpu", lambda n: efficientnet_edgetpu(n, 224, 1.0, 1.0, 1001)),
    "tf_efficientnet-edgetpu-M_imagenet_240_240_7.34G": ("edgetpu", lambda n: efficientnet_edgetpu(n, 240, 1.0, 1.1, 1001)),
    "tf_efficientnet-edgetpu-L_imagenet_300_300_19.36G": ("edgetpu", lambda n: efficientnet_edgetpu(n, 300, 1.2, 1.4, 1001)),
}  # fmt: skip
#: Networks that were measured on an Ultra96 (B1600) with files of the compiler of 2019, as that table names them.
ULTRA96: dict[str, Callable[[str], Graph]] = {
    "cf_resnet50_imagenet_224_224_7.7G": lambda n: resnet(n, (3, 4, 6, 3), 1000, "keras"),
    "cf_resnet18_imagenet_224_224_3.65G": lambda n: resnet18(n, 1000),
    "cf_inceptionv1_imagenet_224_224_3.16G": lambda n: inception_v1(n, 1000, third=5),
    "cf_inceptionv3_imagenet_299_299_11.4G": lambda n: inception_v3(n, 1000),
    "cf_mobilenetv2_imagenet_224_224_0.59G": lambda n: mobilenet_v2(n, 1000),
    "tf_resnet50_imagenet_224_224_6.97G": lambda n: resnet(n, (3, 4, 6, 3), 1000, "slim"),
    "tf_inceptionv1_imagenet_224_224_3G": lambda n: inception_v1(n, 1001),
    "tf_mobilenetv1_imagenet_224_224_1.14G": lambda n: mobilenet_v1(n, 224, 1.0, 1001),
}
#: Rows listed apart: squeeze-and-excitation and (hard) swish run partly on the CPU.
PARTLY_ON_CPU = ("tf2_efficientnet-b0_imagenet_224_224_0.36G", "tf2_mobilenetv3_imagenet_224_224_132M")
