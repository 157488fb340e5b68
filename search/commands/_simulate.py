"""`edgesearch simulate`: execute an uncompiled xmodel on given images."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from edgesearch.board_eval import execute, read_xmodel
from edgesearch.errors import DataError


def read_array(path: Path, option: str = "--images") -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The array of the .npy file given as `option`; raises DataError when it is not one."""
    try:
        with path.open("rb") as file:
            array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{option} {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{option} {str(path)!r} is not a .npy array ({error}); save it with numpy.save") from error
    return array


def simulate(*, xmodel: Path, images: Path, logits: Path) -> int:
    """Write the logits; returns the exit code."""
    graph = read_xmodel(xmodel)
    result = execute(graph, read_array(images))
    try:
        with logits.open("wb") as file:
            np.save(file, result)
    except OSError as error:
        raise DataError(f"--logits {str(logits)!r} cannot be written: {error.strerror}") from error
    click.echo(f"{graph.name}: {len(result)} images, logits {result.shape} at fix position {graph.output.fix}: {logits}")
    return 0
