"""Networks are lowered to graphs that compute the same, with the vendor's names, fused as on the DPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from edgesearch.board_eval.execution._execute import run_float
from edgesearch.board_eval.graph._graph import Activation, Add, Concat, Conv, Depthwise, Linear, Pool, Reshape
from edgesearch.board_eval.graph._names import op_names
from edgesearch.board_eval.lowering._trace import lower, lower_with_sources
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import EdgesearchError, LoweringError

from ._functions import Function, assert_computes_the_same, kinds, refusals

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


# -- whole networks


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
