"""What is no weights file, or a damaged one, is one sentence that gives nobody dangerous advice."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgesearch.errors import SpaceError
from edgesearch.spaces._weights_file import read_weights, without_prefix


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10))


def save(model: nn.Module, path: Path) -> None:
    state = model.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
    else:
        torch.save(state, path)


class Own:
    """A class of somebody's."""


def write_objects(path: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "args": Own()}, path)


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.touched,)


def write_network(path: Path) -> None:
    torch.save(network(), path)


def write_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


def write_cut(path: Path) -> None:
    save(network(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_object_arrays(path: Path) -> None:
    np.savez(path, a=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("name", "write", "complaint"),
    [
        ("a.pth", lambda p: p.write_bytes(b""), "the file is empty"),
        ("a.npz", lambda p: p.write_bytes(b""), "the file is empty"),
        ("a.safetensors", lambda p: p.write_bytes(b""), "the file is empty"),
        ("a.pth", lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
        ("a.pth", write_objects, "holds Python objects beside tensors .*Own.*state_dict"),
        ("a.pth", write_network, "holds Python objects beside tensors"),
        ("a.pt", write_script, "TorchScript"),
        ("a.pth", write_cut, "damaged"),
        ("a.npz", write_cut, "damaged"),
        ("a.safetensors", write_cut, "damaged"),
        ("a.npz", write_object_arrays, "holds Python objects; store one array"),
        ("a.npz", lambda p: np.savez(p, a=np.array(["x"])), "no numbers"),
        ("a.pth", lambda p: torch.save([1, 2], p), "holds list, not a state_dict"),
        ("a.pth", lambda p: torch.save({"epoch": 3}, p), "not hold a state_dict but epoch"),
        ("a.pth", lambda p: torch.save({}, p), "state_dict but nothing"),
        ("a.safetensors", lambda p: save_file({}, p), "holds no tensors"),
        ("a.h5", lambda p: p.write_bytes(b"x"), "end in '.h5'; expected one of .safetensors"),
        ("a.pth", lambda p: p.mkdir(), "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, write: Callable[[Path], object], complaint: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(SpaceError, match=rf"{name}.*{complaint}") as raised:
        read_weights(tmp_path / name)
    assert "weights_only" not in str(raised.value)
    assert "pickle" not in str(raised.value)
    assert "\n" not in str(raised.value)


BESIDE: dict[str, object] = {
    "float64": np.float64(0.9),
    "float32": np.float32(0.9),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "string": np.str_("x"),
    "dtype": np.dtype("float16"),
    "settings": argparse.Namespace(lr=0.1, names=["a", "b"], best=np.float64(0.9), inner=argparse.Namespace(deep={1: None})),
    "list": [np.float64(1), (np.float32(2), {"a": argparse.Namespace()})],
}


@pytest.mark.parametrize("beside", BESIDE)
def test_plain_data_beside_the_tensors_is_left_aside(tmp_path: Path, beside: str) -> None:
    state, path = network().state_dict(), tmp_path / "a.pth"
    torch.save({"state_dict": state, "best_acc": BESIDE[beside]}, path)
    found = read_weights(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    with pytest.raises(Exception, match=r"Unsupported global"):  # nowhere else is it allowed
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("inside", ["settings", "figure", "beside"])
def test_nothing_runs_that_stands_within_plain_data(tmp_path: Path, inside: str) -> None:
    """What is left aside lets nothing else in."""
    path, runs = tmp_path / "a.pth", Runs(tmp_path / "touched")
    holders: dict[str, object] = {
        "settings": argparse.Namespace(lr=runs),
        "figure": np.array([runs], dtype=object),
        "beside": [np.float64(1), runs],
    }
    torch.save({"state_dict": network().state_dict(), "extra": holders[inside]}, path)
    with pytest.raises(SpaceError, match="holds Python objects beside tensors"):
        read_weights(path)
    assert not (tmp_path / "touched").exists()


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["module", "model", "_orig_mod", "student", "net"]), max_size=3), st.booleans())
def test_any_prefix_is_taken_off_and_nothing_else_is_changed(wrappers: list[str], with_others: bool) -> None:
    own = network().state_dict()
    prefix = "".join(f"{wrapper}." for wrapper in wrappers)
    state = {f"{prefix}{name}": tensor for name, tensor in own.items()}
    others = {"teacher.0.weight": torch.ones(2)} if with_others and prefix else {}
    found = without_prefix(state | others, own)
    assert {name: id(tensor) for name, tensor in found.items()} == {name: id(tensor) for name, tensor in own.items()}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_no_damage_is_a_traceback(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save(network(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    sentences = []
    for _ in range(150):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_weights(path)
        except SpaceError as error:
            sentences.append(str(error))
    assert sentences
    assert not [s for s in sentences if "weights_only" in s or "pickle" in s]
