"""Flattens, means, pools, clips and sizes are lowered however a network writes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgesearch.board_eval.graph._graph import Conv, Linear, Pool, Reshape
from edgesearch.board_eval.lowering._reasons import _steps
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.errors import LoweringError

from ._functions import Function, assert_computes_the_same, kinds, refusals

# -- flatten


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.fc(torch.flatten(self.conv(x), 1)),
        lambda self, x: self.fc(self.conv(x).flatten(1)),
        lambda self, x: self.fc(self.conv(x).view(x.size(0), -1)),
        lambda self, x: self.fc(self.conv(x).view(x.shape[0], 4 * 10 * 10)),
        lambda self, x: self.fc(self.conv(x).reshape(-1, 400)),
        lambda self, x: self.fc(self.drop(F.relu(torch.flatten(self.conv(x), 1)))),
    ],
)
def test_a_flatten_is_merged_into_the_linear_layer(forward: Any) -> None:
    graph = assert_computes_the_same(
        Function(forward, conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(400, 5), drop=nn.Dropout(), relu=nn.ReLU())
    )
    assert isinstance(graph.output, Linear)
    assert sum(isinstance(node, Reshape) for node in graph) == 1


def test_a_flattened_image_may_not_be_the_output() -> None:
    flattened = refusals(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))["output"]
    assert "the result is a flattened image" in flattened
    assert "let the network return the image, and flatten it behind the network" in flattened


@pytest.mark.parametrize(
    "squeezed",
    [
        lambda y: y.squeeze(-1).squeeze(-1),
        lambda y: y.squeeze(3).squeeze(2),
        lambda y: torch.squeeze(y.squeeze(2), -1),
        lambda y: y.squeeze((2, 3)),
        lambda y: torch.squeeze(y, dim=3).squeeze(dim=-1).squeeze(-1),
        lambda y: y.squeeze(-1).flatten(1),
        lambda y: y.squeeze(-1).view(-1, 4),
        lambda y: (h := y.squeeze(3)).view(h.size(0), -1),
        lambda y: (h := y.squeeze(2)).reshape(h.shape[:2]),
        lambda y: (h := y.squeeze(3)).reshape(-1, h.shape[1] * h.size(2)),
        lambda y: (h := y.mean(3)).mean(2).view(h.size(0), -1),
        lambda y: (h := y.mean(3, keepdim=True)).mean(2, keepdim=True).flatten(h.dim() - 3),
        lambda y: y[:, :, 0, 0],
        lambda y: y[..., 0, -1],
        lambda y: y[..., 0][..., 0],
        lambda y: y[:, :, :, 0].squeeze(-1)[:],
        lambda y: y[:].mean((2, 3), keepdim=True)[:, :, 0][..., 0],
        lambda y: y.flatten(-3),
        lambda y: y.flatten(-3, 3).flatten(-1),
    ],
)
def test_one_pixel_is_a_vector_however_it_is_written(squeezed: Any) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.fc(squeezed(F.adaptive_avg_pool2d(self.conv(x), 1)))

    graph = assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 5)))
    assert kinds(graph) == ["Input", "Conv", "Pool", "Reshape", "Linear"]


def test_what_is_longer_than_one_is_not_squeezed_away() -> None:
    forward = lambda self, x: self.fc(self.conv(x).squeeze(2).squeeze(-1).flatten(1).squeeze(1))  # noqa: E731
    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, (12, 3)), fc=nn.Linear(40, 5)))


@pytest.mark.parametrize(
    ("forward", "where", "reason"),
    [
        (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(), "squeeze", "a squeeze of the batch or of the channels"),
        (lambda x: x.squeeze(0), "squeeze", "a squeeze of the batch or of the channels"),
        (lambda x: x.squeeze(4), "squeeze", "dimensions 4 of a tensor of 4"),
        (lambda x: F.relu(F.max_pool2d(x, (1, 12)).squeeze(3)), "relu", "reads a squeeze of height or width alone"),
        (
            lambda x: F.relu(x.mean(3)),
            "relu",
            "reads a mean over height or width alone; the DPU has no such tensor; write mean",
        ),
        (lambda x: x.mean(3, keepdim=True).mean(2), "mean_1", "of which one was squeezed or kept before"),
        (lambda x: x.mean(2), "output", "reads a mean over height or width alone"),
        (lambda x: F.max_pool2d(x, (1, 12)).squeeze(3)[:, :, 0], "getitem", "reads a squeeze of height or width alone"),
        (
            lambda x: x[:, :, 0, 0],
            "getitem",
            "has chunk, split and slice, this tool those of channels of images; make other parts by layers",
        ),
        (lambda x: x[0], "getitem", "has chunk, split and slice"),
        (lambda x: F.adaptive_avg_pool2d(x, 1)[:, 0, 0, 0], "getitem", "has chunk, split and slice"),
        (lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 1:, 0], "getitem", "has chunk, split and slice"),
        (lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, None, 0, 0], "getitem", "it adds a dimension; keep it where it goes"),
        (lambda x: x.mean(3)[..., 0], "getitem", "reads a mean over height or width alone"),
    ],
)
def test_half_a_squeeze_or_mean_is_refused(forward: Any, where: str, reason: str) -> None:
    assert reason in refusals(Function(lambda self, x: forward(x)))[where]


# -- what does nothing


@pytest.mark.parametrize(
    "nothing",
    [
        lambda self, x: F.dropout2d(x, training=self.training),
        lambda self, x: F.dropout3d(x, training=self.training),
        lambda self, x: F.alpha_dropout(x, 0.2, self.training),
        lambda self, x: F.feature_alpha_dropout(x, training=self.training),
        lambda self, x: torch.dropout(x, 0.5, self.training),
        lambda self, x: self.drop(self.alpha(self.features(x))),
        lambda self, x: torch.clone(x.clone()).contiguous().detach(),
        lambda self, x: x.contiguous(memory_format=torch.channels_last),
        lambda self, x: sum([x]),
        lambda self, x: torch.add(x + 0.0, 0),
    ],
)
def test_what_does_nothing_when_a_network_is_not_trained(nothing: Any) -> None:
    layers = {"drop": nn.Dropout3d(), "alpha": nn.AlphaDropout(), "features": nn.FeatureAlphaDropout()}
    graph = assert_computes_the_same(nn.Sequential(nn.Conv2d(3, 4, 3), Function(nothing, **layers), nn.ReLU()))
    assert kinds(graph) == ["Input", "Conv"]


def test_a_sum_of_branches_begins_with_nothing() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return sum(branch(x) for branch in (self.a, self.b, self.c))

    graph = assert_computes_the_same(Function(forward, **{name: nn.Conv2d(3, 4, 3) for name in "abc"}))
    assert kinds(graph) == ["Input", "Conv", "Conv", "Add", "Conv", "Add"]


def test_a_clone_is_changed_alone() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return F.relu(y.clone(), inplace=True) + y

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3)))


# -- pooling


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: F.max_pool2d(x, 3, 2, 1),
        lambda self, x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda self, x: F.adaptive_avg_pool2d(x, 1),
        lambda self, x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda self, x: F.adaptive_avg_pool2d(x, 12),
        lambda self, x: F.avg_pool2d(x, 3, 2, 1),
        lambda self, x: F.avg_pool2d(x, x.size()[2:]),
        lambda self, x: F.avg_pool2d(x, x.size(3)),
        lambda self, x: x.mean((2, 3)),
        lambda self, x: torch.mean(x, dim=[-1, -2], keepdim=True),
        lambda self, x: x.mean(axis=(2, 3)),
        lambda self, x: torch.mean(x, axis=(-1, 2), keepdims=True),
        lambda self, x: x.mean(3).mean(2),
        lambda self, x: x.mean(2).mean(-1),
        lambda self, x: x.mean(3, keepdim=True).mean(2, keepdim=True),
        lambda self, x: torch.concatenate([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], axis=1),
        lambda self, x: torch.concatenate(tensors=[x, x], axis=-3),
        lambda self, x: torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], dim=1),
    ],
)
def test_pools_and_concats_compute_the_same(forward: Any) -> None:
    assert_computes_the_same(Function(forward))


def test_only_adaptive_pooling_to_one_is_global() -> None:
    """As in the vendor's own export, where an AvgPool2d of the whole image is not."""
    for pool, expected in ((nn.AvgPool2d(12), False), (nn.AdaptiveAvgPool2d(1), True), (nn.AdaptiveAvgPool2d(2), False)):
        node = lower(nn.Sequential(pool), (3, 12, 12)).output
        assert isinstance(node, Pool)
        assert node.is_global is expected


