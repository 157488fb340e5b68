"""Arrays are images and labels, or are refused with what to do about them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from _archives import numbered

from edgesearch.errors import DataError
from edgesearch.objectives.data import DataSettings, as_images, as_labels, load_data
from edgesearch.objectives.data._arrays import read_npz

RNG = np.random.default_rng(0)


def read(path: Path | None, **settings: object) -> object:
    return read_npz(DataSettings(name="npz", root=path, **settings), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [255, 1.0])
def test_arrays_of_bytes_and_of_floats(tmp_path: Path, scale: float) -> None:
    pixels = RNG.integers(0, 256, (30, 5, 6), dtype=np.uint8)
    stored = pixels if scale == 255 else (pixels / 255).astype(np.float32)
    np.savez(tmp_path / "a.npz", train_images=stored, train_labels=np.arange(30) % 3, classes=np.array(["x", "y", "z"]))
    raw = read_npz(DataSettings(name="npz", root=tmp_path / "a.npz"), None)
    assert np.array_equal(raw.train.images[..., 0], pixels)
    assert raw.classes == ("x", "y", "z")
    assert raw.test is None


@pytest.mark.parametrize(
    ("stored", "white"),
    [
        (lambda p: p.astype(np.uint16) * 257, 65535),
        (lambda p: p.astype(np.float64), 255),
        (lambda p: p.astype(np.int32) * 4, 1020),
        (lambda p: p.astype(np.int64), None),
    ],
)
def test_white_scales_deeper_arrays(stored: object, white: float | None) -> None:
    pixels = RNG.integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    assert np.array_equal(as_images(stored(pixels), "here", white), pixels)  # type: ignore[operator]


def test_half_floats_are_scaled_by_a_white_that_they_cannot_hold() -> None:
    images = np.full((3, 4, 4), 32_768, np.float16)
    assert np.all(as_images(images, "here", 65_535.0) == 128)
    with pytest.raises(DataError, match="all finite"):
        as_images(np.full((3, 4, 4), np.inf, np.float16), "here", 65_535.0)


@pytest.mark.parametrize(
    ("images", "white", "said"),
    [
        (np.zeros((200, 4, 4), np.uint8), None, "images are as they are stored"),
        (np.full((200, 4, 4), 4000, np.uint16), 4095.0, "values from 0 to 4095 were scaled to bytes"),
        (np.ones((200, 4, 4), np.float32), None, "values from 0 to 1 were scaled to bytes"),
        (np.ones((200, 4, 4), np.bool_), None, "true was made 255"),
    ],
)
def test_whoever_prepares_more_images_is_told_how_their_values_were_scaled(
    tmp_path: Path, images: np.ndarray, white: float | None, said: str
) -> None:
    path = numbered(tmp_path, train_images=images, test_images=None, test_labels=None)
    assert said in load_data(DataSettings(name="npz", root=path, white=white)).preparation


def test_white_scales_bytes_that_are_darker(tmp_path: Path) -> None:
    levels = RNG.integers(0, 17, (200, 4, 4), dtype=np.uint8)
    levels[0, 0, 0] = 16
    path = numbered(tmp_path, train_images=levels, test_images=None, test_labels=None)
    dark, scaled = (load_data(DataSettings(name="npz", root=path, white=white)) for white in (None, 16))
    assert dark.train.images.max() <= 16
    assert [note for note in dark.notes if "6.3% of white" in note and "set `white`" in note]
    raw = read_npz(DataSettings(name="npz", root=path, white=16), None)
    assert np.array_equal(raw.train.images[..., 0], np.rint(levels * (255 / 16)))
    assert max(split.images.max() for split in (scaled.train, scaled.validation, scaled.calibration, scaled.test)) == 255
    assert not scaled.notes
    masks = (levels > 8).astype(np.uint8)
    assert np.array_equal(as_images(masks, "here", 1.0)[..., 0], masks * 255)
    with pytest.raises(DataError, match=r"here \(uint8\) goes from 0 to 16; expected 0 to 8; leave `white` out, or set"):
        as_images(levels, "here", 8)


def test_white_beyond_a_byte_leaves_bytes_as_they_are_and_says_so(tmp_path: Path) -> None:
    path = numbered(tmp_path)
    plain, deep = (load_data(DataSettings(name="npz", root=path, white=white)) for white in (None, 4095))
    assert plain.fingerprint == deep.fingerprint
    assert [note for note in deep.notes if "white = 4095 is for deeper values" in note]


def test_truth_values_are_black_and_white() -> None:
    assert np.unique(as_images(np.eye(4, dtype=bool)[None], "here")).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((200, 4), np.uint8), r"has shape \(200, 4\).*reshape"),
        (np.zeros((200, 4, 4, 2), np.uint8), "has shape"),
        (np.zeros((200, 3, 8, 8), np.uint8), r"store images.transpose\(0, 2, 3, 1\)"),
        (np.zeros((200, 8, 8, 4), np.uint8), r"store images\[..., :3\]"),
        (np.zeros((200, 0, 8), np.uint8), "has shape"),
        (np.full((200, 4, 4), np.nan), "all finite"),
        (np.full((200, 4, 4), np.inf), "all finite"),
        (np.full((200, 4, 4), np.inf, np.float16), "all finite"),
        (np.full((200, 4, 4), 1.5), "expected 0 to 1"),
        (np.full((200, 4, 4), 255.0), "store bytes .* or set `white = 255`"),
        (np.linspace(-1, 1, 3200).reshape(200, 4, 4), "normalised already"),
        (np.full((200, 4, 4), 4000, np.uint16), "set `white`"),
        (np.full((200, 4, 4), -3, np.int8), "signed"),
        (np.full((200, 4, 4), "a"), "expected bytes"),
        (np.full((200, 4, 4), 1j), "expected bytes"),
    ],
)
def test_images_that_cannot_be_used(images: np.ndarray, complaint: str) -> None:
    with pytest.raises(DataError, match=f"here.*{complaint}"):
        as_images(images, "here")


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.eye(4)[np.arange(200) % 4], r"one-hot: store labels.argmax\(axis=1\)"),
        (np.eye(4, dtype=bool)[np.arange(200) % 4], "one-hot"),
        (np.ones((200, 4), np.int64), "one class for each image"),
        (np.zeros((200, 4), np.int64), "one class for each image"),
        (np.zeros(200), r"expected integers.*store labels.astype\('int64'\)"),
        (np.linspace(0, 1, 200), "measurements"),
        (np.full(200, "cat"), "number the classes from 0"),
        (np.zeros((200, 1, 1), np.int64), "the number of each image's class"),
    ],
)
def test_labels_that_cannot_be_used(labels: np.ndarray, complaint: str) -> None:
    with pytest.raises(DataError, match=f"here is .*{complaint}"):
        as_labels(labels, "here")


def test_a_column_of_labels_will_do() -> None:
    assert as_labels(np.array([[2], [0]], np.uint8), "here").tolist() == [2, 0]


def test_archives_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", train_images=np.array([{}], dtype=object), train_labels=np.zeros(1, np.int64))
    whole = tmp_path / "whole.npz"
    np.savez(whole, train_images=np.zeros((100, 8, 8), np.uint8), train_labels=np.zeros(100, np.int64))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-200])
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as archive:
        archive.writestr("train_images", b"123")
        archive.writestr("README", b"is not read")
    for name, complaint in (
        ("bytes.npz", "its member train_images is no .npy array; write it with numpy.savez"),
        ("text.npz", "is not one"),
        ("empty.npz", "is empty"),
        ("array.npy", "single array"),
        ("objects.npz", "train_images holds Python objects; store numbers"),
        ("cut.npz", "damaged"),
        ("missing.npz", "No such file"),
    ):
        with pytest.raises(DataError, match=rf"cannot read .*{name} .*{complaint}") as raised:
            read(tmp_path / name)
        assert "pickle" not in str(raised.value)
    with pytest.raises(DataError, match="needs `root`"):
        read(None)


def test_an_archive_that_memory_does_not_suffice_for_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered(tmp_path)

    def fails(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 93.1 GiB")

    monkeypatch.setattr("numpy.lib.npyio.NpzFile.__getitem__", fails)
    with pytest.raises(DataError, match=r"do not fit into this machine's memory \(Unable to allocate 93.1 GiB\); store fewer"):
        read(path)


def test_labels_that_are_large_numbers_without_classes_are_refused_at_once(tmp_path: Path) -> None:
    path = numbered(tmp_path, train_labels=np.where(np.arange(200) % 2, 10**9, 4))
    with pytest.raises(DataError, match=r"training label 1000000000, but only 200 training images.* without gaps"):
        read(path)


def test_names_of_classes_in_bytes_are_text(tmp_path: Path) -> None:
    path = numbered(tmp_path, classes=np.array(["cat", "d\u00f6g", "c", "d"]).astype("U").view(np.ndarray))
    text = load_data(DataSettings(name="npz", root=path))
    path = numbered(tmp_path, classes=np.array([name.encode() for name in text.classes]))
    in_bytes = load_data(DataSettings(name="npz", root=path))
    assert in_bytes.classes == ("cat", "d\u00f6g", "c", "d")
    assert in_bytes.fingerprints == text.fingerprints
    with pytest.raises(DataError, match="classes holds bytes that are not UTF-8"):
        read(numbered(tmp_path, classes=np.array([b"\xff\xfe", b"b", b"c", b"d"])))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"test_images": None}, "only one of"),
        ({"train_images": None}, "only one of"),
        ({"train_images": None, "train_labels": None}, "expected train_images"),
        ({"x_train": np.zeros(3)}, "keep one"),
    ],
)
def test_parts_that_are_incomplete(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read(numbered(tmp_path, **changes))


def test_validation_images_of_its_own_are_read_when_asked_for(tmp_path: Path) -> None:
    own = {"x_val": np.full((30, 4, 4, 1), 9, np.uint8), "y_val": np.arange(30) % 4, "weights": np.zeros(3)}
    path = numbered(tmp_path, **own)
    ignored = load_data(DataSettings(name="npz", root=path))
    assert not (ignored.validation.images == 9).all()
    assert any("own_validation" in note for note in ignored.notes)
    assert any("not read: weights" in note for note in ignored.notes)
    used = load_data(DataSettings(name="npz", root=path, own_validation=True))
    assert (used.validation.images == 9).all()
    assert len(used.validation) == 30
    assert len(used.train) == 200 - len(used.calibration)
    with pytest.raises(DataError, match="own_validation"):
        load_data(DataSettings(own_validation=True))


def test_labels_that_are_no_numbers_of_classes_are_told_apart() -> None:
    with pytest.raises(DataError, match="labels has a label 9223372036854775808; expected the number of each image's class"):
        as_labels(np.array([0, 2**63], np.uint64), "labels")
    with pytest.raises(DataError, match="some are not finite: give each image its class"):
        as_labels(np.array([0.0, np.nan]), "labels")
