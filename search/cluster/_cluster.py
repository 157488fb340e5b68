"""A Ray cluster that this process did not start: are its nodes fit for the study, and is its head there.

What a node must have is looked at before any stage runs there (`_fitness.py`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from edgesearch.errors import StudyError
from edgesearch.search.cluster._client import is_outside, nodes_of_client
from edgesearch.search.cluster._fitness import Needs, check_nodes
from edgesearch.search.cluster._head import HeadWatch, Node, head_client, living_nodes, patience_with
from edgesearch.search.cluster._placement import Request, places
from edgesearch.search.cluster._relay import LogKeeper, write_pieces
from edgesearch.search.cluster._shares import Shares
from edgesearch.search.cluster._shipping import names_code, packed
from edgesearch.search.processes import Job

__all__ = ["Cluster"]

#: Seconds between two looks at logs that are elsewhere, and for an answer.
_LOGS_S = 3.0


class Cluster:
    """What the pool knows of the cluster that it is connected to, and what it gives the jobs on their way there.

    workers: how many stages may run side by side; None: as many as there is room for. `places` is how many may now.
    Raises StudyError where no node has what a stage is to be given.
    """

    def __init__(self, ray: Any, address: str, request: Request, workers: int | None = None) -> None:
        self._ray, self._address, self._request, self._workers = ray, address, request, workers
        is_client = is_outside(address)  # Ray notices by itself when it is cut off
        self._ask = ask = partial(nodes_of_client, ray) if is_client else partial(living_nodes, head_client(ray))
        self._watch = None if is_client else HeadWatch(ask, address, faults=(ray.exceptions.RayError,))
        self._head_at = None if is_client else ray.get_runtime_context().gcs_address
        self._own_node = None if is_client else ray.get_runtime_context().get_node_id()
        try:
            self._nodes: Mapping[str, Node] = ask()
        except ray.exceptions.RayError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StudyError(f"the Ray cluster at {address} does not say which nodes it has ({first}); try again") from error
        self._fit: set[str] = set()
        self._needs = Needs()
        self._codes: dict[str, Any] = {}  # folder -> its packed modules, in Ray's memory
        self._keeper: Any = None
        self._marker: Path | None = None
        self._fetched = time.monotonic()
        self._all_places = self._count()
        self._shares = None if is_client else Shares(ray)
        self.places = self._share()

    def arguments(self, job: Job) -> tuple[Any, Any, str]:
        """What a job's task is given beside the job: code, keeper of logs, marker of the driver's folder of logs.

        Raises StudyError for a node that is not fit for the study.
        """
        code = self._code(job)
        if self._needs.add(job):
            self._fit.clear()
            self._check()
        if self._marker is None:
            self._marker = Path(job.log).parent / f".{uuid.uuid4().hex}.driver"
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
            self._keeper = self._ray.remote(num_cpus=0, max_restarts=-1)(LogKeeper).remote()
        return code, self._keeper, str(self._marker)

    def look(self, running: int) -> None:
        """Count `places` anew, now and then; `running`: stages that run now. To be called often.

        Raises StudyError where the head or this machine's node is gone, and for a new node that is not fit for the study.
        """
        nodes = None if self._watch is None else self._watch.look()
        if nodes is None:
            return
        if self._own_node is not None and self._own_node not in nodes:
            raise StudyError(
                f"the node of the Ray cluster at {self._address} that runs on this machine is gone; nothing finished is lost: "
                "start it again, and the same command goes on from here"
            )
        if nodes.keys() != self._nodes.keys():
            self._nodes = nodes
            self._check()
            self._all_places = max(self._count(must=False), 1)
        if self._shares is not None:
            # One that has not enough to do is to have room for one more.
            wanted = min(self._all_places if running >= self.places else running + 1, self._workers or self._all_places)
            self._shares.update(min(wanted / self._all_places, 1.0))
        self.places = self._share()

    def _share(self) -> int:
        if self._shares is None or self._shares.is_alone:
            return self._workers or self._all_places  # more than fit wait at Ray, and let a cluster grow that can
        share = self._shares.slots(self._all_places)
        return share if self._workers is None else min(self._workers, share)

    def fetch_logs(self, *, at_once: bool) -> None:
        """Bring what workers wrote elsewhere into the driver's logs, now and then or at once."""
        if self._keeper is None or not (at_once or time.monotonic() - self._fetched > _LOGS_S):
            return
        self._fetched = time.monotonic()
        with suppress(self._ray.exceptions.RayError):  # it died with its node, and begins anew
            write_pieces(self._ray.get(self._keeper.take.remote(), timeout=_LOGS_S))

    @property
    def most_memory(self) -> int:
        """Bytes of the node that has most of those that stages can run on; 0 where none says so."""
        fit = (node.resources for node in self._nodes.values() if self._request.times_in(node.resources))
        return int(max((resources.get("memory", 0.0) for resources in fit), default=0.0))

    def leave(self) -> AbstractContextManager[None]:
        """Give back what the cluster holds for this study; within what this gives, Ray is to take leave of the cluster."""
        if self._shares is not None:
            self._shares.leave()
        if self._marker is not None:
            with suppress(OSError):
                self._marker.unlink()
        return nullcontext() if self._head_at is None else patience_with(self._head_at)

    def _count(self, *, must: bool = True) -> int:
        resources = [node.resources for node in self._nodes.values()]
        if not must:
            return sum(self._request.times_in(node) for node in resources)
        return places(self._request, resources, f"the Ray cluster at {self._address}")

    def _check(self) -> None:
        new = {node: about for node, about in self._nodes.items() if node not in self._fit}
        if new and self._needs.store:
            check_nodes(self._ray, new, self._needs, next(iter(self._codes.values()), None), living=self._living)
            self._fit |= new.keys()

    def _living(self) -> Mapping[str, Node]:
        """The nodes that there are now; those that were there where nobody says so."""
        try:
            return self._ask()
        except self._ray.exceptions.RayError:
            return self._nodes

    def _code(self, job: Job) -> Any:
        if job.folder is None or not names_code(job.stage, job.data, job.board, job.store, job.limits):
            return None
        if job.folder not in self._codes:
            self._codes[job.folder] = self._ray.put(packed(Path(job.folder)))
        return self._codes[job.folder]
