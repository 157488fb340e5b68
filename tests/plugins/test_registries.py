"""Every registry holds the things of this program as soon as it can be reached."""

from __future__ import annotations

import subprocess
import sys

#: In this order: what is imported for one registry must not bring in what the next one lacks.
REGISTRIES = {
    "edgesearch.board_eval.targets:TARGETS": "B1024 B1152 B1600 B2304 B3136 B4096 B512 B800",
    "edgesearch.board_eval.boards:BOARDS": "kv260 ultra96 zcu102 zcu104",
    "edgesearch.objectives.quantization:QUANTIZERS": "best per_channel vitis",
    "edgesearch.objectives.pruning:PRUNERS": "iterative n_m one_step unstructured",
    "edgesearch.objectives.data:DATA_SOURCES": "cifar10 digits fashion_mnist folder mnist npz",
    "edgesearch.search.proposals:samplers": "gp nsga2 nsga3 random tpe",
}


def test_registries_are_complete_in_a_process_that_imported_nothing_else() -> None:
    named = [path.split(":") for path in REGISTRIES]
    code = "\n".join(f"from {module} import {name}\nprint(*{name})" for module, name in named)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert dict(zip(REGISTRIES, done.stdout.splitlines(), strict=True)) == REGISTRIES
