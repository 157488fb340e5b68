"""Two compilers' files of one network beside each other."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edgesearch.board_eval import (
    DEFAULT_TARGET,
    CompiledXmodel,
    Graph,
    Input,
    Pool,
    compare_compilers,
    compile_xmodel,
    load_profile,
)

PROFILE = load_profile("zcu104")
IMAGES = np.random.default_rng(0).integers(-128, 128, (3, 6, 6, 20)).astype(np.int8)


def compiled(stride: int = 2) -> CompiledXmodel:
    size = 6 // stride
    nodes = (
        Input(name="in", inputs=(), shape=(6, 6, 20), fix=3),
        Pool(name="pool", inputs=("in",), shape=(size, size, 20), kind="max", kernel=(2, 2), stride=(stride, stride), fix=3),
    )
    return compile_xmodel(Graph("pooled", nodes), DEFAULT_TARGET)


def test_equal_files_are_equal_and_cost_the_same() -> None:
    ours = compiled()
    found = compare_compilers({"vai": ours, "edgesearch": ours}, IMAGES, PROFILE)
    assert (found.images, found.equal, found.largest, found.problem) == (3, 3, 0.0, "")
    cost = found.costs["vai"]
    assert cost == found.costs["edgesearch"]
    timing = ours.time(PROFILE)
    assert (cost.instructions, cost.code_bytes) == (len(ours.program), len(ours.model.code))
    assert (cost.dpu_us, cost.fps) == (
        pytest.approx(timing.dpu_s * 1e6, abs=1e-3),
        pytest.approx(timing.throughput_fps, abs=1e-3),
    )
    assert cost.fps_error == pytest.approx(timing.throughput_error, abs=1e-4)
    assert f"FPS ±{timing.throughput_error:.0%}" in found.lines()[0]
    assert "equal on 3 of 3 images" in found.lines()[-1]


def test_logits_that_differ_are_counted_and_measured() -> None:
    ours = compiled()
    output = dataclasses.replace(ours.outputs[0], address=ours.outputs[0].address + 1)
    shifted = dataclasses.replace(ours, model=dataclasses.replace(ours.model, outputs=(output,)))
    found = compare_compilers({"vai": ours, "edgesearch": shifted}, IMAGES, PROFILE)
    a, b = ours.execute(IMAGES) * 8, shifted.execute(IMAGES) * 8
    assert found.equal == sum(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) < 3
    assert found.largest == np.abs(a - b).max() > 0
    assert "apart by up to" in found.lines()[-1]


def test_what_cannot_be_compared_is_a_problem_and_no_error() -> None:
    found = compare_compilers({"vai": compiled(), "edgesearch": compiled(3)}, IMAGES, PROFILE)
    content = json.loads(json.dumps(found.to_json()))
    assert content["equal_images"] is None
    assert content["largest_difference"] is None
    assert content["problem"] == "shapes or fix positions of inputs or outputs differ"
    assert found.lines()[-1].startswith("logits not compared")
    with pytest.raises(ValueError, match="expected two"):
        compare_compilers({"vai": compiled()}, IMAGES, PROFILE)
