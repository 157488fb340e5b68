"""Weights are read from every kind of file that people have, and values that are none are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.spaces import Student, build, load_weights, weights_fingerprint

from ._weights import fresh, same, save, student, trained


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_weights_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    source, path = trained(), tmp_path / f"weights{suffix}"
    save(source, path)
    torch.manual_seed(2)
    model = build(Student(architecture="cnn_tiny", width=0.5), channels=3, classes=10)
    assert load_weights(model, Student(architecture="cnn_tiny", width=0.5, weights=str(path))).random == ()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True))


def test_another_head_keeps_its_random_start_only_when_asked_for_and_is_named(tmp_path: Path) -> None:
    path, model = tmp_path / "weights.safetensors", fresh()
    save_file(trained(classes=1000).state_dict() | {"loss.scale": torch.ones(1)}, path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpaceError, match=r"classifier.weight is \(1000, .*\), expected \(10, .*\); write adapt = true"):
        load_weights(model, student(path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    loaded = load_weights(model, student(path).model_copy(update={"adapt": True}))
    assert set(loaded.random) == set(loaded.other_shape) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.state_dict()["classifier.weight"], before["classifier.weight"])
    assert loaded.ignored == ("loss.scale",)
    words = str(loaded)
    assert f"{len(loaded.loaded)} of {len(loaded.loaded) + 2} tensors start from {path}" in words
    assert "classifier.bias is (1000,), expected (10,)" in words
    assert "has none of that name: loss.scale" in words


def test_grey_images_are_given_the_sum_of_the_colour_kernels(tmp_path: Path) -> None:
    source, path = trained(), tmp_path / "weights.safetensors"
    save(source, path)
    model = build(Student(architecture="cnn_tiny", width=0.5), channels=1, classes=10)
    loaded = load_weights(model, student(path))
    assert list(loaded.adapted.values()) == ["the sum over three colours"]
    grey = torch.rand(1, 1, 32, 32)
    assert torch.allclose(model.eval()(grey), source.eval()(grey.expand(1, 3, 32, 32)), atol=1e-5)


@pytest.mark.parametrize("name", ["missing.safetensors", "text.npz", "text.safetensors", "text.pth", "weights.bin"])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    if name != "missing.safetensors":
        (tmp_path / name).write_text("not weights")
    with pytest.raises(SpaceError, match=name):
        load_weights(trained(), Student(architecture="cnn_tiny", weights=str(tmp_path / name)))


def test_imagenet_weights_exist_for_torchvisions_networks_only() -> None:
    with pytest.raises(SpaceError, match="cnn_tiny"):
        load_weights(trained(), Student(architecture="cnn_tiny", weights="imagenet"))


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"2")
    a, b, c = (weights_fingerprint(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert weights_fingerprint("") == weights_fingerprint("imagenet") == ""
    with pytest.raises(SpaceError, match="missing"):
        weights_fingerprint(str(tmp_path / "missing"))


WRAPPINGS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "data_parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "lightning": lambda s: {
        "epoch": 3,
        "state_dict": {f"model.{k}": v for k, v in s.items()} | {"loss.weight": torch.ones(10)},
    },
    "compiled": lambda s: {
        "model": {f"_orig_mod.module.{k}": v for k, v in s.items()},
        "best": 0.9,
        "optimizer": {"state": {}},
    },
    "nested": lambda s: {"model_state_dict": s, "epoch": 1},
    "doubly": lambda s: {"model": {"state_dict": s}},
    "parts_compiled": lambda s: {"net": {f"module.{k.replace('.', '._orig_mod.', 1)}": v for k, v in s.items()}},
    "lightning_net": lambda s: {"state_dict": {f"net.{k}": v for k, v in s.items()}, "pytorch-lightning_version": "2.5"},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".tar"])
def test_checkpoints_as_people_have_them(tmp_path: Path, wrapping: str, suffix: str) -> None:
    source, path = trained(), tmp_path / f"weights{suffix}"
    if wrapping == "half":
        source = source.half().float()
    torch.save(WRAPPINGS[wrapping](source.state_dict()), path)
    model = fresh()
    assert load_weights(model, student(path), require_all=True).random == ()
    assert same(model, source)


def test_a_prefix_is_taken_off_arrays_too(tmp_path: Path) -> None:
    source, path = trained(), tmp_path / "weights.npz"
    np.savez(
        path, **{f"module.{k}": v.numpy().astype(v.numpy().dtype.newbyteorder(">")) for k, v in source.state_dict().items()}
    )
    model = fresh()
    load_weights(model, student(path), require_all=True)
    assert same(model, source)


def test_a_trained_network_needs_all_its_tensors(tmp_path: Path) -> None:
    path, source = tmp_path / "weights.pth", trained()
    state = source.state_dict()
    headless = {k: v for k, v in state.items() if not k.startswith("classifier")}
    for content, complaint in (
        (headless, "there is no classifier.weight, classifier.bias"),
        (trained(classes=1000).state_dict(), r"classifier.weight is \(1000, .*\), expected \(10, .*\)"),
        (state | {"extra.weight": torch.ones(3)}, "the network has no extra.weight"),
    ):
        torch.save(content, path)
        model = fresh()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(SpaceError, match=complaint):
            load_weights(model, student(path), require_all=True)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        load_weights(model, student(path).model_copy(update={"adapt": True}))  # as a start it will do
        with pytest.raises(SpaceError, match=complaint):
            load_weights(fresh(), student(path).model_copy(update={"adapt": True}), require_all=True)
    with pytest.raises(SpaceError, match="has no weights"):
        load_weights(fresh(), student(""), require_all=True)


def test_counters_of_batches_may_be_absent_and_grey_images_may_read_colour_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in trained().state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    load_weights(fresh(), student(path), require_all=True)
    load_weights(trained(channels=1), student(path), require_all=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, suffix: str, value: float) -> None:
    source, path = trained(), tmp_path / f"weights{suffix}"
    source.classifier.bias.data[3] = value  # type: ignore[union-attr, index, operator]
    save(source, path)
    with pytest.raises(SpaceError, match=r"classifier.bias holds values that are not finite"):
        load_weights(fresh(), student(path))


def test_values_beyond_float32_and_negative_variances_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = trained().state_dict()
    torch.save({name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, path)
    load_weights(fresh(), student(path))
    torch.save(state | {"classifier.bias": state["classifier.bias"].double() + 1e300}, path)
    with pytest.raises(SpaceError, match=r"classifier.bias holds values up to 1e\+300, more than the network's float32 can"):
        load_weights(fresh(), student(path))
    name = next(name for name in state if name.endswith("running_var"))
    torch.save(state | {name: state[name] - 2}, path)
    with pytest.raises(SpaceError, match=rf"{name} goes down to -1; it holds variances"):
        load_weights(fresh(), student(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Tensor.to_sparse, r"classifier.weight is a sparse or nested tensor; save it as tensor.to_dense\(\)"),
        (lambda tensor: tensor.to("meta"), r"classifier.weight has a shape and no values \(device 'meta'\)"),
    ],
)
def test_tensors_that_do_not_simply_hold_values_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], words: str
) -> None:
    path = tmp_path / "weights.pth"
    state = trained().state_dict()
    torch.save(state | {"classifier.weight": change(state["classifier.weight"])}, path)
    with pytest.raises(SpaceError, match=words):
        load_weights(fresh(), student(path))


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_of_8_bits_are_refused(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in trained().state_dict().items() if v.is_floating_point()}, path)
    with pytest.raises(SpaceError, match="holds float8_e4m3fn; expected floats of 16 bits or more"):
        load_weights(trained(channels=channels), student(path))


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({k: (v * 64).to(torch.int8) for k, v in trained().state_dict().items()}, path)
    with pytest.raises(SpaceError, match="holds integers of eight bits, of a network that was quantized"):
        load_weights(fresh(), student(path))


TIED = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, num_classes)
        )
        self[3].weight = self[2].weight
"""


