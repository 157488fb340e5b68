"""The protobuf messages of an xmodel file, built at run time: no generated code, no protoc.

Field numbers are XIR 3.5's (package serial_v2). `op_defs` (field 101) is left undeclared: it describes operations, not the
network, and is skipped as an unknown field.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "edgesearch_xir_v2"
_Field = descriptor_pb2.FieldDescriptorProto

#: Our own field of the root subgraph: the names and marks a Graph's nodes had before they were written. XIR skips it.
NODE_FIELD = 1000

#: AttrValue's members: name -> (number, scalar type).
_SCALARS = {
    "bool_value": (4, _Field.TYPE_BOOL),
    "int32_value": (5, _Field.TYPE_INT32),
    "uint32_value": (6, _Field.TYPE_UINT32),
    "int64_value": (7, _Field.TYPE_INT64),
    "uint64_value": (8, _Field.TYPE_UINT64),
    "float_value": (9, _Field.TYPE_FLOAT),
    "double_value": (10, _Field.TYPE_DOUBLE),
    "string_value": (11, _Field.TYPE_STRING),
}

#: AttrValue's members that are messages with the one field `value = 1`: name -> (number, type of that field, repeated).
_WRAPPED = {
    "bytes_value": (12, _Field.TYPE_BYTES, False),
    "bool_vec": (13, _Field.TYPE_BOOL, True),
    "int32_vec": (14, _Field.TYPE_INT32, True),
    "uint32_vec": (15, _Field.TYPE_UINT32, True),
    "int64_vec": (16, _Field.TYPE_INT64, True),
    "uint64_vec": (17, _Field.TYPE_UINT64, True),
    "float_vec": (18, _Field.TYPE_FLOAT, True),
    "double_vec": (19, _Field.TYPE_DOUBLE, True),
    "string_vec": (20, _Field.TYPE_STRING, True),
    "bytes_vec": (21, _Field.TYPE_BYTES, True),
}

#: AttrValue's members that are messages with the one field `map<string, X> value = 1`: name -> (number, type of X).
_MAPS = {
    "map_string_2_int32": (22, _Field.TYPE_INT32),
    "map_string_2_uint32": (23, _Field.TYPE_UINT32),
    "map_string_2_int64": (24, _Field.TYPE_INT64),
    "map_string_2_uint64": (25, _Field.TYPE_UINT64),
    "map_string_2_string": (26, _Field.TYPE_STRING),
}

#: The map from strings to messages of bytes; only compiled xmodels have it.
_MAP_TO_BYTES = ("map_string_2_bytes", 27)


@cache
def graph_message() -> Any:
    """The class of the message a whole file is (serial_v2.Graph)."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Graph"))


