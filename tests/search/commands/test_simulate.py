"""Executing an xmodel from the command line's arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

from edgesearch.board_eval import DEFAULT_TARGET, Graph, compile_xmodel, execute, lower, write_xmodel
from edgesearch.board_eval.xmodel import read_compiled_graph
from edgesearch.errors import DataError, XmodelError
from edgesearch.objectives import Normalisation, prepare, quantize
from edgesearch.objectives.data import DataSettings, load_data
from edgesearch.objectives.data._pictures import read_picture
from edgesearch.search.commands._simulate import _manifest, _Network, simulate
from edgesearch.spaces import Student, build

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 12, 12, 1), dtype=np.uint8)
NORMALISATION = Normalisation((0.4,), (0.3,))


def test_the_manifest_is_looked_for_beside_the_file_and_beside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    folder.mkdir()
    assert _manifest(folder / "net.xmodel") == folder / "manifest.json"
    (tmp_path / "manifest.json").touch()
    assert _manifest(folder / "net.xmodel") == tmp_path / "manifest.json"
    (folder / "manifest.json").touch()
    assert _manifest(folder / "net.xmodel") == folder / "manifest.json"
    assert _manifest(Path("/net.xmodel")) == Path("/manifest.json")


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    model = build(Student(architecture="mlp", input_size=8), channels=1, classes=4).eval()
    return quantize(lower(model, (1, 8, 8)), prepare(PIXELS, 8, NORMALISATION), method="vitis")


@pytest.fixture
def folder(graph: Graph, tmp_path: Path) -> Path:
    write_xmodel(graph, tmp_path / "net.xmodel")
    (tmp_path / "manifest.json").write_text(json.dumps({"input": {"mean": [0.4], "std": [0.3]}}))
    return tmp_path


def run(folder: Path, images: Any, labels: Any = None) -> np.ndarray[Any, Any]:
    np.save(folder / "images.npy", images)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    arguments = {"labels": None if labels is None else folder / "labels.npy", "logits": folder / "logits.npy"}
    assert simulate(xmodel=folder / "net.xmodel", images=folder / "images.npy", **arguments) == 0
    logits: np.ndarray[Any, Any] = np.load(folder / "logits.npy")
    return logits


def test_pixels_are_prepared_as_the_manifest_says(graph: Graph, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = execute(graph, prepare(PIXELS, 8, NORMALISATION))
    assert np.array_equal(run(folder, PIXELS), expected)
    assert np.array_equal(run(folder, PIXELS[..., 0]), expected)
    assert "mean [0.4]" in (said := capsys.readouterr().err)
    assert "resized from 12 x 12" in said
    assert np.array_equal(run(folder, prepare(PIXELS, 8, NORMALISATION)), expected)


@pytest.mark.parametrize("values", [1, 3])
def test_colours_are_normalised_with_one_mean_and_std_or_one_for_each_channel(values: int, tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    normalisation = Normalisation((0.5, 0.4, 0.3)[:values], (0.5, 0.25, 0.2)[:values])
    model = build(Student(architecture="mlp", input_size=8), channels=3, classes=4).eval()
    graph = quantize(lower(model, (3, 8, 8)), prepare(pictures, 8, normalisation), method="vitis")
    write_xmodel(graph, tmp_path / "net.xmodel")
    entry = {"shape": [8, 8, 3], "mean": normalisation.mean, "std": normalisation.std}
    (tmp_path / "manifest.json").write_text(json.dumps({"input": entry}))
    assert np.array_equal(run(tmp_path, pictures), execute(graph, prepare(pictures, 8, normalisation)))


def test_pixels_are_cut_as_a_study_of_a_folder_cuts_its_pictures(
    graph: Graph, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest's crop is 10 x 10, the network's input 8 x 8."""
    crop = {"shape": [10, 10], "of": "centre", "method": "Pillow's ImageOps.fit, BILINEAR"}
    (folder / "manifest.json").write_text(json.dumps({"input": {"mean": [0.4], "std": [0.3], "crop": crop}}))
    pictures = RNG.integers(0, 256, (4, 9, 16, 1), dtype=np.uint8)
    cut = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(folder / f"{number}.png")
        cut.append(read_picture(folder / f"{number}.png", 10, None).pixels)
    expected = execute(graph, prepare(np.stack(cut), 8, NORMALISATION))
    assert np.array_equal(run(folder, pictures), expected)
    assert "cut from 9 x 16" in (said := capsys.readouterr().err)
    assert "resized from 10 x 10" in said
    assert np.array_equal(run(folder, np.stack(cut)), expected)
    assert "cut from" not in capsys.readouterr().err


