"""From a picture to the integers that enter the DPU: as numbers for a program, and as lines of numpy for a person."""

from __future__ import annotations

from typing import Any

from edgesearch.board_eval import Graph
from edgesearch.board_eval.graph import limits
from edgesearch.objectives import DataSet
from edgesearch.search.study import StudyFile

_RESIZE = "Pillow's resize to the input's height and width, BILINEAR (antialiased); the bytes it gives"
_CROP = "the largest square or rectangle of the picture's centre that has the shape of data.image_size (Pillow's ImageOps.fit)"
_FIRST_RESIZE = "Pillow's resize to the shape of first_resize, without cropping, BILINEAR (antialiased); the bytes it gives"
_WEIGHTS = """\
def resize(pixels, size):  # the first axis, as Pillow's BILINEAR does it to bytes
    scale, rows = len(pixels) / size, []
    for centre in (np.arange(size) + 0.5) * scale:
        reach = np.arange(int(max(centre - max(scale, 1) + 0.5, 0)), int(min(centre + max(scale, 1) + 0.5, len(pixels))))
        weights = np.maximum(1 - np.abs((reach - centre + 0.5) / max(scale, 1)), 0)
        weights = np.floor(weights / weights.sum() * 2**22 + 0.5)
        rows.append(np.clip(np.floor((np.tensordot(weights, pixels[reach], 1) + 2**21) / 2**22), 0, 255))
    return np.stack(rows)
"""


def describe_input(settings: StudyFile, graph: Graph, data: DataSet) -> dict[str, Any]:
    """What a program must do to a picture before the network may have it."""
    side, size = settings.data.image_size, list(graph.input.shape[:2])
    cuts = side is not None and settings.data.name == "folder"
    resizes = side is not None and not cuts and size != [side, side]
    least, most = limits(graph.bits)
    is_rounded = graph.input.fix is not None  # to fp16 nothing is
    quantize = (
        f"clamp(floor((u8 / 255 - mean) / std * 2**fix_position + 0.5), {least}, {most}): saturate, do not wrap; "
        "give the runner these int8 values, since it truncates floats where this rounds"
    )
    return {
        "shape": list(graph.input.shape),
        "layout": "height, width, channels",
        "channels": "RGB" if data.channels == 3 else "grey",
        "crop": {"shape": [side, side], "of": "centre", "method": "Pillow's ImageOps.fit, BILINEAR"} if cuts else None,
        "first_resize": {"shape": [side, side], "method": "Pillow's resize, BILINEAR"} if resizes else None,
        "resize": {"shape": size, "filter": "bilinear", "antialias": True},
        "mean": list(data.normalisation.mean),
        "std": list(data.normalisation.std),
        "fix_position": graph.input.fix,
        "rounding": "half up" if is_rounded else None,
        "range": [least, most] if is_rounded else None,
        "prepare": [
            *([_CROP] if cuts else [_FIRST_RESIZE] if resizes else []),
            _RESIZE,
            "normalise each byte u8: (u8 / 255 - mean) / std",
            *(["quantize"] if is_rounded else []),
        ],
        "quantize": quantize if is_rounded else None,
    }


def numpy_lines(entry: dict[str, Any], pictures: tuple[int, ...]) -> str:
    """The lines that make `x`, int8 (N, H, W, C), of `pictures`, uint8 (N, height, width, C) of this shape.

    `entry` is the manifest's "input". They give the integers that the network was tuned with, bit for bit.
    """
    height, width = entry["shape"][:2]
    lines = ["import numpy as np"]
    resizes = []
    if pictures[2] != width:
        resizes.append(f"pictures = np.moveaxis(resize(np.moveaxis(pictures.astype(np.float64), 2, 0), {width}), 0, 2)")
    if pictures[1] != height:
        resizes.append(f"pictures = np.moveaxis(resize(np.moveaxis(pictures.astype(np.float64), 1, 0), {height}), 0, 1)")
    if resizes:
        lines += ["", "", *_WEIGHTS.splitlines(), "", ""]
    return "\n".join(
        [
            *lines,
            f'pictures = np.load("golden_pictures.npy")  # uint8 (N, {", ".join(map(str, pictures[1:]))})',
            *resizes,
            f"mean, std = np.float32({entry['mean']}), np.float32({entry['std']})",
            "x = (pictures.astype(np.float32) / np.float32(255) - mean) / std",
            f"x = np.floor(x.astype(np.float64) * 2.0**{entry['fix_position']} + 0.5)  # half up",
            "x = np.clip(x, -128, 127).astype(np.int8)  # saturate, do not wrap",
            'assert np.array_equal(x, np.load("golden_input.npy"))',
        ]
    )
