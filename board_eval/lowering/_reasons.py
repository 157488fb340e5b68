"""Why an operation is refused: the DPU does not have it, or has it and this tool does not; and what to do instead.

What the DPU has: AMD's target description of the DPUCZDX8G in Vitis AI 3.5, and its user guide UG1414, "Currently Supported
Operators".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import fx, nn

from edgesearch.board_eval.graph import Shape
from edgesearch.board_eval.lowering._values import argument
from edgesearch.board_eval.targets import MODELLED, Target

__all__ = ["LEFT_OUT_PADDING", "PART", "clip_reason", "output_reason", "reason_for"]


@dataclass(frozen=True)
class _Call:
    """The operation, its module (None for a function), and the shape of what it reads; None where that was refused already."""

    at: fx.Node
    module: Any
    target: Target
    shape: Shape | None

    def setting(self, name: str, position: int, default: Any) -> Any:
        """The module's attribute, or the function's argument."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return argument(self.at, position, name, default)


_Reason: TypeAlias = Callable[[_Call], str]


def reason_for(at: fx.Node, module: nn.Module | None, target: Target, shape: Shape | None) -> str:
    """Why the operation `at`, a call of `module` or of a function, on a tensor of `shape` is refused."""
    call = _Call(at, module, target, shape)
    if module is not None:
        found = next((reason for kind, reason in _MODULES.items() if isinstance(module, kind)), _unknown)
    else:
        found = _FUNCTIONS.get(at.target, _unknown)
    return found(call)


def _unknown(call: _Call) -> str:
    return f"not among the operations that this tool knows of the {MODELLED}; it would run on the ARM, or stop the compiler"


def clip_reason(name: str, low: Any, high: Any) -> str:
    """Why a clip at other values is refused."""
    return f"{name}({low}, {high}); the DPU clips at 0 and 6 (ReLU6), or at 0 alone (ReLU), and has no other clip"


def output_reason(returned: Any) -> str:
    """Why what a model returns is refused, where it is not one tensor: a container of them, or what no image decides."""
    tensors: list[fx.Node] = []
    fx.map_arg(returned, tensors.append)
    if len(tensors) > 1:
        return "the model returns more than one tensor; the DPU can, this tool cannot; return the logits alone"
    if tensors:
        return "the model returns a tensor inside a dictionary or sequence; return the tensor itself"
    return f"the model returns {returned!r}, whatever the image is; return the logits"


#: Why average pooling without its padding is refused.
LEFT_OUT_PADDING = "average pooling that leaves out its padding; the DPU counts padding as zeros; use count_include_pad=True"


def _lacks(what: str) -> str:
    return f"the {MODELLED} has {what}, this tool does not yet"


def _missing_here(what: str, instead: str) -> _Reason:
    """The DPU has it, this tool does not."""
    return lambda call: f"{_lacks(what)}; {instead}"


def _on_arm(what: str, instead: str) -> _Reason:
    return lambda call: f"{what} runs on the ARM, not on the DPU ({MODELLED}); {instead}"


#: What layers call with their weights.
LAYER_FUNCTIONS = (F.conv2d, torch.conv2d, F.linear, F.batch_norm, torch.batch_norm)


def _layer_by_function(call: _Call) -> str:
    return "a layer whose weights are given to a function; call the module that has them, as self.layer(x)"


def _pixel_shuffle(call: _Call) -> str:
    return "AMD's compiler takes a pixel shuffle and makes wrong numbers of it; do it on the host, behind the DPU"


def _multiplication(call: _Call) -> str:
    return f"{_lacks('a multiplication of two tensors of one shape, or by one of 1 x 1 x C')}; use an addition"


def _division(call: _Call) -> str:
    rounds = call.at.kwargs.get("rounding_mode") is not None
    return "a division that rounds; leave out rounding_mode, or round on the host" if rounds else _unknown(call)


def _subtraction(call: _Call) -> str:
    return "a subtraction with a factor; multiply first" if call.at.kwargs.get("alpha", 1) != 1 else _unknown(call)


