"""Who does what of a compiled file, ours, AMD's and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.board_eval import Fingerprint
from edgesearch.board_eval.xmodel import (
    cpu_operations,
    describe_subgraphs,
    read_compiled,
    read_subgraphs,
    write_compiled,
    write_xmodel,
)
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import XmodelError

from ._programs import everything, everything_fused

#: File -> its DPU's fingerprint, workload, workload as the DPU rounds it up, bytes of code and of parameters, subgraphs.
AMDS = {
    "SqueezeNet_ptq_zcu104": (0x101000056010407, 1475683822, 1557726592, 107492, 880640, 3),
    "MobileNetV2_ptq_zcu104": (0x101000056010407, 606555242, 712803456, 255156, 2670592, 3),
    "ResNet50_095_zcu104": (0x101000056010407, 481212924, 747819648, 173832, 1867776, 3),
    "yolox_nano_B512": (0x101000016010200, 948724257, 1019749120, 452136, 1552384, 5),
    "yolox_nano_B2304": (0x101000016010405, 948724257, 1342540992, 284524, 1552384, 5),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "small.xmodel"
    write_compiled(everything_fused(), path)
    return path


@pytest.mark.parametrize("name", AMDS)
def test_amds_files_have_one_dpu_subgraph_with_every_layer(name: str, reference_data: Path) -> None:
    fingerprint, workload, on_arch, code, parameters, count = AMDS[name]
    found = read_subgraphs(reference_data / "compiled" / f"{name}.xmodel")
    assert [one.device for one in found] == ["USER", "DPU", *["CPU"] * (count - 2)]
    dpu = found[1]
    assert (dpu.fingerprint, dpu.workload, dpu.workload_on_arch) == (fingerprint, workload, on_arch)
    assert (dpu.code_bytes, dpu.parameter_bytes) == (code, parameters)
    assert cpu_operations(found) == ()
    assert {kind for one in found[2:] for _, kind in one.operations} == {"fix2float"}


def test_a_file_of_ours_is_told_as_its_model_is(small: Path) -> None:
    user, dpu, cpu = read_subgraphs(small)
    model = read_compiled(small)
    assert (user.device, dpu.device, cpu.device) == ("USER", "DPU", "CPU")
    assert [child.name for child in dpu.children] == [layer.name for layer in model.layers]
    assert {name for name, _ in dpu.operations} == {operation.name for operation in model.operations}
    assert dict(dpu.operations) == {operation.name: operation.kind for operation in model.operations}
    assert (dpu.dpu_name, dpu.fingerprint) == (model.dpu_name, model.fingerprint)
    assert (dpu.workload, dpu.workload_on_arch) == (model.workload, model.workload_on_arch)
    assert (dpu.code_bytes, dpu.parameter_bytes) == (len(model.code), model.registers[0].size)
    assert describe_subgraphs((user, dpu, cpu)) == "3 subgraphs (1 USER, 1 DPU, 1 CPU)"


def test_layers_of_the_cpu_are_named_also_in_a_file_that_is_refused(small: Path, tmp_path: Path) -> None:
    message = graph_message()()
    message.ParseFromString(small.read_bytes())
    root = message.subg_root
    for number in range(5):
        message.op_node.add(op_name=f"sig{number}", op_type="sigmoid")
        root.subg_child.add(op_name=[f"sig{number}"]).subg_attr["device"].string_value = "CPU"
    root.subg_child.add().CopyFrom(root.subg_child[1])
    path = tmp_path / "parts.xmodel"
    path.write_bytes(message.SerializeToString())
    assert cpu_operations(read_subgraphs(path)) == tuple((f"sig{number}", "sigmoid") for number in range(5))
    assert Fingerprint(read_subgraphs(path)[-1].fingerprint).size == "B4096"
    with pytest.raises(XmodelError) as caught:
        read_compiled(path)
    assert "9 subgraphs (1 USER, 2 DPU, 6 CPU); the CPU does 'sig0' (sigmoid), 'sig1' (sigmoid)" in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_what_is_not_compiled_has_none(tmp_path: Path) -> None:
    write_xmodel(everything(), tmp_path / "int.xmodel")
    with pytest.raises(XmodelError, match="it is not compiled"):
        read_subgraphs(tmp_path / "int.xmodel")
    with pytest.raises(XmodelError, match="cannot be read"):
        read_subgraphs(tmp_path / "nowhere.xmodel")
