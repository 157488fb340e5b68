"""The quantized stage: which way of quantizing runs, and with which settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval import Graph, VitisSettings, lower
from edgesearch.errors import LoweringError
from edgesearch.objectives import Artifact, Pipeline, load_graph
from edgesearch.spaces import Student, build

from ._chains import run, stages


def quantized(folder: Path, quantization: dict[str, Any], **tables: Any) -> tuple[Graph, Graph, Artifact]:
    """The quantized network, the float one it was made from, and the artifact."""
    made = run(stages({"quantization": quantization}, last="quantized", **tables), folder)
    model = build(Student(architecture="mlp", input_size=8), channels=1, classes=10)
    model.load_state_dict(made["student"].tensors("weights"))
    return load_graph(made["quantized"]), lower(model.eval(), (1, 8, 8)), made["quantized"]


def moved(graph: Graph, before: Graph) -> list[bool]:
    """Of every layer, whether most weights are further from the float ones than rounding puts them; saturated ones may be."""
    layers = [node for node in graph if getattr(node, "weight", None) is not None]
    return [
        bool(np.median(np.abs(n.weight - before.by_name[n.name].weight)) > 0.51 * 2.0**-n.weight_fix)  # type: ignore[union-attr]
        for n in layers
    ]


def test_parts_of_a_network_train_at_rates_of_their_own(tmp_path: Path) -> None:
    recipe = {"epochs": 2, "lr": 1e-2, "batch_size": 32, "stage_lrs": [0.0, 1.0]}
    graph, before, _ = quantized(tmp_path, {"method": "qat", "algorithm": "vitis"}, qat=recipe)
    assert moved(graph, before) == [False, True, True]
    graph, before, _ = quantized(tmp_path, {"method": "qat", "algorithm": "vitis"}, qat=recipe | {"stage_lrs": [1.0]})
    assert moved(graph, before) == [True, True, True]


def test_float16_is_not_quantized_and_5_bits_are_recorded(tmp_path: Path) -> None:
    graph, _, artifact = quantized(tmp_path, {"bits": 16})
    assert not graph.quantized
    assert artifact.figures["bits"] == 16
    graph, _, artifact = quantized(tmp_path, {"bits": 5})
    assert graph.bits == artifact.figures["bits"] == 5
    assert 0 <= artifact.figures["float_accuracy"] <= 1


def test_qat_shows_images_as_the_study_does_and_keeps_no_key_of_what_has_no_effect() -> None:
    for views in ("none", "shift"):
        train = {"augmentation": views}
        (*_, plain), (*_, asked) = (
            stages({"quantization": {"method": "qat"}}, last="quantized", train=train, qat=qat)
            for qat in ({"epochs": 2}, {"epochs": 2, "mixed_precision": "off", "augmentation": views})
        )
        assert plain.parameters["recipe"] == {"epochs": 2, "augmentation": views}
        assert plain.key == asked.key
    with pytest.raises(ValueError, match=r"qat\.augmentation is 'shift'"):
        Pipeline.model_validate({"train": {"augmentation": "none"}, "qat": {"augmentation": "shift"}})


def test_positions_for_each_channel_are_scored_and_timed_like_the_same_network_with_one_for_each_tensor(tmp_path: Path) -> None:
    kinds = [{"algorithm": "per_channel"}, {"algorithm": "vitis"}]
    analysed, plain = (run(stages({"quantization": kind}), tmp_path)["measured"].figures for kind in kinds)
    assert analysed["fps"] == plain["fps"]
    assert analysed["size_bytes"] == plain["size_bytes"]
    assert 0 <= analysed["accuracy"] <= 1
    assert run(stages({"quantization": kinds[0]}, last="tested"), tmp_path)["tested"].figures["test_accuracy"] <= 1


def test_qat_from_scratch_trains_as_long_as_a_student(tmp_path: Path) -> None:
    made = run(stages({"quantization": {"method": "qat", "start": "scratch"}}, train={"epochs": 3}), tmp_path)
    assert set(made) == {"quantized", "measured"}
    assert made["quantized"].figures["float_accuracy"] is None
    assert made["quantized"].recipe["parameters"]["recipe"]["epochs"] == 3


LEAKY_DEPTHWISE = """
from torch import nn

def net(num_classes, in_channels):
    layers = [nn.Conv2d(in_channels, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.LeakyReLU(26 / 256)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""


@pytest.mark.parametrize("quantization", [{"method": "ptq"}, {"method": "qat"}, {"bits": 16}, {"backend": "nndct"}], ids=str)
def test_what_another_dpu_than_the_usual_one_has_is_quantized(
    quantization: dict[str, Any], tmp_path: Path, vitis: Callable[..., VitisSettings]
) -> None:
    (tmp_path / "nets.py").write_text(LEAKY_DEPTHWISE)
    with pytest.raises(LoweringError, match="leaky"):
        lower(build(Student(architecture="nets:net"), channels=1, classes=10, folder=tmp_path), (1, 8, 8))
    candidate = {"student": {"architecture": "nets:net", "input_size": 8}, "quantization": quantization}
    chain = stages(candidate, last="quantized", train={"epochs": 1})
    made = run(chain, tmp_path / "store", folder=tmp_path, vitis=vitis())
    activations = [getattr(node, "activation", "") for node in load_graph(made["quantized"])]
    assert "leaky_relu" in activations
