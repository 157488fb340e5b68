"""What lowers each layer, function and method of torch: their arguments, and the methods of `Layers` that they go to."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from edgesearch.board_eval.lowering._layers import Layers
from edgesearch.board_eval.lowering._parts import (
    chunk,
    fold,
    joined,
    narrow,
    part,
    shuffle,
    slice_of,
    split,
    swap,
    tensor_split,
    unfold,
)
from edgesearch.board_eval.lowering._reasons import LEFT_OUT_PADDING, PART, clip_reason
from edgesearch.board_eval.lowering._values import Unsupported, argument
from edgesearch.board_eval.lowering._windows import MEAN_ADVICE, pair

__all__ = ["BY_NAME", "DECIDED_BY_TRAINING", "FUNCTIONS", "MODULES"]


def _max_pool_function(low: Layers, at: fx.Node) -> None:
    kernel, stride = argument(at, 1, "kernel_size", None), argument(at, 2, "stride", None)
    if pair(argument(at, 4, "dilation", 1)) != (1, 1) or argument(at, 6, "return_indices", False):
        raise Unsupported("a dilated pooling, or one that returns indices")
    low.pool(at, "max", kernel, stride, argument(at, 3, "padding", 0), ceil=bool(argument(at, 5, "ceil_mode", False)))


def _average_pool_function(low: Layers, at: fx.Node) -> None:
    kernel, stride = argument(at, 1, "kernel_size", None), argument(at, 2, "stride", None)
    padding, ceil = argument(at, 3, "padding", 0), bool(argument(at, 4, "ceil_mode", False))
    counted, divisor = argument(at, 5, "count_include_pad", True), argument(at, 6, "divisor_override", None)
    _average_pool(low, at, kernel, stride, padding, ceil, counted, divisor)


def _average_pool_module(low: Layers, at: fx.Node, m: nn.AvgPool2d) -> None:
    _average_pool(low, at, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override)


def _average_pool(
    low: Layers, at: fx.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, counted: bool, divisor: int | None
) -> None:
    if pair(padding) != (0, 0) and not counted:
        raise Unsupported(LEFT_OUT_PADDING)
    if divisor is not None:
        raise Unsupported("average pooling with a divisor of its own")
    low.pool(at, "avg", kernel, stride, padding, ceil=ceil)


def _max_pool_module(low: Layers, at: fx.Node, module: nn.MaxPool2d) -> None:
    if pair(module.dilation) != (1, 1) or module.return_indices:
        raise Unsupported("a dilated pooling, or one that returns indices")
    low.pool(at, "max", module.kernel_size, module.stride, module.padding, ceil=module.ceil_mode)


def _hardtanh_module(low: Layers, at: fx.Node, module: nn.Hardtanh) -> None:
    if (module.min_val, module.max_val) != (0.0, 6.0):
        raise Unsupported(clip_reason("hardtanh", module.min_val, module.max_val))
    low.activation(at, "relu6", inplace=module.inplace, keeps_clip=not isinstance(module, nn.ReLU6))


def _flatten_module(low: Layers, at: fx.Node, module: nn.Flatten) -> None:
    _flatten(low, at, module.start_dim, module.end_dim)


def _flatten(low: Layers, at: fx.Node, start: Any, end: Any) -> None:
    if at.args[0] in low.folded and (start, end) in ((1, 2), (1, -3), (-4, 2), (-4, -3)):
        unfold(low, at, None)
        return
    rank = low.rank(at)
    if start not in (1, 1 - rank) or end not in (-1, rank - 1):
        advice = MEAN_ADVICE if start in (2, 2 - rank) else ""
        raise Unsupported(f"a flatten other than of everything but the batch{advice}")
    low.flatten(at)


def _flatten_function(low: Layers, at: fx.Node) -> None:
    _flatten(low, at, argument(at, 1, "start_dim", 0), argument(at, 2, "end_dim", -1))


def _view(low: Layers, at: fx.Node) -> None:
    sizes: Any = _several(at.args[1:])
    if at.args[0] in low.folded:
        unfold(low, at, sizes)
    elif not fold(low, at, sizes):
        low.view(at, sizes)


def _several(given: Any) -> Any:
    """Arguments that may be given as one list."""
    return given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given


def _transpose(low: Layers, at: fx.Node) -> None:
    axes = list(range(5))
    first, second = argument(at, 1, "dim0", None), argument(at, 2, "dim1", None)
    if isinstance(first, int) and isinstance(second, int) and min(first, second) >= -5 and max(first, second) < 5:
        axes[first], axes[second] = axes[second], axes[first]
    swap(low, at, axes)


def _permute(low: Layers, at: fx.Node) -> None:
    given = _several(at.args[1:])
    swap(low, at, [axis % 5 if isinstance(axis, int) else axis for axis in given])


def _contiguous(low: Layers, at: fx.Node) -> None:
    source: Any = at.args[0]
    if source in low.folded:
        low.folded[at] = low.folded[source]
    else:
        low.lay_out(at)


def _mean(low: Layers, at: fx.Node) -> None:
    low.mean(at, argument(at, 1, "dim", None), argument(at, 2, "keepdim", False))


def _amax(low: Layers, at: fx.Node) -> None:
    if not low.largest(at, argument(at, 1, "dim", None), argument(at, 2, "keepdim", False)):
        raise Unsupported(low.reason(at, None))


def _squeeze(low: Layers, at: fx.Node) -> None:
    dims = at.args[1:]
    low.squeeze(at, dims[0] if len(dims) == 1 else dims or None)


def _index(low: Layers, at: fx.Node) -> None:
    if isinstance(at.args[1], str):
        raise Unsupported(f"takes {at.args[1]!r} out of a dictionary; the DPU is given one image: let `forward` take that")
    if part(low, at):
        return
    if not low.index(at, at.args[1]) and not slice_of(low, at, at.args[1]):
        low.value(at.args[0])  # raises what can be done instead of half an image
        key = at.args[1] if isinstance(at.args[1], tuple) else (at.args[1],)
        raise Unsupported("it adds a dimension; keep it where it goes, as by mean(..., keepdim=True)" if None in key else PART)


def _concat(low: Layers, at: fx.Node) -> None:
    tensors: Any = argument(at, 0, "tensors", None)
    if isinstance(tensors, fx.Node) and tensors in low.divided:
        joined(low, at, tensors, argument(at, 1, "dim", 0))
    else:
        low.concat(at, tensors, argument(at, 1, "dim", 0))


def _relu_function(low: Layers, at: fx.Node) -> None:
    low.activation(at, "relu", inplace=bool(argument(at, 1, "inplace", False)))


def _relu6_function(low: Layers, at: fx.Node) -> None:
    low.activation(at, "relu6", inplace=bool(argument(at, 1, "inplace", False)), keeps_clip=True)


def _leaky_function(low: Layers, at: fx.Node) -> None:
    low.leaky(at, argument(at, 1, "negative_slope", 0.01), inplace=bool(argument(at, 2, "inplace", False)))


def _hardtanh_function(low: Layers, at: fx.Node) -> None:
    bounds = (argument(at, 1, "min_val", -1.0), argument(at, 2, "max_val", 1.0))
    _clip(low, at, "hardtanh", *bounds, inplace=bool(argument(at, 3, "inplace", False)))


def _clamp(*, inplace: bool) -> Callable[[Layers, fx.Node], None]:
    return lambda low, at: _clip(low, at, "clamp", argument(at, 1, "min", None), argument(at, 2, "max", None), inplace=inplace)


def _clip(low: Layers, at: fx.Node, name: str, least: Any, most: Any, *, inplace: bool) -> None:
    """Values below `least` and above `most` become these: ReLU6 or ReLU where the bounds are theirs."""
    if least != 0 or most not in (6, None):
        raise Unsupported(clip_reason(name, least, most))
    low.activation(at, "relu" if most is None else "relu6", inplace=inplace, keeps_clip=most is not None)


def _clip_below(low: Layers, at: fx.Node, *, inplace: bool) -> None:
    _clip(low, at, "clamp", argument(at, 1, "min", None), None, inplace=inplace)


def _threshold_function(low: Layers, at: fx.Node) -> None:
    bounds = (argument(at, 1, "threshold", None), argument(at, 2, "value", None))
    _threshold(low, at, *bounds, inplace=bool(argument(at, 3, "inplace", False)))


def _threshold_in_place(low: Layers, at: fx.Node) -> None:
    _threshold(low, at, argument(at, 1, "threshold", None), argument(at, 2, "value", None), inplace=True)


def _threshold(low: Layers, at: fx.Node, threshold: Any, value: Any, *, inplace: bool) -> None:
    """Values at `threshold` or below become `value`: ReLU where both are 0."""
    if (threshold, value) != (0, 0):
        raise Unsupported(f"threshold({threshold}, {value}); the DPU has threshold(0, 0), which is ReLU")
    low.activation(at, "relu", inplace=inplace)


def _adaptive_max(low: Layers, at: fx.Node, output: Any, *, indices: bool) -> None:
    if indices:
        raise Unsupported("an adaptive pooling that returns indices")
    low.adaptive(at, "max", output)


def _to(low: Layers, at: fx.Node) -> None:
    """To a place, a layout or to float32, which values are already: the same memory, but perhaps for another layout."""
    given = [*at.args[1:], *(value for name, value in at.kwargs.items() if name not in ("non_blocking", "copy"))]
    if not all(isinstance(value, str | torch.device | bool) or value in _KEPT for value in given):
        raise Unsupported("a conversion to another type; the DPU computes with the types that it is given")
    if at.kwargs.get("copy", False):
        low.copy(at)
    elif any(layout in given for layout in (torch.contiguous_format, torch.channels_last)):
        low.lay_out(at)
    else:
        low.identity(at)


#: What a conversion to leaves values as they are: their type, and layouts of memory.
_KEPT = (torch.float32, torch.contiguous_format, torch.channels_last, torch.preserve_format, None)


def _dropout(draws: bool) -> Callable[[Layers, fx.Node], None]:
    """Of functions that draw in evaluation mode, too, unless they are told otherwise; or do not, unless."""

    def lowers(low: Layers, at: fx.Node) -> None:
        name = "train" if at.target is torch.dropout else "training"
        _only_in_training(low, at, argument(at, 2, name, draws))

    return lowers


def _stochastic_depth(low: Layers, at: fx.Node) -> None:
    _only_in_training(low, at, argument(at, 3, "training", True))


def _drop_block(low: Layers, at: fx.Node) -> None:
    _only_in_training(low, at, argument(at, 5, "training", True))


def _pad(low: Layers, at: fx.Node, module: nn.ConstantPad2d | None = None) -> None:
    """Zeros around an image, which the convolution behind it pads with."""
    mode = "constant" if module is not None else argument(at, 2, "mode", "constant")
    value = module.value if module is not None else argument(at, 3, "value", None)
    sides = module.padding if module is not None else argument(at, 1, "pad", ())
    if mode != "constant" or value not in (0, None) or not low.pad(at, sides):
        raise Unsupported(low.reason(at, module))


def _resize(low: Layers, at: fx.Node, module: nn.Upsample | None = None) -> None:
    """To the size that it has."""
    shape: Any = low.known_shape(at.args[0])
    size = module.size if module is not None else argument(at, 1, "size", None)
    factor = module.scale_factor if module is not None else argument(at, 2, "scale_factor", None)
    if size is None:
        is_same = factor in (1, (1, 1), [1, 1])
    else:
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        is_same = shape is not None and sides == shape[:2]
    if not is_same:
        raise Unsupported(low.reason(at, module))
    low.copy(at)


def _neutral(number: int, *, inplace: bool = False, swaps: bool = False) -> Callable[[Layers, fx.Node], None]:
    """An operation with a number that leaves the other operand as it is; `swaps`: on either side."""

    def lowers(low: Layers, at: fx.Node) -> None:
        operands = list(at.args[:2])
        if swaps and len(operands) == 2 and not isinstance(operands[0], fx.Node):
            operands.reverse()
        is_neutral = len(operands) == 2 and isinstance(operands[0], fx.Node) and not isinstance(operands[1], fx.Node | bool)
        if not is_neutral or operands[1] != number or at.kwargs:
            raise Unsupported(low.reason(at, None))
        low.values[at] = low.value(operands[0])
        if inplace:
            low.share(at, operands[0])

    return lowers


def _only_in_training(low: Layers, at: fx.Node, training: Any) -> None:
    if training:
        raise Unsupported("it draws random numbers in evaluation mode, too; give it training=self.training")
    low.identity(at)


#: Layers that do nothing when a network is not trained.
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

#: Layers that compute something else when a network is trained.
DECIDED_BY_TRAINING = (nn.modules.batchnorm._BatchNorm, *_NOTHING[1:])

#: Functions that do nothing then if they are told so, and whether they have to be told.
_DROPOUTS: Mapping[Any, bool] = {
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), True),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout, torch.dropout), False),
}

#: What lowers a call of each kind of layer; a subclass is one of its kind.
MODULES: Mapping[type[nn.Module], Callable[[Layers, fx.Node, Any], None]] = {
    nn.Conv2d: Layers.conv,
    nn.Linear: Layers.linear,
    nn.BatchNorm2d: Layers.batch_norm,
    nn.BatchNorm1d: Layers.batch_norm,
    nn.ReLU: lambda low, at, m: low.activation(at, "relu", inplace=m.inplace),
    nn.Hardtanh: _hardtanh_module,  # ReLU6 is one
    nn.Threshold: lambda low, at, m: _threshold(low, at, m.threshold, m.value, inplace=m.inplace),
    nn.LeakyReLU: lambda low, at, m: low.leaky(at, m.negative_slope, inplace=m.inplace),
    nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _average_pool_module,
    nn.AdaptiveAvgPool2d: lambda low, at, m: low.adaptive(at, "avg", m.output_size),
    nn.AdaptiveMaxPool2d: lambda low, at, m: _adaptive_max(low, at, m.output_size, indices=m.return_indices),
    nn.Flatten: _flatten_module,
    nn.ConstantPad2d: _pad,  # ZeroPad2d is one
    nn.Upsample: _resize,
    nn.ChannelShuffle: shuffle,
    **dict.fromkeys(_NOTHING, lambda low, at, _: low.identity(at)),
}

#: What lowers a call of each function, and of each method by its name.
FUNCTIONS: Mapping[Any, Callable[[Layers, fx.Node], None]] = {
    operator.add: Layers.add,
    operator.iadd: lambda low, at: low.add(at, inplace=True),
    torch.add: Layers.add,
    "add": Layers.add,
    "add_": lambda low, at: low.add(at, inplace=True),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    torch.flatten: _flatten_function,
    "flatten": _flatten_function,
    torch.reshape: _view,
    "reshape": _view,
    "view": _view,
    "contiguous": _contiguous,
    **dict.fromkeys((torch.transpose, torch.swapaxes, "transpose", "swapaxes"), _transpose),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.chunk, "chunk"), chunk),
    **dict.fromkeys((torch.split, "split"), split),
    **dict.fromkeys((torch.tensor_split, "tensor_split"), tensor_split),
    **dict.fromkeys((torch.narrow, "narrow"), narrow),
    torch.channel_shuffle: shuffle,
    "mean": _mean,
    torch.mean: _mean,
    **dict.fromkeys((torch.amax, "amax"), _amax),
    F.relu: _relu_function,
    torch.relu: lambda low, at: low.activation(at, "relu"),
    torch.relu_: lambda low, at: low.activation(at, "relu", inplace=True),
    "relu": lambda low, at: low.activation(at, "relu"),
    "relu_": lambda low, at: low.activation(at, "relu", inplace=True),
    F.relu6: _relu6_function,
    F.leaky_relu: _leaky_function,
    F.leaky_relu_: lambda low, at: low.leaky(at, argument(at, 1, "negative_slope", 0.01), inplace=True),
    F.hardtanh: _hardtanh_function,
    F.hardtanh_: lambda low, at: _clip(
        low, at, "hardtanh", argument(at, 1, "min_val", -1.0), argument(at, 2, "max_val", 1.0), inplace=True
    ),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip"), _clamp(inplace=False)),
    **dict.fromkeys((torch.clamp_, torch.clip_, "clamp_", "clip_"), _clamp(inplace=True)),
    **{function: _dropout(draws) for function, draws in _DROPOUTS.items()},
    **dict.fromkeys((torch.clone, "clone"), Layers.copy),
    **dict.fromkeys((torch.squeeze, "squeeze"), _squeeze),
    operator.getitem: _index,
    F.max_pool2d: _max_pool_function,
    torch.max_pool2d: _max_pool_function,
    F.avg_pool2d: _average_pool_function,
    F.adaptive_avg_pool2d: lambda low, at: low.adaptive(at, "avg", argument(at, 1, "output_size", None)),
    F.adaptive_max_pool2d: lambda low, at: _adaptive_max(
        low, at, argument(at, 1, "output_size", None), indices=bool(argument(at, 2, "return_indices", False))
    ),
    **dict.fromkeys(("cpu", "detach", "float", "requires_grad_"), Layers.identity),
    "to": _to,
    **dict.fromkeys((torch.clamp_min, "clamp_min"), lambda low, at: _clip_below(low, at, inplace=False)),
    **dict.fromkeys((torch.clamp_min_, "clamp_min_"), lambda low, at: _clip_below(low, at, inplace=True)),
    F.pad: _pad,
    F.interpolate: _resize,
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul", "multiply"), _neutral(1, swaps=True)),
    **dict.fromkeys((operator.imul, "mul_"), _neutral(1, inplace=True)),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, "div", "divide"), _neutral(1)),
    **dict.fromkeys((operator.itruediv, "div_"), _neutral(1, inplace=True)),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract, "sub", "subtract"), _neutral(0)),
    **dict.fromkeys((operator.isub, "sub_"), _neutral(0, inplace=True)),
    F.threshold: _threshold_function,
    torch.threshold_: _threshold_in_place,
}

#: What lowers functions of packages that are not imported for it, by their whole names.
BY_NAME: Mapping[str, Callable[[Layers, fx.Node], None]] = {
    "torchvision.ops.stochastic_depth.stochastic_depth": _stochastic_depth,
    "torchvision.ops.drop_block.drop_block2d": _drop_block,
}
