"""`edgesearch doctor`: what of this machine edgesearch can use."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import psutil

from edgesearch.board_eval import DEFAULT_BOARD, MODELLED, VitisSettings
from edgesearch.board_eval.boards import SimulatedBoard, find_board
from edgesearch.objectives import open_store
from edgesearch.search.commands._checks import Check, run_checks
from edgesearch.search.commands._doctor_boards import board_checks, profile_of
from edgesearch.search.commands._doctor_vitis import vitis_checks
from edgesearch.search.study import Home, StudyFile, holds_studies, open_storage, parse_url, study_names

_PACKAGES = ("torch", "torchvision", "optuna", "ray", "plotly", "sqlalchemy", "safetensors")
_OPTIONAL = {
    "onnxruntime": "runs the exported ONNX files (pip install 'edgesearch[onnx]')",
    "psycopg": "keeps studies in PostgreSQL (pip install 'edgesearch[postgresql]')",
}


def doctor(*, board: str | None, study: str | None, storage: str | None, store: str | None, home: Path, as_json: bool) -> int:
    """Run every check; returns 2 when one that is needed fails, 0 otherwise."""
    place = Home(home)
    settings = StudyFile.load(study) if study is not None else None
    name = board or (settings.board if settings is not None else DEFAULT_BOARD)
    checks = [
        Check("python", _python),
        *(Check(package, partial(_installed, package)) for package in _PACKAGES),
        Check("torchvision models", _torchvision_models),
        Check("device", _device),
        Check("cores and memory", _machine),
        Check("vector instructions", _vectors),
        Check("home", lambda: _home(place)),
        Check("database", lambda: _database(storage or place.database)),
        Check("store", lambda: _store(store, settings, place)),
        Check("modelled", lambda: f"the {MODELLED}"),
        Check("board", lambda: _board(profile_of(name), None if settings is None else settings.folder)),
        *(Check(package, partial(_optional, package), needed=False) for package in _OPTIONAL),
        *vitis_checks(settings.vitis if settings is not None else VitisSettings()),
        *board_checks(board),
    ]
    return 0 if run_checks(checks, as_json=as_json) else 2


def _python() -> str:
    return f"{platform.python_version()}, {sys.executable}"


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise ImportError("not installed; install edgesearch again, with its dependencies: pip install edgesearch") from error


def _torchvision_models() -> str:
    from edgesearch.plugins import import_torchvision

    return f"{len(import_torchvision('models').list_models())} models"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return "CPU; torch sees no CUDA device, and a study trains without one, only longer"


def _machine() -> str:
    memory = psutil.virtual_memory()
    return f"{len(os.sched_getaffinity(0))} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"


def _vectors() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _database(url: str) -> str:
    shown = parse_url(url)
    # Another program's database stays as it is: nothing is made in it before a study is begun there.
    is_others = not holds_studies(url) and (shown.get_backend_name() != "sqlite" or Path(shown.database or "").is_file())
    names = [] if is_others else study_names(open_storage(url))
    return f"{shown.get_backend_name()} ({shown.get_driver_name()}), studies: {', '.join(names) or 'none yet'}"


def _home(place: Home) -> str:
    place.prepare()
    free = shutil.disk_usage(place.folder).free / 2**30
    if free < 1:
        raise OSError(
            f"{place.root} has {free:.2f} GiB left on its disk, and studies need about 1: make room, or give another --home"
        )
    return f"{place.folder.resolve()}, {free:.0f} GiB free"


def _store(store: str | None, settings: StudyFile | None, place: Home) -> str:
    named = store or (settings.store if settings is not None else "")
    folder = settings.folder if settings is not None and not store else None
    return str(open_store(named or place.store, folder=folder).location)


def _board(name: str, folder: Path | None) -> str:
    board = find_board(name, folder=folder)
    if not isinstance(board, SimulatedBoard):
        return f"{board.name}, {board.target.name}, by {name}"
    profile = board.profile
    return f"{profile.name} (simulated): {profile.cores} x {profile.dpu.name} at {profile.clock_mhz:g} MHz"


def _optional(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        raise ImportError(_OPTIONAL[name])
    return "installed"
