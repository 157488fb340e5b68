"""Killing what belongs to a driver that runs a study."""

from __future__ import annotations

import contextlib
import signal

import psutil

__all__ = ["kill"]


def kill(driver: psutil.Process, what: str) -> bool:
    """Kill (SIGKILL) one "worker" of Ray's, one "stage" (the process that it runs in), the "fork_server" that these come from,
    Ray's "raylet" or "gcs_server", the "driver", or "everything" that it started with it.

    Returns whether there was something to kill.
    """
    family = driver.children(recursive=True)
    names = {"worker": "ray::run_job", "stage": "run_job"}
    if what in (*names, "fork_server", "raylet", "gcs_server"):
        victims = [child for child in family if _name(child) == names.get(what, what)][:1]
    else:
        victims = [driver] if what == "driver" else [driver, *family]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    if driver in victims:  # a machine that lost its driver: what it started must go by itself
        psutil.wait_procs(family, timeout=60)
    return bool(victims)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:  # it ended meanwhile
        return ""
