"""What the DPU does not have, and what is no network, image or target, is refused with its place and reason."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgesearch.board_eval.lowering._trace import lower
from edgesearch.board_eval.targets import Dpu
from edgesearch.errors import GraphError, LoweringError, TargetError

from ._functions import Function, refusals


def test_every_unsupported_operation_is_named_with_its_place() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3))
            self.out = nn.Softmax(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x * self.body(x))

    found = refusals(Bad())
    assert set(found) == {"body.1", "mul", "out"}
    assert "GELU: GELU runs on the ARM" in found["body.1"]
    assert "has a multiplication of two tensors" in found["mul"]
    assert "Softmax: softmax runs on the ARM" in found["out"]


@pytest.mark.parametrize(
    ("model", "where", "reason"),
    [
        (nn.Sequential(nn.Softmax(1)), "0", "return the logits"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), "0", "expects 4 channels, is given 3"),
        (nn.Sequential(nn.Conv2d(3, 4, 17, padding=8)), "0", "kernel (17, 17); B4096 takes 1..16 per axis"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), "0", "'reflect'"),
        (nn.Sequential(nn.Conv2d(3, 4, 13)), "0", "kernel (13, 13) on an input of 12 x 12"),
        (nn.Sequential(nn.LeakyReLU(0.3)), "0", "slope 0.3"),
        (nn.Sequential(nn.Hardtanh(-1, 1)), "0", "hardtanh(-1, 1); the DPU clips at 0 and 6 (ReLU6), or at 0 alone (ReLU)"),
        (Function(lambda self, x: F.hardtanh(x)), "hardtanh", "hardtanh(-1.0, 1.0); the DPU clips at 0 and 6"),
        (Function(lambda self, x: x.clamp(0, 1)), "clamp", "clamp(0, 1); the DPU clips at 0 and 6"),
        (Function(lambda self, x: torch.clip(x, max=6)), "clip", "clamp(None, 6); the DPU clips at 0 and 6"),
        (nn.Sequential(nn.Linear(12, 3)), "0", "expects 12 features"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(5)), "0", "do not divide"),
        (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "0", "returns indices"),
        (nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "0", "leaves out its padding"),
        (nn.Sequential(nn.AvgPool2d(5, 2, ceil_mode=True)), "0", "whose last window is cut"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5)), "1", "expects 5 channels, is given 4"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "0", "without running statistics"),
        (Function(lambda self, x: torch.add(x, x, alpha=2)), "add", "with a factor"),
        (Function(lambda self, x: torch.add(x, 1, alpha=2)), "add", "an addition with a factor"),
        (Function(lambda self, x: torch.sub(x, 1, alpha=2)), "sub", "a subtraction with a factor; multiply first"),
        (Function(lambda self, x: x + True), "add", "an operand that is the constant True"),
        (Function(lambda self, x: x * x), "mul", "has a multiplication of two tensors of one shape"),
        (Function(lambda self, x: torch.div(x, 2, rounding_mode="floor")), "div", "a division that rounds; leave out rounding"),
        (Function(lambda self, x: torch.cat([x, x])), "cat", "along the batch"),
        (Function(lambda self, x: x.mean(1)), "mean", "other dimensions"),
        (Function(lambda self, x: x.view(-1, 6, 6, 12)), "view", "other than to (batch, features)"),
        (Function(lambda self, x: (x, x)), "output", "more than one tensor"),
        (Function(lambda self, x: {"out": x}), "output", "a tensor inside a dictionary or sequence; return the tensor itself"),
        (Function(lambda self, x: 7), "output", "the model returns 7, whatever the image is; return the logits"),
        (Function(lambda self, x: None), "output", "the model returns None, whatever"),
        (
            Function(lambda self, x: x if x.sum() > 0 else -x),
            "Function",
            "of values that depend on the image",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1, device="meta")), "0", "on torch's `meta` device, which keeps no values"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, device="meta")), "1", "on torch's `meta` device"),
        (
            Function(lambda self, x: F.dropout(x, 0.5)),
            "dropout",
            "draws random numbers in evaluation mode, too; give it training=",
        ),
        (Function(lambda self, x: F.alpha_dropout(x, training=True)), "alpha_dropout", "draws random numbers in evaluation"),
        (Function(lambda self, x: torch.dropout(x, 0.5, train=True)), "dropout", "draws random numbers in evaluation"),
        (
            Function(lambda self, x: torch.cat([x.mean((2, 3)), x.flatten(1)], 1)),
            "cat",
            "a concatenation of flattened images; join them along",
        ),
        (nn.Sequential(nn.LeakyReLU(0.11)), "0", "slope 0.11; the DPU computes leaky ReLU with 26/256 only: train with that"),
        (nn.Sequential(nn.LeakyReLU(0.099)), "0", "slope 0.099"),
        (nn.Sequential(nn.SyncBatchNorm(3)), "0", "trains on several GPUs only; use BatchNorm2d"),
        (Function(lambda self, x: torch.max(x, x)), "max_1", "a maximum of two tensors runs on the ARM"),
        (Function(lambda self, x: torch.maximum(x, x)), "maximum", "a maximum of two tensors runs on the ARM"),
        (Function(lambda self, x: torch.max(x, 1)), "max_1", "has a maximum over a dimension, this tool does not yet"),
        (Function(lambda self, x: sys.exit(3)), "Function", "cannot be traced by torch.fx: SystemExit: 3"),
    ],
)
def test_reasons_are_given(model: nn.Module, where: str, reason: str) -> None:
    assert reason in refusals(model)[where]


@pytest.mark.parametrize("shape", [(8,), (8, 8), (1, 3, 8, 8), (3, 0, 8), (3.0, 8, 8), 8])
def test_an_input_that_is_no_image_is_refused(shape: Any) -> None:
    with pytest.raises(GraphError, match=r"expected \(channels, height, width\), such as \(3, 32, 32\)"):
        lower(nn.Sequential(nn.Conv2d(3, 4, 1)), shape)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(GraphError, match=r"of type str, expected a torch\.nn\.Module"):
        lower("resnet18", (3, 32, 32))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["B4096", Dpu])
def test_a_target_that_is_none_is_refused(target: Any) -> None:
    with pytest.raises(TargetError, match=r"the target is .*, expected a Target, such as find_target.'B4096'. gives, or"):
        lower(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 8, 8), target=target)


class Observer(nn.Module):
    """Counts what it sees in buffers, of which it grows one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("lowest", torch.full((2,), float("nan")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("seen").resize_(4)
        answer: torch.Tensor = self.conv(x)
        return answer


def test_buffers_that_a_network_grows_are_as_they_were() -> None:
    model = Observer().eval()
    model.register_forward_hook(lambda *_: None)
    assert lower(model, (3, 8, 8)).output.shape == (8, 8, 4)
    assert model.get_buffer("seen").shape == (0,)
    assert model.get_buffer("lowest").isnan().all()


def test_a_network_made_in_inference_mode_is_lowered() -> None:
    with torch.inference_mode():
        model = Function(lambda net, x: net.conv(x), conv=nn.Conv2d(3, 4, 1))
        model.register_buffer("lowest", torch.full((2,), float("nan")))
    assert lower(model, (3, 8, 8)).output.shape == (8, 8, 4)


def complex_layer() -> nn.Module:
    layer = nn.Conv2d(3, 4, 1)
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.complex64))
    return layer


