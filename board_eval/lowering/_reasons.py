"""Why an operation is refused: the DPU does not have it, or has it and this tool does not; and what to do instead.

What the DPU has: AMD's target description of the DPUCZDX8G in Vitis AI 3.5, and its user guide UG1414, "Currently Supported
Operators".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import fx, nn

from edgesearch.board_eval.targets import MODELLED, Target

__all__ = ["LEFT_OUT_PADDING", "groups_reason", "reason_for"]

#: From the module of a call (None for a function), the operation and the target to the sentence.
_Reason: TypeAlias = Callable[[nn.Module | None, fx.Node, Target], str]


def reason_for(at: fx.Node, module: nn.Module | None, target: Target) -> str:
    """Why the operation `at`, a call of `module` or of a function, is refused."""
    if module is not None:
        found = next((reason for kind, reason in _MODULES.items() if isinstance(module, kind)), None)
    else:
        found = _FUNCTIONS.get(at.target)
    if found is None:
        return f"not among the operations that this tool knows of the {MODELLED}; it would run on the ARM, or stop the compiler"
    return found(module, at, target)


def groups_reason(groups: int, inputs: int, outputs: int) -> str:
    """Why a convolution with groups is refused."""
    if groups == inputs:
        return (
            f"a depthwise convolution that makes {outputs // groups} channels of each; the DPU runs it as {outputs // groups} "
            f"depthwise convolutions and this tool has those with one only; write them one by one, with a concatenation"
        )
    return (
        f"{groups} groups of {inputs} channels; a grouped convolution is not in the DPU's list, which has full and depthwise "
        f"convolutions; split it into {groups} convolutions and a concatenation"
    )


#: Why average pooling without its padding is refused.
LEFT_OUT_PADDING = "average pooling that leaves out its padding; the DPU counts padding as zeros; use count_include_pad=True"


def _missing_here(what: str, instead: str) -> _Reason:
    """The DPU has it, this tool does not."""
    return lambda module, at, target: f"the {MODELLED} has {what}, this tool does not yet; {instead}"


def _on_arm(what: str, instead: str) -> _Reason:
    return lambda module, at, target: f"{what} runs on the ARM, not on the DPU ({MODELLED}); {instead}"


def _pixel_shuffle(module: nn.Module | None, at: fx.Node, target: Target) -> str:
    return "AMD's compiler takes a pixel shuffle and makes wrong numbers of it; do it on the host, behind the DPU"


def _transposed(module: nn.Module | None, at: fx.Node, target: Target) -> str:
    limits = target.limits
    has = (
        f"a transposed convolution with kernels of 1..{limits.transposed_kernel} and strides of 1..{limits.transposed_stride} "
        "per axis"
    )
    return _missing_here(has, "there is no other form of it here")(module, at, target)


def _upsampling(module: nn.Module | None, at: fx.Node, target: Target) -> str:
    """Upsampling by factors: which the DPU has, and how to write one that it has not."""
    known = " and ".join(str(factor) for factor in target.limits.upsampling_factors)
    mode = module.mode if isinstance(module, nn.Upsample) else at.kwargs.get("mode", "nearest")
    if mode not in ("nearest", "bilinear"):
        return f"upsampling in mode {mode!r}; the {MODELLED} has nearest and bilinear by {known}, this tool neither yet"
    factor = module.scale_factor if isinstance(module, nn.Upsample) else at.kwargs.get("scale_factor")
    has = f"{mode} upsampling by {known}"
    if isinstance(factor, int | float) and factor not in target.limits.upsampling_factors:
        steps = _steps(float(factor), target.limits.upsampling_factors)
        advice = f"write {factor:g} as {', then '.join(map(str, steps))}" if steps else f"by {factor:g} it has no form there"
        return f"{mode} upsampling by {factor:g}; the {MODELLED} has it by {known}: {advice}; this tool does not have it yet"
    return _missing_here(has, "there is no other form of it here")(module, at, target)


def _steps(factor: float, known: tuple[int, ...]) -> list[int]:
    """The factor as a product of those the DPU has, largest first; [] when it is none."""
    steps: list[int] = []
    for step in sorted(known, reverse=True):
        while step > 1 and factor % step == 0:
            steps.append(step)
            factor /= step
    return steps if factor == 1 else []


_USE_RELU = "use ReLU, ReLU6 or leaky ReLU with slope 26/256"
_LOGITS = _on_arm("softmax", "it comes behind the DPU: return the logits")
_HARD_SWISH = _missing_here("hard-swish, as x * hard-sigmoid(x)", "use ReLU or ReLU6")
_HARD_SIGMOID = _missing_here("hard-sigmoid", "use ReLU or ReLU6")
_MULTIPLY = _missing_here("a multiplication of two tensors of one shape, or by one of 1 x 1 x C", "use an addition")
_PRELU = _missing_here("PReLU", "use leaky ReLU with slope 26/256")
_MAXIMUM = _missing_here("a maximum over a dimension", "use a max pool over height and width")
_PAD = _missing_here("zero padding, as part of the convolution or pool behind it", "give that layer the padding")
_OTHER_PAD = _on_arm("padding by anything but zeros", "pad with zeros")
_NORM = "use batch-norm"

_MODULES: Mapping[type[nn.Module], _Reason] = {
    nn.Hardswish: _HARD_SWISH,
    nn.Hardsigmoid: _HARD_SIGMOID,
    nn.PReLU: _PRELU,
    nn.ConvTranspose2d: _transposed,
    nn.Upsample: _upsampling,
    nn.PixelShuffle: _pixel_shuffle,
    nn.PixelUnshuffle: _pixel_shuffle,
    nn.ZeroPad2d: _PAD,
    nn.ReflectionPad2d: _OTHER_PAD,
    nn.ReplicationPad2d: _OTHER_PAD,
    nn.Softmax: _LOGITS,
    nn.Softmax2d: _LOGITS,
    nn.LogSoftmax: _LOGITS,
    nn.Sigmoid: _on_arm("sigmoid", f"{_USE_RELU}; as the last operation, return what it reads"),
    nn.Tanh: _on_arm("tanh", _USE_RELU),
    nn.SiLU: _on_arm("SiLU", _USE_RELU),
    nn.GELU: _on_arm("GELU", _USE_RELU),
    nn.ELU: _on_arm("ELU", _USE_RELU),
    nn.LayerNorm: _on_arm("layer-norm", _NORM),
    nn.GroupNorm: _on_arm("group-norm", _NORM),
}

_FUNCTIONS: Mapping[Any, _Reason] = {
    F.hardswish: _HARD_SWISH,
    F.hardsigmoid: _HARD_SIGMOID,
    F.prelu: _PRELU,
    F.conv_transpose2d: _transposed,
    F.interpolate: _upsampling,
    F.pixel_shuffle: _pixel_shuffle,
    torch.pixel_shuffle: _pixel_shuffle,
    F.pad: _PAD,
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply"), _MULTIPLY),
    **dict.fromkeys((torch.max, torch.amax, "max", "amax"), _MAXIMUM),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax", F.log_softmax, torch.log_softmax, "log_softmax"), _LOGITS),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), _MODULES[nn.Sigmoid]),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), _MODULES[nn.Tanh]),
    F.silu: _MODULES[nn.SiLU],
    F.gelu: _MODULES[nn.GELU],
    F.elu: _MODULES[nn.ELU],
    F.layer_norm: _MODULES[nn.LayerNorm],
    F.group_norm: _MODULES[nn.GroupNorm],
}
