"""`edgesearch simulate`: execute an xmodel, uncompiled or compiled, on given images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import CompiledXmodel, execute, is_compiled, read_xmodel
from edgesearch.errors import DataError
from edgesearch.files import parse_json, write_atomically
from edgesearch.objectives import Normalisation, prepare
from edgesearch.objectives.data import cut_squares, resize
from edgesearch.search.commands._arrays import read_array
from edgesearch.search.commands._outputs import check_output


@dataclass(frozen=True)
class _Network:
    """What can be executed: its name, its input's shape (H, W, C) and fix position, its outputs', and how it runs."""

    name: str
    shape: tuple[int, ...]
    fix: int | None
    #: Output -> shape and fix position.
    outputs: Mapping[str, tuple[tuple[int, ...], int | None]]
    execute: Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[np.float32]]]


def _read(xmodel: Path) -> _Network:
    """A compiled file is executed instruction by instruction, another by its operations."""
    if is_compiled(xmodel):
        code = CompiledXmodel.read(xmodel)
        outputs = {output.name: (output.shape, output.fix) for output in code.outputs}
        return _Network(code.name, code.input.shape, code.input.fix, outputs, code.execute_all)
    graph = read_xmodel(xmodel)
    first, last = graph.input, graph.output
    return _Network(
        graph.name,
        first.shape,
        first.fix,
        {last.name: (last.shape, last.fix)},
        lambda images: {last.name: execute(graph, images)},
    )


def simulate(*, xmodel: Path, images: Path, logits: Path | None, labels: Path | None) -> int:
    """Write the logits, or say how many images are told right; returns the exit code."""
    if logits is None and labels is None:
        raise click.UsageError("say what you want: --logits FILE, --labels FILE or both")
    network = _read(xmodel)
    _check_outputs(network, logits, labels)
    if logits is not None:
        check_output(
            logits, "--logits", {"the network": xmodel, "the file of --images": images, "the file of --labels": labels}
        )
    pixels = read_array(images)
    told = None if labels is None else _labels(read_array(labels, "--labels"), pixels.shape[:1], network)
    results = network.execute(_prepared(network, pixels, xmodel))
    if logits is not None:
        _save(logits, results)
    where = "" if logits is None else f": {logits}"
    for name, result in results.items():
        what = "logits" if len(results) == 1 else f"{name!r}"
        click.echo(
            f"{network.name}: {len(result)} images, {what} {result.shape} at fix position {network.outputs[name][1]}{where}"
        )
    if told is not None:
        (result,) = results.values()
        accuracy = float((result.reshape(len(result), -1).argmax(axis=1) == told).mean())
        click.echo(f"top-1 {accuracy:.2%} of {len(result)} images")
    return 0


def _check_outputs(network: _Network, logits: Path | None, labels: Path | None) -> None:
    """Raise DataError for what needs one output, where there are several."""
    count = len(network.outputs)
    if count > 1 and labels is not None:
        raise DataError(f"{network.name!r} has {count} outputs; --labels is for networks of one")
    if count > 1 and logits is not None and logits.suffix != ".npz":
        raise DataError(f"{network.name!r} has {count} outputs; --logits must end in .npz, which holds an array for each")


def _prepared(network: _Network, images: npt.NDArray[Any], xmodel: Path) -> npt.NDArray[Any]:
    """Pixels (uint8) cut, resized and normalised as the manifest beside the xmodel says; other images as they are."""
    if images.dtype != np.uint8:
        return images
    if len(network.shape) != 3:
        raise DataError(
            f"--images holds uint8, and {network.name!r} takes arrays of shape {network.shape}, no pixels; give float32, int8"
        )
    height, width, channels = network.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] != channels or 0 in images.shape[1:3]:
        raise DataError(
            f"--images holds uint8 of shape {images.shape}; expected (N, height, width, {channels}) with at least one pixel"
        )
    manifest = _manifest(xmodel)
    try:
        content = parse_json(manifest.read_text())["input"]
        normalisation = Normalisation(tuple(map(float, content["mean"])), tuple(map(float, content["std"])))
        side, first = _side(content.get("crop")), _side(content.get("first_resize"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--images holds uint8, and how to normalise pixels is read from {str(manifest)!r}, which is missing or not an "
            "export's manifest; give normalised float32 images, or put the manifest there"
        ) from error
    _check_belongs(network, content, manifest)
    cut = ""
    if side is not None and images.shape[1:3] != (side, side):
        cut = f", cut from {images.shape[1]} x {images.shape[2]} (the largest square in the middle, as {side} x {side})"
        images = cut_squares(images, side)
    if first is not None and images.shape[1:3] != (first, first):
        cut = f", brought from {images.shape[1]} x {images.shape[2]} to {first} x {first} first"
        images = resize(images, first)
    resized = "" if images.shape[1:3] == (height, width) else f", resized from {images.shape[1]} x {images.shape[2]}"
    click.echo(f"pixels normalised with mean {content['mean']} and std {content['std']} of {manifest}{cut}{resized}", err=True)
    prepared: npt.NDArray[np.float32] = prepare(images, (height, width), normalisation)
    return prepared


def _side(square: Any) -> int | None:
    """Pixels of a side that the manifest asks for, None for none; KeyError, TypeError or ValueError for what is no square."""
    if square is None:
        return None
    height, width = map(int, square["shape"])
    if height != width or height < 1:
        raise ValueError(f"a square of {height} x {width}")
    return height


def _manifest(xmodel: Path) -> Path:
    """The manifest beside the xmodel; that of an export lies beside the folder of its compiled file."""
    beside, above = xmodel.with_name("manifest.json"), xmodel.resolve().parent.parent / "manifest.json"
    return above if above.is_file() and not beside.is_file() else beside


def _check_belongs(network: _Network, content: dict[str, Any], manifest: Path) -> None:
    """Raise DataError unless the manifest's input is this network's. One mean and std are for any number of channels."""
    given = {"shape": list(network.shape), "fix_position": network.fix, "channels": network.shape[2]}
    told = {
        "shape": content.get("shape", given["shape"]),
        "fix_position": content.get("fix_position", given["fix_position"]),
        "channels": len(content["mean"]) if len(content["mean"]) > 1 else given["channels"],
    }
    for name, value in told.items():
        if value != given[name]:
            raise DataError(
                f"{manifest} has an input whose {name.replace('_', ' ')} is {value}, the xmodel's is {given[name]}: they are "
                "of two networks; put the xmodel's own manifest beside it"
            )


def _save(logits: Path, results: dict[str, npt.NDArray[np.float32]]) -> None:
    content = io.BytesIO()
    if logits.suffix == ".npz":
        np.savez(content, **results)  # type: ignore[arg-type]  # the names of arrays, not of numpy's own arguments
    else:
        np.save(content, next(iter(results.values())))
    try:
        write_atomically(logits, content.getvalue())
    except OSError as error:
        raise DataError(f"--logits {str(logits)!r} cannot be written: {error.strerror or error}") from error


def _labels(labels: npt.NDArray[Any], shape: tuple[int, ...], network: _Network) -> npt.NDArray[Any]:
    """The labels, if they are one class of the network for each image; raises DataError."""
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise DataError(f"--labels holds {labels.dtype} of shape {labels.shape}; expected whole numbers of shape {shape}")
    ((shape_out, _),) = network.outputs.values()
    classes = math.prod(shape_out)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"--labels holds {labels.min()} to {labels.max()}; the network tells 0 to {classes - 1} apart")
    return labels
