"""The float network behind a trial as a torch module, from the store or from exported files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesearch.errors import StudyError
from edgesearch.files import expanded, parse_json, probing
from edgesearch.objectives import ArtifactStore, load_graph
from edgesearch.search.export._artifacts import float_artifact, stored_artifact
from edgesearch.search.study import Record
from edgesearch.spaces import Student, build, parse_candidate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_NO_FLOAT = "was trained in integers from scratch and has no float network; execute its xmodel or its ONNX file"


def float_network(record: Record, store: ArtifactStore, *, folder: Path) -> nn.Module:
    """The trained, perhaps pruned network that was quantized, in evaluation mode: (N, channels, S, S) to (N, classes).

    Code of the user's own is looked for in `folder` first. Raises StudyError for QAT from scratch, which has none.
    """
    artifact = float_artifact(store, record)
    if artifact is None:
        raise StudyError(f"trial {record.number} {_NO_FLOAT}")
    graph = load_graph(stored_artifact(store, record, "quantized"))
    tensors = artifact.tensors("weights")
    return _rebuild(record.candidate.student, tensors, graph.input.shape[-1], graph.output.shape[-1], folder)


def load_network(path: str | Path) -> nn.Module:
    """The float network of an exported trial, in evaluation mode: (N, C, S, S) to (N, classes).

    `path` is the trial's folder or its manifest.json. A pruned network is as narrow as its weights. A network of the user's
    own is looked for beside the manifest, then where Python looks. Raises StudyError when a file is missing, is not the one
    that the manifest names, or when there is no float network; SpaceError when the weights are of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with probing("an exported trial", StudyError):
        place = expanded(path, "exported trial", StudyError)
        manifest_path = place / "manifest.json" if place.is_dir() else place
    manifest = _read_manifest(manifest_path)
    try:
        names = [name for name in manifest["sha256"] if name.endswith("_float.safetensors")]
        student = parse_candidate(manifest["candidate"], str(manifest_path)).student
        channels, classes = int(manifest["input"]["shape"][-1]), int(manifest["output"]["classes"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise StudyError(f"{manifest_path} is not the manifest of an exported trial; give the folder of one") from error
    if not names:
        raise StudyError(f"trial {manifest.get('trial')} {_NO_FLOAT}")
    weights = manifest_path.parent / names[0]
    try:
        if hashlib.sha256(weights.read_bytes()).hexdigest() != manifest["sha256"][names[0]]:
            raise StudyError(f"{weights} is not the file that its manifest names (another SHA-256); export the trial again")
        tensors = load_file(weights)
    except OSError as error:
        raise StudyError(f"{weights} cannot be read: {error.strerror or error}; export the trial again") from error
    except SafetensorError as error:
        raise StudyError(f"{weights} is not a safetensors file: {error}; export the trial again") from error
    return _rebuild(student, tensors, channels, classes, manifest_path.parent)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text())
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror or error}; give the folder of an exported trial") from error
    except ValueError as error:
        raise StudyError(f"{path} is not JSON: {error}; give the folder of an exported trial") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} is not the manifest of an exported trial; give the folder of one")
    return content


def _rebuild(student: Student, tensors: Mapping[str, Tensor], channels: int, classes: int, folder: Path) -> nn.Module:
    from edgesearch.objectives.pruning import resize_to
    from edgesearch.objectives.training import all_numbers_kept

    with all_numbers_kept():  # every weight that is drawn here is replaced
        return resize_to(build(student, channels=channels, classes=classes, folder=folder), tensors).eval()
