"""Folders of pictures as people have them: mixed, littered, incomplete."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgesearch.errors import DataError
from edgesearch.objectives.data import DataSettings, RawData, load_data
from edgesearch.objectives.data._folder import read_folder

RNG = np.random.default_rng(0)


def read(root: Path | None, **settings: object) -> RawData:
    return read_folder(DataSettings(name="folder", root=root, **settings), None)  # type: ignore[arg-type]


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)


def two_classes(root: Path, count: int = 6, suffix: str = ".png") -> None:
    for name in ("ant", "bee"):
        for k in range(count):
            picture(root / name / f"{k}{suffix}")


def test_a_class_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Its name would be in no file of labels."""
    two_classes(tmp_path)
    (tmp_path / "bee").rename(tmp_path / "caf\udce9")
    with pytest.raises(DataError, match=r"the class 'caf\\udce9' of 'folder' has a name that is not UTF-8"):
        load_data(DataSettings(name="folder", root=tmp_path))


def test_folders_of_pictures(tmp_path: Path) -> None:
    two_classes(tmp_path / "train", 6)
    two_classes(tmp_path / "test", 2)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not a picture")
    raw = read(tmp_path)
    assert raw.classes == ("ant", "bee")
    assert raw.train.images.shape == (12, 5, 6, 1)
    assert raw.test is not None
    assert raw.test.labels.tolist() == [0, 0, 1, 1]
    assert raw.test.names == ("test/ant/0.png", "test/ant/1.png", "test/bee/0.png", "test/bee/1.png")
    assert raw.train.names[9] == "train/bee/3.png"
    with Image.open(tmp_path / "train" / "bee" / "3.png") as opened:
        assert np.array_equal(raw.train.images[9, ..., 0], np.asarray(opened))
    assert [note for note in raw.notes if "1 file (1 .txt)" in note]


@pytest.mark.parametrize("suffix", [".ppm", ".gif", ".tiff", ".webp", ".BMP", ".JPG"])
def test_every_format_of_pillow_is_read(tmp_path: Path, suffix: str) -> None:
    two_classes(tmp_path, suffix=suffix)
    assert len(read(tmp_path).train) == 12


def test_class_folders_alone_colours_and_sizes_mixed(tmp_path: Path) -> None:
    for k in range(20):
        picture(tmp_path / "ant" / f"{k}.png", "L", (9, 7))
        picture(tmp_path / "bee" / f"{k}.jpg", "RGB", (7, 12))
        picture(tmp_path / "cat" / f"{k}.png", "RGBA", (7, 12))
    with pytest.raises(DataError, match="set `image_size`"):
        read(tmp_path)
    data = load_data(DataSettings(name="folder", root=tmp_path, image_size=8))
    assert data.train.images.shape[1:] == (8, 8, 3)
    assert len(data.test) == 12
    assert "largest square in its middle was cut out and resized to 8 x 8" in data.preparation
    assert any("20 pictures with transparency" in note for note in data.notes)


def test_litter_is_not_read(tmp_path: Path) -> None:
    two_classes(tmp_path)
    clean = read(tmp_path)
    (tmp_path / "ant" / "._0.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    (tmp_path / "ant" / ".DS_Store").write_bytes(b"Bud1")
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"")
    picture(tmp_path / "ant" / ".ipynb_checkpoints" / "0-checkpoint.png")
    picture(tmp_path / ".ipynb_checkpoints" / "0-checkpoint.png")
    picture(tmp_path / "__MACOSX" / "ant" / "0.png")
    littered = read(tmp_path)
    assert littered.classes == clean.classes
    assert np.array_equal(littered.train.images, clean.train.images)
    assert littered.notes == clean.notes == ()


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for name in ("a.csv", "b.csv", "c.HEIC", "LICENSE"):
        (tmp_path / "ant" / name).write_text("x")
    picture(tmp_path / "loose.png")
    notes = " | ".join(read(tmp_path).notes)
    assert "4 files (2 .csv, 1 .heic, 1 without suffix)" in notes
    assert "1 picture in" in notes