def test_pixels_are_first_brought_to_the_size_of_the_studys_images(
    graph: Graph, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study's images are 10 x 10, the network's input 8 x 8."""
    first = {"shape": [10, 10], "method": "Pillow's resize, BILINEAR"}
    (folder / "manifest.json").write_text(json.dumps({"input": {"mean": [0.4], "std": [0.3], "first_resize": first}}))
    stored = RNG.integers(0, 256, (20, 13, 16), dtype=np.uint8)
    np.savez(folder / "data.npz", train_images=stored, train_labels=np.arange(20) % 2)
    test = load_data(DataSettings(name="npz", root=folder / "data.npz", image_size=10)).test
    expected = execute(graph, prepare(test.images, 8, NORMALISATION))
    assert np.array_equal(run(folder, stored[[int(name.split()[1]) for name in test.names]]), expected)
    said = capsys.readouterr().err
    assert "brought from 13 x 16 to 10 x 10 first, resized from 10 x 10" in said
    assert np.array_equal(run(folder, test.images), expected)
    assert "brought from" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["crop", "first_resize"])
@pytest.mark.parametrize("square", [7, {"shape": [8]}, {"shape": [8, 9]}, {"shape": [0, 0]}, {}])
def test_a_square_that_is_none_is_refused(folder: Path, name: str, square: object) -> None:
    (folder / "manifest.json").write_text(json.dumps({"input": {"mean": [0.4], "std": [0.3], name: square}}))
    with pytest.raises(DataError, match="not an export's manifest"):
        run(folder, PIXELS)


def test_a_compiled_file_is_executed_in_its_place(graph: Graph, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = run(folder, PIXELS)
    before = capsys.readouterr().out
    compile_xmodel(graph, DEFAULT_TARGET).write(folder / "net.xmodel")
    np.testing.assert_array_equal(run(folder, PIXELS), expected)
    assert capsys.readouterr().out == before
    integers = RNG.integers(-128, 128, (3, 8, 8, 1)).astype(np.int8)
    np.testing.assert_array_equal(run(folder, integers), execute(graph, integers))


def test_the_manifest_of_an_export_is_found_from_its_compiled_file(graph: Graph, folder: Path) -> None:
    (folder / "compiled").mkdir()
    compile_xmodel(graph, DEFAULT_TARGET).write(folder / "compiled" / "net.xmodel")
    np.save(folder / "images.npy", PIXELS)
    logits = folder / "logits.npy"
    assert simulate(xmodel=folder / "compiled" / "net.xmodel", images=folder / "images.npy", logits=logits, labels=None) == 0
    np.testing.assert_array_equal(np.load(logits), execute(graph, prepare(PIXELS, 8, NORMALISATION)))


def test_amds_compiled_file_is_executed(reference_data: Path, tmp_path: Path) -> None:
    xmodel = reference_data / "compiled" / "SqueezeNet_ptq_zcu104.xmodel"
    np.save(tmp_path / "images.npy", RNG.normal(size=(1, 224, 224, 3)).astype(np.float32))
    assert simulate(xmodel=xmodel, images=tmp_path / "images.npy", logits=tmp_path / "logits.npy", labels=None) == 0
    expected = execute(read_compiled_graph(xmodel), np.load(tmp_path / "images.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), expected.reshape(1, -1))


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_compiled_file_that_was_cut_off_is_one_sentence(share: float, graph: Graph, folder: Path) -> None:
    content = compile_xmodel(graph, DEFAULT_TARGET).content
    (folder / "net.xmodel").write_bytes(content[: int(share * len(content))])
    with pytest.raises(XmodelError, match="cut off"):
        run(folder, PIXELS)


def test_labels_are_counted(graph: Graph, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = execute(graph, prepare(PIXELS, 8, NORMALISATION)).argmax(1)
    right[0] = (right[0] + 1) % 4
    run(folder, PIXELS, right)
    assert "top-1 83.33% of 6 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (PIXELS.repeat(3, axis=3), None, "expected (N, height, width, 1)"),
        (np.zeros((2, 0, 0, 1), np.uint8), None, "with at least one pixel"),
        (PIXELS, np.zeros(5, int), "expected whole numbers of shape (6,)"),
        (PIXELS, np.zeros(6), "expected whole numbers of shape (6,)"),
        (PIXELS, np.array([0, 1, 2, 3, 4, 0]), "--labels holds 0 to 4; the network tells 0 to 3 apart"),
        (PIXELS, np.array([0, 1, 2, 3, -1, 0]), "--labels holds -1 to 3"),
        (np.array([{"a": 1}], dtype=object), None, "array of numbers; save one with numpy.save"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder: Path, images: Any, labels: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        run(folder, images, labels)
    assert words in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_pixels_for_a_network_that_takes_none_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _Network("vectors", (64,), 5, {"out": ((4,), 3)}, lambda images: {})
    monkeypatch.setattr("edgesearch.search.commands._simulate._read", lambda path: network)
    with pytest.raises(DataError, match=r"'vectors' takes arrays of shape \(64,\), no pixels; give float32, int8"):
        run(folder, PIXELS)


@pytest.mark.parametrize("content", [None, "{}", "[]", "nonsense"])
def test_pixels_without_a_manifest_are_refused(folder: Path, content: str | None) -> None:
    (folder / "manifest.json").unlink() if content is None else (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="normalised float32 images, or put the manifest there"):
        run(folder, PIXELS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fix_position": 99}, "fix position is 99"),
        ({"shape": [9, 9, 1]}, "shape is [9, 9, 1], the xmodel's is [8, 8, 1]"),
        ({"mean": [0.4, 0.4, 0.4], "std": [0.3, 0.3, 0.3]}, "channels is 3, the xmodel's is 1"),
    ],
)
def test_the_manifest_of_another_network_is_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    content = {"mean": [0.4], "std": [0.3]} | changes
    (folder / "manifest.json").write_text(json.dumps({"input": content}))
    with pytest.raises(DataError) as caught:
        run(folder, PIXELS)
    assert words in str(caught.value)
    assert "of two networks" in str(caught.value)


def test_nothing_is_written_where_the_labels_do_not_fit(folder: Path) -> None:
    with pytest.raises(DataError, match="--labels holds"):
        run(folder, PIXELS, np.zeros(5, int))
    assert not (folder / "logits.npy").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.xmodel", "is the network itself; give the result another name"),
        ("images.npy", "is the file of --images itself"),
        ("labels.npy", "is the file of --labels itself"),
        ("link", "is the file of --images itself"),
        (".", "cannot be written: it is a folder"),
        ("nowhere/logits.npy", "cannot be written: there is no folder"),
        ("images.npy/logits.npy", "cannot be written: there is no folder"),
    ],
)
def test_logits_replace_nothing_that_is_read_and_are_refused_before_the_work(folder: Path, name: str, words: str) -> None:
    np.save(folder / "images.npy", PIXELS)
    np.save(folder / "labels.npy", np.zeros(6, int))
    (folder / "link").symlink_to("images.npy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DataError) as caught:
        simulate(xmodel=folder / "net.xmodel", images=folder / "images.npy", logits=folder / name, labels=folder / "labels.npy")
    assert words in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_something_must_be_wanted(folder: Path) -> None:
    with pytest.raises(click.UsageError, match="--labels"):
        simulate(xmodel=folder / "net.xmodel", images=folder / "images.npy", logits=None, labels=None)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01", b"plain text"])
def test_a_file_that_is_no_array_is_one_sentence(folder: Path, content: bytes) -> None:
    (folder / "images.npy").write_bytes(content)
    with pytest.raises(DataError, match="array of numbers"):
        simulate(xmodel=folder / "net.xmodel", images=folder / "images.npy", logits=folder / "l.npy", labels=None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"{'descr'", b"{(((((((", "array of numbers"),
        (b"(6, 12, 12, 1)", b"(9999999999999, 12, 12)", "does not fit into this machine's memory .*give fewer"),
    ],
)
def test_a_header_that_is_damaged_or_claims_too_much_is_one_sentence(folder: Path, old: bytes, new: bytes, words: str) -> None:
    np.save(folder / "images.npy", PIXELS)
    content = (folder / "images.npy").read_bytes()
    end = content.index(b"\n")
    header = content[:end].replace(old, new).rstrip()
    (folder / "images.npy").write_bytes(header.ljust(end) + content[end:])
    with pytest.raises(DataError, match=words):
        simulate(xmodel=folder / "net.xmodel", images=folder / "images.npy", logits=folder / "l.npy", labels=None)


def test_several_outputs_go_into_one_npz(reference_data: Path, tmp_path: Path) -> None:
    file, images = reference_data / "compiled" / "yolox_nano_B4096.xmodel", tmp_path / "images.npy"
    np.save(images, np.zeros((1, 416, 416, 3), np.int8))
    with pytest.raises(DataError, match="3 outputs; --logits must end in"):
        simulate(xmodel=file, images=images, logits=tmp_path / "y.npy", labels=None)
    with pytest.raises(DataError, match="--labels is for networks of one"):
        simulate(xmodel=file, images=images, logits=None, labels=images)
    assert simulate(xmodel=file, images=images, logits=tmp_path / "y.npz", labels=None) == 0
    with np.load(tmp_path / "y.npz") as written:
        assert sorted(values.shape for values in written.values()) == [(1, 13, 13, 85), (1, 26, 26, 85), (1, 52, 52, 85)]