def _padding(call: _Call) -> str:
    """Padding by zeros is the next convolution's; any other, and one of channels, the DPU does not have."""
    mode = call.setting("mode", 2, "constant")
    value = call.setting("value", 3, None) or 0
    if mode != "constant" or value != 0:
        what = f"padding in mode {mode!r}" if mode != "constant" else f"padding by {value}"
        return _on_arm(what, "pad with zeros, which a convolution or pool does by itself")(call)
    sides = call.setting("padding" if call.module is not None else "pad", 1, ())
    if isinstance(sides, list | tuple) and any(sides[4:]):
        return _on_arm("padding of channels", "make as many channels in the layer in front")(call)
    if isinstance(sides, list | tuple) and any(isinstance(side, int) and side < 0 for side in sides):
        return PART  # a negative one cuts off
    return f"padding by {sides!r}, expected whole numbers of zeros: left, right, above, below"


def _maximum(call: _Call) -> str:
    is_of_two = any(isinstance(operand, fx.Node) for operand in call.at.args[1:])
    return (_OF_TWO if is_of_two else _OVER_AXES)(call)


def _part(_: _Call) -> str:
    return PART


def _transposed(call: _Call) -> str:
    limits = call.target.limits
    has = (
        f"a transposed convolution with kernels of 1..{limits.transposed_kernel} and strides of 1..{limits.transposed_stride} "
        "per axis"
    )
    return f"{_lacks(has)}; {_NO_OTHER}"


def _upsampling(call: _Call) -> str:
    """Upsampling by factors or to a size: which the DPU has, and how to write one that it has not."""
    factors = call.target.limits.upsampling_factors
    known = " and ".join(str(factor) for factor in factors)
    mode = call.setting("mode", 3, "nearest")
    if mode not in ("nearest", "bilinear"):
        return f"upsampling in mode {mode!r}; the {MODELLED} has nearest and bilinear by {known}, this tool neither yet"
    size = call.setting("size", 1, None)
    factor, where = _factor(call, size)
    what = f"{mode} upsampling{where}"
    if factor is not None and factor <= 0:
        return f"{what} by {factor:g} leaves no pixels"
    if factor in factors:
        return f"{what} by {factor:g}: {_lacks('it')}; {_NO_OTHER}"
    if factor is None and where:
        return f"{what} is by no one factor; the {MODELLED} has it by {known}, this tool neither yet"
    if factor is None:
        return f"{_lacks(f'{what} by {known}')}; {_NO_OTHER}"
    steps = _steps(factor, factors)
    advice = f"write {factor:g} as {', then '.join(map(str, steps))}" if steps else f"by {factor:g} it has no form there"
    return f"{what} by {factor:g}; the {MODELLED} has it by {known}: {advice}; this tool does not have it yet"


def _factor(call: _Call, size: Any) -> tuple[float | None, str]:
    """The factor of height and width, None where they have no common one; and the sizes, in words, where they are given."""
    given = call.setting("scale_factor", 2, None)
    if size is None:
        wanted = set(given) if isinstance(given, list | tuple) else {given}
        single = wanted.pop() if len(wanted) == 1 else None
        return (float(single) if isinstance(single, int | float) else None), ""
    sizes = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if call.shape is None or len(call.shape) != 3 or len(sizes) != 2 or not all(isinstance(n, int) for n in sizes):
        return None, ""
    height, width, _ = call.shape
    where = f" of {height} x {width} to {sizes[0]} x {sizes[1]}"
    return (sizes[0] / height if sizes[0] * width == sizes[1] * height else None), where


def _steps(factor: float, known: tuple[int, ...]) -> list[int]:
    """The factor as a product of those the DPU has, largest first; [] when it is none."""
    steps: list[int] = []
    if factor < 1:  # 0 has every factor, for ever
        return steps
    for step in sorted(known, reverse=True):
        while step > 1 and factor % step == 0:
            steps.append(step)
            factor /= step
    return steps if factor == 1 else []


