"""A network as a file of plain torch code: what Vitis AI's Python can import without this program.

The code has the network's own submodules under their own names, so that one set of weights serves both. It is written for
Python 3.8 and torch 1.13, and is compared with the network before it leaves this program.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgesearch.board_eval.lowering import Untraceable, traced
from edgesearch.errors import LoweringError, LoweringProblem
from edgesearch.objectives.vitis._constructors import constructor
from edgesearch.objectives.vitis._operations import Operations

__all__ = ["ModelSource", "load_source", "torch_source"]

#: Classes and modules that the code itself names.
_TAKEN = ("Add", "Block", "Cat", "DeQuantStub", "F", "Pad", "QuantStub", "nn", "torch")
#: Operations as modules of Vitis AI, with what they do in plain torch: their arguments, and an expression of them.
_FUNCTIONAL = {
    "Add": ("input, other", "torch.add(input, other)"),
    "Cat": ("x, dim=0", "torch.cat(x, dim=dim)"),
    "Pad": ("input, pad", "nn.functional.pad(input, pad)"),
}
#: What Vitis AI reads as marks of its own in a submodule's name, and what it would mistake for its own tensors.
_CONFUSING = re.compile(r"[/\[\]:\s]|_mask|log_threshold")


@dataclass(frozen=True)
class ModelSource:
    """Code of a network: a module with the class `name`, and the weights that it takes, by their names in its state."""

    name: str
    text: str
    input_shape: tuple[int, int, int]
    weights: Mapping[str, npt.NDArray[np.generic]]


def torch_source(model: nn.Module, input_shape: tuple[int, int, int], *, trainable: bool = False) -> ModelSource:
    """The code of `model` for images of `input_shape` (channels, height, width); the model is not changed.

    `trainable`: with Vitis AI's quantization stubs around it, for quantization-aware training. The code computes what the model
    computes in evaluation mode, bit for bit: both are run on an image. Raises LoweringError for operations that it cannot
    write, and where the two differ.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    name = _class_name(type(model).__name__)
    image = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        module = traced(model, input_shape)
    except Untraceable as error:
        raise _problem(name, "forward", str(error)) from error
    for path, _ in model.named_modules():
        if _CONFUSING.search(path):
            raise _problem(name, path, "a name that Vitis AI would misread; give the layer another")
    operations = Operations(module, image.clone(), name=name, trainable=trainable)
    text = _Text(model, operations, name, trainable).write()
    fresh = load_source(ModelSource(name, text, input_shape, {}))
    source = ModelSource(name, text, input_shape, _weights(model, fresh))
    with torch.no_grad():
        expected, found = model(image.clone()), load_source(source)(image.clone())
    if not (torch.equal(expected, found) or (operations.rounds_otherwise and torch.allclose(expected, found, rtol=1e-4))):
        raise _problem(name, "forward", "the code that was written for Vitis AI computes something else")
    return source


def load_source(source: ModelSource) -> nn.Module:
    """The network that the code makes in this process, in evaluation mode and with its weights where it has any."""
    module = ModuleType(f"edgesearch_{source.name}")
    with _without("pytorch_nndct"):
        exec(compile(source.text, f"<{source.name}>", "exec"), module.__dict__)
    with torch.random.fork_rng(devices=[]):  # random starts of layers whose weights come next
        model: nn.Module = getattr(module, source.name)()
    if source.weights:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in source.weights.items()}
        model.load_state_dict(tensors, strict=False)
    return model.eval()


def _weights(model: nn.Module, fresh: nn.Module) -> dict[str, npt.NDArray[np.generic]]:
    """The tensors of `fresh` that `model` has, in its values; a batch-norm without weight and bias keeps 1 and 0."""
    found: dict[str, npt.NDArray[np.generic]] = {}
    for key in fresh.state_dict():
        path, _, attribute = key.rpartition(".")
        value = getattr(model.get_submodule(path), attribute)
        if isinstance(value, torch.Tensor):
            found[key] = value.detach().numpy()
    return found


