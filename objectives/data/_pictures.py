"""One picture file as bytes: every mode that Pillow reads, brought to grey or colour of 8 bits, or refused with the reason.

Pillow converts deep grey (16 and 32 bits, floats) to 8 bits by cutting off at 255, which makes most of it white. Here such
values are scaled: 0 is black, and white is 65,535 for 16 bits and 1 for floats, or what the setting `white` says.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgesearch.objectives.data._source import Images

__all__ = ["Picture", "UnreadableError", "cut_squares", "picture_suffixes", "read_picture"]

#: Formats that Pillow tells apart without being able to decode them, and PostScript, which it hands to another program.
_NO_PICTURES = frozenset({"MPEG", "EPS"})
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_TRANSPARENT_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_WHITE_16 = 65_535
#: What Pillow's decoders raise for damaged files, beside OSError.
_DAMAGE = (
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
#: Number of the TIFF tag with the bits of a sample, and of that which says what zero means, with one value of it.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


class UnreadableError(Exception):
    """Why a picture cannot be used, in a few words."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what was lost or chosen on the way."""

    pixels: Images  # (H, W, 1 or 3)
    frames: int  # of which the first was taken
    is_transparent: bool
    top: float | None  # the largest value of a deep grey picture as a share of white; None for pictures of 8 bits


@lru_cache(maxsize=1)
def picture_suffixes() -> frozenset[str]:
    """Suffixes, lower case with the dot, of the picture formats that the installed Pillow decodes."""
    from PIL import Image, ImageFile

    def decodes(name: str) -> bool:
        if name not in Image.OPEN or name in _NO_PICTURES:
            return False
        factory: Any = Image.OPEN[name][0]  # a class, or for JPEG a function
        return not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))

    return frozenset(suffix.lower() for suffix, name in Image.registered_extensions().items() if decodes(name))


def read_picture(path: Path, image_size: int | None, white: float | None) -> Picture:
    """The first frame of a picture, turned as its EXIF orientation says.

    With `image_size` the largest square in its middle is resized to that many pixels (Pillow's ImageOps.fit, bilinear). Raises
    UnreadableError for a file that is damaged or no picture, and for deep grey whose white is not known.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not path.stat().st_size:
            raise UnreadableError("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata and sizes; what matters here is in the picture or the error
            return _decode(path, image_size, white)
    except UnidentifiedImageError as error:
        raise UnreadableError("not a picture of a kind that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError("its header promises more than 179 million pixels") from error
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except (*_DAMAGE, struct.error) as error:
        raise UnreadableError(f"it is damaged ({error})" if str(error) else "it is damaged") from error


def _decode(path: Path, image_size: int | None, white: float | None) -> Picture:
    from PIL import Image, ImageOps

    # By the path alone Pillow maps some TIFFs into memory, and turns those on their side before it has read them.
    with path.open("rb") as file, Image.open(file) as opened:
        frames = 1 if opened.format == "MPO" else _count_frames(opened)  # MPO: one photo and its previews
        picture: Any = ImageOps.exif_transpose(opened)
        is_transparent = picture.mode in _TRANSPARENT_MODES or "transparency" in picture.info
        top = None
        if picture.mode.startswith("I") or picture.mode == "F":
            picture, top = _from_deep_grey(picture, opened, white)
        else:
            picture = _to_8_bits(picture)
        if image_size is not None:
            picture = _cut_square(picture, image_size)
        pixels = np.array(picture)
    return Picture(pixels.reshape(*pixels.shape[:2], -1), frames, is_transparent, top)


def _cut_square(picture: Any, image_size: int) -> Any:
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)


def cut_squares(images: Images, image_size: int) -> Images:
    """Decoded pictures (N, H, W, C) as `read_picture` gives them with `image_size`: (N, image_size, image_size, C)."""
    from PIL import Image

    cut = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    for picture, found in zip(images, cut, strict=True):
        for channel in range(images.shape[3]):  # Pillow treats each by itself
            found[..., channel] = _cut_square(Image.fromarray(picture[..., channel]), image_size)
    return cut


def _count_frames(opened: Any) -> int:
    first = opened.tell()
    try:
        frames = int(getattr(opened, "n_frames", 1))
    except (OSError, *_DAMAGE):  # damage beyond the first frame is of no interest
        frames = 1
    opened.seek(first)
    return frames


def _to_8_bits(picture: Any) -> Any:
    """Grey as "L", all else as "RGB"; transparency is left out, the colours below it stay as they are stored."""
    if picture.mode in _GREY_MODES:
        return picture.convert("LA").convert("L") if picture.mode == "La" else picture.convert("L")
    if picture.mode == "P" and "transparency" in picture.info:
        return picture.convert("RGBA").convert("RGB")  # the same colours; straight to RGB, Pillow warns
    return picture.convert("RGB")


def _from_deep_grey(picture: Any, opened: Any, white: float | None) -> tuple[Any, float]:
    """Deep grey as "L", rounded, and its largest value as a share of white. What is brighter than white is white."""
    from PIL import Image

    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadableError("it holds values that are not finite")
    kind = "float" if picture.mode == "F" else f"{_bits(picture, opened)}-bit"
    if low < 0:
        raise UnreadableError(f"it holds negative {kind} values (from {low:g}), of which no black is known; store 8 bits")
    top = white or (1.0 if kind == "float" else _WHITE_16 if kind == "16-bit" else None)
    if top is None or (white is None and high > top):
        raise UnreadableError(
            f"it holds {kind} values from {low:g} to {high:g}, of which no white is known; set `white` to it, or store 8 bits"
        )
    light = np.minimum(values.astype(np.float64), top)
    if getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow knows of 8 bits alone
        light, high = top - light, top - low
    return Image.fromarray(np.rint(light * (255 / top)).astype(np.uint8)), high / top


def _bits(picture: Any, opened: Any) -> int:
    """Bits of a deep grey value in the file: Pillow decodes some of 16 bits into integers of 32."""
    if picture.mode.startswith("I;16") or opened.format in ("PNG", "PPM", "JPEG2000"):
        return 16  # portable grey maps of other depths are scaled to 16 bits by Pillow
    tags = getattr(opened, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (32,))
    return int(bits[0] if isinstance(bits, tuple) else bits)
