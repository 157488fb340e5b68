"""Running one stage: its inputs from the store, its result into the store."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from edgesearch.board_eval import BoardReference, VitisSettings
from edgesearch.errors import (
    KNOWN_FAILURE,
    DataError,
    DeviceError,
    EdgesearchError,
    GraphError,
    NetworkRefused,
    OutOfMemory,
    QuantizationError,
    StageFailed,
    TrainingError,
    in_one_line,
)
from edgesearch.objectives.data import DataSet, DataSettings, load_data
from edgesearch.objectives.stages._artifact import Artifact, ArtifactStore
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._limits import NetworkLimits
from edgesearch.objectives.stages._spec import stage_specs
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import choose_device, out_of_memory, processor_name
from edgesearch.plugins import is_import_path
from edgesearch.spaces import Student

_PACKAGES = ("edgesearch", "torch", "torchvision", "numpy", "scipy", "pillow")
#: What a stage would raise again with the same inputs: its network or its numbers are the reason, not the machine.
_DETERMINISTIC = (GraphError, NetworkRefused, QuantizationError, TrainingError)
#: What the machine may be the reason of: what the user's code raised for want of a file, a package or memory, too.
_OF_THE_MACHINE = (OutOfMemory, DeviceError, ImportError, MemoryError, OSError)


def run_stage(
    stage: Stage,
    store: ArtifactStore,
    *,
    data_settings: Mapping[str, Any],
    device: str = "auto",
    folder: Path | None = None,
    board: BoardReference | None = None,
    vitis: VitisSettings | None = None,
    limits: NetworkLimits | None = None,
    pieces: int = 1,
) -> Artifact:
    """The stage's artifact: from the store, or made now. Its inputs must be in the store. Of a rung whose student's training is
    over it is the student's, and nothing is stored: what is left of that training would be its beginning.

    `folder` is where the user's own code is looked for first, `vitis` where Vitis AI's tools are; `board` is for a stage that
    runs on one. One process at a time makes a stage; the others wait for its artifact. `limits` are those that its network is
    held to, `pieces` as in `train`. Raises Infeasible where it breaks one, StageFailed where the stage failed before and would
    fail again, and whatever its kind raises.
    """
    known = store.get(stage.kind, stage.key)
    if known is not None:
        return known
    with store.lease(stage.key, waiting=lambda holder: print(f"{holder} makes this stage; waiting for it")):
        known = store.get(stage.kind, stage.key)
        if known is not None:
            return known
        more = {"board": board, "vitis": vitis or VitisSettings(), "limits": limits, "pieces": pieces}
        return _make(stage, store, data_settings, choose_device(device), folder, more)


def _make(
    stage: Stage,
    store: ArtifactStore,
    data_settings: Mapping[str, Any],
    device: torch.device,
    folder: Path | None,
    more: Mapping[str, Any],
) -> Artifact:
    made_by = _made_by(device)
    failure = store.failure(stage.kind, stage.key)
    if failure is not None and _is_of(failure["made_by"].get("versions"), made_by["versions"]):
        raise StageFailed(f"{failure['message']} {KNOWN_FAILURE}")
    spec = stage_specs().find(stage.kind)
    settings = spec.settings_of(stage)
    data = _data(DataSettings.model_validate(data_settings).model_dump_json(), folder)
    if any(data.fingerprints[part] != fingerprint for part, fingerprint in stage.data.items()):
        own = "; a source of one's own has to give the same images each time: seed its random numbers"
        raise DataError(
            f"the data set {data.name!r} changed while the study ran (its images are not those it started with); restore them"
            f"{own if is_import_path(data.name) else ''}"
        )
    started = time.perf_counter()
    try:
        context = Context(stage, settings, store, data, str(device), print, folder, **more)
        result = spec.run(context)
    except EdgesearchError as error:
        by_machine = isinstance(error, _OF_THE_MACHINE) or isinstance(error.__cause__, _OF_THE_MACHINE)
        if isinstance(error, _DETERMINISTIC) and not by_machine:
            store.record_failure(stage.kind, stage.key, message=str(error), made_by=made_by)
        raise
    except Exception as error:  # of a network of the user's own, whose code is part of the key
        if _is_of_users_network(error, settings):
            store.record_failure(stage.kind, stage.key, message=in_one_line(error), made_by=made_by)
        raise
    if result.instead is not None:
        return result.instead
    artifact = store.put(
        stage.kind,
        stage.key,
        figures=result.figures,
        seconds=time.perf_counter() - started + result.earlier_seconds,
        recipe=stage.recipe(),
        tensors=result.tensors,
        made_by=made_by,
    )
    store.checkpoints(stage.key).clear()
    return artifact


def _is_of_users_network(error: Exception, settings: object) -> bool:
    """Whether an error is one that a network of the user's own would make again: neither the machine's nor a GPU's."""
    student = getattr(settings, "student", None)
    if not isinstance(student, Student) or not is_import_path(student.architecture):
        return False
    return not (isinstance(error, _OF_THE_MACHINE) or out_of_memory(error) or "CUDA error" in str(error))


def _is_of(recorded: Mapping[str, str] | None, versions: Mapping[str, str]) -> bool:
    """Whether what recorded these versions of packages was made by the same; earlier ones recorded fewer of them."""
    return bool(recorded) and all(versions.get(name) == version for name, version in (recorded or {}).items())


@lru_cache(maxsize=1)
def _data(settings: str, folder: Path | None) -> DataSet:
    return load_data(DataSettings.model_validate_json(settings), folder=folder)


def _made_by(device: torch.device) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    found = {"device": device.type, "processor": processor_name(device), "threads": torch.get_num_threads()}
    return {"versions": versions, **found}