@pytest.mark.parametrize(
    ("clip", "kind"),
    [
        (lambda self, x: x.clamp(0, 6), "relu6"),
        (lambda self, x: torch.clamp(x, min=0.0, max=6.0), "relu6"),
        (lambda self, x: torch.clip(x, 0, 6), "relu6"),
        (lambda self, x: F.hardtanh(x, 0, 6), "relu6"),
        (lambda self, x: x.clamp(min=0), "relu"),
    ],
)
def test_a_clip_at_0_and_6_is_a_relu6_however_it_is_written(clip: Any, kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Function(clip), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight.mul_(20)  # so that values are clipped
    first = assert_computes_the_same(model).nodes[1]
    assert isinstance(first, Conv)
    assert (first.activation, first.keeps_clip) == (kind, kind == "relu6")


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        (lambda y: y.to(memory_format=torch.channels_last).contiguous(), lambda z: F.relu(z, inplace=True)),
        (lambda y: y.to(memory_format=torch.channels_last), lambda z: z.relu_()),
        (lambda y: y.contiguous(memory_format=torch.channels_last), lambda z: z.clamp_(0, 6)),
        (lambda y: y.contiguous(), lambda z: z.add_(z)),
    ],
)
def test_what_a_layout_may_have_copied_is_not_changed_in_place_before_it_is_read(layout: Any, change: Any) -> None:
    def behind(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = layout(y)
        z = change(z)
        return self.last(y + z)

    with pytest.raises(LoweringError, match="changes a tensor in place that a change of layout has copied, or has not"):
        lower(Function(behind, conv=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 2, 1)).eval(), (3, 12, 12))

    def alone(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.last(change(layout(self.conv(x))))

    assert_computes_the_same(Function(alone, conv=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 2, 1)))


