"""How much of an xmodel is structure rather than data, found without building anything from it.

A protobuf parser makes objects many times larger than the bytes they come from; two bytes can be an empty operation. Structure
is therefore bounded before a file is parsed, and only constants, and the code and parameters of a compiled file, may be large.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgesearch.errors import XmodelError

#: ResNet-152 has about 1.5 MB of structure.
MAX_STRUCTURE_BYTES = 8 << 20
_MAX_FIELDS = 2_000_000

#: Field numbers from the file down to bytes that may be large.
_TO_DATA = (
    (5, 3, 2, 12, 1),  # of a constant: op_node, op_attr entry, its value, bytes_value, value
    (10, 10, 5, 2, 12, 1),  # of code: subg_root, subg_child, subg_attr entry, its value, bytes_value, value
    (10, 10, 5, 2, 27, 1, 2, 1),  # of parameters: as code, but map_string_2_bytes, its entry, bytes, value
)


def check_structure(data: bytes) -> None:
    """Raise XmodelError when `data` is not a protobuf message, or when it is large without its constants and code."""
    structure = len(data) - _data_bytes(memoryview(data), _TO_DATA, [_MAX_FIELDS])
    if structure > MAX_STRUCTURE_BYTES:
        raise XmodelError(f"it has {structure} bytes beside its constants and code; at most {MAX_STRUCTURE_BYTES} are read")


def _data_bytes(message: memoryview, paths: tuple[tuple[int, ...], ...], fields_left: list[int]) -> int:
    """Total length of the fields that `paths` lead to."""
    total = 0
    for number, wire, start, end in _fields(message, fields_left):
        below = tuple(path[1:] for path in paths if path[0] == number and wire == 2)
        if () in below:
            total += end - start
        elif below:
            total += _data_bytes(message[start:end], below, fields_left)
    return total


def _fields(message: memoryview, fields_left: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end) of every field of a message."""
    at = 0
    while at < len(message):
        fields_left[0] -= 1
        if fields_left[0] < 0:
            raise XmodelError(f"it has more than {_MAX_FIELDS} fields, expected a network of at most some thousand operations")
        key, at = _varint(message, at)
        wire, start = key & 7, at
        if wire == 0:
            _, at = _varint(message, at)
        elif wire == 2:
            length, start = _varint(message, at)
            at = start + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise XmodelError(f"it is not a protobuf message: wire type {wire}")
        if at > len(message):
            raise XmodelError("it is not a protobuf message, or it was cut off")
        yield key >> 3, wire, start, at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise XmodelError("it is not a protobuf message, or it was cut off")
