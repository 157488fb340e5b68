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


def trained(classes: int = 10, channels: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return build(Student(architecture="cnn_tiny", width=0.5), channels=channels, classes=classes)


def save(model: nn.Module, path: Path) -> None:
    state = model.state_dict()
    match path.suffix:
        case ".safetensors":
            save_file(state, path)
        case ".npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
        case _:
            torch.save(state, path)


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


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"something.else": torch.zeros(3)}, path)
    with pytest.raises(SpaceError, match=r"0 of .* tensors fit: its first tensors are something.else, expected features"):
        load_weights(trained(), Student(architecture="cnn_tiny", weights=str(path)))


def test_weights_of_another_architecture_are_told_apart(tmp_path: Path) -> None:
    def told(given: Student, wanted: Student, classes: int = 7) -> str:
        path = tmp_path / "w.pth"
        state = build(given, channels=3, classes=classes).state_dict()
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
        update = {"weights": str(path), "adapt": True}
        with pytest.raises(SpaceError, match="of another network than") as raised:
            load_weights(build(wanted, channels=3, classes=10), wanted.model_copy(update=update))
        return str(raised.value)

    resnet18 = Student(architecture="resnet18")
    assert "looks like squeezenet1_1, so" in told(Student(architecture="squeezenet1_1"), resnet18)
    assert "looks like squeezenet1_0, so" in told(Student(architecture="squeezenet1_0"), Student(architecture="squeezenet1_1"))
    assert "looks like resnet18 with width = 0.25, so" in told(Student(architecture="resnet18", width=0.25), resnet18)
    assert "looks like resnet20, so" in told(Student(architecture="resnet20"), Student(architecture="mobilenet_v2"))
    assert "looks like resnet8, so" in told(Student(architecture="resnet8"), Student(architecture="cnn_tiny"))
    assert "looks like resnet56, so" in told(Student(architecture="resnet56"), Student(architecture="resnet8"))
    assert "first tensors are module.layers" in told(Student(architecture="mlp", input_size=20), resnet18)


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


def student(path: Path | str) -> Student:
    return Student(architecture="cnn_tiny", width=0.5, weights=str(path))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def fresh() -> nn.Module:
    torch.manual_seed(2)
    return build(Student(architecture="cnn_tiny", width=0.5), channels=3, classes=10)


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


