"""Layers, calls and classes that compute what the DPU's own do are taken as these; what changes a layer's answers is not."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations

from edgesearch.board_eval import compile_xmodel
from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import LoweringError
from edgesearch.objectives import quantize
from edgesearch.plugins import import_torchvision


class Conv(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)


class Dense(nn.Linear):
    """Another name for it."""


class Norm(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)


class Scaled(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight * 2, bias)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Calls(nn.Module):
    """A convolution, then what is given, then a classifier."""

    def __init__(self, function: Callable[[Tensor], Tensor], size: int = 6) -> None:
        super().__init__()
        self.function = function
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * size * size, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.function(self.conv(x)), 1))


class Padding(nn.Module):
    """A convolution, then what is given; `box` is a layer that it may call."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv, self.box = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x), self.box)


def own_kinds() -> nn.Module:
    norm = Norm(8)
    norm.running_mean, norm.running_var = torch.linspace(-1, 1, 8), torch.linspace(0.5, 2, 8)
    return nn.Sequential(Conv(3, 8), norm, nn.ReLU(), nn.Flatten(), Dense(8 * 36, 4))


def in_place_behind_an_alias(x: Tensor) -> Tensor:
    """Its first operand is changed, too, since nothing was converted."""
    same = x.to(torch.float32)
    same.relu_()
    return x + same


def stochastic_depth(mode: str) -> nn.Module:
    from torchvision.ops import StochasticDepth

    return Calls(StochasticDepth(0.5, mode))


def drop_block() -> nn.Module:
    from torchvision.ops import DropBlock2d

    return Calls(DropBlock2d(0.5, 3))


class Padded(nn.Module):
    """A convolution over what a function makes of another's."""

    def __init__(self, function: Callable[[Tensor], Tensor], **more: Any) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, **more)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.last(self.function(self.first(x))))


def pads_what_is_read_again(x: Tensor, layer: nn.Module) -> Tensor:
    """The layer reads the image as it was when it was padded."""
    wide = F.pad(x, (1, 1, 1, 1))
    return F.relu_(x) + layer(wide)


