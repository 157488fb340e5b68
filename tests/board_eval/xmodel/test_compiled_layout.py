"""Own files have the attributes of AMD's, with the same types, in the same places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesearch.board_eval.graph import Conv
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.xmodel import (
    CompiledModel,
    CompiledProgram,
    ConstantPlace,
    ProgramLayer,
    TensorPlace,
    compiled_bytes,
    compiled_graph,
    read_compiled,
    read_compiled_graph,
)
from edgesearch.board_eval.xmodel._wire import attribute, graph_message

from ._layout import Entry, layout
from ._programs import everything_fused, program_of

_WORK = "uint64_value: workload workload_on_arch"
_CONV = [
    "argument: bias input weights",
    "bool_value: bias_term",
    "string_value: device nonlinear pad_mode",
    "int32_vec: dilation kernel pad stride",
    "int32_value: group hsigmoid_in in_dim out_dim shift_hsigmoid shift_hswish",
    _WORK,
]
_FIX = ["int32_value: bit_width fix_point", "bool_value: if_signed", "string_value: round_mode"]
_ON_CHIP = [*_FIX, "int32_value: ddr_addr location reg_id"]
_IN_MEMORY = [*_ON_CHIP, "int32_vec: stride"]
_SETTINGS = "concat_skip_code_gen enable_mt_fusion fusion hd_opt inspector preassign prefetch profile reserve_const_data"
_MAPS = "reg_id_to_context_type reg_id_to_context_type_v2 reg_id_to_hw_segment runner"
#: Compiled by the compiler 3.5: SqueezeNet, MobileNetV2, ResNet-50 and YOLOX-nano, upsampling left out.
AMD: dict[str, list[str]] = {
    "graph": ["map_string_2_string: files_md5sum libs_info"],
    "root": ["string_vec: aie_tile_fusion_type", f"bool_value: {_SETTINGS}", _WORK],
    "USER subgraph": ["string_value: device", _WORK],
    "CPU subgraph": ["string_value: device", "map_string_2_string: runner", _WORK],
    "DPU subgraph": [
        "string_vec: children_topological_sort",
        "string_value: debug_mode device dpu_name",
        "uint64_value: dpu_fingerprint",
        "bool_value: if_prefetch",
        "bytes_value: mc_code mc_code_preload",
        f"map_string_2_string: {_MAPS}",
        "map_string_2_bytes: reg_id_to_parameter_value",
        "map_string_2_int32: reg_id_to_size",
        _WORK,
    ],
    **{f"layer of {kind}": ["bool_value: skip_code_gen", _WORK] for kind in ("concat-fix", "reshape-fix", "upload")},
    **{
        f"layer of {kind}": [_WORK]
        for kind in (
            "conv2d-fix",
            "conv2d-fix+depthwise-conv2d-fix",
            "conv2d-fix+eltwise-fix",
            "conv2d-fix+pool-fix",
            "depthwise-conv2d-fix",
            "download",
            "downsample-fix",
            "pool-fix",
        )
    },
    "operation data-fix": ["string_value: data_type device", "int32_vec: shape"],
    "operation const-fix": ["bytes_value: data", "string_value: data_type device", "int32_vec: shape"],
    "operation conv2d-fix": [*_CONV, "int32_value: channel_augmentation"],
    "operation depthwise-conv2d-fix": _CONV,
    "operation pool-fix": ["argument: input", "string_value: device type", "int32_vec: kernel pad stride", _WORK],
    "operation eltwise-fix": ["argument: input", "string_value: device nonlinear type", _WORK],
    "operation concat-fix": ["argument: input", "string_value: device", "int32_value: axis"],
    "operation reshape-fix": ["argument: input", "string_value: device", "int32_vec: shape"],
    "operation downsample-fix": [
        "argument: input size",
        "bool_value: align_corners half_pixel_centers",
        "string_value: device mode",
        "float_vec: scale",
    ],
    "operation upload": ["argument: input", "string_value: device"],
    "operation download": ["argument: input", "string_value: device"],
    "operation fix2float": [*_FIX, "argument: input", "string_value: device"],
    **{
        f"tensor of {kind} in memory": _IN_MEMORY
        for kind in (
            "concat-fix",
            "conv2d-fix",
            "depthwise-conv2d-fix",
            "downsample-fix",
            "eltwise-fix",
            "pool-fix",
            "reshape-fix",
            "upload",
        )
    },
    "tensor of conv2d-fix on chip": _ON_CHIP,
    "tensor of const-fix in memory": _ON_CHIP,
    "tensor of data-fix": _FIX,
    "tensor of download": _FIX,
    "tensor of fix2float": [],
}
#: Operation -> dimensions of its tensor, where not four.
_DIMENSIONS = {"const-fix": (1, 4), "download": (2, 4), "fix2float": (2, 4), "reshape-fix": (2,)}


def amd() -> set[Entry]:
    out: set[Entry] = set()
    for place, groups in AMD.items():
        out.add((place, "", ""))
        for group in groups:
            kind, names = group.split(": ")
            out |= {(place, name, kind) for name in names.split()}
    for place in AMD:
        if place.startswith("operation "):
            op = place.removeprefix("operation ")
            kind = "4/32" if op == "fix2float" else "2/8"
            out |= {(f"tensor of {op}", kind, f"of {number} dimensions") for number in _DIMENSIONS.get(op, (4,))}
    return out


def _message(data: bytes) -> Any:
    message = graph_message()()
    message.ParseFromString(data)
    return message


def test_every_attribute_of_amds_files_is_written_and_no_other() -> None:
    own = set[Entry]()
    for vector in (True, False):
        own |= layout(_message(compiled_bytes(everything_fused(vector=vector))))
    assert own - amd() == set()
    assert amd() - own == set()


def test_the_table_is_that_of_amds_files(reference_data: Path) -> None:
    names = ("SqueezeNet_ptq_zcu104", "MobileNetV2_ptq_zcu104", "ResNet50_095_zcu104", "yolox_nano_B512")
    files = [reference_data / "compiled" / f"{name}.xmodel" for name in names]
    found = set[Entry]().union(*(layout(_message(file.read_bytes())) for file in files))
    assert {entry for entry in found if "upsample-fix" not in entry[0]} == amd()


def _again(model: CompiledModel) -> CompiledProgram:
    """What the writer is given for a file of AMD's, from what the readers find in it."""
    graph = compiled_graph(model)
    by_name = {operation.name: operation for operation in model.operations}
    tensors = {
        node.name: TensorPlace(register=t.register, address=t.address, stride=t.stride, on_chip=t.on_chip)
        for node in graph
        for t in (model.tensors[node.name],)
    }
    constants = {
        node.name: ConstantPlace(weight=model.tensors[o.weights].address, bias=model.tensors[o.bias].address)
        for node in graph
        for o in (by_name[node.name],)
        if o.weights
    }
    layers = [
        ProgramLayer(nodes=tuple(n for n in layer.operations if n in graph.by_name), has_code=layer.has_code)
        for layer in model.layers
        if layer.operations[0] != graph.input.name
    ]
    return CompiledProgram(
        graph=graph,
        target=next(dpu for dpu in DPUS.values() if dpu.fingerprint == model.fingerprint),
        code=model.code,
        parameters=model.registers[0].parameters,
        workspace_bytes=model.registers[1].size,
        input_bytes=model.registers[2].size,
        output_bytes=model.registers[3].size,
        layers=tuple(layer for layer in layers if layer.nodes),
        tensors=tensors,
        constants=constants,
        augmented=frozenset(o.name for o in model.operations if "channel_augmentation" in o.attributes),
        prefetch=model.prefetch,
        sources=model.sources,
    )


