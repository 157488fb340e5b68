"""Compiled files as they are read: this program's own and AMD's, what is in them, what they compute, how long they take."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import (
    DEFAULT_TARGET,
    CompiledXmodel,
    Depthwise,
    Graph,
    Input,
    Pool,
    compile_graph,
    compile_xmodel,
    execute,
    is_compiled,
    load_profile,
    write_xmodel,
)
from edgesearch.board_eval.isa import disassemble
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.xmodel import compiled_graph
from edgesearch.errors import MeasurementError, QuantizationError, XmodelError

PROFILE = load_profile("zcu104")


def pooled() -> Graph:
    nodes = (
        Input(name="in", inputs=(), shape=(6, 6, 20), fix=3),
        Pool(name="pool", inputs=("in",), shape=(3, 3, 20), kind="max", kernel=(2, 2), stride=(2, 2), fix=3),
    )
    return Graph("pooled", nodes)


@pytest.fixture(scope="module")
def xmodel() -> CompiledXmodel:
    return compile_xmodel(pooled(), DEFAULT_TARGET)


def test_facts_are_those_of_the_code(xmodel: CompiledXmodel) -> None:
    facts = json.loads(json.dumps(xmodel.facts()))
    lines = list(disassemble(xmodel.program))
    assert facts["instructions"] == {kind: sum(f"  {kind} " in f"{line} " for line in lines) for kind in facts["instructions"]}
    assert sum(facts["instructions"].values()) == len(lines)
    assert facts["moved_bytes"] == {"loaded": 6 * 6 * 20, "saved": 3 * 3 * 20}
    assert (facts["dpu"], facts["fingerprint"]) == ("B4096", "0x101000056010407")
    assert facts["code_bytes"] == 4 * sum(one.WORDS for one in xmodel.program)


def test_its_time_is_that_of_the_code_it_was_made_of(xmodel: CompiledXmodel) -> None:
    expected = compile_graph(pooled(), DEFAULT_TARGET).time(PROFILE, runner="cpp", layers=False)
    found = xmodel.time(PROFILE, runner="cpp")
    assert (found.dpu_s, found.throughput_fps, found.latency_s) == pytest.approx(
        (expected.dpu_s, expected.throughput_fps, expected.latency_s), rel=1e-12
    )
    assert (found.loaded_bytes, found.saved_bytes) == (xmodel.loaded_bytes, xmodel.saved_bytes)


def test_it_is_not_timed_on_a_dpu_that_does_not_run_it(xmodel: CompiledXmodel) -> None:
    """What timing goes by is the size: other features of the fingerprint are those of the file's code."""
    other = PROFILE.model_copy(update={"dpu": DPUS["B512"], "name": "small"})
    for use in (xmodel.time, xmodel.measured_on):
        with pytest.raises(MeasurementError, match=r"'pooled' is compiled for a B4096, and the DPU of 'small' is a B512"):
            use(other)
    alike = PROFILE.model_copy(update={"dpu": DPUS["B4096"].model_copy(update={"fingerprint": 0x101000016010407})})
    assert xmodel.time(alike).dpu_s == xmodel.time(PROFILE).dpu_s


def test_its_interval_is_that_of_its_kind_of_network(xmodel: CompiledXmodel) -> None:
    weight = np.ones((3, 3, 20), np.float32)
    image = Input(name="in", inputs=(), shape=(8, 8, 20), fix=3)
    common = {
        "inputs": ("in",),
        "shape": (6, 6, 20),
        "kernel": (3, 3),
        "weight": weight,
        "weight_fix": 3,
        "has_bias": False,
        "fix": 0,
    }
    found = compile_xmodel(Graph("depthwise", (image, Depthwise(name="deep", **common))), DEFAULT_TARGET).time(PROFILE)
    assert (found.kind, xmodel.time(PROFILE).kind) == ("depthwise", "dense")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 6, 6, 3), np.int8), "expected (N, 6, 6, 20)"),
        (np.zeros((0, 6, 6, 20), np.int8), "N >= 1"),
        (np.zeros((1, 6, 6, 20), np.float64), "images are float64"),
        (np.full((1, 6, 6, 20), np.nan, np.float32), "NaN"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: np.ndarray, words: str, xmodel: CompiledXmodel) -> None:
    with pytest.raises(QuantizationError) as caught:
        xmodel.execute(images)
    assert words in str(caught.value)