def test_a_few_names_alike_are_no_prefix(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    name, tensor = next(iter(trained().state_dict().items()))
    torch.save({f"other.{name}": tensor}, path)
    with pytest.raises(SpaceError, match="of another network than cnn_tiny"):
        load_weights(fresh(), student(path))


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


def shifted(state: dict[str, torch.Tensor], by: float) -> dict[str, torch.Tensor]:
    return {name: tensor + by if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefixes", [("model.", "ema.module."), ("student.", "teacher."), ("", "ema.")])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("require_all", [True, False])
def test_of_two_networks_in_a_file_none_is_guessed(
    tmp_path: Path, prefixes: tuple[str, str], nested: bool, require_all: bool
) -> None:
    path, state = tmp_path / "both.ckpt", trained().state_dict()
    both = {f"{prefix}{k}": v for by, prefix in enumerate(prefixes) for k, v in shifted(state, by).items()}
    torch.save({"state_dict": both, "epoch": 3} if nested else both, path)
    model = fresh()
    names = rf"2 networks that fit this cnn_tiny x0.5, of the names {prefixes[0]}\* and {prefixes[1].split('.')[0]}\.\*"
    with pytest.raises(SpaceError, match=rf"{names}; save the one that you mean alone"):
        load_weights(model, student(path), require_all=require_all)
    assert same(model, fresh())


@pytest.mark.parametrize("keys", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("teacher", "model")])
@pytest.mark.parametrize("wrappers", [("", "module."), ("module.", "")])
@pytest.mark.parametrize("require_all", [True, False])
def test_nor_of_two_that_a_checkpoint_keeps_side_by_side(
    tmp_path: Path, keys: tuple[str, str], wrappers: tuple[str, str], require_all: bool
) -> None:
    path, state = tmp_path / "both.ckpt", trained().state_dict()
    networks = {
        key: {"n_averaged": torch.tensor(3)} | {f"{wrapper}{k}": v for k, v in shifted(state, by).items()}
        for by, (key, wrapper) in enumerate(zip(keys, wrappers, strict=True))
    }
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(8, 3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(networks | {"optimizer": optimizer, "scaler": {}, "epoch": 3}, path)
    model = fresh()
    key = rf"({'|'.join(keys)})\.(module\.)?\*"
    with pytest.raises(SpaceError, match=rf"2 networks that fit this cnn_tiny x0.5, of the names {key} and {key}; save"):
        load_weights(model, student(path), require_all=require_all)
    assert same(model, fresh())


def test_what_lies_beside_a_network_and_is_no_other_one_does_not_count(tmp_path: Path) -> None:
    path, source = tmp_path / "beside.ckpt", trained()
    state = source.state_dict()
    criterion = {"weight": torch.ones(10), "projection.weight": torch.ones(5, 10)}
    for beside in ({"criterion": criterion}, {"model_ema": {f"module.{k}": v for k, v in state.items()}}):
        torch.save({"model": state, **beside}, path)
        model = fresh()
        load_weights(model, student(path), require_all=True)
        assert same(model, source)


def test_a_copy_of_the_network_is_no_other_one(tmp_path: Path) -> None:
    path, source = tmp_path / "copy.ckpt", trained()
    state = source.state_dict()
    torch.save({f"{prefix}{k}": v for prefix in ("model.", "ema.") for k, v in state.items()}, path)
    model = fresh()
    load_weights(model, student(path), require_all=True)
    assert same(model, source)


def test_what_is_taken_as_trained_has_no_layers_of_others_beside_it(tmp_path: Path) -> None:
    path, source = tmp_path / "more.ckpt", trained()
    state = {f"model.{k}": v for k, v in source.state_dict().items()}
    other = {"teacher.conv1.weight": torch.ones(4, 3, 3, 3), "teacher.conv1.bias": torch.ones(4)}
    torch.save({"state_dict": state | other}, path)
    with pytest.raises(SpaceError, match=r"the network has no teacher.conv1.weight; .*no other layers beside them"):
        load_weights(fresh(), student(path), require_all=True)
    assert load_weights(fresh(), student(path)).ignored == tuple(other)  # as a start it will do, and is told
    no_layers = {"loss.weight": torch.ones(10), "steps": torch.tensor(7), "optimizer.state.0.weight": torch.ones(3, 3)}
    torch.save({"state_dict": state | no_layers}, path)
    model = fresh()
    assert load_weights(model, student(path), require_all=True).ignored == tuple(no_layers)
    assert same(model, source)


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
    with pytest.raises(SpaceError, match="holds int8; expected floats"):
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


def test_counters_beside_each_layer_make_no_other_network(tmp_path: Path) -> None:
    path, source = tmp_path / "w.pth", trained()
    layers = [name for name, _ in source.named_modules()]
    counters = {f"{name}.total_{what}".lstrip("."): torch.zeros(1) for name in layers for what in ("ops", "params")}
    state = counters | source.state_dict() | {"n_averaged": torch.tensor(3), "criterion.weight": torch.ones(10)}
    torch.save(state, path)
    for require_all in (False, True):
        model = fresh()
        loaded = load_weights(model, student(path), require_all=require_all)
        assert same(model, source)
        assert set(loaded.ignored) == set(state) - set(source.state_dict())
    torch.save(state | {"norm.weight": torch.ones(8)}, path)  # of a layer
    with pytest.raises(SpaceError, match=r"the network has no norm.weight; "):
        load_weights(fresh(), student(path), require_all=True)


@pytest.mark.parametrize(("given", "wanted"), [(10, 26), (10, 5), (26, 10)])
def test_the_classifier_of_a_small_network_is_replaced_when_asked_for(tmp_path: Path, given: int, wanted: int) -> None:
    own = Student(architecture="mlp", input_size=8, weights=str(tmp_path / "w.pth"))
    source, model = (build(own, channels=1, classes=classes) for classes in (given, wanted))
    torch.save(source.state_dict(), own.weights)
    with pytest.raises(SpaceError, match=r"are not those of this mlp.* write adapt = true"):
        load_weights(model, own)
    assert len(load_weights(model, own.model_copy(update={"adapt": True})).random) == 2


def test_a_copy_in_floats_of_8_bits_is_another_network(tmp_path: Path) -> None:
    path, state = tmp_path / "w.pth", trained().state_dict()
    copied = {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model": state, "small": copied}, path)
    with pytest.raises(SpaceError, match=r"hold 2 networks that fit this"):
        load_weights(fresh(), student(path))


class Grouped(nn.Sequential):
    def __init__(self, num_classes: int, groups: int = 3) -> None:
        head = nn.Linear(12, num_classes)
        super().__init__(nn.Conv2d(3, 12, 3, groups=groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def test_colours_are_summed_for_grey_images_only(tmp_path: Path) -> None:
    own = Student(architecture=f"{__name__}:Grouped", weights=str(tmp_path / "w.pth"))
    torch.save(Grouped(10, groups=1).state_dict(), own.weights)
    with pytest.raises(SpaceError, match=r"0.weight is \(12, 3, 3, 3\), expected \(12, 1, 3, 3\)"):
        load_weights(Grouped(10), own)


@pytest.mark.parametrize(
    "beside", [{"model": {"arch": "cnn_tiny", "classes": 10}}, {"model": {}}, {"params": {"lr": 0.1}, "state_dict": {"a": 1}}]
)
def test_settings_under_a_usual_name_hide_no_tensors(tmp_path: Path, beside: dict[str, object]) -> None:
    path, source = tmp_path / "w.pth", trained()
    torch.save({**beside, "weights": source.state_dict()}, path)
    model = fresh()
    load_weights(model, student(path), require_all=True)
    assert same(model, source)
    torch.save(beside, path)
    with pytest.raises(SpaceError, match="does not hold a state_dict but"):
        load_weights(fresh(), student(path))


def test_a_dictionary_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    endless: dict[str, object] = {"epoch": 3}
    endless["model"] = endless
    torch.save(endless, path)
    with pytest.raises(SpaceError, match="its dictionaries hold each other without end"):
        load_weights(fresh(), student(path))
