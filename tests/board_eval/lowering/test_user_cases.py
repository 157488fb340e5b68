"""Small networks that users of AMD's tools reported: each is accepted, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgesearch.board_eval.graph import Conv
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.targets import DPUS, MODELLED, Dpu, Limits
from edgesearch.errors import LoweringError


class Block(nn.Module):
    """A forward given as a function of (module, x); the layers are attributes."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **more})


def unet() -> nn.Module:
    return Block(
        lambda m, x: m.last(torch.cat([m.up(m.down(m.first(x))), m.first(x)], 1)),
        first=conv(3, 16), down=conv(16, 32, stride=2), up=nn.ConvTranspose2d(32, 16, 2, 2), last=conv(32, 2, 1),
    )  # fmt: skip


def hard_swish() -> nn.Module:
    block = Block(lambda m, x: m.act(x + m.conv(x)), conv=conv(16, 16), act=nn.Hardswish())
    return nn.Sequential(conv(3, 16), nn.Hardswish(), block)


ACCEPTED = {
    "padding by zeros": (nn.Sequential(nn.ConstantPad2d(1, 0.0), conv(3, 16)), (3, 16, 16)),
    "padding by zeros as a function": (Block(lambda m, x: m.conv(F.pad(x, (1, 1, 1, 1))), conv=conv(3, 16)), (3, 16, 16)),
    "batch-norm first": (nn.Sequential(nn.BatchNorm2d(3), conv(3, 16)), (3, 32, 32)),
    "activation before the convolution": (
        Block(lambda m, x: x + m.conv(F.relu(m.bn(x))), bn=nn.BatchNorm2d(16), conv=conv(16, 16)),
        (16, 32, 32),
    ),
    "global average pool of 7 x 11": (nn.Sequential(conv(3, 16), nn.AdaptiveAvgPool2d(1)), (3, 7, 11)),
    "one-dimensional convolution and a linear of 3,072": (
        nn.Sequential(nn.Conv2d(10, 32, (1, 3), dilation=(1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(3072, 6)),
        (10, 1, 100),
    ),
    "leaky ReLU of 0.1 and a max pool of 5": (
        nn.Sequential(conv(3, 16), nn.LeakyReLU(0.1), nn.MaxPool2d(5, 1, 2)),
        (3, 32, 32),
    ),
    "four groups": (nn.Sequential(conv(16, 16, groups=4)), (16, 16, 16)),
    "a channel multiplier": (nn.Sequential(conv(16, 32, groups=16)), (16, 16, 16)),
    "one weight": (nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), (1, 1, 1)),
    "twice the same": (Block(lambda m, x: m.conv(torch.cat([x, x], 1)), conv=conv(32, 16)), (16, 8, 8)),
    "a large depthwise kernel": (nn.Sequential(conv(32, 32, 31, groups=32), conv(32, 16, 1)), (32, 40, 40)),
    "the first linear layer of VGG": (nn.Sequential(nn.Flatten(), nn.Linear(25088, 4096)), (512, 7, 7)),
    "as much padding as the window reaches": (nn.Sequential(conv(3, 16, 3, padding=4, dilation=2)), (3, 16, 16)),
    "batch-norm without a shift": (nn.Sequential(conv(3, 16), nn.BatchNorm2d(16, bias=False), nn.ReLU()), (3, 16, 16)),
    "a size that numpy multiplies": (
        Block(lambda m, x: m.head(x.view(-1, np.prod(x.shape[1:]))), head=nn.Linear(48, 10)),
        (3, 4, 4),
    ),
    "a ceil_mode whose last window torch drops": (nn.Sequential(nn.MaxPool2d(2, 2, 1, ceil_mode=True)), (3, 9, 9)),
    "a stride above its kernel with ceil_mode": (nn.Sequential(nn.MaxPool2d(1, 2, ceil_mode=True)), (3, 10, 10)),
}

#: Name -> model, input, and per refused operation (its place) what the reason says.
REFUSED: dict[str, tuple[nn.Module, tuple[int, int, int], dict[str, str]]] = {
    "1x1 with padding": (
        nn.Sequential(conv(3, 16, 1, padding=1)),
        (3, 32, 32),
        {"0": "takes 0..0 to the left and right, 0..0 at top and bottom: (kernel - 1) * dilation; pad less"},
    ),
    "too much padding for the dilation": (
        nn.Sequential(conv(3, 16, 3, padding=5, dilation=2)),
        (3, 32, 32),
        {"0": "takes 0..4"},
    ),
    "7x7 of 1,024 channels": (
        nn.Sequential(conv(1024, 16, 7)),
        (1024, 8, 8),
        {"0": "7 x 7 x 1024, take 3136 words; a weight bank of B4096 has 2048; use fewer input channels"},
    ),
    "4,112 output channels": (
        nn.Sequential(conv(3, 4112, 1)),
        (3, 8, 8),
        {"0": "4112 output channels; B4096 takes at most 4096; use fewer"},
    ),
    "4,112 input channels": (
        nn.Sequential(conv(4112, 16, 1)),
        (4112, 8, 8),
        {"0": "4112 input channels; B4096 takes at most 4096; use fewer"},
    ),
    "dilation 36 on 128 channels": (
        nn.Sequential(conv(128, 16, 3, padding=36, dilation=36)),
        (128, 80, 80),
        {"0": "dilation (36, 36) of 128 input channels; their product is limited to 4096 on B4096"},
    ),
    "hard-swish": (
        hard_swish(),
        (3, 16, 16),
        {"1": "has hard-swish, as x * hard-sigmoid(x), this tool does not yet", "2.act": "hard-swish"},
    ),
    "squeeze and excitation": (
        Block(
            lambda m, x: m.first(x) * F.hardsigmoid(m.second(F.adaptive_avg_pool2d(m.first(x), 1))),
            first=conv(3, 16),
            second=conv(16, 16, 1),
        ),
        (3, 16, 16),
        {"hardsigmoid": "has hard-sigmoid, this tool does not yet", "mul": "has a multiplication of two tensors"},
    ),
    "pixel shuffle": (
        nn.Sequential(conv(3, 16), nn.PixelShuffle(2), conv(4, 8)),
        (3, 16, 16),
        {"1": "makes wrong numbers of it"},
    ),
    "UNet": (unet(), (3, 161, 238), {"up": "has a transposed convolution with kernels of 1..16"}),
    "bilinear by 8": (
        nn.Sequential(conv(3, 16), nn.Upsample(scale_factor=8, mode="bilinear")),
        (3, 16, 16),
        {"1": "has it by 2 and 4: write 8 as 4, then 2; this tool does not have it yet"},
    ),
    "nearest by 2": (
        Block(lambda m, x: F.interpolate(m.conv(x), scale_factor=2), conv=conv(3, 16)),
        (3, 16, 16),
        {"interpolate": "nearest upsampling by 2: the DPUCZDX8G (ISA 1) of Vitis AI 3.5 has it, this tool does not yet"},
    ),
    "nearest to twice the size": (
        Block(lambda m, x: F.interpolate(m.conv(x), size=(2 * x.shape[2], 2 * x.shape[3])), conv=conv(3, 16)),
        (3, 16, 24),
        {"interpolate": "upsampling of 16 x 24 to 32 x 48 by 2: the DPUCZDX8G (ISA 1) of Vitis AI 3.5 has it, this tool does"},
    ),
    "bilinear to eight times the size": (
        nn.Sequential(conv(3, 16), nn.Upsample(size=128, mode="bilinear")),
        (3, 16, 16),
        {
            "1": "bilinear upsampling of 16 x 16 to 128 x 128 by 8; the DPUCZDX8G (ISA 1) of Vitis AI 3.5 has it by 2 and 4: "
            "write 8 as 4, then 2"
        },
    ),
    "nearest to a size that is no multiple": (
        Block(lambda m, x: F.interpolate(m.conv(x), (30, 32)), conv=conv(3, 16)),
        (3, 16, 16),
        {"interpolate": "nearest upsampling of 16 x 16 to 30 x 32 is by no one factor"},
    ),
    "two heads": (
        Block(lambda m, x: (m.a(x), m.b(x)), a=conv(3, 4), b=conv(3, 2)),
        (3, 16, 16),
        {"output": "more than one tensor; the DPU can, this tool cannot"},
    ),
    "a linear layer alone": (nn.Sequential(nn.Linear(1, 1)), (1, 1, 1), {"0": "flatten it first"}),
    "a linear layer on a large image": (
        nn.Sequential(nn.Flatten(), nn.Linear(12288, 10)),
        (3, 64, 64),
        {"1": "12288 inputs; B4096 takes at most 4096, or an image whose height and width are at most 16"},
    ),
    "leaky ReLU behind a depthwise convolution": (
        nn.Sequential(conv(16, 16, groups=16), nn.LeakyReLU(0.1)),
        (16, 16, 16),
        {"0": "leaky ReLU behind a depthwise convolution; B4096 has ReLU or ReLU6 there"},
    ),
    "a concatenation of rows": (
        Block(lambda m, x: torch.cat([x, x], 2)),
        (3, 16, 16),
        {"cat": "along the height; B4096 puts channels side by side only"},
    ),
    "PReLU": (
        nn.Sequential(conv(3, 16), nn.PReLU()),
        (3, 16, 16),
        {"1": "has PReLU, this tool does not yet"},
    ),
    "SiLU": (nn.Sequential(conv(3, 16), nn.SiLU()), (3, 16, 16), {"1": "SiLU runs on the ARM, not on the DPU"}),
    "reflected padding": (
        nn.Sequential(nn.ReflectionPad2d(1), conv(3, 16)),
        (3, 16, 16),
        {"0": "padding by anything but zeros runs on the ARM"},
    ),
    "reflected padding as a function": (
        Block(lambda m, x: m.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")), conv=conv(3, 16)),
        (3, 16, 16),
        {"pad": "padding in mode 'reflect' runs on the ARM"},
    ),
    "padding by ones": (
        nn.Sequential(nn.ConstantPad2d(1, 1.0), conv(3, 16)),
        (3, 16, 16),
        {"0": "padding by 1.0 runs on the ARM"},
    ),
    "padding of channels": (
        Block(lambda m, x: m.conv(F.pad(x, (0, 0, 0, 0, 0, 13))), conv=conv(16, 16)),
        (3, 16, 16),
        {"pad": "padding of channels runs on the ARM"},
    ),
    "rows of two chunks": (  # their concatenation is not refused once more
        Block(lambda m, x: torch.cat([m.conv(x.chunk(2, 2)[0]), x.chunk(2, 2)[1]], 1), conv=conv(8, 8)),
        (16, 16, 16),
        {
            "chunk": "has chunk, split and slice, this tool those of channels of images; make other parts by layers",
            "chunk_1": "slice",
        },
    ),
    "a dimension more": (
        Block(lambda m, x: m.conv(x.mean((2, 3))[:, :, None, None]), conv=nn.Conv2d(16, 16, 1)),
        (16, 16, 16),
        {"getitem": "it adds a dimension; keep it where it goes, as by mean(..., keepdim=True)"},
    ),
    "a layer by its function": (
        Block(lambda m, x: F.relu(F.conv2d(x, m.conv.weight, m.conv.bias)), conv=conv(3, 16)),
        (3, 16, 16),
        {"conv2d": "weights are given to a function; call the module that has them, as self.layer(x)"},
    ),
    "one logit without its dimension": (
        Block(lambda m, x: m.head(x.mean((2, 3))).squeeze(1), head=nn.Linear(16, 1)),
        (16, 16, 16),
        {"squeeze": "return logits (N, classes)"},
    ),
    "batch-norm of vectors on an image": (
        nn.Sequential(conv(3, 16), nn.BatchNorm1d(16)),
        (3, 16, 16),
        {"1": "reads an image, which torch refuses; use BatchNorm2d"},
    ),
    "batch-norm of images on a vector": (
        nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.BatchNorm2d(16)),
        (3, 16, 16),
        {"2": "reads a vector, which torch refuses; use BatchNorm1d"},
    ),
    "more padding than half a window": (
        nn.Sequential(nn.MaxPool2d(2, 2, padding=2)),
        (3, 16, 16),
        {"0": "padding of 2 and 2, which torch refuses; at most half of its kernel (2, 2)"},
    ),
    "a last window that torch drops": (
        nn.Sequential(nn.MaxPool2d((2, 3), (2, 2), (1, 0), ceil_mode=True)),
        (3, 9, 10),
        {"0": "which torch drops and the DPU keeps; use ceil_mode=False"},
    ),
    "a slice of rows": (Block(lambda m, x: m.conv(x[:, :, :8]), conv=conv(8, 8)), (8, 16, 16), {"getitem": "has chunk, split"}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    model, shape = ACCEPTED[name]
    with torch.inference_mode():
        expected = model.eval()(torch.zeros(1, *shape)).shape
    out = lower(model, shape).output.shape
    assert out == (*expected[2:], expected[1])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    model, shape, reasons = REFUSED[name]
    with pytest.raises(LoweringError) as caught:
        lower(model, shape)
    problems = {problem.where: problem.reason for problem in caught.value.problems}
    assert set(problems) == set(reasons)
    for where, reason in reasons.items():
        assert reason in problems[where]


def test_arguments_given_by_name_are_those_given_by_place() -> None:
    def by_place(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.add(F.relu(m.a(x)), m.b(x)).add(m.b(x))
        x = F.max_pool2d(torch.relu(x), 2)
        x = torch.reshape(x.mean((2, 3)), (x.size(0), -1))
        return m.head(torch.flatten(x, 1).view(x.size(0), 16))

    def by_name(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.add(input=F.relu(input=m.a(input=x)), other=m.b(input=x)).add(other=m.b(x))
        x = F.max_pool2d(input=torch.relu(input=x), kernel_size=2)
        x = torch.reshape(input=x.mean(dim=(2, 3)), shape=(x.size(dim=0), -1))
        return m.head(input=torch.flatten(input=x, start_dim=1).view(size=(x.size(dim=0), 16)))

    layers = {"a": conv(3, 16), "b": conv(3, 16), "head": nn.Linear(16, 4)}
    graphs = [lower(Block(forward, **layers), (3, 8, 8)) for forward in (by_place, by_name)]
    shown = [[(type(node), node.name, node.inputs, node.shape, node.op_names) for node in graph] for graph in graphs]
    assert shown[0] == shown[1]


def test_a_sum_by_name_with_a_constant_is_one_by_place() -> None:
    layer = conv(3, 16)
    by_name, by_place = (
        lower(Block(forward, conv=layer), (3, 8, 8))
        for forward in (lambda m, x: torch.add(input=m.conv(x), other=2.0, alpha=1), lambda m, x: m.conv(x) + 2.0)
    )
    for graph in (by_name, by_place):
        found = graph.output
        assert isinstance(found, Conv)
        assert found.bias is not None
        np.testing.assert_array_equal(found.bias, layer.bias.detach().numpy() + np.float32(2))


def test_what_only_this_tool_lacks_names_the_dpu_it_models() -> None:
    with pytest.raises(LoweringError, match=r"DPUCZDX8G .*Vitis AI 3\.5") as caught:
        lower(nn.Sequential(nn.Hardswish()), (3, 8, 8))
    assert MODELLED in caught.value.problems[0].reason


def test_every_broken_limit_of_a_layer_is_named_in_the_order_of_the_model() -> None:
    model = nn.Sequential(conv(3, 5000, 1), nn.Sigmoid(), conv(3, 8), conv(3, 16))
    model[0] = nn.Conv2d(3, 5000, 17, stride=9, padding=8)
    with pytest.raises(LoweringError) as caught:
        lower(model, (3, 32, 32))
    assert [(p.where, p.operation, p.reason.partition(";")[0]) for p in caught.value.problems] == [
        ("0", "Conv2d", "kernel (17, 17)"),
        ("0", "Conv2d", "stride (9, 9)"),
        ("0", "Conv2d", "5000 output channels"),
        ("1", "Sigmoid", "sigmoid runs on the ARM, not on the DPU (DPUCZDX8G (ISA 1) of Vitis AI 3.5)"),
    ]


def test_a_layer_that_nothing_reads_is_not_checked() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        self.unread(x)
        return self.read(x)

    lower(Block(forward, unread=conv(3, 5000, 1), read=conv(3, 16)), (3, 8, 8))


@pytest.mark.parametrize(("name", "accepted"), [("B4096", True), ("B3136", False), ("B512", False)])
def test_the_target_decides(name: str, accepted: bool) -> None:
    model = nn.Sequential(conv(512, 3600, 1), conv(3600, 16, 1))
    if accepted:
        lower(model, (512, 7, 7), target=DPUS[name])
        return
    with pytest.raises(LoweringError, match=f"{name} takes at most"):
        lower(model, (512, 7, 7), target=DPUS[name])


def test_a_target_of_ones_own_decides() -> None:
    small = DPUS["B4096"].model_copy(update={"limits": Limits(conv_kernel=3)})
    assert isinstance(small, Dpu)
    lower(nn.Sequential(conv(3, 16, 3)), (3, 8, 8), target=small)
    with pytest.raises(LoweringError, match=r"takes 1\.\.3 per axis"):
        lower(nn.Sequential(conv(3, 16, 5)), (3, 8, 8), target=small)
