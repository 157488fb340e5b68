"""Jobs as Ray tasks, in a local instance of our own or on a cluster.

Ray never retries a task (`max_retries=0`): the engine decides. What Ray itself needs (its node's processes, or the cluster) may
die at any moment; the pool then starts again, and says of every job that ran that it was interrupted, not that it failed.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import psutil

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.search.cluster._client import connected, is_outside, refuse_silent
from edgesearch.search.cluster._cluster import Cluster
from edgesearch.search.cluster._on_node import run_on_node
from edgesearch.search.cluster._placement import Request, places
from edgesearch.search.cluster._processes import descendants, is_frozen, is_of_package, is_running, kill, kill_family
from edgesearch.search.cluster._ray_processes import few_processes
from edgesearch.search.cluster._ray_settings import (
    adopt_settings,
    joining_settings,
    keep_quiet,
    let_speak,
    local_settings,
    own_settings,
    own_sigterm,
)
from edgesearch.search.processes import HANG_S, NO_MEMORY, ForkServer, Heartbeats, Job, JobResult, Outcome, hung, memory_kills

#: A pool that loses its jobs this many times without one job done in between is not worth another start.
_PATIENCE = 5
#: So often a Ray is started that does not come up.
_STARTS = 3
#: Memory is asked for in such steps: Ray keeps workers for tasks that ask alike.
_MEMORY_STEP = 64 << 20
#: Ray's processes without which nothing runs: the node's scheduler, and the table of all that there is.
_DAEMONS = ("raylet", "gcs_server")
#: What workers are called in lists of processes, after "ray::".
_TITLE = "run_job"


class RayPool:
    """Runs each job as a Ray task, in a local instance (`address` None) or on the cluster at `address`.

    workers: jobs that compute side by side; None: as many as the cluster has room for, by what each is given: `threads`
    processors, `gpus_per_job` of a GPU, `memory_per_job` bytes. own_process: each stage gets a process of its own (None: where
    it gets a share of a GPU), else each worker. server: what these are forked from on this machine (None: a fork server of its
    own); on a cluster every node has one.
    A job on a board takes no CPU of a worker: it holds a share of the resource "board:NAME", of nodes that offer it; where none
    does, it runs on the driver's node. `boards`: how many jobs each board takes, for a local instance. `hang_s`: a job that is
    silent for longer hangs. `gpus`: how many a local instance shares out; None: those that Ray finds.
    A local instance listens on the loopback interface alone, and asks for a token that only this process and its children know.
    Raises StudyError when Ray does not start, and when no node has what a stage is given.
    """

    waits_for_boards = False

    def __init__(
        self,
        workers: int | None,
        *,
        address: str | None = None,
        threads: int = 1,
        gpus_per_job: float = 0.0,
        gpus: int | None = None,
        memory_per_job: int = 0,
        own_process: bool | None = None,
        boards: Mapping[str, int] | None = None,
        hang_s: float = HANG_S,
        server: ForkServer | None = None,
    ) -> None:
        self.slots = workers or 1
        self._workers = workers
        # A local instance has as many processors as workers, whatever threads these have.
        self._gpus = gpus
        self._request = Request(float(threads) if address else 1.0, gpus_per_job, memory_per_job)
        self._own_process = gpus_per_job > 0 if own_process is None else own_process
        self._cluster: Cluster | None = None
        self._beats = Heartbeats(hang_s)
        self._server, self._owns_server = server or ForkServer(), server is None
        self._kills = 0  # of processes on this machine for want of memory, as the last job began
        self._boards = {f"board:{name}": float(count) for name, count in (boards or {}).items()}
        self._address = address
        self._running: dict[Any, Job] = {}
        self._interrupted: list[JobResult] = []
        self._cancelled: set[str] = set()
        self._board_tasks: dict[str, Any] = {}
        self._fruitless = 0
        try:
            if address is not None:
                refuse_silent(address)
            self._begin()
        except BaseException:
            self._leave_server()
            raise

    def submit(self, job: Job) -> None:
        """Start a task. Raises StudyError where the connection to a cluster is lost."""
        if not self._is_alive():
            self._restart()
        with connected(self._address):
            task = self._board_task(job.board_name) if job.board_name else self._task
            if job.memory and not self._request.memory and not job.board_name:  # who says how much knows better
                task = task.options(memory=self._fitting(job.memory))
            arguments = self._cluster.arguments(job) if self._cluster is not None else (None, None, "")
            self._beats.begin(job.key, job.log)
            self._kills = memory_kills()
            self._running[task.remote(asdict(job), *arguments, self._own_process)] = job

    def _fitting(self, memory: int) -> int:
        """Bytes to ask of a node: none larger than the largest has, where the task then runs alone and makes do."""
        if self._cluster is not None:
            most = self._cluster.most_memory
        else:
            nodes = [node["Resources"].get("memory", 0.0) for node in self._ray.nodes() if node["Alive"]]
            most = int(max(nodes, default=0.0))
        rounded = -(-memory // _MEMORY_STEP) * _MEMORY_STEP
        return min(rounded, most or rounded)

    def wait(self, timeout: float) -> list[JobResult]:
        """The tasks that ended. Raises StudyError when Ray dies again and again, and when a cluster does not answer."""
        if self._cluster is not None:
            self._cluster.look(len(self._running))
            self.slots = self._cluster.places
        if not self._interrupted and not self._is_alive():
            self._restart()
        if self._interrupted:
            results, self._interrupted = self._interrupted, []
            return results
        if not self._running:
            time.sleep(timeout)
            return []
        with connected(self._address):
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
            results = [self._collect(reference) for reference in ready]
            if self._cluster is not None:
                self._cluster.fetch_logs(at_once=bool(ready))
            results += [self._give_up(key) for key in self._beats.silent()]
        self._count_fruitless(results)
        return results

    def cancel(self, key: str) -> bool:
        """Kill the worker that runs this job; whether there is one."""
        for reference, job in self._running.items():
            if job.key == key:
                self._cancelled.add(key)
                with connected(self._address):
                    self._ray.cancel(reference, force=True)
                return True
        return False

    def close(self) -> None:
        """Stop Ray; running tasks are killed, their checkpoints stay."""
        self._running.clear()
        self._stop()
        self._leave_server()

    # --- the instance

    def _leave_server(self) -> None:
        if self._owns_server:
            self._server.close()

    def _begin(self) -> None:
        """What did not come up because a machine was busy is started again; `_came_too_late` says what that is."""
        for _ in range(_STARTS - 1):
            try:
                return self._start()
            except StudyError as error:
                if not _came_too_late(error, self._address):
                    raise
        return self._start()

    def _start(self) -> None:
        local = self._address is None
        if local:
            self._server.start()  # its imports take as long as Ray's start
        with own_settings(local_settings(self._server.name) if local else joining_settings()):
            import ray

            self._ray: Any = ray
            self._daemons, self._board_tasks = {}, {}
            is_theirs = ray.is_initialized()  # somebody's who uses this library; it is told that there can be one alone
            if not is_theirs:
                adopt_settings()
            before = psutil.Process().children()
            try:
                self._connect(ray)
            except BaseException:
                if not is_theirs:
                    self._stop()
                    for process in psutil.Process().children():
                        if process not in before and is_of_package(process, ray):
                            kill_family(process)
                raise
        try:
            keep_quiet()
            self._daemons = _daemons() if local else {}
            self._task = self._ray.remote(name=_TITLE, max_retries=0, max_calls=0, **self._request.options)(run_on_node)
            if self._address is None:
                places(self._request, [self._ray.cluster_resources()], "this machine")
            else:
                self._cluster = Cluster(ray, self._address, self._request, self._workers)
                self.slots = self._cluster.places
        except BaseException:
            self._stop()
            raise

    def _connect(self, ray: Any) -> None:
        local = self._address is None
        options: dict[str, Any] = {}
        if local:
            options = {"num_cpus": self.slots, "include_dashboard": False, "resources": self._boards}
            if self._gpus is not None:
                options["num_gpus"] = self._gpus
        try:
            with warnings.catch_warnings(), own_sigterm(), few_processes() if local else nullcontext():
                warnings.simplefilter("ignore")
                ray.init(
                    # RAY_ADDRESS in the environment is not asked: "local" is always an instance of our own.
                    address="local" if local else self._address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    **options,
                )
        except Exception as error:
            known = (OSError, RuntimeError, ValueError, ray.exceptions.RayError)  # a full disk, a server that is not there
            if type(error) is not Exception and not isinstance(error, known):  # Ray raises plain ones, too
                raise
            where = "a local Ray" if local else f"--ray-address {self._address}"
            reason = _reason(error).removesuffix(".")
            raise StudyError(f"{where} does not start: {reason}; try --workers 0 to run without Ray") from error

    def _board_task(self, board: str) -> Any:
        """The task of a job on a board: on nodes that offer the board, else on this one. Ray is asked once for each board."""
        if board not in self._board_tasks:
            name = f"board:{board}"
            remote = self._ray.remote(name=_TITLE, num_cpus=0, max_retries=0)(run_on_node)
            if self._ray.cluster_resources().get(name):
                self._board_tasks[board] = remote.options(resources={name: 1})
            elif is_outside(self._address):
                raise StudyError(
                    f"no node of the Ray cluster at {self._address} offers {name}, and this machine is none of them; start a "
                    f"node that reaches it with --resources '{{\"{name}\": 1}}', or run the command on a node"
                )
            else:
                from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

                here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
                self._board_tasks[board] = remote.options(scheduling_strategy=here)
        return self._board_tasks[board]

    def _is_alive(self) -> bool:
        return all(is_running(daemon) for daemon in self._daemons.values())

    def _restart(self) -> None:
        why = "Ray went down with its worker"
        self._interrupted += [JobResult(job.key, "interrupted", 0.0, why) for job in self._running.values()]
        self._running.clear()
        self._cancelled.clear()
        self._beats.clear()
        self._count_fruitless(self._interrupted)
        self._stop()
        try:
            self._start()
        except StudyError:
            if self._address is not None:
                raise
            self._stop()  # what ended the one before may have ended this one as it began
            self._start()

    def _count_fruitless(self, results: list[JobResult]) -> None:
        """Give up on a Ray that takes stages and never finishes one."""
        if any(result.outcome != "interrupted" for result in results):
            self._fruitless = 0
        elif results:
            self._fruitless += 1
        if self._fruitless > _PATIENCE:
            raise StudyError(
                f"Ray lost stages {self._fruitless} times in a row ({results[0].message}) and finished none; look at its "
                "memory and disk, or try --workers 0; the same command goes on from here"
            )

    def _stop(self) -> None:
        head = nullcontext() if self._cluster is None else self._cluster.leave()
        self._cluster = None
        node = self._daemons.get("raylet")
        if node is not None and not self._is_alive():  # a half dead instance answers nobody, and Ray would wait for its node
            kill_family(node)
        with head:
            self._ray.shutdown()  # takes leave of the other daemon, and takes longer where that is dead, too
        let_speak()
        adopt_settings()  # a cluster may be joined next: nodes elsewhere do not reach a process that listens on loopback
        for daemon in self._daemons.values():
            kill(daemon)
        self._daemons = {}

    # --- results

    def _collect(self, reference: Any) -> JobResult:
        job = self._running.pop(reference)
        self._beats.end(job.key)
        was_cancelled = job.key in self._cancelled
        self._cancelled.discard(job.key)
        try:
            return JobResult(**self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return self._ended_badly(job, error, was_cancelled=was_cancelled)

    def _give_up(self, key: str) -> JobResult:
        """Stop a worker that hangs. One that cannot be reached is left: should it wake up, nobody asks for what it does."""
        self.cancel(key)
        self._cancelled.discard(key)
        del self._running[next(reference for reference, job in self._running.items() if job.key == key)]
        self._beats.end(key)
        for process in descendants(self._daemons["raylet"]) if "raylet" in self._daemons else []:
            if is_frozen(process):  # it does not hear Ray
                kill(process)
        return JobResult(key, "hung", 0.0, hung(self._beats.limit_s))

    def _ended_badly(self, job: Job, error: Exception, *, was_cancelled: bool) -> JobResult:
        exceptions = self._ray.exceptions
        if was_cancelled:
            return JobResult(job.key, "lost", 0.0, "it was stopped")
        if isinstance(error, exceptions.RayTaskError) and not isinstance(error.cause, exceptions.RayError):
            # `run_job` answers what goes wrong in a stage: this was raised around it.
            if isinstance(error.cause, OSError):  # that node's disk, say
                return JobResult(job.key, "interrupted", 0.0, f"Ray lost the stage ({error.cause})")
            raise error.cause if isinstance(error.cause, EdgesearchError) else error
        if isinstance(error, exceptions.NodeDiedError):
            return JobResult(job.key, "interrupted", 0.0, "the node that it ran on died or is out of reach")
        if isinstance(error, exceptions.OutOfMemoryError):
            return JobResult(job.key, "out_of_memory", 0.0, NO_MEMORY)
        if isinstance(error, exceptions.WorkerCrashedError):
            if self._daemons and memory_kills() > self._kills:
                return JobResult(job.key, "out_of_memory", 0.0, NO_MEMORY)
            outcome: Outcome = "lost" if self._stays_alive() else "interrupted"
            return JobResult(job.key, outcome, 0.0, "the worker died")
        # the node, its Ray processes, the connection to them
        return JobResult(job.key, "interrupted", 0.0, f"Ray lost the stage ({type(error).__name__})")

    def _stays_alive(self, seconds: float = 1.0) -> bool:
        """Whether the instance is alive, and still is after a moment: a dying one takes its workers along first."""
        deadline = time.monotonic() + seconds
        while self._is_alive() and self._daemons and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._is_alive()


def _daemons() -> dict[str, psutil.Process]:
    """Those of this process's instance, by name."""
    children = {child.name(): child for child in psutil.Process().children()}
    return {name: children[name] for name in _DAEMONS}


def _came_too_late(error: StudyError, address: str | None) -> bool:
    """Whether a busy machine may be the cause, and not what was asked for.

    A local instance has 30 s to come up, and Ray raises a plain exception after that. The process that a cluster starts for a
    driver outside is forked beside threads of gRPC, and at times dies at once.
    """
    cause = error.__cause__
    return type(cause) is Exception if address is None else is_outside(address) and isinstance(cause, ConnectionAbortedError)


def _reason(error: Exception) -> str:
    """In one line: the first of what Ray says, or the last where that is a traceback of another process."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if any(line.startswith("Traceback ") for line in lines) else 0].strip()
