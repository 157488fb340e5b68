"""Compiling an xmodel and showing its instructions, from the command line's arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from edgesearch.board_eval import Activation, CompiledXmodel, Fingerprint, Graph, Input, Pool, load_profile, write_xmodel
from edgesearch.board_eval.isa import disassemble
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import CompileError, DataError, TargetError, ToolchainError, XmodelError
from edgesearch.search.commands._cli import cli


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def xmodel(tmp_path: Path) -> Path:
    nodes = (
        Input(name="in", inputs=(), shape=(6, 6, 20), fix=3),
        Pool(name="pool", inputs=("in",), shape=(3, 3, 20), kind="max", kernel=(2, 2), stride=(2, 2), fix=3),
    )
    write_xmodel(Graph("pooled", nodes), tmp_path / "pooled_int.xmodel")
    return tmp_path / "pooled_int.xmodel"


def test_a_file_is_compiled_for_a_board_and_described(xmodel: Path) -> None:
    said = run("compile", xmodel)
    compiled = CompiledXmodel.read(xmodel.with_name("pooled_compiled.xmodel"))
    assert "pooled_compiled.xmodel, for the B4096 with fingerprint 0x101000056010407" in said
    assert f"{len(compiled.program)} instructions in {len(compiled.model.code):,} bytes" in said
    assert "an image loads 720 bytes and saves 180" in said
    assert f"{compiled.time(load_profile('zcu104')).throughput_fps:,.0f} FPS" in said
    assert "not yet run on silicon by this project" in said


@pytest.mark.parametrize("size", ["B512", "B3136"])
def test_a_fingerprint_says_which_dpu(size: str, xmodel: Path, tmp_path: Path) -> None:
    mark = Fingerprint(DPUS[size].fingerprint)
    facts = json.loads(run("compile", xmodel, "--fingerprint", mark, "--board", "kv260", "-o", tmp_path / "x", "--json"))
    assert (facts["dpu"], facts["fingerprint"], facts["predicted"]["board"]) == (size, str(mark), "kv260")
    compiled = CompiledXmodel.read(tmp_path / "x")
    assert facts["sha256"] == compiled.sha256
    profile = load_profile("kv260").model_copy(update={"dpu": DPUS[size]})
    assert facts["predicted"] == compiled.time(profile).figures()


def test_a_profiles_dpu_is_compiled_for(xmodel: Path, tmp_path: Path) -> None:
    profile = load_profile("zcu104").model_copy(update={"dpu": DPUS["B1152"], "name": "mine"})
    (tmp_path / "mine.json").write_text(profile.to_json())
    facts = json.loads(run("compile", xmodel, "--board", tmp_path / "mine.json", "--json"))
    assert (facts["dpu"], facts["predicted"]["board"]) == ("B1152", "mine")


def test_options_reach_the_compiler(tmp_path: Path) -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(8, 8, 16), fix=3),
        Pool(name="pool", inputs=("in",), shape=(2, 2, 16), kind="max", kernel=(4, 4), stride=(4, 4), fix=3),
        Activation(name="act", inputs=("pool",), shape=(2, 2, 16), activation="leaky_relu", fix=3),
    )
    for name, graph in (("leaky", Graph("leaky", nodes)), ("pooled", Graph("pooled", nodes[:2]))):
        write_xmodel(graph, tmp_path / f"{name}.xmodel")
    with pytest.raises(CompileError, match="'act' has a leaky ReLU"):
        run("compile", tmp_path / "leaky.xmodel")
    with pytest.raises(CompileError, match="no measured file has: maximum of 4 x 4"):
        run("compile", tmp_path / "pooled.xmodel", "--strict")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["leaky.xmodel", "pooled.xmodel"]
    facts = json.loads(run("compile", tmp_path / "leaky.xmodel", "--allow", "leaky_relu", "--tries", 2, "--json"))
    assert "maximum of 4 x 4" in facts["unseen"]
    assert "in no measured file of AMD's: maximum of 4 x 4" in run("compile", tmp_path / "pooled.xmodel")


def test_amds_compiler_makes_the_file_and_both_are_compared(xmodel: Path, vai_c_xir: Path, tmp_path: Path) -> None:
    said = run("compile", xmodel, "--compiler", "vai", "--compare")
    compiled = CompiledXmodel.read(xmodel.with_name("pooled_compiled.xmodel"))
    assert "AMD's code: one DPU subgraph with every layer" in said
    assert "not yet run on silicon" not in said
    assert f"vai         {len(compiled.program)} instructions" in said
    assert f"edgesearch  {len(compiled.program)} instructions" in said
    assert "logits in simulation: equal on 4 of 4 images" in said
    assert "Compile mode: dpu" in xmodel.with_name("pooled_compiled_vai_c_xir.log").read_text()
    np.save(xmodel.with_name("golden_input.npy"), np.zeros((3, 6, 6, 20), np.int8))
    facts = json.loads(run("compile", xmodel, "--compare", "-o", tmp_path / "own.xmodel", "--json"))
    assert (facts["compared"]["images"], facts["compared"]["equal_images"]) == (3, 3)
    assert "compiler" not in facts
    facts = json.loads(run("compile", xmodel, "--compiler", "vai", "--json", "-o", tmp_path / "vai.xmodel"))
    assert facts["compiler"]["how"] == str(vai_c_xir)
    assert facts["subgraphs"][1]["device"] == "DPU"


def test_amds_compiler_is_told_the_dpu_by_the_fingerprint_or_the_file(xmodel: Path, vai_c_xir: Path, tmp_path: Path) -> None:
    run("compile", xmodel, "--compiler", "vai", "--fingerprint", "0x101000016010402", "-o", tmp_path / "x")
    assert CompiledXmodel.read(tmp_path / "x").dpu.name == "B1024"
    (tmp_path / "arch.json").write_text('{"fingerprint": "0x101000016010405"}')
    with pytest.raises(CompileError, match="is for a DPU with fingerprint 0x101000016010405"):
        run("compile", xmodel, "--compiler", "vai", "--arch", tmp_path / "arch.json", "-o", tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_options_of_the_other_compiler_are_refused(xmodel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="vai_c_xir is not on PATH"):
        run("compile", xmodel, "--compiler", "vai")
    for options, words in (
        (("--compiler", "vai", "--strict"), "--strict and --tries are for this program's compiler"),
        (("--arch", "a.json"), "add --compiler vai or --compare"),
        (("--compare", "--image=--privileged"), "is no reference of an image"),
    ):
        with pytest.raises(click.UsageError, match=words):
            run("compile", xmodel, *options)


def test_what_cannot_be_compiled_is_one_sentence_and_nothing_is_written(xmodel: Path, tmp_path: Path) -> None:
    run("compile", xmodel, "-o", tmp_path / "net.xmodel")
    (tmp_path / "text.xmodel").write_text("certainly not a network")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    cases = [
        ((tmp_path / "net.xmodel",), XmodelError, "compiled already"),
        ((tmp_path / "text.xmodel",), XmodelError, "text.xmodel cannot be read as an xmodel"),
        ((xmodel, "-o", xmodel), DataError, "is the network itself"),
        ((xmodel, "-o", tmp_path / "nowhere" / "x.xmodel"), DataError, "cannot be written: there is no folder"),
        ((xmodel, "-o", ""), DataError, '--output: "" is no path; give one'),
        ((xmodel, "-o", tmp_path), click.BadParameter, "is a directory"),
        ((xmodel, "--fingerprint", "zcu104"), TargetError, "not a hexadecimal number"),
        ((xmodel, "--fingerprint", "0x201000056010407"), TargetError, "kind 2"),
    ]
    for arguments, error, words in cases:
        with pytest.raises(error) as caught:
            run("compile", *arguments)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_instructions_are_printed_as_text_and_as_json(xmodel: Path, tmp_path: Path) -> None:
    run("compile", xmodel, "-o", tmp_path / "net.xmodel")
    program = CompiledXmodel.read(tmp_path / "net.xmodel").program
    assert run("disassemble", tmp_path / "net.xmodel").splitlines() == list(disassemble(program))
    listed = json.loads(run("disassemble", tmp_path / "net.xmodel", "--json"))
    assert [entry["instruction"] for entry in listed] == [one.MNEMONIC for one in program]


def test_what_has_no_instructions_is_one_sentence(xmodel: Path, tmp_path: Path) -> None:
    (tmp_path / "text.xmodel").write_text("certainly not a network")
    for path, words in (
        (xmodel, "is not compiled"),
        (tmp_path / "text.xmodel", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(XmodelError, match=words):
            run("disassemble", path)


def test_amds_files_of_several_outputs_are_disassembled(reference_data: Path) -> None:
    lines = run("disassemble", reference_data / "compiled" / "yolox_nano_B512.xmodel").splitlines()
    assert lines[-1].split()[1] == "END"
    offsets = np.array([int(line.split()[0], 16) for line in lines])
    assert (np.diff(offsets) > 0).all()


def test_a_reader_that_goes_away_ends_it_quietly(xmodel: Path, tmp_path: Path) -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(64, 64, 64), fix=3),
        Pool(name="pool", inputs=("in",), shape=(63, 63, 64), kind="max", kernel=(2, 2), stride=(1, 1), fix=3),
    )
    write_xmodel(Graph("large", nodes), tmp_path / "large_int.xmodel")
    run("compile", tmp_path / "large_int.xmodel", "-o", tmp_path / "large.xmodel")
    command = [sys.executable, "-m", "edgesearch.search", "disassemble", str(tmp_path / "large.xmodel"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
