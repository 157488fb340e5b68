"""What the pool asks of Ray, and a driver that nobody waits for: what dies of Ray is started again."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from _training_jobs import job

from edgesearch.errors import StudyError
from edgesearch.objectives import Stage
from edgesearch.search.cluster import _ray
from edgesearch.search.cluster._ray import RayPool
from edgesearch.search.processes._jobs import Job, JobResult


class RayError(Exception):
    """Of the stand-in."""


class Died(RayError):
    """A worker."""


class NodeDied(RayError):
    """With its worker."""


class TaskFailed(RayError):
    """What a task raised itself."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class StandIn:
    """Takes tasks and ends them as the test says; counts what it is asked."""

    class exceptions:  # noqa: N801
        RayError, OutOfMemoryError, WorkerCrashedError, NodeDiedError = RayError, MemoryError, Died, NodeDied
        RayTaskError = TaskFailed

    def __init__(self) -> None:
        self.questions = 0
        self.ends: dict[str, Any] = {}  # the recipe's name -> result, or what is raised

    def remote(self, **options: Any) -> Any:
        return lambda function: _Task()

    def nodes(self) -> list[dict[str, Any]]:
        sizes = [(True, 2e9), (True, 3e9), (False, 9e9)]
        return [{"Alive": alive, "Resources": {"memory": size}} for alive, size in sizes]

    def cluster_resources(self) -> dict[str, float]:
        self.questions += 1
        return {"board:lab": 2.0}

    def wait(self, references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return [reference for reference in references if reference in self.ends], []

    def get(self, reference: str) -> Any:
        end = self.ends.pop(reference)
        if isinstance(end, Exception):
            raise end
        return end

    def cancel(self, reference: str, force: bool) -> None:
        """The task has just ended: too late."""

    def shutdown(self) -> None:
        self.ends.clear()


class _Task:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def options(self, **options: Any) -> _Task:
        self.asked.append(options)
        return self

    def remote(self, values: dict[str, Any], *more: object) -> str:
        return str(values["stage"]["parameters"]["name"])


class Pool(RayPool):
    """The pool on the stand-in; `alive` says whether Ray's processes are."""

    starts = 0
    alive = True

    def _start(self) -> None:
        self._ray, self._task, self._daemons, self._board_tasks = StandIn(), _Task(), {}, {}
        self.starts += 1
        self.alive = True

    def _is_alive(self) -> bool:
        return self.alive


def a_job(name: str, **more: Any) -> Job:
    return Job(stage=Stage("student", 1, {"name": name}, {}).to_json(), data={}, store="", log="", **more)


def done(name: str) -> dict[str, Any]:
    return asdict(JobResult(a_job(name).key, "done", 1.0, ""))


def ends(pool: Pool) -> list[tuple[str, str]]:
    return [(result.key, result.outcome) for result in pool.wait(0.0)]


def test_ray_is_asked_once_for_a_board(tmp_path: Path) -> None:
    pool = Pool(1)
    for number in range(5):
        pool.submit(a_job(str(number), board={"name": "lab"}))
    assert pool._ray.questions == 1


def test_a_task_asks_for_the_memory_that_its_stage_takes_and_for_no_more_than_a_node_has() -> None:
    pool = Pool(1)
    for name, memory in (("unknown", 0), ("small", 1), ("large", 2_000_000_000), ("too large", 5_000_000_000)):
        pool.submit(a_job(name, memory=memory))
    pool.submit(a_job("on a board", memory=1, board={"name": "lab"}))
    step = 64 << 20
    assert pool._task.asked == [{"memory": step}, {"memory": 30 * step}, {"memory": 3_000_000_000}]


def test_a_ray_that_died_between_two_jobs_is_started_before_the_next(tmp_path: Path) -> None:
    pool = Pool(1)
    pool.submit(a_job("a"))
    pool.alive = False
    pool.submit(a_job("b", board={"name": "lab"}))
    assert pool.starts == 2
    assert ends(pool) == [(a_job("a").key, "interrupted")]
    pool._ray.ends["b"] = done("b")
    assert ends(pool) == [(a_job("b").key, "done")]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_job_that_was_stopped_too_late_does_not_excuse_the_next_of_its_stage(restarts: bool) -> None:
    pool = Pool(1)
    pool.submit(a_job("a"))
    assert pool.cancel(a_job("a").key)
    if restarts:
        pool.alive = False
    else:
        pool._ray.ends["a"] = done("a")
    assert [result.outcome for result in pool.wait(0.0)] == ["interrupted" if restarts else "done"]
    pool.submit(a_job("a"))
    pool._ray.ends["a"] = Died()
    assert [(result.outcome, result.message) for result in pool.wait(0.0)] == [("lost", "the worker died")]


def test_a_stage_whose_node_died_is_interrupted_and_not_at_fault() -> None:
    pool = Pool(1)
    pool.submit(a_job("a"))
    pool._ray.ends["a"] = NodeDied()
    assert ends(pool) == [(a_job("a").key, "interrupted")]


_ORPHAN = """
import json, os, sys, time
from pathlib import Path
parent = os.getpid()
if os.fork():
    os._exit(0)
os.setsid()
out, task, deadline = Path(sys.argv[1]), json.loads(sys.argv[2]), time.monotonic() + 300
while os.getppid() == parent:
    time.sleep(0.01)

def say(words):
    Path(f"{out}.part").write_text(words)
    os.replace(f"{out}.part", out)

if os.getppid() != 1:
    say("not the child of pid 1")
    os._exit(0)
import psutil
from edgesearch.search.processes._jobs import Job
from edgesearch.search.cluster._ray import RayPool

pool = RayPool(1)
pool.submit(Job(**task))
while not Path(task["log"]).exists() and time.monotonic() < deadline:
    time.sleep(0.1)
before = [process for process in psutil.Process().children(recursive=True) if process.name() != "fork_server"]
[raylet] = [process for process in before if process.name() == "raylet"]
raylet.kill()
ends = []
while not ends and time.monotonic() < deadline:
    ends = pool.wait(1.0)
left = psutil.wait_procs(before, timeout=30)[1]
pool.close()
say(json.dumps([ends[0].outcome, os.environ.get("RAY_RAYLET_PID"), len(left)]))
"""


@pytest.mark.slow
def test_a_driver_that_nobody_waits_for_outlives_rays_node(tmp_path: Path) -> None:
    out, task = tmp_path / "out.json", json.dumps(asdict(job(tmp_path, epochs=5000)))
    with (tmp_path / "err.txt").open("w") as errors:
        subprocess.run([sys.executable, "-c", _ORPHAN, str(out), task], check=True, timeout=60, stderr=errors)
    deadline = time.monotonic() + 300
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert out.exists(), (tmp_path / "err.txt").read_text()
    if out.read_text() == "not the child of pid 1":
        pytest.skip("orphans are not given to pid 1 here")
    assert json.loads(out.read_text()) == ["interrupted", None, 0]


def test_a_driver_of_another_thread_than_the_main_one_has_a_ray_and_leaves_the_next_its_voice() -> None:
    from ray._private import node, worker

    printing, on_terminate, found = worker.print_to_stdstream, signal.getsignal(signal.SIGTERM), []
    starter, programs = node.Node.start_monitor, set[str]()

    def drive() -> None:
        pool = RayPool(1)
        found.append(worker.print_to_stdstream is printing)
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                programs.update(Path(word).name for word in child.cmdline())
        pool.close()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(drive).result()
    assert found == [False]
    assert {"raylet", "gcs_server"} <= programs
    assert not {"monitor.py", "dashboard.py", "log_monitor.py"} & programs  # which nobody asks for anything
    assert node.Node.start_monitor is starter
    assert worker.print_to_stdstream is printing
    assert signal.getsignal(signal.SIGTERM) is on_terminate


def test_a_program_does_with_an_error_what_it_did_before_it_had_a_ray() -> None:
    program = (
        "import sys; from edgesearch.search.cluster import RayPool; assert 'ray' not in sys.modules; pool = RayPool(1); "
        "print(sys.excepthook is sys.__excepthook__); pool.close(); print(sys.excepthook is sys.__excepthook__)"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, timeout=120, stdout=subprocess.PIPE, text=True).stdout
    assert told.split() == ["True", "True"]


@pytest.mark.parametrize("when", ["in its start", "after it"])
def test_what_stops_a_start_halfway_stops_ray_too(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def interrupted(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    if when == "in its start":
        monkeypatch.setattr("ray._private.worker.connect", interrupted)
    else:
        monkeypatch.setattr(_ray, "places", interrupted)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(KeyboardInterrupt):
        RayPool(1)
    assert not ray.is_initialized()
    left = {child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}
    assert left <= before


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # Ray waits for none that did not come up
@pytest.mark.parametrize("failures", [1, 3])
def test_a_local_ray_that_does_not_come_up_in_time_is_started_again_and_leaves_nothing(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import _raylet
    from ray._private import services

    get_node, left_to_fail = services.get_node, [True] * failures

    def late(*given: Any, **more: Any) -> Any:
        if left_to_fail and left_to_fail.pop():
            raise Exception("The current node timed out during startup.")
        return get_node(*given, **more)

    monkeypatch.setattr(services, "get_node", late)
    before = set(psutil.Process().children(recursive=True))
    mode = _raylet.get_authentication_mode()
    if failures == 3:
        with pytest.raises(StudyError, match=r"a local Ray does not start: The current node timed out during startup; try"):
            RayPool(1)
        assert _raylet.get_authentication_mode() == mode  # else the next Ray of this process would end it for want of a token
    else:
        RayPool(1).close()
    assert not left_to_fail
    left = set(psutil.Process().children(recursive=True)) - before
    assert psutil.wait_procs(left, timeout=60)[1] == []
    gc.collect()  # here, where its warnings are ignored


def test_a_ray_of_the_users_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**options: Any) -> None:
        raise RuntimeError("Maybe you called ray.init twice by accident?")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it was stopped"))
    monkeypatch.setattr(_ray, "adopt_settings", lambda: pytest.fail("it reads other settings while it runs"))
    with pytest.raises(StudyError, match=r"a local Ray does not start: Maybe you called ray\.init twice"):
        RayPool(1)


def test_what_a_task_raises_outside_its_stage_is_told_as_what_it_is() -> None:
    pool = Pool(1)
    pool.submit(a_job("a"))
    pool._ray.ends["a"] = TaskFailed(OSError("no space left on device"))
    assert pool.wait(0.0) == [JobResult(a_job("a").key, "interrupted", 0.0, "Ray lost the stage (no space left on device)")]
    pool.submit(a_job("a"))
    pool._ray.ends["a"] = TaskFailed(NodeDied())  # what the task was given was lost
    assert [outcome for _, outcome in ends(pool)] == ["interrupted"]
    for cause, raised in ((StudyError("remove it"), StudyError), (KeyError("a"), TaskFailed)):
        pool.submit(a_job("a"))
        pool._ray.ends["a"] = TaskFailed(cause)
        with pytest.raises(raised):
            pool.wait(0.0)
