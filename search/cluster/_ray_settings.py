"""What Ray and its processes are told by the environment, and what they are kept from saying."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgesearch.search.processes import ONE_THREAD, SERVER_VARIABLE

__all__ = [
    "adopt_settings",
    "environment",
    "joining_settings",
    "keep_quiet",
    "let_speak",
    "local_settings",
    "own_settings",
    "own_sigterm",
]

#: Ray's own function for what workers print, while ours is in its place.
_printing: list[Any] = []


@cache
def _token() -> str:
    """Of every local instance that this process starts; it never leaves the environment of its child processes."""
    return secrets.token_hex(32)


def local_settings(server: str) -> dict[str, str]:
    """For a local instance. `server`: the name of the fork server that its workers' processes come from."""
    return {
        **_all_settings(),
        SERVER_VARIABLE: server,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _token(),
        # Ray's name for "no other machine takes part": its processes then listen on the loopback interface alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": os.environ.get("RAY_worker_niceness", "0"),  # noqa: SIM112
        **ONE_THREAD,  # Ray Tune's trainings compute in Ray's own workers
    }


def joining_settings() -> dict[str, str]:
    """Ray ends a process that cannot reach its head for a minute, without a word: `Cluster` has better words, and is sooner."""
    return {**_all_settings(), "RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}


def _all_settings() -> dict[str, str]:
    return {
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Once a connection is lost, Ray would start another instance with the next call, or look for one for minutes.
        "RAY_ENABLE_AUTO_CONNECT": "0",
        # Ray takes a process whose parent is pid 1 for a worker, and ends it when the raylet is gone, unless it finds the pid
        # of one that lives: ours. It looks once, when it is imported, and gives its own workers the true one.
        "RAY_RAYLET_PID": str(os.getpid()),
    }


def adopt_settings() -> None:
    """Let a Ray that was imported, and so read its settings, at another time read those of now: before it starts, and after."""
    from ray import _raylet
    from ray._private import auto_init_hook, ray_constants

    core: Any = _raylet  # compiled, without types
    core.Config.initialize("")
    constants: Any = ray_constants  # without types
    name = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(name, not constants.IS_WINDOWS_OR_OSX)
    core.AuthenticationTokenLoader.instance().reset_cache()
    hook: Any = auto_init_hook
    hook.enable_auto_connect = os.environ.get("RAY_ENABLE_AUTO_CONNECT", "") != "0"


def keep_quiet() -> None:
    """Do not print Ray's messages about dead workers, which come whatever `log_to_driver` says: the engine has better words."""
    from ray._private import worker

    if not _printing:
        _printing.append(worker.print_to_stdstream)
    worker.print_to_stdstream = _drop


def let_speak() -> None:
    """Let a Ray that somebody else in this process starts next print what its workers do."""
    from ray._private import worker

    if _printing:
        worker.print_to_stdstream = _printing.pop()


def _drop(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    logging.getLogger(__name__).debug("ray: %s", data.get("lines"))


@contextmanager
def own_sigterm() -> Iterator[None]:
    """What a SIGTERM does stays: Ray puts in its place what ends this process. It does so in the main thread alone."""
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and on_terminate is not None:
            signal.signal(signal.SIGTERM, on_terminate)


@contextmanager
def own_settings(values: Mapping[str, str]) -> Iterator[None]:
    """Within it the environment has these, of which `adopt_settings` tells Ray.

    Behind a Ray that did not start, the next one of this process has what is there then: it would look for a token that is
    gone, and end the process. What this process does with an error that nobody catches stays, too: Ray changes it as it is
    imported.
    """
    on_error = sys.excepthook
    try:
        with environment(values):
            yield
    except BaseException:
        import ray

        if not ray.is_initialized():
            adopt_settings()
        raise
    finally:
        sys.excepthook = on_error


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for Ray's processes, which inherit them; this process gets its own back, also what Ray changes."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