class Named(nn.Module):
    """Parts with names that torch.fx and Python have for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.recompile = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.parts = nn.ModuleDict({"class": nn.Conv2d(8, 4, 1), "in": nn.Conv2d(8, 4, 1)})

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.recompile(self.code(x)))
        return torch.cat([self.parts["class"](x), self.parts["in"](x)], 1)


EQUAL: dict[str, Callable[[], nn.Module]] = {
    "subclasses": own_kinds,
    "adaptive max pool": lambda: Calls(nn.AdaptiveMaxPool2d(1), 1),
    "adaptive max pool to 2 x 3": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveMaxPool2d((2, 3))),
    "adaptive max pool, called": lambda: Calls(lambda x: F.adaptive_max_pool2d(x, 2), 2),
    "float": lambda: Calls(lambda x: x.float()),
    "requires_grad_": lambda: Calls(lambda x: x.requires_grad_(False)),
    "to": lambda: Calls(lambda x: x.to("cpu", torch.float32).to(memory_format=torch.channels_last)),
    "in place behind an alias": lambda: Calls(in_place_behind_an_alias),
    "clamp_min": lambda: Calls(lambda x: x.clamp_min(0)),
    "clamp_min_": lambda: Calls(lambda x: x.clamp_min_(0)),
    "torch.clamp_min": lambda: Calls(lambda x: torch.clamp_min(x, min=0)),
    "threshold": lambda: Calls(lambda x: F.threshold(x, 0.0, 0.0)),
    "stochastic depth, rows": lambda: stochastic_depth("row"),
    "stochastic depth, batches": lambda: stochastic_depth("batch"),
    "drop block": drop_block,
    "zeros on one side": lambda: Padded(nn.ZeroPad2d((0, 1, 0, 1))),
    "zeros on all sides, and a convolution's own": lambda: Padded(nn.ConstantPad2d((1, 0, 0, 1), 0.0), padding=1),
    "zeros by a function": lambda: Padded(lambda x: F.pad(x, (0, 1)), padding=(0, 1)),
    "zeros in front of a depthwise convolution": lambda: Padded(lambda x: F.pad(x, [1, 1, 0, 1]), groups=8),
    "zeros around what is read again": lambda: Padding(pads_what_is_read_again),
    "no zeros": lambda: Calls(lambda x: F.relu(F.pad(x, (0, 0, 0, 0)))),
    "all of an image": lambda: Calls(lambda x: x[:, :8, 0:6, ::1][..., :6]),
    "the same size": lambda: Calls(lambda x: F.interpolate(F.interpolate(x, size=(6, 6)), scale_factor=1.0, mode="bilinear")),
    "upsampling by one": lambda: Calls(nn.Upsample(scale_factor=1)),
    "a view of its own shape": lambda: Calls(lambda x: x.view(-1, 8, 6, 6).reshape(x.shape[0], 8, -1, 6)),
    "numbers that change nothing": lambda: Calls(lambda x: F.relu((1 * x / 1.0 - 0).mul_(1.0)) * 1.0),
    "names of torch.fx's and Python's own": Named,
}


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> None:
    import_torchvision()


def images() -> Any:
    return np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)


def images_of_torch() -> Tensor:
    """The same in torch's order."""
    return torch.from_numpy(images()).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_equal_is_lowered_and_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = EQUAL[name]().eval()
    graph = lower(model, (3, 6, 6))
    with torch.no_grad():
        expected = model(torch.from_numpy(images().transpose(0, 3, 1, 2).copy()))
    found = run_float(graph, images())
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def hooked(change: Callable[[nn.Module], object]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    change(model)
    return model.eval()


def patch(module: nn.Module) -> None:
    own = type(module).forward
    module.forward = types.MethodType(lambda self, x: own(self, x) * 2, module)  # type: ignore[method-assign]


CHANGED: dict[str, Callable[[Any], object]] = {
    "hook": lambda m: m[0].register_forward_hook(lambda module, given, answer: answer * 2),
    "hook before": lambda m: m[3].register_forward_pre_hook(lambda module, given: (given[0] * 2,)),
    "hook of the whole": lambda m: m.register_forward_hook(lambda module, given, answer: answer + 1),
    "forward of the whole": patch,
    "forward of a layer": lambda m: patch(m[0]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_answers_that_something_beside_the_network_changes_are_refused(name: str) -> None:
    model = hooked(CHANGED[name])
    before = model(torch.ones(1, 3, 6, 6))
    with pytest.raises(LoweringError):
        lower(model, (3, 6, 6))
    assert torch.equal(model(torch.ones(1, 3, 6, 6)), before)  # what was put there is there again


def test_hooks_that_only_look_change_nothing() -> None:
    seen: list[Any] = []
    looking = hooked(lambda m: m[0].register_forward_hook(lambda module, given, answer: seen.append(answer.shape)))
    graph, plain = lower(looking, (3, 6, 6)), lower(hooked(lambda m: None), (3, 6, 6))
    assert np.array_equal(run_float(graph, images()), run_float(plain, images()))
    seen.clear()
    looking(torch.ones(1, 3, 6, 6))
    assert len(seen) == 1


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Scaled(3, 8, 3)),
        nn.Sequential(nn.Flatten(), Doubled(108, 4)),
        Calls(lambda x: x.half()),
        Calls(lambda x: x.to(torch.float16)),
        Calls(lambda x: x.clamp_min(1)),
        Calls(lambda x: F.threshold(x, 0.5, 0.0)),
    ],
    ids=["_conv_forward", "forward", "half", "to half", "clamp_min", "threshold"],
)
def test_what_only_looks_equal_is_refused(model: nn.Module) -> None:
    with pytest.raises(LoweringError):
        lower(model, (3, 6, 6))


def test_a_lazy_network_with_hooks_learns_no_sizes_from_being_looked_at() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(4))
    model[1].register_forward_hook(lambda module, given, answer: None)
    with pytest.raises(LoweringError, match="lazy layers that know no sizes yet; call it with an image first"):
        lower(model, (3, 6, 6))
    assert is_lazy(model[0].weight)
    assert is_lazy(model[2].weight)


def test_a_network_that_draws_numbers_is_not_called_changed_by_hooks_that_look() -> None:
    model = Calls(lambda x: F.dropout(x, 0.5)).eval()  # which draws some in evaluation mode, too
    model.conv.register_forward_hook(lambda module, given, answer: None)
    state = torch.get_rng_state()
    with pytest.raises(LoweringError, match=r"dropout \(dropout\): it draws random numbers in evaluation mode"):
        lower(model, (3, 6, 6))
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are others for it


