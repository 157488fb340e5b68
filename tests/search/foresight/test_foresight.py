"""What is known of candidates before they run, told by a process beside the driver."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from _bench import TEXT, Bench
from _inline import InlinePool
from _training_jobs import family, name

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import Estimator, StageMemory
from edgesearch.search.foresight import _foresight
from edgesearch.search.foresight._cost import CostModel
from edgesearch.search.foresight._foresight import Foresight, ForesightProcess, Pending
from edgesearch.search.library._inputs import Inputs, read_inputs
from edgesearch.search.processes._fork_server import ForkServer
from edgesearch.search.study._file import parse_study
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

#: A class whose network takes as long to build as it takes until a file is there.
SLOW = """
import time
from pathlib import Path

from torch import nn


class Slow(nn.Sequential):
    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        place = Path(__file__).parent
        (place / "begun").touch()
        deadline = time.monotonic() + 100
        while not (place / "go on").exists():
            if time.monotonic() > deadline:
                raise RuntimeError("nobody finished anything meanwhile")
            time.sleep(0.02)
        layers = nn.Conv2d(in_channels, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)
        super().__init__(*layers)


class Fatal(nn.Sequential):
    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
"""
STUDY = """
name = "slow"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 1
[[candidates]]
student = { architecture = "mlp", input_size = 8 }
quantization = { algorithm = "vitis" }
[[candidates]]
student = { architecture = "slow_net:Slow", input_size = 8 }
quantization = { algorithm = "vitis" }
"""


def read(folder: Path, study: str = STUDY) -> Inputs:
    (folder / "slow_net.py").write_text(SLOW)
    return read_inputs(parse_study(study.encode(), where="t", folder=folder))


def beside() -> set[psutil.Process]:
    return {child for child in family() if name(child) == "foresee"}


@contextmanager
def process_of(inputs: Inputs) -> Iterator[ForesightProcess]:
    before, process = beside(), ForesightProcess(inputs.foresight)
    yield process
    process.close()
    assert beside() == before


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return read(tmp_path)


@pytest.fixture
def process(inputs: Inputs) -> Iterator[ForesightProcess]:
    with process_of(inputs) as process:
        yield process


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inputs, ForesightProcess]]:
    """For tests that leave the process as they find it."""
    inputs = read(tmp_path_factory.mktemp("shared"))
    with process_of(inputs) as process:
        yield inputs, process


def foresight(inputs: Inputs, process: ForesightProcess | None, *, idle: bool = False) -> Foresight:
    settings = inputs.settings
    estimator = Estimator(channels=1, classes=10, board=inputs.board, folder=settings.folder, pipeline=settings.pipeline)
    memory = StageMemory(inputs.conditions, inputs.settings.folder)
    return Foresight(estimator, memory, process, is_idle=lambda: idle)


def patiently(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            answer = ask()
        except Pending:
            answer = None
        if answer is not None:
            return answer
        time.sleep(0.02)
    raise AssertionError("no answer in a minute")


def small(**changes: Any) -> Candidate:
    return Candidate(student=Student(architecture="cnn_small", input_size=8), **changes).canonical()


CANDIDATES = [
    small(),
    small(quantization=Quantization(bits=5)),
    small(pruning=Pruning(method="one_step", ratio=0.5, granularity=8)),
    small(pruning=Pruning(method="iterative", ratio=0.95, granularity=16)),  # more than can be pruned
    small(pruning=Pruning(method="one_step", ratio=0.3, granularity=8, target="fps")),
    small(distillation=Distillation(kind="intermediate")),
]


def test_it_is_told_what_the_estimator_tells_and_nothing_is_built_here(
    shared: tuple[Inputs, ForesightProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, process = shared
    told = [
        (inputs.estimator.estimate(c), inputs.estimator.network_key(c), inputs.estimator.beyond_reach(c)) for c in CANDIDATES
    ]
    asked = foresight(inputs, process)
    monkeypatch.setattr("edgesearch.objectives.stages._estimate.build", None)
    for candidate, (metrics, network, reach) in zip(CANDIDATES, told, strict=True):
        assert patiently(lambda candidate=candidate: asked.estimate(candidate)) == metrics
        assert asked.network_key(candidate) == network
        assert asked.beyond_reach(candidate) == reach
    assert asked.estimate(Candidate(student=CANDIDATES[0].student).canonical()) == told[0][0]


def test_memory_is_told_as_it_is_here(shared: tuple[Inputs, ForesightProcess]) -> None:
    inputs, process = shared
    stages = [stage for stage in inputs.plan(small()).walk() if stage.kind in ("student", "quantized")]
    asked = foresight(inputs, process)
    here = StageMemory(inputs.conditions, inputs.settings.folder)
    for stage in stages:
        found = patiently(lambda stage=stage: asked.memory(stage))
        assert found == here(stage)
        assert (found > 0) == (stage.kind == "student")


def test_what_the_dpu_cannot_run_is_one_sentence_there_too(shared: tuple[Inputs, ForesightProcess]) -> None:
    inputs, process = shared
    candidate = Candidate(student=Student(architecture="mlp", input_size=8), distillation=Distillation(kind="intermediate"))
    with pytest.raises(EdgesearchError) as here:
        inputs.estimator.estimate(candidate)
    asked = foresight(inputs, process)
    for _ in range(2):
        with pytest.raises(EdgesearchError) as there:
            patiently(lambda: asked.estimate(candidate))
        assert str(there.value) == str(here.value)


def test_networks_are_shown_smaller_images_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = read(tmp_path, STUDY.replace("epochs = 1", "epochs = 2\nsmall_epochs = 1"))
    one_size = Candidate(student=Student(architecture="mlp", input_size=8)).canonical()
    monkeypatch.setattr("edgesearch.objectives.stages._estimate.build", None)
    with process_of(inputs) as process:
        asked = foresight(inputs, process)
        assert patiently(lambda: asked.estimate(small()))["fps"] > 0
        assert asked.network_key(small())
        with pytest.raises(EdgesearchError, match="mlp: `small_epochs` needs a network that takes images of 6x6 pixels"):
            patiently(lambda: asked.estimate(one_size))


def test_while_nothing_runs_no_process_is_needed(inputs: Inputs, process: ForesightProcess) -> None:
    before = beside()
    asked = foresight(inputs, process, idle=True)
    assert asked.estimate(small()) == inputs.estimator.estimate(small())
    assert asked.memory(inputs.plan(small()).inputs["network"]) == 0
    assert not asked.is_pending
    assert beside() == before


@pytest.mark.usefixtures("own_server")
def test_a_process_that_is_killed_is_started_again(inputs: Inputs, process: ForesightProcess) -> None:
    before = beside()
    asked = foresight(inputs, process)
    slow = Candidate(student=Student(architecture="slow_net:Slow", input_size=8))
    with pytest.raises(Pending):
        asked.estimate(slow)
    while not (inputs.settings.folder / "begun").exists():
        time.sleep(0.02)
    (child,) = beside() - before
    child.send_signal(signal.SIGKILL)
    (inputs.settings.folder / "go on").touch()
    assert patiently(lambda: asked.estimate(slow))["macs"] > 0


def test_a_candidate_that_ends_the_process_is_refused_and_the_next_one_told(inputs: Inputs, process: ForesightProcess) -> None:
    asked = foresight(inputs, process)
    fatal = Candidate(student=Student(architecture="slow_net:Fatal", input_size=8))
    with pytest.raises(EdgesearchError, match="signal SIGKILL"):
        patiently(lambda: asked.estimate(fatal))
    assert patiently(lambda: asked.estimate(small())) == inputs.estimator.estimate(small())


def test_a_bug_there_is_a_bug_here(shared: tuple[Inputs, ForesightProcess]) -> None:
    inputs, process = shared
    stage = next(stage for stage in inputs.plan(small()).walk() if stage.kind == "student")
    process.ask(f"stage {stage.key}", {"stage": {}})
    asked = foresight(inputs, process)
    with pytest.raises(RuntimeError, match=r"(?s)a bug, in a process beside this one.*Traceback.*KeyError"):
        patiently(lambda: asked.memory(stage))


def test_stages_for_which_workers_wait_come_first(inputs: Inputs, process: ForesightProcess) -> None:
    asked, stage = foresight(inputs, process), next(s for s in inputs.plan(small()).walk() if s.kind == "student")
    with pytest.raises(Pending):
        asked.estimate(Candidate(student=Student(architecture="slow_net:Slow", input_size=8)))  # is being looked at
    for candidate in CANDIDATES[:3]:
        with pytest.raises(Pending):
            asked.estimate(candidate)
    assert asked.memory(stage) is None
    (inputs.settings.folder / "go on").touch()
    patiently(lambda: asked.memory(stage))
    assert asked.is_pending  # the candidates come now


def test_no_look_at_a_candidate_keeps_finished_stages_waiting(inputs: Inputs, process: ForesightProcess) -> None:
    folder = inputs.settings.folder
    bench = Bench(folder, STUDY)

    def finished(number: int, candidate: Candidate, metrics: object, failure: str | None) -> None:
        bench.progress.ended.append((number, failure))
        (folder / "go on").touch()  # else the second network is never built

    bench.progress.finished = finished  # type: ignore[method-assign]
    summary = bench.run(2, InlinePool(slots=2), estimator=inputs.estimator, foresight=process)
    assert (summary.finished, summary.failed) == (2, 0)
    assert bench.progress.ended == [(0, None), (1, None)]


def test_a_search_goes_the_same_way_whoever_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices rest on recorded seconds, too, and these differ from run to run: here nothing is learnt of them."""
    monkeypatch.setattr(CostModel, "observe", lambda *args: None)
    text = TEXT.replace("ratio = [0.5]", "ratio = [0.3, 0.4, 0.5, 0.6]")
    here, there = Bench(tmp_path / "here", text), Bench(tmp_path / "there", text)
    here.run(14, InlinePool())
    made = Foresight.__init__
    asks_always: Any = lambda self, *given, **more: made(self, *given, **{**more, "is_idle": lambda: False})  # noqa: E731
    monkeypatch.setattr(Foresight, "__init__", asks_always)
    process = ForesightProcess(read_inputs(there.settings).foresight)
    there.run(14, InlinePool(), foresight=process)
    process.close()
    assert there.results() == here.results()
    assert len(here.results()) == 14


