"""The code of a network: equal to the network, plain, and of the form that Vitis AI's packages take."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from edgesearch.board_eval import lower
from edgesearch.errors import LoweringError
from edgesearch.objectives.pruning import PrunableShape
from edgesearch.objectives.vitis import ModelSource, load_source, torch_source
from edgesearch.objectives.vitis._job import RUNNER
from edgesearch.spaces import STUDENTS, Student, build

from ._networks import Clips, Functions, Modules, Others, Shared, randomized

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

#: What torch has since 2.0 only, as a name anywhere in code for 1.13.
_NEWER = ("compile", "vmap", "func", "_dynamo", "export", "set_default_device", "nested", "attention")


def check(model: nn.Module, shape: tuple[int, int, int]) -> tuple[ModelSource, ModelSource]:
    """The model's code for PTQ and QAT, once both were compared with it on images of their own."""
    sources = torch_source(model, shape), torch_source(model, shape, trainable=True)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = model.eval()(images.clone())
        for source in sources:
            ast.parse(source.text, feature_version=(3, 8))
            made = load_source(source)
            assert torch.equal(made(images.clone()), expected)
            norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
            added = {f"{name}.{key}" for name in norms for key in ("weight", "bias")}  # where it has none, as Vitis AI wants
            assert set(made.state_dict()) <= set(model.state_dict()) | added
            names = {node.attr for node in ast.walk(ast.parse(source.text)) if isinstance(node, ast.Attribute)}
            assert not names & set(_NEWER)
    return sources


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_every_student_and_its_pruned_form(name: str) -> None:
    shape = (3, 32, 32)
    model = randomized(build(Student(architecture=name, input_size=32, width=0.25), channels=3, classes=10))
    for source in check(model, shape):
        assert list(load_source(source).state_dict()) == list(model.state_dict())
    check(randomized(PrunableShape(model, shape).at(ratio=0.5, granularity=2)), shape)


@pytest.mark.parametrize("student", [{"stem": "imagenet", "head": 16}, {"stem": "small", "head": 0}])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_stems_and_heads(name: str, student: dict[str, object]) -> None:
    settings = Student.model_validate({"architecture": name, "input_size": 64, "width": 0.25} | student)
    check(randomized(build(settings, channels=1, classes=3)), (1, 64, 64))


@pytest.mark.parametrize("model", [Functions(), Others(), Clips(), Modules(), Shared()], ids=lambda model: type(model).__name__)
def test_every_operation(model: nn.Module) -> None:
    check(randomized(model), (3, 16, 16))


class Drawn(nn.Module):
    """A chain of operations by their numbers, with the values of earlier ones at hand."""

    def __init__(self, steps: list[tuple[int, int]], channels: int) -> None:
        super().__init__()
        self.steps = steps
        self.relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=bool(k % 2)) for k, _ in steps)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in steps)
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for number, (kind, which) in enumerate(self.steps):
            x, other = known[-1], known[which % len(known)]
            if kind == 0:
                x = self.layers[number](x)
            elif kind == 1:
                x = self.norms[number](self.layers[number](x))
            elif kind == 2:
                x = self.relu(self.last(x))
            elif kind == 3:
                x = x + other
            elif kind == 4:
                x = self.last(torch.cat((x, other), 1)[:, : x.shape[1]]) if False else self.relu6(x)
            elif kind == 5:
                x = self.last(x)
                x += other
            elif kind == 6:
                x = nn.functional.relu6(x)
            else:
                x = nn.functional.avg_pool2d(x, 3, 1, 1)
            known.append(x)
        return known[-1].mean((2, 3))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=8), st.integers(1, 4))
def test_drawn_networks(steps: list[tuple[int, int]], channels: int) -> None:
    check(randomized(Drawn(steps, channels)), (channels, 8, 8))


def test_the_code_lowers_to_the_same_network() -> None:
    for model in (randomized(Functions()), randomized(Clips()), randomized(Shared())):
        expected, found = lower(model, (3, 16, 16)), lower(load_source(torch_source(model, (3, 16, 16))), (3, 16, 16))
        assert [type(node) for node in expected] == [type(node) for node in found]
        assert expected.macs == found.macs


def calls_of(source: ModelSource) -> tuple[fx.Graph, nn.Module]:
    model = load_source(source)
    return fx.symbolic_trace(model).graph, model


