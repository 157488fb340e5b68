"""How every benchmark ends: one line of JSON with its figures, the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

#: Reference data beside the checkout, or where this variable says.
REFERENCE_DATA = Path(os.environ.get("EDGESEARCH_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))
_PACKAGES = ("edgesearch", "numpy", "optuna", "ray", "torch", "torchvision")


def finish(figures: dict[str, Any]) -> None:
    """Print the last line: the figures with the machine and the versions they were measured on."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "memory_gb": round(memory_gb, 1)}
    versions = {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    print(json.dumps({**figures, "machine": machine, "versions": versions}), flush=True)


def _version(package: str) -> str | None:
    """None where it is not there: few benchmarks need all of them."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
