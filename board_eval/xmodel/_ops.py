"""One operation of an xmodel as it stands in the file, with checked access to its attributes and arguments.

Every mistake in the file becomes an XmodelError that names the operation, or whatever else carries the attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from edgesearch.board_eval.graph import Array, Shape
from edgesearch.board_eval.xmodel._wire import attribute
from edgesearch.errors import XmodelError

_T = TypeVar("_T", int, str, bytes)

#: Larger tensors than this many elements are a mistake in the file: no DPU holds them, and they must not be allocated.
MAX_ELEMENTS = 2**28
#: Fix positions beyond this are a mistake in the file; nndct's lie in -20..20.
MAX_FIX = 64
#: What the DPU has, and pytorch_nndct writes, that no Graph has.
NOT_READ = {
    "hard-sigmoid",
    "hard-swish",
    "prelu",
    "strided_slice",
    "transposed-conv2d",
    "transposed-depthwise-conv2d",
    "upsample",
}


class Attributes:
    """Attributes of an operation, a tensor or a subgraph, by name: AttrValue messages, or whatever `read` makes values of."""

    def __init__(self, owner: str, values: Mapping[str, Any], read: Callable[[Any], Any] = attribute) -> None:
        self.owner = owner
        self._values = values
        self._read = read

    def error(self, problem: str) -> XmodelError:
        """An XmodelError about the owner of these attributes."""
        return XmodelError(f"{self.owner} {problem}")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def _value(self, name: str) -> Any:
        return self._read(self._values[name]) if name in self._values else None

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute."""
        value = self._value(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected an integer")
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """A yes-or-no attribute."""
        value = self._value(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self._value(name)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected text")
        return value

    def real(self, name: str) -> float:
        """A floating-point attribute."""
        value = self._value(name)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected a number")
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """An attribute that is a list of numbers; empty where there is none."""
        value = self._value(name)
        value = [] if value is None else value
        if not isinstance(value, list) or any(type(v) not in (int, float) for v in value):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected numbers")
        return tuple(value)

    def integers(self, name: str, count: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An attribute that is a list of `count` integers, each within 0..65535."""
        value = self._value(name)
        value = list(default) if value is None and default is not None else value
        if not isinstance(value, list) or len(value) != count or any(type(v) is not int or not 0 <= v < 65536 for v in value):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected {count} integers within 0..65535")
        return tuple(value)

    def axes(self, name: str) -> tuple[int, ...]:
        """An attribute that is one axis or a list of axes, each within -8..7; empty where there is none."""
        value = self._value(name)
        value = [value] if type(value) is int else value
        if value is not None and (not isinstance(value, list) or any(type(v) is not int or not -8 <= v < 8 for v in value)):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected axes")
        return tuple(value or ())

    def sizes(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list of numbers of bytes, each within 0..2**31 - 1; empty where there is none."""
        value = self._value(name)
        value = [] if value is None else value
        if not isinstance(value, list) or len(value) > 8 or any(type(v) is not int or not 0 <= v < 1 << 31 for v in value):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected numbers of bytes")
        return tuple(value)

    def data(self, name: str) -> bytes:
        """An attribute that is bytes."""
        value = self._value(name)
        if not isinstance(value, bytes):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected bytes")
        return value

    def table(self, name: str, kind: type[_T]) -> dict[str, _T]:
        """An attribute that is a map from names to values of one kind; empty where there is none."""
        value = self._value(name)
        value = {} if value is None else value
        if not isinstance(value, dict) or any(type(v) is not kind for v in value.values()):
            raise self.error(f"has {_shown(value)} for attribute {name!r}, expected names with values of type {kind.__name__}")
        return value


class Op(Attributes):
    """An operation: type, arguments by name, attributes, output shape. Wraps one OPNode message."""

    def __init__(self, message: Any) -> None:
        self.name: str = message.op_name
        self.type: str = message.op_type
        super().__init__(f"operation {self.name[:200]!r} ({self.type[:50]})", message.op_attr)
        self.shape: Shape = tuple(int(size) for size in message.output_tensor.tensor_dim)
        self._arguments: dict[str, list[str]] = {}
        for argument in message.args:
            self._arguments.setdefault(argument.arg_name, []).extend(argument.arg_ops)
        if not 0 < len(self.shape) <= 8 or min(self.shape) < 1 or math.prod(self.shape) > MAX_ELEMENTS:
            raise self.error(f"has the shape {list(self.shape)[:8]}, expected sizes of at least 1 and 2**28 elements at most")

    @property
    def reads(self) -> list[str]:
        """Names of all operations this one reads."""
        return [name for names in self._arguments.values() for name in names]

    def arguments(self, name: str) -> list[str]:
        """Operations given as argument `name`; empty where there is none."""
        return self._arguments.get(name, [])

    def argument(self, name: str) -> str:
        """The one operation given as argument `name`."""
        given = self.arguments(name)
        if len(given) != 1:
            raise self.error(f"has {len(given)} arguments {name!r}, expected one")
        return given[0]

    def constant(self) -> Array:
        """The values of a `const` operation."""
        data, kind = self._value("data"), self.text("data_type", "float32")
        if kind.lower() != "float32":
            raise self.error(f"holds {kind!r} values, expected float32: compiled xmodels cannot be read")
        expected = 4 * math.prod(self.shape)
        if not isinstance(data, bytes) or len(data) != expected:
            found = len(data) if isinstance(data, bytes) else 0
            raise self.error(f"holds {found} bytes, its shape {list(self.shape)} makes {expected}")
        return np.frombuffer(data, "<f4").astype(np.float32).reshape(self.shape)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]
