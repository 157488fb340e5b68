from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from edgesearch.board_eval.execution._execute import run_float
from edgesearch.board_eval.graph._graph import Activation, Add, Concat, Conv, Depthwise, Graph, Linear, Pool, Reshape
from edgesearch.board_eval.graph._names import op_names
from edgesearch.board_eval.lowering._reasons import _steps
from edgesearch.board_eval.lowering._trace import lower, lower_with_sources
from edgesearch.board_eval.targets import Dpu
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import EdgesearchError, GraphError, LoweringError, TargetError


def kinds(graph: Graph) -> list[str]:
    return [type(node).__name__ for node in graph]


def assert_computes_the_same(model: nn.Module, shape: tuple[int, int, int] = (3, 12, 12)) -> Graph:
    """Lower the model and compare the float network of the Graph with torch on random images."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    model.eval()
    graph = lower(model, shape)
    images = torch.randn(2, *shape)
    with torch.inference_mode():
        expected = model(images.clone())
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    ours = run_float(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-4, rtol=1e-4)
    return graph


def refusals(model: nn.Module, shape: tuple[int, int, int] = (3, 12, 12)) -> dict[str, str]:
    """Where -> operation and reason of everything that lowering refuses."""
    with pytest.raises(LoweringError) as caught:
        lower(model, shape)
    return {p.where: f"{p.operation}: {p.reason}" for p in caught.value.problems}


class Function(nn.Module):
    """A module whose forward is the given function of (module, x); layers are attributes."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


# -- networks of torchvision


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("resnet50", 64), ("squeezenet1_0", 64), ("squeezenet1_1", 64), ("mobilenet_v2", 64)]
)
def test_torchvision_networks_compute_the_same(name: str, size: int) -> None:
    from edgesearch.plugins import import_torchvision

    model = getattr(import_torchvision().models, name)(num_classes=10)
    graph = assert_computes_the_same(model, (3, size, size))
    assert graph.parameters > sum(p.numel() for n, p in model.named_parameters() if "bn" not in n) * 0.99
    assert "BatchNorm" not in " ".join(kinds(graph))


def test_names_of_operations_are_nndcts(golden: Any, resnet20_float: nn.Module, squeezenet_float: nn.Module) -> None:
    for name, model, size in (("resnet20", resnet20_float, 32), ("squeezenet", squeezenet_float, 224)):
        theirs = {bare(op) for op in xmodel_op_names(golden(name).xmodel)}
        ours = {bare(op) for names in op_names(lower(model, (3, size, size))).values() for op in names}
        assert ours <= theirs
        assert len(ours) > 60


def xmodel_op_names(path: Path) -> list[str]:
    message = graph_message()()
    message.ParseFromString(path.read_bytes())
    return [op.op_name for op in message.op_node]


def bare(name: str) -> str:
    """Without the number that nndct's tracer gave the value."""
    return re.sub(r"_(_?ret(_\d+)?|_\d+)(?=(_i\d)?$)", "", name)


# -- fusion


def test_conv_batch_norm_and_relu_are_one_node() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    lowered = lower_with_sources(model, (3, 12, 12))
    assert kinds(lowered.graph) == ["Input", "Conv"]
    assert lowered.sources["0"].module == "0"
    assert lowered.sources["0"].batch_norm == "1"
    assert_computes_the_same(model)


def test_a_conv_that_is_read_twice_keeps_its_own_value() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + F.relu(y)

    graph = assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3)))
    assert kinds(graph) == ["Input", "Conv", "Activation", "Add"]


def test_an_in_place_relu_changes_what_later_readers_see() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = F.relu(y, inplace=True)
        return self.last(z) + y

    graph = assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 4, 1)))
    assert graph.by_name["conv"].activation == "relu"


def test_an_in_place_relu_leaves_what_was_read_before() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        before = self.last(y)
        z = F.relu(y, inplace=True)
        return self.last(y) + z + before

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 4, 1)))


def test_an_in_place_add_changes_what_later_readers_see() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z = y.add_(self.b(x))
        return self.c(z) + y

    layers = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "c": nn.Conv2d(4, 4, 1)}
    assert_computes_the_same(Function(forward, **layers))


def test_a_sum_in_place_changes_what_later_readers_see() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z = y
        z += self.b(y)
        return self.b(F.relu(z)) + y

    graph = assert_computes_the_same(Function(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1)))
    assert kinds(graph) == ["Input", "Conv", "Conv", "Add", "Activation", "Conv", "Add"]


def test_a_sum_in_place_is_the_sum_where_nobody_reads_the_operand_later() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x += self.b(x)
        return self.b(F.relu(x))

    graph = assert_computes_the_same(Function(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1)))
    assert [node.name for node in graph] == ["x", "a", "b", "add", "b_1"]
    assert graph.by_name["add"].activation == "relu"


