"""Layers of torch as the expressions that make them anew: constructor and arguments, for torch 1.13 and later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

__all__ = ["constructor", "same_padding"]


def constructor(module: nn.Module, *, trainable: bool = False) -> str | None:
    """The expression that makes a layer of this kind and size, without its weights; None for what is no such layer.

    `trainable`: for quantization-aware training, where Vitis AI takes a clip at 6 as a ReLU6 only, and leaves that as it is.
    """
    if trainable and isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0.0, 6.0):
        return _call("ReLU6", inplace=bool(module.inplace))
    for kind, write in _CONSTRUCTORS.items():
        if isinstance(module, kind):
            return write(module)
    return None


def same_padding(module: nn.Conv2d) -> tuple[int, int, int, int] | None:
    """(left, right, top, bottom) of a convolution with padding "same" that is wider on one side; None for any other."""
    if module.padding != "same":
        return None
    height, width = (dilation * (size - 1) for size, dilation in zip(module.kernel_size, module.dilation, strict=True))
    if height % 2 == 0 and width % 2 == 0:
        return None
    return (width // 2, width - width // 2, height // 2, height - height // 2)


def _call(name: str, *values: Any, **named: Any) -> str:
    written = [*map(_value, values), *(f"{key}={_value(value)}" for key, value in named.items())]
    return f"nn.{name}({', '.join(written)})"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return repr(tuple(int(item) for item in value))
    return repr(value)


def _conv(module: nn.Conv2d) -> str:
    # "same" and "valid" are no paddings to Vitis AI, which then computes the layer in floating point
    padding: Any = module.padding
    if padding == "valid" or same_padding(module) is not None:
        padding = (0, 0)
    elif padding == "same":
        padding = tuple(d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True))
    return _call(
        "Conv2d",
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        groups=module.groups,
        bias=module.bias is not None,
    )


def _batch_norm(name: str) -> Callable[[Any], str]:
    # always with weight and bias, which Vitis AI reads unasked: 1 and 0 where the network has none
    return lambda m: _call(name, m.num_features, eps=float(m.eps), momentum=None if m.momentum is None else float(m.momentum))


_CONSTRUCTORS: Mapping[type[nn.Module], Callable[[Any], str]] = {
    nn.Conv2d: _conv,
    nn.Linear: lambda m: _call("Linear", m.in_features, m.out_features, bias=m.bias is not None),
    nn.BatchNorm2d: _batch_norm("BatchNorm2d"),
    nn.BatchNorm1d: _batch_norm("BatchNorm1d"),
    nn.ReLU: lambda m: _call("ReLU", inplace=bool(m.inplace)),
    nn.ReLU6: lambda m: _call("ReLU6", inplace=bool(m.inplace)),
    nn.Hardtanh: lambda m: _call("Hardtanh", float(m.min_val), float(m.max_val), inplace=bool(m.inplace)),
    nn.LeakyReLU: lambda m: _call("LeakyReLU", float(m.negative_slope), inplace=bool(m.inplace)),
    nn.MaxPool2d: lambda m: _call(
        "MaxPool2d", m.kernel_size, stride=m.stride, padding=m.padding, dilation=m.dilation, ceil_mode=bool(m.ceil_mode)
    ),
    nn.AvgPool2d: lambda m: _call(
        "AvgPool2d",
        m.kernel_size,
        stride=m.stride,
        padding=m.padding,
        ceil_mode=bool(m.ceil_mode),
        count_include_pad=bool(m.count_include_pad),
    ),
    nn.Dropout: lambda m: _call("Dropout", float(m.p), inplace=bool(m.inplace)),
    nn.Dropout2d: lambda m: _call("Dropout2d", float(m.p), inplace=bool(m.inplace)),
    nn.Identity: lambda m: _call("Identity"),
}