def test_a_tensor_that_two_layers_share_is_read_under_either_name(tmp_path: Path) -> None:
    (tmp_path / "tied_net.py").write_text(TIED)
    own = Student(architecture="tied_net:Net", input_size=8, weights=str(tmp_path / "w.safetensors"))
    source, model = (build(own, channels=1, classes=10, folder=tmp_path) for _ in range(2))
    for name in ("2.weight", "3.weight"):
        state = source.state_dict()
        del state["2.weight" if name == "3.weight" else "3.weight"]
        save_file(state, tmp_path / "w.safetensors")
        assert load_weights(model, own, require_all=True).random == ()
        assert torch.equal(model.get_parameter("2.weight"), source.get_parameter("2.weight"))
        assert model.get_parameter("2.weight") is model.get_parameter("3.weight")
    save_file({key: tensor for key, tensor in state.items() if key != "3.weight"}, tmp_path / "w.safetensors")
    with pytest.raises(SpaceError, match=r"2.weight"):
        load_weights(model, own)


def test_two_tensors_in_the_place_of_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tied_net.py").write_text(TIED)
    own = Student(architecture="tied_net:Net", input_size=8, weights=str(tmp_path / "w.pth"))
    model = build(own, channels=1, classes=10, folder=tmp_path)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(state, own.weights)
    load_weights(model, own, require_all=True)  # two equal ones are one
    torch.save(state | {"3.weight": state["2.weight"] + 1}, own.weights)
    with pytest.raises(SpaceError, match=r"two tensors, 2.weight and 3.weight, where this .* has one under both names"):
        load_weights(model, own)


@pytest.mark.parametrize(("given", "wanted"), [(10, 26), (10, 5), (26, 10)])
def test_the_classifier_of_a_small_network_is_replaced_when_asked_for(tmp_path: Path, given: int, wanted: int) -> None:
    own = Student(architecture="mlp", input_size=8, weights=str(tmp_path / "w.pth"))
    source, model = (build(own, channels=1, classes=classes) for classes in (given, wanted))
    torch.save(source.state_dict(), own.weights)
    with pytest.raises(SpaceError, match=r"are not those of this mlp.* write adapt = true"):
        load_weights(model, own)
    assert len(load_weights(model, own.model_copy(update={"adapt": True})).random) == 2


class Grouped(nn.Sequential):
    def __init__(self, num_classes: int, groups: int = 3) -> None:
        head = nn.Linear(12, num_classes)
        super().__init__(nn.Conv2d(3, 12, 3, groups=groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def test_colours_are_summed_for_grey_images_only(tmp_path: Path) -> None:
    own = Student(architecture=f"{__name__}:Grouped", weights=str(tmp_path / "w.pth"))
    torch.save(Grouped(10, groups=1).state_dict(), own.weights)
    with pytest.raises(SpaceError, match=r"0.weight is \(12, 3, 3, 3\), expected \(12, 1, 3, 3\)"):
        load_weights(Grouped(10), own)