def bare_layer() -> nn.Module:
    layer = nn.Conv2d(3, 4, 1)
    del layer.weight
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"), [(complex_layer(), "its weights are complex64"), (bare_layer(), "has no weight, or one that is no")]
)
def test_a_layer_without_real_weights_is_refused(layer: nn.Module, reason: str) -> None:
    assert reason in refusals(nn.Sequential(layer))["0"]


def test_sparse_weights_are_those_that_they_stand_for() -> None:
    layer = nn.Linear(6, 3)
    dense = lower(nn.Sequential(nn.Flatten(), layer), (6, 1, 1))
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    sparse = lower(nn.Sequential(nn.Flatten(), layer), (6, 1, 1))
    assert (sparse.output.weight == dense.output.weight).all()  # type: ignore[attr-defined]


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(GraphError, match="the network's name is of type int, expected a text"):
        lower(nn.Sequential(nn.Conv2d(3, 4, 1)), (3, 8, 8), name=5)  # type: ignore[arg-type]


def test_one_problem_in_many_places_is_told_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *[nn.Tanh() for _ in range(5)], nn.Sigmoid(), nn.Tanh())
    with pytest.raises(LoweringError) as caught:
        lower(model, (3, 4, 4))
    assert [problem.where for problem in caught.value.problems] == ["1", "2", "3", "4", "5", "6", "7"]
    told = str(caught.value)
    assert "1, 2, 3 and 3 more (Tanh): " in told
    assert told.count("(Tanh)") == told.count("6 (Sigmoid)") == 1
