"""`edgesearch doctor`: what of this machine edgesearch can use."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import click
import psutil
from sqlalchemy import make_url

from edgesearch.board_eval import MODELLED, load_profile
from edgesearch.errors import EdgesearchError
from edgesearch.search.study import Home, open_storage, study_names

_PACKAGES = ("torch", "torchvision", "optuna", "ray", "torch-pruning", "plotly", "sqlalchemy", "safetensors")
_OPTIONAL = {
    "onnxruntime": "runs the exported ONNX files (pip install 'edgesearch[onnx]')",
    "psycopg": "keeps studies in PostgreSQL (pip install 'edgesearch[postgresql]')",
    "pytorch_nndct": "Vitis AI's quantizer; comes with its container only, not needed here",
    "vai_optimizer": "Vitis AI's pruner; comes with its container only, not needed here",
}


def doctor(*, board: str | None, storage: str | None, home: Path) -> int:
    """Run every check; returns 2 when one that is needed fails, 0 otherwise."""
    place = Home(home)
    checks: list[tuple[str, bool, Callable[[], str]]] = [
        *((name, True, partial(metadata.version, name)) for name in _PACKAGES),
        ("torchvision models", True, _torchvision_models),
        ("device", True, _device),
        ("cores and memory", True, _machine),
        ("vector instructions", True, _vectors),
        ("home", True, lambda: _home(place)),
        ("database", True, lambda: _database(storage or place.database)),
        ("modelled", True, lambda: f"the {MODELLED}"),
        ("board", True, lambda: _board(board or "zcu104")),
        *((name, False, partial(_optional, name)) for name in _OPTIONAL),
        ("vai_c_xir", False, _compiler),
    ]
    failed = False
    for name, needed, check in checks:
        try:
            click.echo(f"  ok       {name}: {check()}")
        except (EdgesearchError, ImportError, metadata.PackageNotFoundError, OSError, RuntimeError) as error:
            failed |= needed
            click.echo(f"  {'FAILED ' if needed else 'absent '}  {name}: {error}")
    return 2 if failed else 0


def _torchvision_models() -> str:
    from edgesearch.spaces import import_torchvision

    return f"{len(import_torchvision('models').list_models())} models"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return "CPU"


def _machine() -> str:
    memory = psutil.virtual_memory()
    return f"{len(os.sched_getaffinity(0))} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"


def _vectors() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _database(url: str) -> str:
    names = ", ".join(study_names(open_storage(url))) or "none yet"
    shown = make_url(url)
    return f"{shown.get_backend_name()} ({shown.get_driver_name()}), studies: {names}"


def _home(place: Home) -> str:
    place.prepare()
    free = shutil.disk_usage(place.root).free / 2**30
    if free < 1:
        raise OSError(f"{place.root} has {free:.2f} GiB left on its disk; studies need about 1")
    return f"{place.root.resolve()}, {free:.0f} GiB free"


def _board(name: str) -> str:
    profile = load_profile(name)
    return f"{profile.name} (simulated): {profile.cores} x {profile.dpu.name} at {profile.clock_mhz:g} MHz"


def _optional(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        raise ImportError(_OPTIONAL[name])
    return "installed"


def _compiler() -> str:
    path = shutil.which("vai_c_xir")
    if path is None:
        raise OSError(
            "Vitis AI's compiler is not on PATH, and not needed: edgesearch compiles for the board itself unless a study says "
            'compiler = "vai"'
        )
    return path