class _Text:
    """The file's text."""

    def __init__(self, model: nn.Module, operations: Operations, name: str, trainable: bool) -> None:
        self._model, self._operations, self._name = model, operations, name
        self._stubs = self._unused("quant_stub", "dequant_stub") if trainable else ()

    def _unused(self, *names: str) -> tuple[str, ...]:
        taken = {path for path, _ in self._model.named_modules()} | self._operations.added.keys()
        return tuple(next(f"{name}{end}" for end in ("", *range(1000)) if f"{name}{end}" not in taken) for name in names)

    def write(self) -> str:
        body = [*self._head(), "", "", f"class {self._name}(nn.Module):", *_indented(self._constructor(), 1), ""]
        return "\n".join([*body, *_indented(self._forward(), 1), ""])

    def _head(self) -> list[str]:
        names = [name for name in _FUNCTIONAL if f"{name}()" in self._operations.added.values()]
        stubs = ["DeQuantStub", "QuantStub"] if self._stubs else []
        lines = [
            f'"""The network {self._name} in plain torch, written by edgesearch."""',
            "",
            "import torch",
            "from torch import nn",
        ]
        if any("F." in line for line in self._operations.lines):
            lines.append("from torch.nn import functional as F")
        if names or stubs:
            lines += ["", "try:  # Vitis AI quantizes operations that are modules of its own"]
            lines += [f"    from pytorch_nndct.nn.modules.functional import {', '.join(names)}"] if names else []
            lines += ["    from pytorch_nndct.nn import DeQuantStub, QuantStub"] if stubs else []
            lines += ["except ImportError:  # the same in plain torch", *_indented(_fallback(names, stubs), 1)]
        return [*lines, "", "", "class Block(nn.Module):", '    """Holds submodules."""']

    def _constructor(self) -> Iterator[str]:
        yield "def __init__(self):"
        yield "    super().__init__()"
        first: dict[nn.Module, str] = {}
        for path, module in self._model.named_modules(remove_duplicate=False):
            if not path or _inside_leaf(self._model, path):
                continue
            parent, _, name = path.rpartition(".")
            holder = f"self.get_submodule({parent!r})" if parent else "self"
            made = constructor(module, trainable=bool(self._stubs)) or "Block()"
            made = f"self.get_submodule({first[module]!r})" if module in first else made
            first.setdefault(module, path)
            yield f"    {holder}.add_module({name!r}, {made})"
        for name, expression in self._operations.added.items():
            yield f"    self.{name} = {expression}"
        for name, kind in zip(self._stubs, ("QuantStub", "DeQuantStub"), strict=False):
            yield f"    self.{name} = {kind}()"

    def _forward(self) -> Iterator[str]:
        argument, result = self._operations.argument, self._operations.result
        yield f"def forward(self, {argument}):"
        if self._stubs:
            yield f"    {argument} = self.{self._stubs[0]}({argument})"
        yield from (f"    {line}" for line in self._operations.lines)
        yield f"    return self.{self._stubs[1]}({result})" if self._stubs else f"    return {result}"


def _fallback(names: list[str], stubs: list[str]) -> list[str]:
    lines: list[str] = []
    for name in names:
        arguments, expression = _FUNCTIONAL[name]
        lines += [f"class {name}(nn.Module):", f"    def forward(self, {arguments}):", f"        return {expression}", ""]
    return [*lines, "QuantStub = DeQuantStub = nn.Identity"] if stubs else lines[:-1]


def _indented(lines: list[str] | Iterator[str], depth: int) -> list[str]:
    return [f"{'    ' * depth}{line}" if line else "" for line in lines]


def _inside_leaf(model: nn.Module, path: str) -> bool:
    """Whether a submodule belongs to a layer that is made as a whole, as the hooks of a normalised weight do."""
    parts = path.split(".")
    return any(constructor(model.get_submodule(".".join(parts[:end]))) is not None for end in range(1, len(parts)))


def _class_name(name: str) -> str:
    """A class's name that is a Python name and none that the code uses."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    name = f"Net_{name}" if not name or name[0].isdigit() or name[0] == "_" else name
    return f"{name}Net" if name in _TAKEN else name


def _problem(name: str, where: str, reason: str) -> LoweringError:
    return LoweringError(name, [LoweringProblem(where, "module", reason)])


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Within it the package cannot be imported: what runs here is plain torch."""
    hidden = {name: sys.modules[name] for name in list(sys.modules) if name == package or name.startswith(f"{package}.")}
    for name in hidden:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(hidden)