def test_a_network_that_is_never_built_is_refused_and_the_next_is_told(
    inputs: Inputs, process: ForesightProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = foresight(inputs, process)
    patiently(lambda: told.estimate(small()))  # so that it has started
    monkeypatch.setattr(_foresight, "_ANSWER_S", 1.0)
    slow = Candidate(student=Student(architecture="slow_net:Slow", input_size=8)).canonical()
    with pytest.raises(EdgesearchError, match=r"gave no answer for 1\.0 s"):
        patiently(lambda: told.estimate(slow))
    monkeypatch.undo()
    assert patiently(lambda: told.estimate(small(quantization=Quantization(bits=5))))["fps"] > 0


class Nowhere:
    """A fork server on a machine that starts no process."""

    def __init__(self) -> None:
        self.refuses = True
        self.own: ForkServer | None = None

    def connect(self, service: str) -> Any:
        if self.refuses:
            raise OSError(errno.EMFILE, "Too many open files")
        self.own = self.own or ForkServer()
        return self.own.connect(service)

    def close(self) -> None:
        if self.own is not None:
            self.own.close()


def test_a_machine_that_starts_no_process_for_a_while_rules_no_candidate_out(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_foresight, "_PAUSE_S", 0.05)
    server: Any = Nowhere()
    process = ForesightProcess(inputs.foresight, server)
    asked = foresight(inputs, process)
    for _ in range(3):
        with pytest.raises(Pending):
            asked.estimate(small())
        time.sleep(0.06)
    server.refuses = False
    assert patiently(lambda: asked.estimate(small()))["fps"] > 0
    process.close()
    server.close()


def test_a_machine_that_starts_no_process_any_more_ends_the_study_in_a_sentence(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_foresight, "_PAUSE_S", 0.01)
    server: Any = Nowhere()
    asked = foresight(inputs, ForesightProcess(inputs.foresight, server))
    with pytest.raises(StudyError, match=r"Too many open files.*; nothing finished is lost: see to this machine's memory"):
        patiently(lambda: asked.estimate(small()))
