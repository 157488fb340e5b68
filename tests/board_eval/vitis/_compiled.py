"""Files as vai_c_xir would write them: our own compiler's, with their protobuf changed where a test asks for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgesearch.board_eval import DEFAULT_TARGET, Conv, Graph, Input, Pool, compile_xmodel, write_xmodel
from edgesearch.board_eval.xmodel._wire import graph_message


def network() -> Graph:
    """A convolution and a pool, quantized."""
    weight = np.random.default_rng(0).integers(-9, 9, (16, 3, 3, 3)).astype(np.float32) / 2**4
    nodes = (
        Input(name="in", inputs=(), shape=(8, 8, 3), fix=5),
        Conv(
            name="conv",
            inputs=("in",),
            shape=(8, 8, 16),
            kernel=(3, 3),
            padding=(1, 1, 1, 1),
            weight=weight,
            bias=np.zeros(16, np.float32),
            weight_fix=4,
            bias_fix=4,
            activation="relu",
            fix=3,
        ),
        Pool(name="pool", inputs=("conv",), shape=(4, 4, 16), kind="max", kernel=(2, 2), stride=(2, 2), fix=3),
    )
    return Graph("small", nodes)


def write_quantized(path: Path) -> Path:
    write_xmodel(network(), path)
    return path


def write_compiled_file(path: Path, change: Callable[[Any], object] | None = None) -> Path:
    """The compiled file, with `change` made to its message."""
    message = graph_message()()
    message.ParseFromString(compile_xmodel(network(), DEFAULT_TARGET).content)
    if change is not None:
        change(message)
    path.write_bytes(message.SerializeToString())
    return path


def two_dpus(message: Any) -> None:
    """The CPU does a sigmoid between two DPU subgraphs."""
    root = message.subg_root
    dpu = copy.deepcopy(root.subg_child[1])
    dpu.subgraph_name = "subgraph_second"
    put_on_cpu(message)
    root.subg_child.add().CopyFrom(dpu)


def put_on_cpu(message: Any, name: str = "small__sigmoid", kind: str = "sigmoid") -> None:
    """One more layer, the CPU's."""
    operation = message.op_node.add()
    operation.CopyFrom(message.op_node[-1])
    operation.op_name, operation.op_type = name, kind
    child = message.subg_root.subg_child.add(subgraph_name=f"subgraph_{name}", op_name=[name])
    child.subg_attr["device"].string_value = "CPU"


def no_dpu(message: Any) -> None:
    message.subg_root.subg_child[1].subg_attr["device"].string_value = "CPU"


def other_fingerprint(message: Any) -> None:
    message.subg_root.subg_child[1].subg_attr["dpu_fingerprint"].uint64_value = 0x101000016010407