_NO_OTHER = "there is no other form of it here"
_USE_RELU = "use ReLU, ReLU6 or leaky ReLU with slope 26/256"
_LOGITS = _on_arm("softmax", "it comes behind the DPU: return the logits")
_HARD_SWISH = _missing_here("hard-swish, as x * hard-sigmoid(x)", "use ReLU or ReLU6")
_HARD_SIGMOID = _missing_here("hard-sigmoid", "use ReLU or ReLU6")
#: Why a part of a tensor is refused.
PART = f"the {MODELLED} has chunk, split and slice, this tool those of channels of images; make other parts by layers"
_PRELU = _missing_here("PReLU", "use leaky ReLU with slope 26/256")
_OVER_AXES = _missing_here("a maximum over a dimension", "use a max pool over height and width")
_OF_TWO = _on_arm("a maximum of two tensors", "use an addition, or a concatenation")
_OTHER_PAD = _on_arm("padding by anything but zeros", "pad with zeros, which a convolution or pool does by itself")
_NORM = "use batch-norm"

_MODULES: Mapping[type[nn.Module], _Reason] = {
    nn.Hardswish: _HARD_SWISH,
    nn.Hardsigmoid: _HARD_SIGMOID,
    nn.PReLU: _PRELU,
    nn.ConvTranspose2d: _transposed,
    nn.Upsample: _upsampling,
    nn.PixelShuffle: _pixel_shuffle,
    nn.PixelUnshuffle: _pixel_shuffle,
    nn.ConstantPad2d: _padding,  # ZeroPad2d is one
    nn.ReflectionPad2d: _OTHER_PAD,
    nn.ReplicationPad2d: _OTHER_PAD,
    nn.CircularPad2d: _OTHER_PAD,
    nn.Softmax: _LOGITS,
    nn.Softmax2d: _LOGITS,
    nn.LogSoftmax: _LOGITS,
    nn.Sigmoid: _on_arm("sigmoid", f"{_USE_RELU}; as the last operation, return what it reads"),
    nn.Tanh: _on_arm("tanh", _USE_RELU),
    nn.SiLU: _on_arm("SiLU", _USE_RELU),
    nn.GELU: _on_arm("GELU", _USE_RELU),
    nn.ELU: _on_arm("ELU", _USE_RELU),
    nn.SyncBatchNorm: lambda _: (
        "it trains on several GPUs only; use BatchNorm2d, which computes the same when it is not trained"
    ),
    nn.LayerNorm: _on_arm("layer-norm", _NORM),
    nn.GroupNorm: _on_arm("group-norm", _NORM),
}

_FUNCTIONS: Mapping[Any, _Reason] = {
    **dict.fromkeys(LAYER_FUNCTIONS, _layer_by_function),
    F.hardswish: _HARD_SWISH,
    F.hardsigmoid: _HARD_SIGMOID,
    F.prelu: _PRELU,
    F.conv_transpose2d: _transposed,
    F.interpolate: _upsampling,
    F.pixel_shuffle: _pixel_shuffle,
    torch.pixel_shuffle: _pixel_shuffle,
    F.pad: _padding,
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply"), _multiplication),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_", "divide"), _division),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract"), _subtraction),
    **dict.fromkeys((torch.chunk, torch.split, torch.tensor_split, torch.narrow), _part),
    **dict.fromkeys(("chunk", "split", "tensor_split", "narrow"), _part),
    **dict.fromkeys((torch.max, "max"), _maximum),
    **dict.fromkeys((torch.amax, "amax"), _OVER_AXES),
    **dict.fromkeys((torch.maximum, "maximum"), _OF_TWO),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax", F.log_softmax, torch.log_softmax, "log_softmax"), _LOGITS),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), _MODULES[nn.Sigmoid]),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), _MODULES[nn.Tanh]),
    F.silu: _MODULES[nn.SiLU],
    F.gelu: _MODULES[nn.GELU],
    F.elu: _MODULES[nn.ELU],
    F.layer_norm: _MODULES[nn.LayerNorm],
    F.group_norm: _MODULES[nn.GroupNorm],
}
