"""Stands for XIR's Python module: as much of it as a program that runs a compiled file calls, with XIR's names."""

from __future__ import annotations

from typing import Any

from standin_board import KNOB, Network, fatal

from edgesearch.board_eval import is_compiled


class Tensor:
    """`dims` has the batch, which is 1 on an edge DPU, in front."""

    def __init__(self, name: str, shape: tuple[int, ...], fix: int) -> None:
        self.name, self.dims, self.dtype = name, [1, *shape], "xint8"
        self._attributes = {"fix_point": fix, "bit_width": 8}

    def has_attr(self, name: str) -> bool:
        return name in self._attributes

    def get_attr(self, name: str) -> Any:
        return self._attributes[name]


class Subgraph:
    def __init__(self, network: Network | None, attributes: dict[str, Any], children: list[Subgraph]) -> None:
        self.network, self._attributes, self._children = network, attributes, children

    @property
    def is_leaf(self) -> bool:
        return not self._children

    def has_attr(self, name: str) -> bool:
        return name in self._attributes

    def get_attr(self, name: str) -> Any:
        return self._attributes[name]

    def toposort_child_subgraph(self) -> list[Subgraph]:
        assert self._children, "XIR aborts for a leaf"
        return self._children


class Graph:
    def __init__(self, root: Subgraph) -> None:
        self._root = root

    @staticmethod
    def deserialize(path: str) -> Graph:
        if not is_compiled(path):
            with open(path, "rb") as file:
                if file.read(1) != b"\n":  # field 1, the graph's name
                    fatal(f"{path} is no xmodel")
            return Graph(Subgraph(None, {}, []))
        network = Network(path)
        mark = {"dpu_fingerprint": network.xmodel.model.fingerprint, "dpu_name": network.xmodel.model.dpu_name}
        devices = KNOB["devices"].split(",")
        return Graph(
            Subgraph(None, {}, [Subgraph(network, {"device": d, **(mark if d == "DPU" else {})}, []) for d in devices])
        )

    def get_root_subgraph(self) -> Subgraph:
        return self._root