def attribute(value: Any) -> Any:
    """The Python value of an AttrValue message: a scalar, bytes, a list or a dictionary; None where it has no value."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(value, kind)
    if kind in _SCALARS:
        return content
    if kind in _MAPS:
        return dict(content.value)
    if kind == _MAP_TO_BYTES[0]:
        return {key: item.value for key, item in content.value.items()}
    return list(content.value) if _WRAPPED[kind][2] else content.value


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="edgesearch_xir_v2.proto", package=_PACKAGE, syntax="proto3")
    _add_attribute_value(file)
    tensor = file.message_type.add(name="Tensor")
    _add(tensor, "tensor_name", 1, _Field.TYPE_STRING)
    _add(tensor, "tensor_dim", 2, _Field.TYPE_UINT32, repeated=True)
    _add(tensor, "data_type", 5, _Field.TYPE_INT32)
    _add(tensor, "tensor_bit_width", 6, _Field.TYPE_INT32)
    _add_map(tensor, "tensor_attr", 10)
    argument = file.message_type.add(name="OpArg")
    _add(argument, "arg_name", 1, _Field.TYPE_STRING)
    _add(argument, "arg_ops", 2, _Field.TYPE_STRING, repeated=True)
    op = file.message_type.add(name="OPNode")
    _add(op, "op_name", 1, _Field.TYPE_STRING)
    _add(op, "op_type", 2, _Field.TYPE_STRING)
    _add_map(op, "op_attr", 3)
    _add(op, "args", 4, _Field.TYPE_MESSAGE, repeated=True, message="OpArg")
    _add(op, "output_tensor", 5, _Field.TYPE_MESSAGE, message="Tensor")
    subgraph = file.message_type.add(name="SubGraph")
    _add(subgraph, "subgraph_name", 1, _Field.TYPE_STRING)
    _add(subgraph, "op_name", 3, _Field.TYPE_STRING, repeated=True)
    _add_map(subgraph, "subg_attr", 5)
    _add(subgraph, "subg_child", 10, _Field.TYPE_MESSAGE, repeated=True, message="SubGraph")
    _add(subgraph, "edgesearch_node", NODE_FIELD, _Field.TYPE_MESSAGE, repeated=True, message="EdgesearchNode")
    graph = file.message_type.add(name="Graph")
    _add(graph, "graph_name", 1, _Field.TYPE_STRING)
    _add(graph, "op_node", 5, _Field.TYPE_MESSAGE, repeated=True, message="OPNode")
    _add(graph, "subg_root", 10, _Field.TYPE_MESSAGE, message="SubGraph")
    _add_map(graph, "graph_attr", 11)
    node = file.message_type.add(name="EdgesearchNode")
    _add(node, "name", 1, _Field.TYPE_STRING)
    _add(node, "derived", 2, _Field.TYPE_BOOL)
    _add(node, "scale", 3, _Field.TYPE_BOOL)
    _add(node, "keeps_clip", 4, _Field.TYPE_BOOL)
    return file


def _add_attribute_value(file: descriptor_pb2.FileDescriptorProto) -> None:
    value = file.message_type.add(name="AttrValue")
    value.oneof_decl.add(name="value")
    for name, (number, kind) in _SCALARS.items():
        _add(value, name, number, kind).oneof_index = 0
    for name, (number, kind, repeated) in _WRAPPED.items():
        wrapper = file.message_type.add(name="Wrapped_" + name)
        _add(wrapper, "value", 1, kind, repeated=repeated)
        _add(value, name, number, _Field.TYPE_MESSAGE, message=wrapper.name).oneof_index = 0
    for name, (number, kind) in _MAPS.items():
        wrapper = file.message_type.add(name="Wrapped_" + name)
        _add_map(wrapper, "value", 1, kind)
        _add(value, name, number, _Field.TYPE_MESSAGE, message=wrapper.name).oneof_index = 0
    name, number = _MAP_TO_BYTES
    wrapper = file.message_type.add(name="Wrapped_" + name)
    _add_map(wrapper, "value", 1, message="Wrapped_bytes_value")
    _add(value, name, number, _Field.TYPE_MESSAGE, message=wrapper.name).oneof_index = 0


def _add(
    owner: descriptor_pb2.DescriptorProto, name: str, number: int, kind: int, *, repeated: bool = False, message: str = ""
) -> descriptor_pb2.FieldDescriptorProto:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    field = owner.field.add(name=name, number=number, type=_Field.Type.ValueType(kind), label=label)
    if message:
        field.type_name = f".{_PACKAGE}.{message}"
    return field


def _add_map(
    owner: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    kind: int = _Field.TYPE_MESSAGE,
    message: str = "AttrValue",
) -> None:
    """A map<string, X> field, X being AttrValue unless said otherwise: on the wire a repeated message of key and value."""
    entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
    entry = owner.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    _add(entry, "key", 1, _Field.TYPE_STRING)
    _add(entry, "value", 2, kind, message=message if kind == _Field.TYPE_MESSAGE else "")
    _add(owner, name, number, _Field.TYPE_MESSAGE, repeated=True, message=f"{owner.name}.{entry_name}")