def test_float_images_are_rounded_half_up_and_saturated(xmodel: CompiledXmodel) -> None:
    images = np.full((1, 6, 6, 20), 2.5 / 8, np.float32)
    images[0, 0, 0, 0], images[0, 5, 5, 19] = 1e3, -1e3
    np.testing.assert_array_equal(xmodel.execute(images), execute(pooled(), images).reshape(1, -1))


def test_files_are_told_apart_by_what_they_hold(xmodel: CompiledXmodel, tmp_path: Path) -> None:
    write_xmodel(pooled(), tmp_path / "int.xmodel")
    xmodel.write(tmp_path / "net.xmodel")
    (tmp_path / "cut.xmodel").write_bytes(xmodel.content[:500])
    found = {name: is_compiled(tmp_path / f"{name}.xmodel") for name in ("int", "net", "cut", "absent")}
    assert found == {"int": False, "net": True, "cut": False, "absent": False}
    for name, words in (("int", "is not compiled"), ("cut", "cut off"), ("absent", "cannot be read")):
        with pytest.raises(XmodelError, match=words):
            CompiledXmodel.read(tmp_path / f"{name}.xmodel")


def test_a_file_for_a_dpu_that_is_not_known_is_no_compiled_xmodel(
    xmodel: CompiledXmodel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.xmodel"
    xmodel.write(path)
    odd = dataclasses.replace(xmodel.model, fingerprint=DEFAULT_TARGET.fingerprint | 15)
    monkeypatch.setattr("edgesearch.board_eval.deployment._compiled_xmodel.read_compiled", lambda path: odd)
    with pytest.raises(XmodelError, match=r"net\.xmodel cannot be read as a compiled xmodel: fingerprint 0x10100005601040f is"):
        CompiledXmodel.read(path)


def test_a_file_that_cannot_be_written_leaves_nothing(xmodel: CompiledXmodel, tmp_path: Path) -> None:
    (tmp_path / "net.xmodel").mkdir()
    with pytest.raises(XmodelError, match="cannot be written"):
        xmodel.write(tmp_path / "net.xmodel")
    assert [path.name for path in tmp_path.iterdir()] == ["net.xmodel"]


@pytest.mark.parametrize("name", ["SqueezeNet_ptq_zcu104", "ResNet50_095_zcu104", "MobileNetV2_ptq_zcu104"])
def test_amds_own_files_compute_their_networks(name: str, reference_data: Path) -> None:
    xmodel = CompiledXmodel.read(reference_data / "compiled" / f"{name}.xmodel")
    images = np.random.default_rng(0).integers(-128, 128, (1, *xmodel.input.shape)).astype(np.int8)
    expected = execute(compiled_graph(xmodel.model), images).reshape(1, -1)
    np.testing.assert_array_equal(xmodel.execute(images), expected)
    assert xmodel.dpu == DEFAULT_TARGET
    assert 100 < xmodel.time(PROFILE).throughput_fps < 10_000


def test_the_outputs_of_a_file_are_the_same_on_every_size(reference_data: Path) -> None:
    """AMD's YOLOX-nano, compiled for two sizes of the DPU: three outputs, equal for equal images."""
    files = [reference_data / "compiled" / f"yolox_nano_{size}.xmodel" for size in ("B512", "B4096")]
    small, large = (CompiledXmodel.read(file) for file in files)
    images = np.random.default_rng(0).integers(-128, 128, (1, *small.input.shape)).astype(np.int8)
    one, other = small.execute_all(images), large.execute_all(images)
    assert [value.shape[1:3] for value in one.values()] == [(52, 52), (26, 26), (13, 13)]
    assert all(np.array_equal(one[name], other[name]) for name in one)
    with pytest.raises(XmodelError, match="3 outputs, not one"):
        small.execute(images)