def add_of_a_view(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.adaptive_avg_pool2d(self.conv(x), 1)
    z = torch.flatten(y, 1)
    z += z
    return self.last(y)


def relu_of_a_view(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.conv(x)
    F.relu(y.view(y.size(0), -1), inplace=True)
    return self.last(y)


def relu_behind_a_view(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.conv(x)
    z = torch.flatten(y, 1)
    F.relu(y, inplace=True)
    return self.fc(z)


@pytest.mark.parametrize(
    ("forward", "where", "view"),
    [(add_of_a_view, "add", "adaptive_avg_pool2d"), (relu_of_a_view, "relu", "conv"), (relu_behind_a_view, "relu", "flatten")],
)
def test_a_change_in_place_of_what_is_read_under_another_shape_is_refused(forward: Any, where: str, view: str) -> None:
    layers = {"conv": nn.Conv2d(3, 4, 3), "last": nn.Conv2d(4, 4, 1), "fc": nn.Linear(400, 4)}
    reason = refusals(Function(forward, **layers))[where]
    assert f"changes a tensor in place that is read under another shape behind it ({view})" in reason


def test_a_change_in_place_of_a_view_that_nobody_else_reads_later() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        before = self.fc(torch.flatten(y, 1))
        z = F.relu(torch.flatten(y, 1), inplace=True)
        return self.fc(z) + before

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(400, 4)))


@pytest.mark.parametrize("copied_first", [True, False])
def test_a_pool_to_the_same_size_is_a_copy_that_is_changed_alone(copied_first: bool) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = F.adaptive_avg_pool2d(y, 10)
        F.relu(z if copied_first else y, inplace=True)
        return self.last(y + z) + z

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 4, 1)))


def test_a_reader_behind_dropout_counts_as_a_reader() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return F.relu(self.drop(y)) + y

    graph = assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), drop=nn.Dropout()))
    assert graph.by_name["conv"].activation == "none"


def test_batch_norm_without_a_layer_before_it_becomes_depthwise() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1))
    graph = assert_computes_the_same(model)
    assert kinds(graph) == ["Input", "Pool", "Depthwise", "Conv"]


def test_batch_norm_behind_linear_and_depthwise_is_folded() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.ReLU6(), nn.Flatten(), nn.Linear(300, 5), nn.BatchNorm1d(5)
    )
    assert kinds(assert_computes_the_same(model)) == ["Input", "Depthwise", "Reshape", "Linear"]


def test_batch_norm_of_a_vector_scales_it_as_an_image_of_one_pixel() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.ReLU6(), nn.Linear(5, 4))
    graph = assert_computes_the_same(model)
    assert kinds(graph) == ["Input", "Reshape", "Linear", "Reshape", "Depthwise", "Reshape", "Linear"]
    assert graph.by_name["3"].activation == "relu6"
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.ReLU(), nn.BatchNorm1d(5))
    assert assert_computes_the_same(model).output.shape == (5,)


def test_batch_norm_of_a_flattened_image_keeps_torchs_order() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 11), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))
    assert kinds(assert_computes_the_same(model)) == ["Input", "Conv", "Reshape", "Reshape", "Depthwise", "Reshape", "Linear"]


def test_a_batch_norm_of_a_vector_that_others_read_too_is_not_clipped() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(F.relu(self.conv(x).mean((2, 3))))
        return F.relu(y) + y

    assert_computes_the_same(Function(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm1d(4)))


def test_one_layer_used_twice_becomes_two_nodes() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    graph = assert_computes_the_same(nn.Sequential(conv, nn.ReLU(), conv))
    assert len({name for names in op_names(graph).values() for name in names}) == sum(map(len, op_names(graph).values()))


@pytest.mark.parametrize(("size", "kernel", "stride"), [(2, 3, 2), (1, 3, 3), (1, 2, 2), (1, 2, 1), (3, 5, 2), (2, 4, 1)])
def test_a_map_smaller_than_a_rounded_up_pools_window_is_taken_where_torch_takes_it(
    size: int, kernel: int, stride: int
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(kernel, stride, ceil_mode=True), nn.Conv2d(8, 4, 1))
    try:
        model(torch.zeros(1, 3, size, size))
    except RuntimeError:
        with pytest.raises(LoweringError, match=f"a kernel of {kernel} on an input of {size}"):
            lower(model, (3, size, size))
    else:
        assert_computes_the_same(model, (3, size, size))