class WithRelu(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


@pytest.mark.parametrize("computed", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("kind", [WithRelu, Conv, nn.Conv2d])
def test_a_layer_whose_weight_is_computed_does_what_its_class_does(computed: Any, kind: Any) -> None:
    torch.manual_seed(0)
    layer = kind(3, 8) if kind is Conv else kind(3, 8, 3, padding=1)
    model = nn.Sequential(computed(layer), nn.Conv2d(8, 4, 1)).eval()
    if kind is WithRelu:  # looked into, at a function of a weight
        with pytest.raises(LoweringError, match="a layer whose weights are given to a function"):
            lower(model, (3, 6, 6))
        return
    with torch.no_grad():
        expected = model(images_of_torch()).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(run_float(lower(model, (3, 6, 6)), images()), expected, atol=1e-5)


class CallsItself(Calls):
    def __call__(self, *given: Any) -> Any:
        return F.relu(super().__call__(*given))


def test_what_surrounds_the_network_is_looked_at() -> None:
    plain = lambda x: x  # noqa: E731
    clipped = Calls(plain).eval()
    clipped.register_forward_pre_hook(lambda module, given: (given[0].clamp(0, 1),))
    for model in (CallsItself(plain).eval(), clipped):
        with pytest.raises(LoweringError, match="change what it computes"):
            lower(model, (3, 6, 6))
    model = Calls(plain).eval()
    before = model(images_of_torch())
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, given, answer: answer * 2)
    try:
        with pytest.raises(LoweringError, match="change what it computes"):
            lower(model, (3, 6, 6))
        assert not torch.equal(model(images_of_torch()), before)  # the hook is there still
    finally:
        hook.remove()
    lower(model, (3, 6, 6))


@pytest.mark.parametrize(
    "function", [lambda x: (torch.add(x, x, out=x), F.relu(x))[1], lambda x: (torch.clamp(x, min=0, out=x), x)[1]]
)
def test_a_result_over_another_tensor_is_refused(function: Any) -> None:
    with pytest.raises(LoweringError, match=r"writes its result over another tensor \(out=\)"):
        lower(Calls(function), (3, 6, 6))


def test_layers_that_the_code_makes_in_passing_are_traced() -> None:
    model = Calls(lambda x: nn.ReLU()(nn.MaxPool2d(2)(x)), 3).eval()
    parts = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    whole = Calls(lambda x: parts[:2](x)).eval()
    whole.parts = parts
    for network in (model, whole):
        with torch.no_grad():
            expected = network(images_of_torch()).numpy()
        np.testing.assert_allclose(run_float(lower(network, (3, 6, 6)), images()), expected, atol=1e-5)


@pytest.mark.parametrize("network", [Conv(3, 4), parametrizations.weight_norm(nn.Conv2d(3, 4, 3))])
def test_a_layer_of_the_users_own_is_a_network(network: nn.Module) -> None:
    with torch.no_grad():
        expected = network.eval()(images_of_torch()).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(run_float(lower(network, (3, 6, 6)), images()), expected, atol=1e-5)


def test_other_forms_of_a_network_are_refused_with_what_to_give() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(LoweringError, match="give the network that it was made of, which is its `_orig_mod`"):
        lower(torch.compile(net, backend="eager"), (3, 6, 6))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(net, images_of_torch())  # type: ignore[no-untyped-call]
        with pytest.raises(LoweringError, match="it is a TorchScript program; give the network that it was made of"):
            lower(scripted, (3, 6, 6))


class Decides(nn.Module):
    """By what only a tensor has, with a layer whose name torch.fx has for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.code(x)
        if isinstance(x, Tensor):
            x = F.relu(x)
        return self.head(x.mean((2, 3)))


def wraps_around(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)


def rounds_its_weights() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.weight_fake_quant = nn.Identity()
    return nn.Sequential(layer, nn.ReLU())


def patched() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    network[0]._conv_forward = types.MethodType(wraps_around, network[0])  # type: ignore[method-assign]
    return network


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Decides, "isinstance"),
        (patched, "circular"),
        (rounds_its_weights, "prepare_qat"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.ReLU()), "in front of a convolution"),
        (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), "the pool's own `padding`"),
        (lambda: nn.Sequential(nn.ZeroPad2d((-1, 0, 0, 0)), nn.Conv2d(3, 4, 3)), "slice"),
        (lambda: Calls(lambda x: x[:, :, :5]), "slice"),
    ],
)
def test_what_would_be_another_network_is_refused(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(LoweringError, match=said):
        lower(make(), (3, 6, 6))


@pytest.mark.parametrize("method", ["best", "vitis"])
def test_zeros_on_one_side_are_computed_and_compiled_as_any(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    graph = quantize(lower(model, (3, 6, 6)), images(), method=method)
    compile_xmodel(graph, DPUS["B4096"], images=images())  # executes the code, and raises where it gives other integers
