"""Whose weights a file holds: those of another network, of two, or of one with other things beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgesearch.errors import SpaceError
from edgesearch.spaces import Student, build, load_weights

from ._weights import fresh, same, student, trained


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


def test_a_few_names_alike_are_no_prefix(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    name, tensor = next(iter(trained().state_dict().items()))
    torch.save({f"other.{name}": tensor}, path)
    with pytest.raises(SpaceError, match="of another network than cnn_tiny"):
        load_weights(fresh(), student(path))


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


def test_a_copy_in_floats_of_8_bits_is_another_network(tmp_path: Path) -> None:
    path, state = tmp_path / "w.pth", trained().state_dict()
    copied = {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model": state, "small": copied}, path)
    with pytest.raises(SpaceError, match=r"hold 2 networks that fit this"):
        load_weights(fresh(), student(path))


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