@pytest.mark.parametrize(
    "activation",
    [
        lambda self, x: F.leaky_relu_(x, 26 / 256),
        lambda self, x: F.hardtanh_(x, 0.0, 6.0),
        lambda self, x: F.threshold_(x, 0, 0),
        lambda self, x: nn.Threshold(0, 0)(x),
    ],
)
def test_activations_of_every_spelling(activation: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Function(activation), nn.Conv2d(4, 2, 1))
    assert_computes_the_same(model)


def test_a_threshold_layer_is_a_relu_at_0_alone() -> None:
    assert_computes_the_same(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Threshold(0, 0), nn.Conv2d(4, 2, 1)))
    with pytest.raises(LoweringError, match=r"threshold\(1, 0\); the DPU has threshold\(0, 0\), which is ReLU"):
        lower(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Threshold(1, 0)), (3, 12, 12))


def test_a_map_of_one_channel_is_flattened_in_torchs_order() -> None:
    assert_computes_the_same(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten()))
    assert_computes_the_same(nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten(), nn.Linear(100, 4)))


@pytest.mark.parametrize("resize", [lambda x: F.interpolate(x, size=(0, 0)), lambda x: F.interpolate(x, scale_factor=0)])
def test_upsampling_to_no_pixels_is_refused(resize: Any) -> None:
    with pytest.raises(LoweringError):
        lower(Function(lambda self, x: resize(self.conv(x)), conv=nn.Conv2d(3, 4, 3)).eval(), (3, 12, 12))
    assert _steps(0.0, (2, 4)) == []


def test_a_mean_over_flattened_pixels_says_how_it_is_written() -> None:
    def flattened(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x).flatten(2).mean(-1))

    with pytest.raises(LoweringError, match=r"write a mean over height and width as x\.mean\(\(2, 3\)\)"):
        lower(Function(flattened, conv=nn.Conv2d(3, 4, 3), last=nn.Linear(4, 2)).eval(), (3, 12, 12))


def test_an_in_place_clamp_changes_what_later_readers_see() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = y.clamp_(0, 6)
        return self.last(y + z)

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 2, 1)))


def test_sizes_are_computed_with() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.last(y.view(y.size(0), y.size(1) * y.shape[2] * y.shape[3]))

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), last=nn.Linear(400, 2)))


@pytest.mark.parametrize(
    "kernel",
    [
        lambda y: (-(-y.shape[2] // 1), y.shape[3]),
        lambda y: (y.shape[2] - y.shape[3] % 7, 2 * y.size(3) // 2),
        lambda y: [y.size(-2)],
    ],
)
def test_kernels_are_computed_of_sizes(kernel: Any) -> None:
    assert_computes_the_same(Function(lambda self, x: F.avg_pool2d(x, kernel(x))))


@pytest.mark.parametrize(
    "use",
    [
        lambda y, z: F.avg_pool2d(y, z.size(2)),
        lambda y, z: F.avg_pool2d(y, (-(-z.shape[2] // 2), z.shape[3])),
        lambda y, z: F.adaptive_avg_pool2d(y, z.shape[2:]),
        lambda y, z: y.view(z.size(0), -1),
        lambda y, z: y.view(-1, z.size(1) * z.size(2) * z.size(3)),
        lambda y, z: y.flatten(z.dim() - 3),
    ],
)
def test_sizes_of_what_was_refused_are_no_problems_of_their_own(use: Any) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(self.conv(x)).relu_()  # what it changes in place may be read, and is not left out
        return use(self.conv(x), y)

    found = refusals(Function(forward, conv=nn.Conv2d(3, 4, 3)))
    assert set(found) - {"output"} == {"sigmoid"}  # a flattened image may be the output, which is a problem of its own


@pytest.mark.parametrize(
    ("forward", "where", "reason"),
    [
        (lambda self, x: F.avg_pool2d(x, F.relu(x)), "avg_pool2d", "a size that is relu, expected a whole number"),
        (
            lambda self, x: F.avg_pool2d(x, x.size(2) / 2),
            "Function",
            "argument 'kernel_size' (position 2) must be tuple of ints, not float",
        ),
        (
            lambda self, x: F.avg_pool2d(x, x.size(2) // (x.size(3) - 12)),
            "Function",
            "ZeroDivisionError: integer division or modulo by zero",
        ),
        (lambda self, x: F.avg_pool2d(x, x.size(4)), "size", "size 4 of a tensor that has 4 sizes"),
        (lambda self, x: F.adaptive_avg_pool2d(x, 0), "adaptive_avg_pool2d", "expected sizes of at least 1"),
        (lambda self, x: x.view(2 * x.size(0), -1), "mul", "the batch's size, which is not known; write -1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(forward: Any, where: str, reason: str) -> None:
    assert reason in refusals(Function(forward))[where]
