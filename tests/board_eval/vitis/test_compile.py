"""AMD's compiler as stand-ins: what it is told, and what becomes of what it writes, says or fails to do."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import DEFAULT_TARGET, execute, read_xmodel
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.vitis import VitisSettings, compile_with_vitis, find_compiler
from edgesearch.errors import CompileError, ToolchainError, ToolchainMissing, XmodelError

from ._compiled import network, no_dpu, other_fingerprint, put_on_cpu, two_dpus, write_compiled_file, write_quantized
from .conftest import Machine

ARGUMENTS = ["--xmodel", "network_int.xmodel", "--arch", "arch.json", "--net_name", "network", "--output_dir", "compiled"]
#: A run that goes well, as the compiler tells of it.
LOG = """
**************************************************
* VITIS_AI Compilation - Xilinx Inc.
**************************************************
[UNILOG][INFO] Compile mode: dpu
[UNILOG][INFO] Target architecture: DPUCZDX8G_ISA1_B4096
[UNILOG][INFO] Begin to compile...
[UNILOG][INFO] Total device subgraph number 3, DPU subgraph number 1
[UNILOG][INFO] Compile done.
"""
#: What it says of an operation that it gives to the CPU, and of a run that it then gives up.
GIVEN = (
    "[UNILOG][WARNING] xir::Op{name = small__conv, type = conv2d-fix} has been assigned to CPU: "
    '[DPU only supports "pad_left"(1) less than "kernel_width"(1)].'
)
CRASH = "[UNILOG][FATAL][XCOM_OPERATION_FAILED][The supposed operation is failed!] Failed to add smf node to bank!"

#: A compiler that copies RESULT to where it is told to write, or fails as CODES say, run by run.
COMPILER = """
values = dict(zip(arguments[::2], arguments[1::2]))
(HERE / "arch.json").write_text(pathlib.Path(values["--arch"]).read_text())
runs = len((HERE / "calls.jsonl").read_text().split('"program": "vai_c_xir"')) - 1
print(LOG, flush=True)
if HANG:
    time.sleep(600)
assert pathlib.Path(values["--xmodel"]).is_file()
code = CODES[min(runs, len(CODES)) - 1]
if code is None:
    folder = pathlib.Path(values["--output_dir"])
    folder.mkdir()
    (folder / (values["--net_name"] + ".xmodel")).write_bytes(pathlib.Path(RESULT).read_bytes())
