"""The compiled stage: the file that a board runs, of a quantized network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval import (
    CompiledXmodel,
    Miscompiled,
    VitisSettings,
    compile_xmodel,
    execute,
    find_board,
    find_compiler,
)
from edgesearch.errors import CompileError, StageFailed, ToolchainError
from edgesearch.objectives import Stage, compiled_content, golden_images, load_data, load_graph
from edgesearch.objectives.stages.kinds import _compiled

from ._chains import BOARD, DATA, run, stages


def test_the_artifact_is_the_file_of_the_network(tmp_path: Path) -> None:
    made = run(stages({"student": {"architecture": "cnn_tiny", "input_size": 8}}, last="compiled"), tmp_path / "store")
    graph, artifact = load_graph(made["quantized"]), made["compiled"]
    (tmp_path / "net.xmodel").write_bytes(compiled_content(artifact))
    xmodel = CompiledXmodel.read(tmp_path / "net.xmodel")
    assert artifact.figures == {**xmodel.facts(), "golden_images": 8}
    assert xmodel.content == compile_xmodel(graph, BOARD.target).content
    images = golden_images(graph, load_data(DATA))
    np.testing.assert_array_equal(xmodel.execute(images), execute(graph, images))


def test_the_speed_of_a_candidate_is_that_of_its_own_code(tmp_path: Path) -> None:
    candidate = {"student": {"architecture": "cnn_tiny", "input_size": 8}}
    made = run(stages(candidate), tmp_path / "store") | run(stages(candidate, last="compiled"), tmp_path / "store")
    (tmp_path / "net.xmodel").write_bytes(compiled_content(made["compiled"]))
    timing = CompiledXmodel.read(tmp_path / "net.xmodel").time(find_board("zcu104").profile)  # type: ignore[attr-defined]
    assert made["measured"].figures["fps"] == pytest.approx(timing.throughput_fps, rel=1e-12)
    assert made["measured"].figures["conditions"]["compiler"] == "edgesearch"


@pytest.mark.parametrize("error", [CompileError("layer 'x' has no room"), Miscompiled("other integers")])
def test_a_network_that_cannot_be_compiled_fails_and_is_remembered_but_a_bug_is_not(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = stages({}, last="compiled")
    run(chain[:-1], tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(_compiled, "compile_xmodel", fail)
    with pytest.raises(type(error), match=str(error)):
        run(chain[-1:], tmp_path)
    monkeypatch.undo()
    if isinstance(error, CompileError):
        with pytest.raises(StageFailed, match="no room"):
            run(chain[-1:], tmp_path)
    else:
        assert run(chain[-1:], tmp_path)["compiled"].figures["dpu"] == "B4096"


def vitis_stages(vitis: VitisSettings, **candidate: Any) -> list[Stage]:
    """A chain whose last stage leaves compiling to the Vitis AI that is there."""
    chain = stages(candidate, last="compiled")
    parameters = {**chain[-1].parameters, "compiler": "vai", "toolchain": find_compiler(vitis).identity}
    return [*chain[:-1], dataclasses.replace(chain[-1], parameters=parameters)]


def test_amds_compiler_makes_the_file_where_the_study_says_so(vai_c_xir: Path, tmp_path: Path) -> None:
    chain = vitis_stages(VitisSettings(), student={"architecture": "cnn_tiny", "input_size": 8})
    figures = run(chain, tmp_path / "store")["compiled"].figures
    assert figures["compiler"]["how"] == str(vai_c_xir)
    assert figures["compiler"]["toolchain"] == chain[-1].parameters["toolchain"]
    assert figures["simulated"] == {"images": 8, "equal_images": 8, "problem": None}
    assert [one["device"] for one in figures["subgraphs"]] == ["USER", "DPU", "CPU"]
    assert chain[-1].key != stages({"student": {"architecture": "cnn_tiny", "input_size": 8}}, last="compiled")[-1].key


def test_the_key_speaks_of_the_toolchain_and_another_one_makes_no_file(vai_c_xir: Path, tmp_path: Path) -> None:
    chain = vitis_stages(VitisSettings())
    vai_c_xir.write_text(vai_c_xir.read_text() + "# another version\n")
    assert vitis_stages(VitisSettings())[-1].key != chain[-1].key
    run(chain[:-1], tmp_path)
    with pytest.raises(ToolchainError, match="have the same Vitis AI on every machine"):
        run(chain[-1:], tmp_path)


def test_a_network_that_amds_compiler_refuses_is_remembered_and_a_crash_is_not(vai_c_xir: Path, tmp_path: Path) -> None:
    refusing = "#!/bin/sh\necho 'xir::Op{name = net__conv, type = conv2d-fix} has been assigned to CPU: [no room].'\nexit 134\n"
    vai_c_xir.write_text("#!/bin/sh\nexit 134\n")
    chain = vitis_stages(VitisSettings())
    run(chain[:-1], tmp_path)
    for _ in range(2):
        with pytest.raises(ToolchainError, match="at its second try too"):
            run(chain[-1:], tmp_path)
    vai_c_xir.write_text(refusing)
    chain = vitis_stages(VitisSettings())
    with pytest.raises(CompileError, match=r"'net__conv' \(conv2d-fix\): no room"):
        run(chain[-1:], tmp_path)
    with pytest.raises(StageFailed, match="no room"):
        run(chain[-1:], tmp_path)


def test_another_dpu_has_another_file(tmp_path: Path) -> None:
    chain = stages({}, last="compiled")
    small = dataclasses.replace(chain[-1], parameters={"dpu": {**chain[-1].parameters["dpu"], **SMALL}})
    made = run([*chain[:-1], small], tmp_path)
    assert made["compiled"].figures["dpu"] == "B1024"
    assert small.key != chain[-1].key


SMALL = {"name": "B1024", "input_parallel": 8, "output_parallel": 8}
