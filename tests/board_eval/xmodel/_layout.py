"""What a compiled xmodel consists of: where attributes stand and what types they have, names and values left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgesearch.board_eval.xmodel._wire import attribute

#: (place, attribute, type); arguments of operations stand as attributes of type "argument".
Entry = tuple[str, str, str]


def layout(message: Any) -> set[Entry]:
    """Every entry that the file has, and every place as (place, "", "")."""
    return set(_entries(message))


def _entries(message: Any) -> Iterator[Entry]:
    ops = {op.op_name: op for op in message.op_node}
    yield from _of("graph", message.graph_attr)
    yield from _of("root", message.subg_root.subg_attr)
    for child in message.subg_root.subg_child:
        device = attribute(child.subg_attr["device"])
        yield from _of(f"{device} subgraph", child.subg_attr)
        for layer in child.subg_child:
            kinds = {ops[name].op_type for name in layer.op_name} - {"const-fix"}
            yield from _of(f"layer of {'+'.join(sorted(kinds))}", layer.subg_attr)
            for name in layer.op_name:
                yield f"operation {ops[name].op_type}", "", ""
    for op in message.op_node:
        place = f"operation {op.op_type}"
        yield from _of(place, op.op_attr)
        for argument in op.args:
            yield place, argument.arg_name, "argument"
        tensor = op.output_tensor
        where = ""
        if "location" in tensor.tensor_attr:
            where = " in memory" if attribute(tensor.tensor_attr["location"]) else " on chip"
        yield from _of(f"tensor of {op.op_type}{where}", tensor.tensor_attr)
        kind = f"{tensor.data_type}/{tensor.tensor_bit_width}"
        yield f"tensor of {op.op_type}", kind, f"of {len(tensor.tensor_dim)} dimensions"


def _of(place: str, attributes: Mapping[str, Any]) -> Iterator[Entry]:
    yield place, "", ""
    for name in attributes:
        yield place, name, attributes[name].WhichOneof("value")
