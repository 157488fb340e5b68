"""A job as a task of Ray, on whatever node it was put: with its code, and its log on the way to the driver."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesearch.search.cluster._relay import local_log, relayed
from edgesearch.search.cluster._shipping import folder_with
from edgesearch.search.processes import run_in_child

__all__ = ["run_on_node"]


def run_on_node(content: Mapping[str, Any], code: bytes | None, keeper: Any, marker: str, own_process: bool) -> dict[str, Any]:
    """Run one stage in a child of this node's fork server; see `run_job`.

    code: the modules beside the study file, packed; None where the stage needs none, or every node has them.
    keeper: takes the log where this node does not see the driver's `marker`. own_process: the stage gets one for itself.
    """
    job = dict(content)
    if code is not None:
        job["folder"] = folder_with(code, job["folder"])
    log = local_log(job["log"], marker)
    if log == job["log"]:
        return run_in_child(job, own_process=own_process)
    try:
        with relayed(keeper, job["log"], log):
            return run_in_child({**job, "log": log}, own_process=own_process)
    finally:
        shutil.rmtree(Path(log).parent, ignore_errors=True)
