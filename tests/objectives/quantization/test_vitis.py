"""pytorch_nndct's own results, step by step: folding, equalization, positions per image, biases per image, integers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgesearch.board_eval.execution import Network, to_tensor
from edgesearch.board_eval.execution._execute import execute
from edgesearch.board_eval.graph._graph import Conv, Depthwise, Graph, Linear
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.quantization._vitis import Calibration, without_relu6
from edgesearch.objectives.quantization._vitis_equalization import equalize_as_vitis, equalized_pairs

Load = Callable[..., npt.NDArray[np.float32]]


def check_equal(ours: Graph, folder: Path, name: str) -> None:
    """The same fix positions as in quant_info.json, the same integers as in the exported file."""
    info = json.loads((folder / "quant_info.json").read_text())
    exported = dict(np.load(folder / "fix_tensors_image0.npz"))
    assert [node.fix for node in ours if node.fix is not None] == [fix for ((_, fix),) in info["output"].values()]
    compared = different = 0
    for node in ours:
        if not isinstance(node, Conv | Depthwise | Linear):
            continue
        for kind, array, fix in (("weight", node.weight, node.weight_fix), ("bias", node.bias, node.bias_fix)):
            assert fix == info["param"][f"{name}::{node.name}.{kind}"][0][1]
            expected = exported[f"{name}__{node.name.replace('.', '_')}_{kind}_fix"]
            different += int((np.ldexp(array, fix) != expected).sum())
            compared += expected.size
    assert different <= 0.001 * compared


def test_equalization_of_resnet20(resnet20: Graph, reference_data: Path) -> None:
    network = Network.of(resnet20)
    equalize_as_vitis(network)
    expected = np.load(reference_data / "golden" / "resnet20" / "folded_params.npz")
    for name, weight in network.weights.items():
        np.testing.assert_allclose(weight.numpy(), expected[f"ResNet20::{name}.weight"], rtol=5e-7, atol=0)
        np.testing.assert_allclose(network.biases[name].numpy(), expected[f"ResNet20::{name}.bias"], rtol=5e-6, atol=3e-7)


def test_equalization_of_squeezenet_changes_three_tensors(squeezenet: Graph, reference_data: Path) -> None:
    network, before = Network.of(squeezenet), Network.of(squeezenet)
    equalize_as_vitis(network)
    expected = dict(np.load(reference_data / "golden" / "squeezenet" / "cle_changed_params.npz"))
    changed = {f"{n}.weight" for n, w in network.weights.items() if not torch.equal(w, before.weights[n])}
    changed |= {f"{n}.bias" for n, b in network.biases.items() if not torch.equal(b, before.biases[n])}
    assert changed == set(expected)
    for name, array in expected.items():
        layer, _, kind = name.rpartition(".")
        ours = (network.weights if kind == "weight" else network.biases)[layer]
        np.testing.assert_allclose(ours.numpy(), array, rtol=1e-6, atol=1e-7)


def test_every_image_proposes_nndcts_positions_and_corrects_nndcts_biases(
    resnet20: Graph, reference_data: Path, cifar10: Load
) -> None:
    folder = reference_data / "golden" / "resnet20"
    history = list(json.loads((folder / "fp_history.json").read_text()).values())
    trace = np.load(folder / "bias_trace.npz")
    network = Network.of(resnet20)
    with torch.no_grad():
        equalize_as_vitis(network)
        calibration = Calibration(network, 8)
        for number, image in enumerate(to_tensor(cifar10("train_1", 0, 30)).split(1)):
            calibration.show(image.contiguous())
            for name, bias in network.biases.items():
                # a fortieth of the finest step, 2**-8, and far above float32's noise
                np.testing.assert_allclose(bias.numpy(), trace[f"ResNet20::{name}.bias"][number + 1], rtol=0, atol=1e-4)
    for ours, theirs in zip(calibration.history.values(), history, strict=True):
        assert ours == theirs[:30]


def test_resnet20_is_nndcts_integer_by_integer(resnet20: Graph, reference_data: Path, cifar10: Load) -> None:
    folder = reference_data / "golden" / "resnet20"
    ours = quantize(resnet20, cifar10("train_1", 0, 100), method="vitis")
    check_equal(ours, folder, "ResNet20")
    logits = execute(ours, cifar10("test", 0, 200))
    assert np.array_equal(logits, np.load(folder / "nndct_logits_test10000.npz")["nndct_logits"][:200])


@pytest.mark.slow
def test_squeezenet_is_the_thesiss_integer_by_integer(squeezenet: Graph, reference_data: Path, cifar10: Load) -> None:
    folder = reference_data / "golden" / "squeezenet"
    images = cifar10("test", 0, 100, size=224)
    ours = quantize(squeezenet, images, method="vitis")
    check_equal(ours, folder, "SqueezeNet")
    assert np.array_equal(execute(ours, images[:20]).reshape(20, 10), np.load(folder / "logits_0_19.npy").reshape(20, 10))


def small(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), activation, nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)
    )


def test_relu6_becomes_relu() -> None:
    graph = lower(small(nn.ReLU6()), (3, 8, 8))
    assert [getattr(n, "activation", None) for n in without_relu6(graph)].count("relu") == 1
    images = np.random.default_rng(0).normal(0, 1, (8, 8, 8, 3)).astype(np.float32)
    assert not any(getattr(n, "activation", None) == "relu6" for n in quantize(graph, images, method="vitis"))
    assert any(getattr(n, "activation", None) == "relu6" for n in quantize(graph, images, method="best"))


def test_equalization_keeps_the_function() -> None:
    graph = lower(small(nn.ReLU()), (3, 8, 8))
    assert len(equalized_pairs(graph)) == 2
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network, before = Network.of(graph), Network.of(graph)
    before.weights["0"][::2] *= 50  # ranges worth levelling
    network.weights["0"][::2] *= 50
    equalize_as_vitis(network)
    assert not torch.equal(network.weights["0"], before.weights["0"])
    torch.testing.assert_close(network.logits(images), before.logits(images), rtol=1e-4, atol=1e-4)


def test_a_dead_channel_does_not_divide_by_zero() -> None:
    graph = lower(small(nn.ReLU()), (3, 8, 8))
    network = Network.of(graph)
    network.weights["0"][1], network.biases["0"][1] = 0.0, 0.0
    network.weights["3"] *= 10  # the sum of both ranges stays above the threshold
    equalize_as_vitis(network)
    assert all(torch.isfinite(weight).all() for weight in network.weights.values())