@pytest.mark.parametrize("name", ["SqueezeNet_ptq_zcu104", "MobileNetV2_ptq_zcu104", "ResNet50_095_zcu104"])
def test_amds_file_is_written_again(name: str, reference_data: Path, tmp_path: Path) -> None:
    theirs = read_compiled(reference_data / "compiled" / f"{name}.xmodel")
    (tmp_path / "again.xmodel").write_bytes(compiled_bytes(_again(theirs)))
    ours = read_compiled(tmp_path / "again.xmodel")
    for field in (
        "name",
        "dpu_name",
        "fingerprint",
        "code",
        "registers",
        "workload",
        "workload_on_arch",
        "prefetch",
        "sources",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    for ends in ("inputs", "outputs"):
        for a, b in zip(getattr(ours, ends), getattr(theirs, ends), strict=True):
            assert (a.shape, a.fix, a.register, a.address, a.steps) == (b.shape, b.fix, b.register, b.address, b.steps)
    assert [_layer_facts(layer) for layer in ours.layers] == [_layer_facts(layer) for layer in theirs.layers]
    assert _operation_facts(ours) == _operation_facts(theirs)


def _layer_facts(layer: Any) -> tuple[object, ...]:
    return len(layer.operations), layer.has_code, layer.workload, layer.workload_on_arch


def _operation_facts(model: CompiledModel) -> list[tuple[object, ...]]:
    """Kinds, attributes and places. AMD's linear layers leave out three attributes; here they come back as convolutions."""
    out = []
    for operation in model.operations:
        if operation.kind == "const-fix":
            continue  # in another order; what reads them tells where they are
        tensor = operation.tensor
        attributes = {k: v for k, v in operation.attributes.items() if k not in ("bias_term", "in_dim", "out_dim")}
        constants = [
            (c.shape, c.address, c.register)
            for name in (operation.weights, operation.bias)
            if name
            for c in (model.tensors[name],)
        ]
        place = (tensor.shape, tensor.fix, tensor.register, tensor.address, tensor.stride, tensor.on_chip)
        out.append((operation.kind, sorted(attributes.items()), constants, place))
    return out


def test_the_network_of_a_file_written_again_is_the_same(reference_data: Path, tmp_path: Path) -> None:
    path = reference_data / "compiled" / "SqueezeNet_ptq_zcu104.xmodel"
    (tmp_path / "again.xmodel").write_bytes(compiled_bytes(_again(read_compiled(path))))
    before, after = read_compiled_graph(path), read_compiled_graph(tmp_path / "again.xmodel")
    for a, b in zip(before, after, strict=True):
        assert (type(a), a.shape, a.fix) == (type(b), b.shape, b.fix)
        if isinstance(a, Conv):
            assert isinstance(b, Conv)
            assert (a.weight == b.weight).all()
            assert (a.bias == b.bias).all()


def test_types_do_not_depend_on_values() -> None:
    """Zero, false and empty values are written, not left out."""
    message = _message(compiled_bytes(program_of(everything_fused().graph)))
    (dpu,) = (s for s in message.subg_root.subg_child if attribute(s.subg_attr["device"]) == "DPU")
    assert attribute(dpu.subg_attr["if_prefetch"]) is False
    assert attribute(dpu.subg_attr["mc_code_preload"]) == b""
    assert attribute(message.subg_root.subg_attr["aie_tile_fusion_type"]) == []
    assert dpu.subg_attr["mc_code_preload"].WhichOneof("value") == "bytes_value"