def test_training_code_calls_every_module_once_and_does_all_with_modules() -> None:
    resnet = build(
        Student(architecture="resnet18", input_size=32, width=0.25), channels=3, classes=10
    )  # one ReLU, called twice
    for model in (resnet, Functions(), Clips(), Modules()):
        graph, made = calls_of(torch_source(model, (3, 16, 16), trainable=True))
        modules = dict(made.named_modules())
        calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
        without_weights = [name for name in calls if not list(modules[name].parameters())]
        assert len(without_weights) == len(set(without_weights))
        functions = {node.target for node in graph.nodes if node.op == "call_function"}
        # beside flatten those inside of what stands for Vitis AI's own modules in plain torch
        assert functions <= {torch.flatten, torch.add, torch.cat, nn.functional.pad}
        assert not [node for node in graph.nodes if node.op == "call_method"]
        first = next(node for node in graph.nodes if node.op == "call_module")
        assert str(first.target) == "quant_stub"


@pytest.mark.parametrize(("model", "count"), [(Functions(), 1), (Clips(), 4)])
def test_a_relu6_that_is_a_function_stays_one_where_a_module_would_be_replaced(model: nn.Module, count: int) -> None:
    text = torch_source(model, (3, 16, 16)).text
    assert text.count("F.relu6(") == count
    assert "nn.ReLU6" not in text
    assert torch_source(model, (3, 16, 16), trainable=True).text.count("nn.ReLU6") == count


def test_training_code_has_the_kinds_of_layers_that_vitis_ai_looks_for() -> None:
    """It compares a layer's class with that of the operation which it makes of it."""
    text = torch_source(Modules(), (3, 16, 16), trainable=True).text
    assert "Hardtanh" not in text  # which it takes as ReLU6
    assert "ZeroPad2d" not in text
    assert "Pad()" in text
    halves = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d((2, 4)), nn.Flatten(), nn.Linear(32, 5))
    text, plain = (torch_source(halves, (3, 12, 12), trainable=trainable).text for trainable in (True, False))
    assert "nn.AvgPool2d((6, 3), stride=(6, 3))" in text
    assert "nn.AdaptiveAvgPool2d((2, 4))" in plain


def test_a_mean_and_same_padding_become_what_the_dpu_has() -> None:
    text = torch_source(Functions(), (3, 16, 16)).text
    assert ".mean(" not in text
    assert "'same'" not in text
    assert "ZeroPad2d((1, 2, 1, 2))" in torch_source(Modules(), (3, 16, 16)).text


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, features: bool = False, mask: Tensor | None = None) -> Tensor:
        y = self.conv(x) if mask is None else self.conv(x + mask)
        return y if features else y.mean((2, 3))


def test_arguments_that_are_never_given_have_their_defaults() -> None:
    check(Features(), (3, 8, 8))


class Unwritten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Unwritten(), "fft"),
        (Two(), "output"),
        (Branching(), "values that depend on the image"),
        (nn.Sequential(nn.GELU()), "GELU"),
    ],
)
def test_what_cannot_be_written_is_named(model: nn.Module, words: str) -> None:
    with pytest.raises(LoweringError, match=words):
        torch_source(model, (3, 8, 8))


@pytest.mark.parametrize("name", ["a/b", "a[0]", "log_threshold", "x_mask"])
def test_names_that_vitis_ai_would_misread_are_refused(name: str) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.ReLU())
    with pytest.raises(LoweringError, match="misread"):
        torch_source(model, (1, 4, 4))


def test_names_never_become_code() -> None:
    class Evil(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a')\nimport os  # ", nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self._modules["a')\nimport os  # "](x)  # type: ignore[misc]

    Evil.__name__ = "x):\n  pass"
    with pytest.raises(LoweringError):
        torch_source(Evil(), (1, 4, 4))
    plain = nn.Sequential(nn.ReLU())
    type(plain)
    odd = type("torch", (nn.Sequential,), {})(nn.ReLU())
    assert torch_source(odd, (1, 4, 4)).name == "torchNet"


def test_weights_are_no_pickles_and_the_models_own() -> None:
    model = randomized(Modules())
    weights = torch_source(model, (3, 16, 16)).weights
    assert all(array.dtype.kind in "fi" for array in weights.values())
    assert torch.equal(torch.from_numpy(weights["body.0.0.weight"]), model.state_dict()["body.0.0.weight"])
    assert "body.0.1.weight" not in weights  # a batch-norm without any


@pytest.mark.parametrize("path", [RUNNER])
def test_the_runner_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {"removesuffix", "removeprefix", *_NEWER}
    older = shutil.which("python3.8")
    if older is not None and subprocess.run([older, "--version"], capture_output=True).returncode == 0:
        subprocess.run([older, "-c", f"compile(open({str(path)!r}).read(), 'runner', 'exec')"], check=True)


def test_the_runner_imports_nothing_of_this_program() -> None:
    tree = ast.parse(RUNNER.read_text())
    found = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found - set(sys.stdlib_module_names) == {"numpy", "torch", "pytorch_nndct", "xir"}
