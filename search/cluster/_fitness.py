"""Whether the nodes of a Ray cluster are fit for a study: they have this edgesearch, see the store and the data, and find the
study's own code.

It is looked at in a small task on each node before any stage runs there, so that no trial fails for what a node lacks.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import is_folder
from edgesearch.plugins import load
from edgesearch.search.cluster._head import Node
from edgesearch.search.cluster._shipping import folder_with, import_paths
from edgesearch.search.processes import Job, extend_path

__all__ = ["Needs", "check_nodes", "lacking"]

#: Seconds for a node to say what it has.
_NODE_S = 120.0


class Needs:
    """What the jobs of one study take from the nodes that they run on, as far as jobs were seen."""

    def __init__(self) -> None:
        self.store = ""
        self._content: dict[str, Any] = {}
        self._seen: set[str] = set()  # strings of jobs that may be import paths
        self._paths: set[str] = set()

    def add(self, job: Job) -> bool:
        """Whether the job needs what none before it did."""
        paths = import_paths(job.stage, job.data, job.limits)
        is_new = not self.store or not paths <= self._seen
        self._paths |= {path for path in paths - self._seen if _is_here(path, job.folder)}
        self._seen |= paths
        self.store = job.store
        root = None if job.data.get("download") else job.data.get("root")
        self._content = {
            "root": str(root) if root and Path(root).exists() else "",  # what is not here, its source does not look for
            "folder": job.folder,
            "python_path": list(job.python_path),
            "import_paths": sorted(self._paths),
        }
        return is_new

    def to_json(self) -> dict[str, Any]:
        """What `lacking` is asked."""
        return self._content


def _is_here(path: str, folder: str | None) -> bool:
    """Whether there is something behind what looks like an import path: a parameter of a network may, too."""
    try:
        load(path, folder=None if folder is None else Path(folder), noun="code")
    except EdgesearchError:
        return False
    return True


def lacking(needs: Mapping[str, Any], code: bytes | None) -> str:
    """What this machine lacks of a study's `Needs`, in words; "" where it lacks nothing. `code`: as `run_on_node`."""
    if needs["root"] and not Path(needs["root"]).exists():
        return f"does not have the data set at {needs['root']}; put it there, under the same path as on this machine"
    try:
        extend_path(tuple(needs["python_path"]))
        folder = needs["folder"] if code is None else folder_with(code, needs["folder"])
        for path in needs["import_paths"]:
            load(path, folder=None if folder is None else Path(folder), noun="code")
    except EdgesearchError as error:
        return f"cannot run the study's code: {error}; install there what is missing"
    return ""


def check_nodes(
    ray: Any, nodes: Mapping[str, Node], needs: Needs, code: Any = None, *, living: Callable[[], Container[str]]
) -> None:
    """Raise StudyError, by its address, for a node that has another edgesearch or lacks what the study needs.

    `code`: the study's packed modules in Ray's memory, where jobs name some. `living` tells which nodes there are still: one
    that dies while it is asked is nobody's fault.
    """
    with _marked(needs.store) as marker:
        answers = {node: _ask(ray, node, marker, needs.to_json(), code) for node in nodes}
        ours = _versions()
        deadline = time.monotonic() + _NODE_S
        for node, answer in answers.items():
            name = nodes[node].address
            try:
                found = ray.get(answer, timeout=max(deadline - time.monotonic(), 1.0))
            except ray.exceptions.RayError as error:
                if node not in living():
                    continue
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise StudyError(
                    f"node {name} of the Ray cluster does not say what it has ({type(error).__name__}: {first}); mend it or "
                    "take it out of the cluster, and give the same command again"
                ) from error
            for package, version in ours.items():
                if found[package] != version:
                    other = f"{package} {found[package]}" if found[package] else f"no {package}"
                    raise StudyError(
                        f"node {name} of the Ray cluster has {other}, and this machine has {package} {version}: their results "
                        f"would differ; install {package} {version} there"
                    )
            if not found["marker"]:
                raise StudyError(
                    f"node {name} of the Ray cluster does not see the store at {needs.store}; put it on a path that every node "
                    "has (--store /PATH), or into an object store (--store s3://bucket/folder)"
                )
            if found["lacking"]:
                raise StudyError(f"node {name} of the Ray cluster {found['lacking']}")


def _ask(ray: Any, node: str, marker: str, needs: Mapping[str, Any], code: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ours = _versions()

    # A function within a function is sent whole: where edgesearch is missing, it runs nevertheless.
    def tell(code: bytes | None) -> dict[str, Any]:
        import os.path
        from importlib import metadata

        told: dict[str, Any] = {"marker": not marker or os.path.exists(marker), "lacking": ""}
        for package in ours:
            try:
                told[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                told[package] = ""
        if all(told[package] == version for package, version in ours.items()):
            from edgesearch.search.cluster._fitness import lacking

            told["lacking"] = lacking(needs, code)
        return told

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(tell).options(scheduling_strategy=there).remote(code)


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in ("edgesearch", "torch")}


@contextmanager
def _marked(store: str) -> Iterator[str]:
    """A file in the store's folder that nodes look for; "" for a store that is no folder."""
    if not is_folder(store):
        yield ""
        return
    marker = Path(store) / "tmp" / f"{uuid.uuid4().hex}.node"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        yield os.fspath(marker)
    finally:
        with suppress(OSError):
            marker.unlink()