class _Sum(nn.Module):
    """An operation by function, in a module that several places share."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.shared = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), shared

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x, self.first(x))
        return self.shared(x, self.second(x))


class _Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.relu(a + b)


def test_a_module_that_adds_may_be_called_at_several_places() -> None:
    graph = assert_computes_the_same(_Sum(_Add()))
    assert sum(isinstance(node, Add) for node in graph) == 2


def test_a_padding_mode_without_padding_says_nothing() -> None:
    assert_computes_the_same(nn.Conv2d(3, 4, 1, padding_mode="reflect"))
    with pytest.raises(LoweringError, match="padding mode 'reflect'"):
        lower(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 8, 8))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3, stride=0), nn.AvgPool2d(2, stride=0), nn.AvgPool2d(0, 1)])
def test_windows_that_do_not_move_are_refused(layer: nn.Module) -> None:
    with pytest.raises(EdgesearchError, match=r"a window of \d pixels that moves by \d; both are at least 1"):
        lower(nn.Sequential(layer), (3, 8, 8))


# -- weights that a hook computes


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(prune.random_unstructured(layer, "weight", 0.3), "bias", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("computed", [nn.utils.weight_norm, nn.utils.spectral_norm, pruned])
def test_weights_that_are_computed_before_each_call_are_those_of_the_next_call(computed: Any) -> None:
    def build() -> nn.Sequential:
        body = [computed(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6), computed(nn.Conv2d(6, 6, 3, groups=6)), nn.AvgPool2d(8)]
        return nn.Sequential(*body, nn.Flatten(), computed(nn.Linear(6, 5)))

    model, trained = build(), build()
    model.load_state_dict(trained.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    before = [model[0].weight.clone(), *(value.clone() for value in model.state_dict().values())]
    graph = lower(model, (3, 12, 12))
    assert all(map(torch.equal, before, [model[0].weight, *model.state_dict().values()]))
    model.eval()
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = model(images)
    ours = run_float(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-5, rtol=1e-4)


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
    assert "reads a flattened image" in refusals(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))["output"]


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
        (lambda x: x[:, :, 0, 0], "getitem", "has chunk, split and slice, this tool does not yet"),
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


# -- what the DPU does not have


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
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), "0", "makes 2 channels of each"),
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
        (Function(lambda self, x: x + 1), "add", "the constant 1: the DPUCZDX8G (ISA 1) of Vitis AI 3.5 has an addition"),
        (Function(lambda self, x: x - 1), "sub", "has an addition of a constant, this tool does not yet; put it into the bias"),
        (Function(lambda self, x: 2.0 * x), "mul", "the constant 2.0: the DPUCZDX8G (ISA 1) of Vitis AI 3.5 has a multi"),
        (
            Function(lambda self, x: x / 2),
            "truediv",
            "has a multiplication by a constant, this tool does not yet; put the factor",
        ),
        (Function(lambda self, x: torch.cat([x, x])), "cat", "along the batch"),
        (Function(lambda self, x: x.mean(1)), "mean", "other dimensions"),
        (Function(lambda self, x: x.view(-1, 6, 6, 12)), "view", "other than to (batch, features)"),
        (Function(lambda self, x: (x, x)), "output", "more than one tensor"),
        (Function(lambda self, x: {"out": x}), "output", "a tensor inside a dictionary or sequence; return the tensor itself"),
        (Function(lambda self, x: 7), "output", "the model returns 7, whatever the image is; return the logits"),
        (Function(lambda self, x: None), "output", "the model returns None, whatever"),
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=2)), "1", "2 groups of 3 channels"),
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
            "a concatenation of vectors; join what",
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


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph = lower(model, (3, 12, 12))
    graph.by_name["0"].weight[:] = 0  # the Graph has copies
    assert [m.training for m in model] == [True, False, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_kinds_of_nodes_are_covered() -> None:
    """A network with every kind of node, so that a kind that loses its form is noticed."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = torch.cat([F.relu6(y), self.depthwise(y)], 1)
        return self.fc((y + y).mean((2, 3)))

    layers = {"conv": nn.Conv2d(3, 4, 3), "depthwise": nn.Conv2d(4, 4, 1, groups=4), "fc": nn.Linear(8, 3)}
    graph = assert_computes_the_same(Function(forward, **layers))
    expected = (Conv, Activation, Depthwise, Concat, Add, Pool, Reshape, Linear)
    assert {type(node) for node in graph} >= set(expected)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.MaxPool2d(2)])
def test_a_network_may_be_one_layer(layer: nn.Module) -> None:
    graph = assert_computes_the_same(layer)
    assert graph.name == type(layer).__name__
    assert len(graph.nodes) == 2


def test_one_layer_is_its_own_source_and_is_refused_by_its_kind() -> None:
    lowered = lower_with_sources(nn.Conv2d(3, 4, 3), (3, 12, 12))
    assert [(name, source.module) for name, source in lowered.sources.items()] == [("layer", "")]
    assert "PReLU: " in refusals(nn.PReLU())["layer"]
    assert "expects 12 features" in refusals(nn.Linear(12, 3))["layer"]


def test_a_shape_of_numpys_integers_becomes_one_of_pythons() -> None:
    graph = lower(nn.Sequential(nn.Conv2d(3, 4, 1)), tuple(np.array([3, 8, 8])))
    assert {type(size) for node in graph for size in node.shape} == {int}


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(GraphError, match=r"of type str, expected a torch\.nn\.Module"):
        lower("resnet18", (3, 32, 32))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["B4096", Dpu])
def test_a_target_that_is_none_is_refused(target: Any) -> None:
    with pytest.raises(TargetError, match=r"the target is .*, expected a Target, such as find_target.'B4096'. gives, or None"):
        lower(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 8, 8), target=target)
