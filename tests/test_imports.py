"""Importing a package changes nothing outside of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

SETTINGS = Path(__file__).parents[1] / "pyproject.toml"

#: Compared before and after every package and all of their modules are imported.
STATE = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings

def state():
    import optuna
    return {
        "environment": dict(os.environ),
        "filters": [str(f) for f in warnings.filters],
        "path": list(sys.path),
        "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP)],
        "optuna": optuna.logging.get_verbosity(),
        "root logger": [logging.getLogger().level, len(logging.getLogger().handlers)],
        "folder": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
    }

def torch_state():
    import torch
    return [torch.get_num_threads(), str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark, torch.initial_seed()]

# What other packages do when they are imported is not ours.
import numpy, optuna, plotly, ray, rich, sqlalchemy, torch, onnx, sklearn, scipy, safetensors, PIL.Image
import optuna_dashboard, sklearn.datasets, torch.fx, optuna.storages, onnx.helper, click
from optuna.samplers import GPSampler
before = state() | {"torch": torch_state()}
changed = {}
for name in NAMES:
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"{name}.{module.name}")
        after = state() | {"torch": torch_state()}
        for what in before:
            if before[what] != after[what]:
                changed.setdefault(f"{name}.{module.name}", {})[what] = [before[what], after[what]]
        before = after
print(json.dumps(changed))
"""


def test_importing_changes_no_global_state() -> None:
    packages = tomllib.loads(SETTINGS.read_text())["tool"]["setuptools"]["packages"]
    code = STATE.replace("NAMES", repr(packages))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}