sys.exit(code or 0)
"""


def put_compiler(
    machine: Machine,
    result: Path,
    *,
    log: str = LOG,
    codes: tuple[int | None, ...] = (None,),
    hang: bool = False,
    where: str = "bin",
) -> Path:
    values = {"LOG": log, "CODES": codes, "HANG": hang, "RESULT": str(result)}
    return machine.put("vai_c_xir", "".join(f"{n} = {v!r}\n" for n, v in values.items()) + COMPILER, where=where)


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    return write_quantized(tmp_path / "small_int.xmodel")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_compiled_file(tmp_path / "result.xmodel")


def test_the_native_compiler_is_told_the_board_by_its_fingerprint(
    machine: Machine, quantized: Path, result: Path, tmp_path: Path
) -> None:
    put_compiler(machine, result)
    compiled = compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), log=tmp_path / "kept.log")
    (call,) = machine.calls("vai_c_xir")
    assert call["arguments"] == ARGUMENTS
    environment = call["environment"]
    assert isinstance(environment, dict)
    assert not {"SECRET", "PYTHONPATH"} & set(environment)
    assert json.loads((machine.home / "arch.json").read_text()) == {"fingerprint": "0x101000056010407"}
    assert compiled.xmodel.content == result.read_bytes()
    assert "Compile done" in (tmp_path / "kept.log").read_text()
    facts = json.loads(json.dumps(compiled.facts()))
    assert [one["device"] for one in facts["subgraphs"]] == ["USER", "DPU", "CPU"]
    assert facts["compiler"]["toolchain"].startswith("sha256 ")
    images = np.random.default_rng(1).integers(-128, 128, (2, 8, 8, 3)).astype(np.int8)
    np.testing.assert_array_equal(compiled.xmodel.execute(images), execute(network(), images).reshape(2, -1))


def test_versions_around_the_compiler_say_which_it_is(machine: Machine, result: Path) -> None:
    put_compiler(machine, result)
    plain = find_compiler(VitisSettings()).identity
    meta = machine.home / "conda-meta"
    meta.mkdir()
    for name in ("xcompiler-3.5.0-h1", "vaic-3.5.0-py38", "vaic-tools-1.0", "numpy-1.22.0"):
        (meta / f"{name}.json").write_text("{}")
    assert plain.startswith("sha256 ")
    assert find_compiler(VitisSettings()).identity == "vaic-3.5.0-py38 xcompiler-3.5.0-h1"


def test_the_compiler_beside_a_given_python_is_found(machine: Machine, quantized: Path, result: Path) -> None:
    put_compiler(machine, result, where="env/bin")
    python = machine.put("python", "", where="env/bin")
    compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(python=str(python)))
    assert len(machine.calls("vai_c_xir")) == 1


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_the_container_sees_the_jobs_folder_only(kind: str, machine: Machine, quantized: Path, result: Path) -> None:
    machine.put_engine(kind)
    put_compiler(machine, result, where="image")
    compiled = compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings())
    assert compiled.toolchain == "image sha256:" + "ab" * 32
    (run,) = [c["arguments"] for c in machine.calls(kind) if c["arguments"][0] == "run"]  # type: ignore[index]
    assert isinstance(run, list)
    (mount,) = [a for a in run if "source=" in a]
    assert mount.startswith("type=bind,source=")
    assert mount.endswith(",target=/job")
    assert "edgesearch-vitis-" in mount
    assert run[-len(ARGUMENTS) - 2 :] == ["sha256:" + "ab" * 32, "vai_c_xir", *ARGUMENTS]
    for pair in (
        ("--network", "none"),
        ("--pull", "never"),
        ("--user", f"{_id('u')}:{_id('g')}"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--workdir", "/job"),
        ("--entrypoint", "/usr/bin/env"),
    ):
        assert run[run.index(pair[0]) + 1] == pair[1]
    assert {"--rm", "--read-only", "--env=HOME=/tmp"} <= set(run)
    assert ("--userns=keep-id" in run) == (kind == "podman" and _id("u") != "0")
    path = next(a for a in run if a.startswith("--env=PATH="))
    assert path.startswith("--env=PATH=/opt/vitis_ai/conda/envs/vitis-ai-pytorch/bin:")
    assert not {"-v", "--volume", "--privileged", "-it", "-t"} & set(run)
    assert not any("SECRET" in a for a in run)


def _id(which: str) -> str:
    return str(os.geteuid() if which == "u" else os.getegid())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"security": "[name=seccomp name=rootless]"}, None),
        ({"security": "[name=userns]"}, "--userns=host"),
        ({"version": "podman version 4.9.4"}, "--user"),
    ],
    ids=["rootless docker", "remapped docker", "podman under docker's name"],
)
def test_files_of_a_container_are_this_users(
    how: dict[str, str], expected: str | None, machine: Machine, quantized: Path, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    machine.put_engine("docker", **how)  # type: ignore[arg-type]
    put_compiler(machine, result, where="image")
    compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings())
    run = machine.calls("docker")[-1]["arguments"]
    assert isinstance(run, list)
    if expected is None:
        assert not any(a.startswith("--user") for a in run)
    else:
        assert expected in run
    assert ("--userns=keep-id" in run) == ("version" in how)


def test_what_is_missing_is_one_sentence_with_its_command(machine: Machine, quantized: Path) -> None:
    def refused(settings: VitisSettings) -> str:
        with pytest.raises(ToolchainMissing) as caught:
            compile_with_vitis(quantized, DEFAULT_TARGET, settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "vai_c_xir is not on PATH, and there is no container engine on PATH" in refused(VitisSettings())
    assert "docker pull xilinx/vitis-ai-pytorch-cpu:latest" in refused(VitisSettings())
    machine.put_engine("podman", image="another")
    assert refused(VitisSettings()).endswith("get it with: podman pull docker.io/xilinx/vitis-ai-pytorch-cpu:latest")
    machine.put_engine("docker", image="another")
    assert refused(VitisSettings(image="quay.io/x:1")).endswith("not in docker or podman; get it with: docker pull quay.io/x:1")
    trouble = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    machine.put_engine("docker", trouble=trouble)
    assert f"docker does not work ({trouble}); start it" in refused(VitisSettings(engine="docker"))
    assert "engine is 'none'" in refused(VitisSettings(engine="none"))
    assert not any("run" in c["arguments"] for c in machine.calls())  # type: ignore[operator]
    machine.put_engine("docker", gone="docker: error during connect: the daemon has ended")  # between a question and its answer
    assert "exit code 125: docker: error during connect" in refused(VitisSettings(engine="docker"))
    program = machine.home / "bin" / "vai_c_xir"
    program.write_text("#!/usr/bin/env python-of-another-machine\n")
    program.chmod(0o755)
    assert "exit code 127" in refused(VitisSettings())


def test_an_engine_that_does_not_work_is_passed_over_for_one_that_does(machine: Machine, quantized: Path, result: Path) -> None:
    machine.put_engine("docker", trouble="permission denied while trying to connect")
    machine.put_engine("podman")
    put_compiler(machine, result, where="image")
    assert "in podman" in compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings()).how
    (machine.home / "bin" / "docker").write_bytes(b"no program at all")
    assert "in podman" in compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings()).how


@pytest.mark.parametrize(
    ("change", "log", "words"),
    [
        (two_dpus, LOG, ("5 subgraphs (1 USER, 2 DPU, 2 CPU)", "the CPU does 'small__sigmoid' (sigmoid)")),
        (
            two_dpus,
            "xir::Op{name = small__sigmoid, type = sigmoid} has been assigned to CPU: [not supported by the DPU].",
            ("since the CPU was given 'small__sigmoid' (sigmoid): not supported by the DPU",),
        ),
        (put_on_cpu, LOG, ("4 subgraphs (1 USER, 1 DPU, 2 CPU)", "'small__sigmoid' (sigmoid)")),
        (no_dpu, LOG, ("3 subgraphs (1 USER, 2 CPU)", "(conv2d-fix)")),
        (other_fingerprint, LOG, ("0x101000016010407", "board's is 0x101000056010407")),
    ],
)
def test_a_file_that_is_not_for_the_boards_dpu_alone_is_refused_with_the_cause(
    change: object, log: str, words: tuple[str, ...], machine: Machine, quantized: Path, tmp_path: Path
) -> None:
    put_compiler(machine, write_compiled_file(tmp_path / "result.xmodel", change), log=log)  # type: ignore[arg-type]
    with pytest.raises(CompileError) as caught:
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), log=tmp_path / "kept.log")
    for word in words:
        assert word in str(caught.value)
    assert str(caught.value).endswith(f"its log is {tmp_path / 'kept.log'}")
    assert len(machine.calls("vai_c_xir")) == 1


def test_another_dpu_is_compiled_for_by_its_fingerprint_or_by_the_arch_json_given(
    machine: Machine, quantized: Path, result: Path, tmp_path: Path
) -> None:
    put_compiler(machine, result)
    with pytest.raises(CompileError, match="board's is 0x101000016010402"):
        compile_with_vitis(quantized, DPUS["B1024"], VitisSettings())
    assert json.loads((machine.home / "arch.json").read_text()) == {"fingerprint": "0x101000016010402"}
    given = tmp_path / "given.json"
    given.write_text('{"target": "DPUCZDX8G_ISA1_B4096"}')
    compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), arch_json=given)
    assert (machine.home / "arch.json").read_text() == given.read_text()
    given.write_text('{"fingerprint": "0x101000016010402"}')
    with pytest.raises(
        CompileError, match="is for a DPU with fingerprint 0x101000016010402, and the board's is 0x101000056010407"
    ):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), arch_json=given)
    given.write_text("[]")
    with pytest.raises(ToolchainError, match="is no arch"):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), arch_json=given)


def test_an_error_without_a_reason_is_tried_again_once(machine: Machine, quantized: Path, result: Path, tmp_path: Path) -> None:
    put_compiler(machine, result, log=CRASH, codes=(134, None))
    assert compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings()).xmodel.content == result.read_bytes()
    assert len(machine.calls("vai_c_xir")) == 2
    (machine.home / "calls.jsonl").unlink()
    put_compiler(machine, result, log=CRASH, codes=(134,))
    with pytest.raises(ToolchainError) as caught:
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), log=tmp_path / "kept.log")
    assert len(machine.calls("vai_c_xir")) == 2
    assert "exit code 134" in str(caught.value)
    assert "Failed to add smf node to bank!" in str(caught.value)
    assert (tmp_path / "kept.log").read_text().count(CRASH) == 2


def test_a_compiler_that_says_all_is_well_and_writes_nothing_failed(machine: Machine, quantized: Path, result: Path) -> None:
    put_compiler(machine, result, codes=(0,))
    with pytest.raises(ToolchainError, match=r"wrote no file \(exit code 0: .*Compile done"):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings())
    assert len(machine.calls("vai_c_xir")) == 2


def test_a_file_cut_off_is_tried_again_and_then_refused(machine: Machine, quantized: Path, result: Path) -> None:
    result.write_bytes(result.read_bytes()[:-100])
    put_compiler(machine, result)
    with pytest.raises(ToolchainError, match="wrote a file that is not understood"):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings())
    assert len(machine.calls("vai_c_xir")) == 2


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (f"{GIVEN}\n{CRASH}", r"'small__conv' \(conv2d-fix\): DPU only supports \"pad_left\"\(1\) less than"),
        (
            "[UNILOG][FATAL][XCOM_OPFACTORY_OP_UNSUPPORTED][The operator has not been implemented by target DPU.]\n"
            "Op_type 18 is invalid for xcompiler",
            "XCOM_OPFACTORY_OP_UNSUPPORTED",
        ),
    ],
)
def test_an_error_that_is_explained_is_not_tried_again(
    log: str, words: str, machine: Machine, quantized: Path, result: Path
) -> None:
    put_compiler(machine, result, log=log, codes=(134,))
    with pytest.raises(CompileError, match=words):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings())
    assert len(machine.calls("vai_c_xir")) == 1


@pytest.mark.parametrize("contained", [False, True])
def test_a_compiler_that_hangs_is_stopped(contained: bool, machine: Machine, quantized: Path, result: Path) -> None:
    put_compiler(machine, result, hang=True, where="image" if contained else "bin")
    if contained:
        machine.put_engine("docker")
    started = time.monotonic()
    with pytest.raises(ToolchainError, match=r"did not end within 2 s and was stopped \(its last lines: .*Compile done"):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(compile_timeout_s=2))
    assert time.monotonic() - started < 30
    if contained:
        kill = machine.calls("docker")[-1]["arguments"]
        run = next(c["arguments"] for c in machine.calls("docker") if c["arguments"][0] == "run")  # type: ignore[index]
        assert isinstance(kill, list)
        assert isinstance(run, list)
        assert kill == ["kill", run[run.index("--name") + 1]]


def test_a_flood_of_output_is_cut_in_the_middle(machine: Machine, quantized: Path, tmp_path: Path) -> None:
    machine.put("vai_c_xir", "print('beginning')\nfor _ in range(60000):\n    print('x' * 99)\nsys.exit('the end')")
    with pytest.raises(ToolchainError, match="the end"):
        compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings(), log=tmp_path / "kept.log")
    content = (tmp_path / "kept.log").read_text()
    assert len(content) < 4_000_000
    assert "bytes left out" in content
    assert "beginning" in content


def test_what_is_no_quantized_xmodel_is_refused(machine: Machine, result: Path, tmp_path: Path) -> None:
    put_compiler(machine, result)
    with pytest.raises(XmodelError, match="compiled already"):
        compile_with_vitis(result, DEFAULT_TARGET, VitisSettings())
    with pytest.raises(XmodelError, match="cannot be read"):
        compile_with_vitis(tmp_path / "nowhere.xmodel", DEFAULT_TARGET, VitisSettings())
    assert machine.calls() == []


def test_each_try_is_a_container_of_its_own(machine: Machine, quantized: Path, result: Path) -> None:
    machine.put_engine("docker")
    put_compiler(machine, result, log=CRASH, codes=(134, None), where="image")
    compile_with_vitis(quantized, DEFAULT_TARGET, VitisSettings())
    runs = [c["arguments"] for c in machine.calls("docker") if c["arguments"][0] == "run"]  # type: ignore[index]
    assert len({str(run) for run in runs}) == len(runs) == 2


def test_amds_own_file_of_squeezenet_is_believed(machine: Machine, reference_data: Path) -> None:
    put_compiler(machine, reference_data / "compiled" / "SqueezeNet_ptq_zcu104.xmodel")
    source = reference_data / "golden" / "squeezenet" / "SqueezeNet_int.xmodel"
    compiled = compile_with_vitis(source, DEFAULT_TARGET, VitisSettings())
    facts = compiled.facts()
    assert (facts["workload"], facts["code_bytes"], facts["parameter_bytes"]) == (1475683822, 107492, 880640)
    assert sum(facts["instructions"].values()) == 5385
    image = np.random.default_rng(0).integers(-128, 128, (1, 224, 224, 3)).astype(np.int8)
    np.testing.assert_array_equal(compiled.xmodel.execute(image), execute(read_xmodel(source), image).reshape(1, -1))
    with pytest.raises(CompileError, match="board's is 0x101000016010402"):
        compile_with_vitis(source, DPUS["B1024"], VitisSettings())
