"""Pools, means and reshapes of a traced torch model, and the sizes of sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import fx

from edgesearch.board_eval.graph import Concat, Node, Pool, Reshape, average_factor, window_output
from edgesearch.board_eval.lowering._values import Half, Unsupported, Values, name_of


class Windows(Values):
    """Pools and reshapes, one method per kind."""

    def pool(self, at: fx.Node, kind: str, kernel: Any, stride: Any, padding: Any, *, ceil: bool) -> None:
        source, zeros = self.bare(at.args[0])
        if any(zeros) and kind == "max" and not self._is_positive(self.nodes[source]):
            raise Unsupported(
                "a max pool of an image with zeros around it, which are the largest values where the image's are negative; "
                "pad behind a ReLU, or by the pool's own `padding`"
            )
        self._pool(at, source, kind, kernel, stride, padding, zeros, ceil=ceil)

    def _is_positive(self, node: Node) -> bool:
        """Whether none of its values is below zero, and pools with zeros and without find the same maximum."""
        if isinstance(node, Pool | Concat | Reshape):
            return all(self._is_positive(self.nodes[name]) for name in node.inputs)
        return getattr(node, "activation", "none") in ("relu", "relu6")

    def _pool(
        self,
        at: fx.Node,
        source: str,
        kind: str,
        kernel: Any,
        stride: Any,
        padding: Any,
        zeros: tuple[int, int, int, int] = (0, 0, 0, 0),
        *,
        ceil: bool,
        whole: bool = False,
    ) -> None:
        height, width, channels = self.image(source)
        left, right, top, bottom = zeros
        height, width = height + top + bottom, width + left + right
        size, step = pair(kernel), pair(kernel if stride is None or stride == [] else stride)
        vertical, horizontal = pair(padding)
        if 2 * vertical > size[0] or 2 * horizontal > size[1]:
            raise Unsupported(f"padding of {vertical} and {horizontal}, which torch refuses; at most half of its kernel {size}")
        around = (horizontal + left, horizontal + right, vertical + top, vertical + bottom)
        if any(zeros) and ceil:
            raise Unsupported("a pool with ceil_mode of an image with zeros around it; use ceil_mode=False")
        if any(zeros) and (max(around[:2]) >= size[1] or max(around[2:]) >= size[0]):
            raise Unsupported(f"a pool with a kernel of {size} of which a window would lie in zeros alone")
        sides = [(height, vertical, size[0], step[0]), (width, horizontal, size[1], step[1])]
        ceil = ceil and not _is_floor(sides)
        out_h = _pool_output(height, vertical, size[0], step[0], ceil=ceil, average=kind == "avg")
        out_w = _pool_output(width, horizontal, size[1], step[1], ceil=ceil, average=kind == "avg")
        node = Pool(
            name=name_of(at),
            inputs=(source,),
            shape=(out_h, out_w, channels),
            kind="max" if kind == "max" else "avg",
            kernel=size,
            stride=step,
            padding=around,
            ceil_mode=ceil,
            is_global=whole,
            factor=average_factor(size) if kind == "avg" else 1.0,
        )
        self.put(at, node)

    def adaptive(self, at: fx.Node, kind: str, output: Any) -> None:
        self._adaptive(at, self.value(at.args[0]), kind, output)

    def _adaptive(self, at: fx.Node, source: str, kind: str, output: Any) -> None:
        """An adaptive pool of the node `source`, as the value of `at`."""
        height, width, _ = self.image(source)
        sides = output if isinstance(output, list | tuple) and len(output) == 2 else (output, output)
        out_h, out_w = pair([size if side is None else side for side, size in zip(sides, (height, width), strict=True)])
        if min(out_h, out_w) < 1:
            raise Unsupported(f"adaptive pooling to {out_h} x {out_w}, expected sizes of at least 1")
        if height % out_h or width % out_w:
            raise Unsupported(
                f"adaptive pooling of {height} x {width} to {out_h} x {out_w}: the sizes do not divide; take ones that do, or "
                "a pool with a kernel and a stride"
            )
        if (out_h, out_w) == (height, width):
            self.values[at] = source  # a copy, which an in-place operation changes alone
            return
        kernel = (height // out_h, width // out_w)
        is_global = kind == "avg" and (out_h, out_w) == (1, 1)
        self._pool(at, source, kind, kernel, kernel, 0, ceil=False, whole=is_global)

    def mean(self, at: fx.Node, dims: Any, keep: Any) -> None:
        half = self.half(at.args[0])
        source = self.value(at.args[0]) if half is None else half.source
        self.image(source)
        axes = axes_of(dims, _axes(half) if half else (0, 1, 2, 3))
        if half is not None and (not half.averaged or half.kept is not bool(keep)):
            raise Unsupported("a mean over height and width of which one was squeezed or kept before; write mean((2, 3))")
        if half is not None:
            axes = sorted((*axes, half.axis))
        if axes in ([2], [3]):
            self.halves[at] = Half(source, axes[0], averaged=True, kept=bool(keep))
            return
        if axes != [2, 3]:
            raise Unsupported("a mean over other dimensions than height and width")
        self._over_image(at, source, "avg", keep)

    def largest(self, at: fx.Node, dims: Any, keep: Any) -> bool:
        """The maximum over height and width together; whether it is such."""
        if self.half(at.args[0]) is not None or axes_of(dims, (0, 1, 2, 3)) != [2, 3]:
            return False
        self._over_image(at, self.value(at.args[0]), "max", keep)
        return True

    def _over_image(self, at: fx.Node, source: str, kind: str, keep: Any) -> None:
        """A pool over height and width, which stay with `keep`, as the value of `at`."""
        self._adaptive(at, source, kind, 1)
        if not keep:
            pooled = self.values[at]
            self.put(at, Reshape(name=f"{at.name}_flatten", inputs=(pooled,), shape=self.shape(pooled)[-1:]), "_flatten")

    def squeeze(self, at: fx.Node, dims: Any) -> None:
        """Height and width of one pixel away, in one step or in two; what is longer stays, as in torch."""
        operand = at.args[0]
        half = self.half(operand)
        if half is not None and half.averaged:
            self.value(operand)  # raises what can be done instead
        source = self.value(operand) if half is None else half.source
        shape = self.shape(source)
        lengths = {1: shape[-1], **dict(zip((2, 3), shape[:-1], strict=False))}
        axes = [] if dims is None else axes_of(dims, _axes(half) if half else (0, *lengths))
        if dims is None or 0 in axes or any(axis == 1 and lengths[axis] == 1 for axis in axes):
            raise Unsupported(
                "a squeeze of the batch or of the channels; squeeze height and width: flatten(1); return logits (N, classes)"
            )
        gone = {axis for axis in axes if lengths[axis] == 1} | ({half.axis} if half else set())
        if gone == {2, 3}:
            self._flatten(at, source)
            return
        self.share(at, operand)
        if gone:
            self.halves[at] = Half(source, gone.pop())
        else:
            self.values[at] = source

    def index(self, at: fx.Node, given: Any) -> bool:
        """A part that is whole: x[:, :, 0, 0] of one pixel. Whether it is such."""
        lengths, parts = self._lengths(at.args[0]), self.parts_by_axis(at, given)
        gone = [axis for axis, part in enumerate(parts or ()) if part != slice(None)]
        if parts is None or any(lengths[axis] != 1 or parts[axis] not in (0, -1) for axis in gone):
            return False
        self.squeeze(at, gone)
        return True

    def parts_by_axis(self, at: fx.Node, given: Any) -> list[Any] | None:
        """What an index takes of each axis that `at` reads, `slice(None)` where it is all; None where it has other axes."""
        lengths = self._lengths(at.args[0])
        parts = list(given) if isinstance(given, list | tuple) else [given]
        if Ellipsis in parts:
            place = parts.index(Ellipsis)
            parts[place : place + 1] = [slice(None)] * (len(lengths) - len(parts) + 1)
        parts += [slice(None)] * (len(lengths) - len(parts))
        if len(parts) != len(lengths):
            return None
        return [slice(None) if _is_whole(part, length) else part for part, length in zip(parts, lengths, strict=True)]

    def _lengths(self, operand: Any) -> list[int]:
        """Those of the axes that torch's tensor has; 0 for the batch, of which nothing is known."""
        half = self.half(operand)
        *sides, channels = self.shape(self.value(operand) if half is None else half.source)
        lengths = [0, channels, *sides]
        if half is not None:
            lengths[half.axis] = 1
        return lengths if half is None else [lengths[axis] for axis in _axes(half)]

    def flattened_source(self, at: fx.Node) -> str:
        """The node whose elements a flatten or a reshape puts into a vector: a squeeze before it changes nothing."""
        half = self.half(at.args[0])
        return self.value(at.args[0]) if half is None or half.averaged else half.source

    def rank(self, at: fx.Node) -> int:
        """How many dimensions torch's tensor has that `at` reads."""
        return 3 if at.args[0] in self.halves else len(self.shape(self.value(at.args[0]))) + 1

    def flatten(self, at: fx.Node) -> None:
        self._flatten(at, self.flattened_source(at))

    def _flatten(self, at: fx.Node, source: str) -> None:
        shape = self.shape(source)
        self.share(at, at.args[0])
        if len(shape) == 1:
            self.values[at] = source
            return
        height, width, channels = shape
        self.put(at, Reshape(name=name_of(at), inputs=(source,), shape=(height * width * channels,)))
        if height * width > 1 and channels > 1:  # else both orders are one
            self.flattened[self.values[at]] = (height, width, channels)

    def view(self, at: fx.Node, sizes: Sequence[Any]) -> None:
        """A reshape or view to (batch, features), or to the sizes that it has; the batch and one other size may be -1."""
        own = self._lengths(at.args[0])[1:]
        if len(own) == 3 and len(sizes) == 4 and sizes[0] in (-1, 1) and _fit(sizes[1:], own):
            self.share(at, at.args[0])
            self.values[at] = self.value(at.args[0])
            return
        count = int(np.prod(self.shape(self.flattened_source(at))))
        if len(sizes) != 2 or sizes[0] not in (-1, 1) or sizes[1] not in (-1, count):
            raise Unsupported(f"a reshape other than to (batch, features){MEAN_ADVICE if len(sizes) == 3 else ''}")
        self.flatten(at)