def test_pictures_in_folders_of_a_class_are_said(tmp_path: Path) -> None:
    two_classes(tmp_path)
    assert not any("inside" in note for note in read(tmp_path).notes)
    one = next(path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("masks/a.png", "masks/left/b.png", "images/a.png"):
        (one / name).parent.mkdir(parents=True, exist_ok=True)
        picture(one / name)
    (note,) = [note for note in read(tmp_path).notes if "inside" in note]
    assert note.startswith("3 pictures in folders inside those of classes (images, masks), read as pictures of these classes")


def test_pictures_behind_links_are_read_and_broken_links_are_named(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "signs", tmp_path / "elsewhere"
    two_classes(root)
    for k in range(3):
        picture(elsewhere / "more" / f"{k}.png")
    (root / "ant" / "linked").symlink_to(elsewhere)
    (root / "ant" / "file.png").symlink_to(elsewhere / "more" / "0.png")
    (root / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "cat").symlink_to(tmp_path / "nowhere")
    raw = read(root)
    assert np.bincount(raw.train.labels).tolist() == [10, 6]
    assert raw.train.names[6:10] == ("ant/file.png", *(f"ant/linked/more/{k}.png" for k in range(3)))
    assert [note for note in raw.notes if "2 links to nothing or folders that cannot be read: ant/gone.png, cat" in note]


def test_links_that_go_round_in_circles_add_nothing(tmp_path: Path) -> None:
    two_classes(tmp_path)
    picture(tmp_path / "ant" / "real" / "0.png")
    before = read(tmp_path).train.names
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "ant" / "real")  # earlier in the alphabet
    (tmp_path / "ant" / "real" / "up").symlink_to(tmp_path / "ant")
    (tmp_path / "ant" / "root").symlink_to(tmp_path)
    (tmp_path / "ant" / "self").symlink_to(tmp_path / "ant" / "self")
    raw = read(tmp_path)
    assert raw.train.names == before
    assert [note for note in raw.notes if "1 link to nothing or folder that cannot be read: ant/self" in note]


def test_a_test_folder_without_class_folders_is_told(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"test has 0 pictures but no class folders; sort them into .*test/CLASS, or move"):
        read(tmp_path)
    for k in range(3):
        picture(tmp_path / "test" / f"{k}.jpg")
    with pytest.raises(DataError, match=r"test has 3 pictures but no class folders; .* are then drawn from .*train"):
        read(tmp_path)
    (tmp_path / "test" / "ant").mkdir()
    with pytest.raises(DataError, match="test has no pictures in its class folders; put some there, or move the folder away"):
        read(tmp_path)


def test_damaged_pictures_are_named_together_and_left_out_when_asked(tmp_path: Path) -> None:
    two_classes(tmp_path, 20)
    for k in range(7):
        (tmp_path / "bee" / f"{k}.png").write_bytes(b"" if k else b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(
        DataError, match=r"7 of 40 pictures cannot be read \(bee/0.png: .* and 2 more\).*skip_unreadable"
    ) as raised:
        read(tmp_path)
    assert str(raised.value).count("bee/") == 5
    raw = read(tmp_path, skip_unreadable=True)
    assert np.bincount(raw.train.labels).tolist() == [20, 13]
    assert any("7 of 40 pictures cannot be read" in note for note in raw.notes)


def test_deep_grey_is_scaled_and_said(tmp_path: Path) -> None:
    two_classes(tmp_path)
    deep = np.arange(30, dtype=np.uint16).reshape(5, 6) * 100  # dark: 12 bits in 16
    Image.fromarray(deep).save(tmp_path / "ant" / "0.png")
    raw = read(tmp_path)
    assert np.array_equal(raw.train.images[0, ..., 0], np.rint(deep / 257))
    assert any("set `white`" in note for note in raw.notes)
    bright = read(tmp_path, white=2900.0)
    assert bright.train.images[0].max() == 255
    assert not any("set `white`" in note for note in bright.notes)
    clipped = read(tmp_path, white=2000.0)
    assert any("1 picture with values above `white` = 2000" in note for note in clipped.notes)


def test_a_class_in_other_characters_of_the_same_look_is_told(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"  # an accent in its letter, and behind it
    for part, name in (("train", composed), ("test", apart)):
        picture(tmp_path / part / name / "0.png")
        picture(tmp_path / part / "bee" / "0.png")
    with pytest.raises(DataError, match=r"in these characters .* rename one of them"):
        read(tmp_path)


def deep_colour(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_deep_colour_that_is_nearly_black_is_said_and_that_white_does_not_help(tmp_path: Path) -> None:
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 4096, (5, 6, 3))  # of a camera of 12 bits
            (tmp_path / kind / f"{i}.png").write_bytes(deep_colour(pixels))
    raw = read(tmp_path, white=4095.0)
    assert raw.train.images.max() == 15
    assert any("none reaches 25% of white" in note for note in raw.notes)
    assert any("white = 4095 is for deep grey" in note for note in raw.notes)


def test_pictures_that_are_bright_somewhere_are_not_called_black(tmp_path: Path) -> None:
    two_classes(tmp_path)
    assert not any("black" in note or "`white`" in note for note in read(tmp_path).notes)


def test_a_class_without_pictures(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "list.txt").write_text("x")
    with pytest.raises(DataError, match=r"class folder 'cat' in .* has no readable picture .*1 \.txt.*put some there"):
        read(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"2 class folders \(cat, dog\) .* have no readable picture"):
        read(tmp_path)


def test_a_class_with_one_picture(tmp_path: Path) -> None:
    two_classes(tmp_path, 20)
    picture(tmp_path / "cat" / "only.png")
    notes = load_data(DataSettings(name="folder", root=tmp_path, validation_images=4, calibration_images=2)).notes
    assert any("a class has a single image to train on: cat" in note for note in notes)
    assert any("1 of 3 classes have no validation image (cat)" in note for note in notes)


def test_validation_pictures_of_its_own(tmp_path: Path) -> None:
    two_classes(tmp_path / "train", 20)
    two_classes(tmp_path / "test", 2)
    two_classes(tmp_path / "val", 3)
    (tmp_path / "extra").mkdir()
    settings = DataSettings(name="folder", root=tmp_path)
    notes = " | ".join(load_data(settings).notes)
    assert "not read: extra, val" in notes
    assert "own_validation" in notes
    data = load_data(settings.model_copy(update={"own_validation": True}))
    assert len(data.validation) == 6
    assert len(data.train) + len(data.calibration) == 40
    (tmp_path / "val").rename(tmp_path / "holdout")
    with pytest.raises(DataError, match="own_validation"):
        load_data(settings.model_copy(update={"own_validation": True}))


def test_parts_by_other_names_are_not_taken_for_classes(tmp_path: Path) -> None:
    two_classes(tmp_path / "Train")
    two_classes(tmp_path / "Test")
    with pytest.raises(DataError, match=r"'Test' with folders in it.*call the parts train and test"):
        read(tmp_path)


def test_parts_without_classes_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("train", "Valid", "test"):
        picture(tmp_path / name / "0.png")
    with pytest.raises(DataError, match=r"without folders for the classes in them; sort the pictures into train/CLASS"):
        read(tmp_path)


def test_pictures_to_test_on_beside_classes_are_no_class(tmp_path: Path) -> None:
    two_classes(tmp_path)
    picture(tmp_path / "test" / "0.png")
    with pytest.raises(
        DataError, match="has test beside folders of classes; sort the pictures into train/CLASS and test/CLASS"
    ):
        read(tmp_path)


def test_train_may_be_a_class_of_vehicles(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        picture(tmp_path / name / "0.png")
    assert read(tmp_path).classes == ("bus", "car", "train")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="needs `root`"):
            read(root)
    with pytest.raises(DataError, match="no folder for a class"):
        read(tmp_path)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(DataError, match="no readable pictures"):
        read(tmp_path)
    picture(tmp_path / "train" / "ant" / "0.png")
    picture(tmp_path / "test" / "wasp" / "0.png")
    with pytest.raises(DataError, match="'wasp'"):
        read(tmp_path)
