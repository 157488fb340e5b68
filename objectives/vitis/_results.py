"""What a job left in its folder, read as what a stranger wrote: bounded, checked, and nothing in it is executed."""

from __future__ import annotations

import json
import math
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Graph, read_xmodel
from edgesearch.errors import QuantizationError, ToolchainError, ToolchainMissing, XmodelError
from edgesearch.objectives.vitis._source import ModelSource

__all__ = ["FORMAT", "Results"]

#: Of job.json and result.json; raised with every change of what stands in them.
FORMAT = 2
#: Bytes of result.json; entries and characters of what is taken from it.
_LARGEST_JSON, _MOST, _LONGEST = 1 << 20, 100_000, 500
#: An xmodel has its weights once, as floats, and names around them.
_XMODEL_ROOM = 64 << 20


@dataclass(frozen=True)
class Results:
    """The results of a job on the network of `source`."""

    folder: Path
    content: Mapping[str, Any]
    versions: Mapping[str, str]
    source: ModelSource | None

    @classmethod
    def read(cls, folder: Path, task: str, source: ModelSource | None) -> Results:
        """Read result.json; raises ToolchainError for one that is missing or wrong, and for what the runner refused.

        Raises ToolchainMissing where packages that the job needs cannot be used at all.
        """
        try:
            content = json.loads(_bytes(folder / "result.json", _LARGEST_JSON))
        except (ValueError, RecursionError) as error:
            raise _wrong("result.json is no JSON") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("task") != task:
            raise _wrong(f"result.json is not that of a job {task!r}")
        if "missing" in content:
            raise ToolchainMissing(_text(content["missing"]))
        if "refused" in content:
            raise ToolchainError(_text(content["refused"]))
        versions = content.get("versions")
        if not isinstance(versions, dict) or len(versions) > 20:
            raise _wrong("result.json names no versions")
        return cls(folder, content, {_text(name): _text(version) for name, version in versions.items()}, source)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        values = self.content.get(name)
        if not isinstance(values, list) or len(values) > _MOST or not all(_is_number(value) for value in values):
            raise _wrong(f"result.json has no list of numbers {name!r}")
        return tuple(map(float, values))

    def count(self, name: str) -> int:
        """A whole number from 0."""
        value = self.content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _wrong(f"result.json has no count {name!r}")
        return value

    def xmodel(self) -> Graph:
        """The quantized network. Raises QuantizationError naming operations that the DPU does not have."""
        assert self.source is not None
        name = f"{self.source.name}_int.xmodel"
        if self.content.get("xmodel") != name:
            raise _wrong(f"result.json does not name {name}")
        path = self.folder / name
        weights = sum(array.nbytes for array in self.source.weights.values())
        _check_file(path, _XMODEL_ROOM + 4 * weights)
        try:
            graph = read_xmodel(path)
        except XmodelError as error:
            raise QuantizationError(f"what pytorch_nndct wrote cannot run on the DPU alone: {error}") from error
        channels, height, width = self.source.input_shape
        if not graph.quantized or graph.bits != 8:
            raise QuantizationError("what pytorch_nndct wrote has values without a fix position of 8 bits")
        if graph.input.shape != (height, width, channels):
            raise QuantizationError(
                f"what pytorch_nndct wrote reads images of {graph.input.shape}, not of {(height, width, channels)}"
            )
        return graph

    def tensors(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays of an .npz file: those of the network's weights, by name, none of them larger than there, all finite."""
        assert self.source is not None
        path, expected = self.folder / f"{name}.npz", self.source.weights
        room = sum(array.nbytes for array in expected.values())
        _check_file(path, 2 * room + (1 << 20))
        try:
            with zipfile.ZipFile(path) as archive:
                sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            odd = sorted(sizes.keys() - expected.keys()) or sorted(_needed(expected) - sizes.keys())
            if odd:
                raise _wrong(f"{path.name} and the network differ in {odd[0][:80]!r}")
            if any(size > expected[key].nbytes + 4096 for key, size in sizes.items()):
                raise _wrong(f"{path.name} has tensors that are larger than the network's")
            with np.load(path, allow_pickle=False) as arrays:
                found = {key: np.asarray(arrays[key]) for key in sizes}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _wrong(f"{path.name} cannot be read ({error})") from error
        for key, array in found.items():
            if array.ndim != expected[key].ndim or array.dtype != expected[key].dtype:
                raise _wrong(f"{path.name} has {array.dtype} {array.shape} for {key!r}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _wrong(f"{path.name} has values in {key!r} that are not finite")
        return found


def _needed(expected: Mapping[str, npt.NDArray[np.generic]]) -> set[str]:
    """Counters of batches are of no use to anybody."""
    return {name for name in expected if not name.endswith("num_batches_tracked")}


def _bytes(path: Path, most: int) -> bytes:
    _check_file(path, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(f"{path.name} cannot be read ({error.strerror or error})") from error


def _check_file(path: Path, most: int) -> None:
    """Raise ToolchainError unless it is a file of the job's own, of a size that it may have."""
    try:
        status = path.lstat()
    except OSError as error:
        raise _wrong(f"there is no {path.name}") from error
    if not stat.S_ISREG(status.st_mode):
        raise _wrong(f"{path.name} is no file")
    if status.st_size > most:
        raise _wrong(f"{path.name} has {status.st_size:,} bytes, more than the {most:,} that it may have")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    """One line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in str(value)[:_LONGEST])


def _wrong(what: str) -> ToolchainError:
    return ToolchainError(f"the job in Vitis AI's Python ended, but its results are none: {what}")