#: For a mean that is taken over one axis, into which height and width were put.
MEAN_ADVICE = "; write a mean over height and width as x.mean((2, 3))"


def _is_whole(part: Any, length: int) -> bool:
    """Whether a part of an axis is all of it; of the batch, whose length is 0 here, none but `:` surely is."""
    if not isinstance(part, slice) or part.start not in (None, 0) or part.step not in (None, 1):
        return False
    return part.stop is None or (length > 0 and isinstance(part.stop, int) and part.stop >= length)


def _fit(sizes: Sequence[Any], own: Sequence[int]) -> bool:
    """Whether the sizes of a reshape are a tensor's own, of which one may be -1."""
    return list(sizes).count(-1) <= 1 and all(size in (-1, length) for size, length in zip(sizes, own, strict=True))


def _axes(half: Half) -> tuple[int, ...]:
    """The axes of torch's (N, C, H, W) that are left of an image."""
    return tuple(axis for axis in range(4) if half.kept or axis != half.axis)


def axes_of(dims: Any, axes: Sequence[int]) -> list[int]:
    """The axes, of those that a tensor has, that an argument names, in order."""
    given = dims if isinstance(dims, list | tuple) else () if dims is None else (dims,)
    if not all(isinstance(dim, int) and -len(axes) <= dim < len(axes) for dim in given):
        raise Unsupported(f"dimensions {dims!r} of a tensor of {len(axes)}")
    return sorted({axes[dim] for dim in given})


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of an argument that may be one number; raises Unsupported for what is none."""
    sides = value if isinstance(value, list | tuple) else (value,)
    if not 1 <= len(sides) <= 2 or not all(isinstance(side, Integral) for side in sides):
        raise Unsupported(f"a size that is {value!r}, expected a whole number, or two: height and width")
    return int(sides[0]), int(sides[-1])


def padding_of(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if value == "valid":
        return (0, 0, 0, 0)
    if value == "same":
        total_h, total_w = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    vertical, horizontal = pair(value)
    return (horizontal, horizontal, vertical, vertical)


def _is_floor(sides: Sequence[tuple[int, int, int, int]]) -> bool:
    """Whether a pool with ceil_mode gives what one without does, since torch drops a last window that the DPU would keep.

    Of each side: length, padding, kernel, stride.
    """
    drops = False
    for length, padding, kernel, stride in sides:
        whole, cut = (window_output(length, 2 * padding, kernel, stride, ceil=ceil) for ceil in (False, True))
        is_dropped = (cut - 1) * stride >= length + padding
        drops |= is_dropped
        if cut - is_dropped != whole:
            return False
    return drops


def _pool_output(length: int, padding: int, kernel: int, stride: int, *, ceil: bool, average: bool) -> int:
    """Output length of a pool in one direction; raises Unsupported where torch and the DPU would differ."""
    n = window_output(length, 2 * padding, kernel, stride, ceil=ceil)
    if n < 1 or (length + 2 * padding < kernel and not ceil):
        raise Unsupported(f"a kernel of {kernel} on an input of {length}")
    if ceil and (n - 1) * stride >= length + padding:
        raise Unsupported(
            "ceil_mode with a last window outside the image, which torch drops and the DPU keeps; use ceil_mode=False"
        )
    if ceil and average and (n - 1) * stride + kernel > length + 2 * padding:
        raise Unsupported(
            "average pooling with ceil_mode whose last window is cut; torch divides by the smaller window; use ceil_mode=False"
        )
    return n
