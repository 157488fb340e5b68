"""Every mode that a picture file may have is brought to 8 bits without a loss that nobody is told of."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgesearch.objectives.data._pictures import UnreadableError, picture_suffixes, read_picture

GREY = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
COLOUR = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tiff", ".tif", ".webp", ".pgm", ".tga", ".pcx", ".jp2", ".sgi"])
def test_grey_of_lossless_formats(tmp_path: Path, suffix: str) -> None:
    assert suffix in picture_suffixes()
    path = save(tmp_path / f"a{suffix}", GREY, **({"lossless": True} if suffix == ".webp" else {}))
    pixels = read_picture(path, None, None).pixels
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.repeat(GREY[..., None], pixels.shape[2], 2))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".tga", ".webp", ".qoi"])
def test_colour_of_lossless_formats(tmp_path: Path, suffix: str) -> None:
    assert suffix in picture_suffixes()
    path = save(tmp_path / f"a{suffix}", COLOUR, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_picture(path, None, None).pixels, COLOUR)


def test_formats_that_pillow_only_recognises_are_no_pictures() -> None:
    assert not picture_suffixes() & {".h5", ".grib", ".mpg", ".eps", ".pdf", ".txt"}


DEEP = (np.arange(240, dtype=np.uint16) * 274).reshape(12, 20)  # up to 65,486
EXPECTED = np.rint(DEEP / 257)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_grey_of_16_bits_is_scaled(tmp_path: Path, suffix: str) -> None:
    picture = read_picture(save(tmp_path / f"a{suffix}", DEEP), None, None)
    assert np.array_equal(picture.pixels[..., 0], EXPECTED)
    assert picture.top == pytest.approx(DEEP.max() / 65535)


def test_grey_of_16_bits_of_either_byte_order_and_of_netpbm(tmp_path: Path) -> None:
    netpbm = tmp_path / "a.pgm"
    netpbm.write_bytes(b"P5 20 12 65535\n" + DEEP.astype(">u2").tobytes())
    big = tmp_path / "big.tiff"
    Image.frombytes("I;16B", (20, 12), DEEP.astype(">u2").tobytes()).save(big)
    for path in (netpbm, big):
        assert np.array_equal(read_picture(path, None, None).pixels[..., 0], EXPECTED)


def test_netpbm_of_12_bits_is_scaled_by_its_own_maximum(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert read_picture(path, None, None).pixels.ravel().tolist() == [0, 255]


def test_white_is_what_the_setting_says(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 2048, 4095, 5000]], np.uint16))
    picture = read_picture(path, None, 4095)
    assert picture.pixels.ravel().tolist() == [0, 128, 255, 255]
    assert picture.top == pytest.approx(5000 / 4095)


def test_floats_go_from_0_to_1(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tiff", np.array([[0, 0.5, 1]], np.float32))
    assert read_picture(path, None, None).pixels.ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.array([[0, 300.0]], np.float32), "float values from 0 to 300, of which no white is known; set `white`"),
        (np.array([[0, np.nan]], np.float32), "not finite"),
        (np.array([[-0.5, 0.5]], np.float32), "negative"),
        (np.array([[0, 70_000]], np.int32), "32-bit values from 0 to 70000, of which no white is known"),
        (np.array([[0, 100]], np.int32), "32-bit"),
        (np.array([[-4, 100]], np.int32), "negative"),
    ],
)
def test_deep_grey_without_a_known_white(tmp_path: Path, array: np.ndarray, complaint: str) -> None:
    with pytest.raises(UnreadableError, match=complaint):
        read_picture(save(tmp_path / "a.tiff", array), None, None)


def test_integers_of_32_bits_with_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tiff", np.array([[0, 35_000, 70_000]], np.int32))
    assert read_picture(path, None, 70_000).pixels.ravel().tolist() == [0, 128, 255]


def test_transparency_is_left_out_and_said(tmp_path: Path) -> None:
    alpha = np.full((12, 20), 7, np.uint8)
    rgba = read_picture(save(tmp_path / "rgba.png", np.dstack([COLOUR, alpha])), None, None)
    assert np.array_equal(rgba.pixels, COLOUR)
    grey = read_picture(save(tmp_path / "la.png", np.dstack([GREY, alpha])), None, None)
    assert np.array_equal(grey.pixels[..., 0], GREY)
    palette = Image.fromarray(COLOUR).quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    palette.save(tmp_path / "p.png", transparency=bytes(range(16)))
    listed = read_picture(tmp_path / "p.png", None, None)
    assert np.array_equal(listed.pixels, colours)
    assert rgba.is_transparent
    assert grey.is_transparent
    assert listed.is_transparent
    assert not read_picture(save(tmp_path / "rgb.png", COLOUR), None, None).is_transparent


def test_printers_colours_and_one_bit(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a.tiff")
    assert np.abs(read_picture(tmp_path / "a.tiff", None, None).pixels.astype(int) - COLOUR).max() <= 1
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    assert np.array_equal(read_picture(tmp_path / "b.png", None, None).pixels[..., 0], (GREY > 100) * 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_pictures_of_8_bits_are_what_pillow_converts_them_to(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(COLOUR)
    if mode == "LAB":
        picture = Image.frombytes("LAB", picture.size, COLOUR.tobytes())
    else:
        picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as opened:
        expected = np.asarray(opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB"))
    assert np.array_equal(read_picture(tmp_path / "a.tiff", None, None).pixels, expected.reshape(12, 20, -1))


@pytest.mark.parametrize("suffix", [".gif", ".tiff", ".webp"])
def test_the_first_of_several_frames_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((6, 6, 3), value, np.uint8)) for value in (200, 100, 0)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / f"a{suffix}", None, None)
    assert picture.frames == 3
    assert np.abs(picture.pixels.astype(int) - 200).max() <= 2


def test_damage_beyond_the_first_frame_is_of_no_interest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "whole.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    expected, found = (read_picture(tmp_path / f"{name}.gif", None, None).pixels for name in ("whole", "cut"))
    assert np.array_equal(expected, found)
    assert np.array_equal(expected[..., 0], np.asarray(frames[0]))


@pytest.mark.parametrize("array", [COLOUR, DEEP], ids=["colour", "deep"])
def test_exif_orientation_turns_the_picture(tmp_path: Path, array: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter to see it upright
    path = save(tmp_path / "a.png", array, exif=exif)
    plain = read_picture(save(tmp_path / "b.png", array), None, None).pixels
    assert np.array_equal(read_picture(path, None, None).pixels, np.rot90(plain, -1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_tiff_on_its_side_is_turned_in_every_mode(tmp_path: Path, mode: str, orientation: int) -> None:
    stored = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    stored.save(tmp_path / "plain.tif")
    stored.save(tmp_path / "side.tif", tiffinfo={0x0112: orientation})
    plain, side = (read_picture(tmp_path / f"{name}.tif", None, None).pixels for name in ("plain", "side"))
    turned = plain.swapaxes(0, 1)
    expected = {5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]}[orientation]
    assert np.array_equal(side, expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_tiff_may_say_that_zero_is_white(tmp_path: Path, depth: int) -> None:
    stored, pixels = (DEEP, EXPECTED) if depth == 16 else (GREY, GREY)
    height, width = stored.shape
    tags = [(256, 4, width), (257, 4, height), (258, 3, depth), (259, 3, 1), (262, 3, 0), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, stored.nbytes)]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + stored.nbytes) + stored.tobytes() + table + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    assert np.array_equal(read_picture(tmp_path / "a.tif", None, None).pixels[..., 0], 255 - pixels)


def test_the_middle_square_is_resized(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (read_picture(save(tmp_path / "a.png", wide), 10, None).pixels == 255).all()


def damaged() -> dict[str, bytes]:
    whole = io.BytesIO()
    Image.fromarray(COLOUR).save(whole, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(np.kron(COLOUR, np.ones((9, 9, 1), np.uint8))).save(jpeg, "JPEG")
    return {
        "empty.png": b"",
        "text.jpg": b"this is a page that says 404",
        "cut.png": whole.getvalue()[:-300],
        "cut.jpg": jpeg.getvalue()[:2000],
        "broken.png": b"\x89PNG\r\n\x1a\n broken",
        "cut.tiff": b"II*\0" + struct.pack("<IH", 8, 3),
        "cut.gif": b"GIF89a\x05\x00",
        "cut.webp": b"RIFF\x20\0\0\0WEBPVP8 ",
        "wrong.ppm": b"P6 20 12 255\nabc",
        "cut.bmp": b"BM123",
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_files_have_a_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(damaged()[name])
    with pytest.raises(UnreadableError) as raised:
        read_picture(tmp_path / name, None, None)
    assert len(str(raised.value)) > 5
    assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tiff", ".webp", ".bmp", ".ppm", ".tga", ".pcx", ".sgi", ".jp2"])
def test_no_damage_is_a_traceback(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", COLOUR).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(256)
        (tmp_path / f"a{suffix}").write_bytes(content)
        try:
            pixels = read_picture(tmp_path / f"a{suffix}", 8, None).pixels
        except UnreadableError:
            continue
        assert pixels.shape[:2] == (8, 8)
