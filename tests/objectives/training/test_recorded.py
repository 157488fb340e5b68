"""A recording that fails leaves nothing behind. What a GPU does with one that does not is in test_gpu.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgesearch.objectives.training import _recorded
from edgesearch.objectives.training._distillation import Batch
from edgesearch.objectives.training._recorded import Recorded


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for CUDA: streams that do nothing, and recordings that run what they record."""
    stream = SimpleNamespace(wait_stream=lambda other: None)

    @contextmanager
    def recording(graph: object, **options: object) -> Iterator[None]:
        _State.records = True
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("the recording cannot be ended") from error
        finally:
            _State.records = False

    monkeypatch.setattr(_recorded, "_stream", lambda device: stream)
    monkeypatch.setattr(_recorded, "clear_workspaces", lambda: None)
    for name, stand_in in {
        "CUDAGraph": SimpleNamespace,
        "graph": recording,
        "stream": nullcontext,
        "current_stream": lambda device: stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


class _State:
    records = False


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("error", "told"),
    [(torch.OutOfMemoryError("CUDA out of memory. Tried"), "there is no memory for it"), (RuntimeError("no\nmore"), "no")],
)
def test_gradients_of_a_recording_that_fails_are_in_no_later_step(error: RuntimeError, told: str) -> None:
    weight, notes = torch.ones(3, requires_grad=True), list[str]()
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def step(batch: Batch) -> Tensor:
        loss = (weight * batch.inputs).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if _State.records:
            assert weight.grad is not None
            weight.grad.fill_(float("nan"))  # of memory that nothing was written to
            raise error
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    recorded = Recorded(step, torch.device("cuda"), notes.append, optimizer.zero_grad)
    for _ in range(4):
        recorded(ones())
    assert weight.tolist() == [-3.0] * 3
    assert notes == [f"steps of this network cannot be recorded for the GPU, which makes them slower: {told}"]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1)], ids=["python", "numpy", "torch"])
def test_a_step_that_draws_on_the_processor_is_not_recorded(draw: Callable[[], object]) -> None:
    notes, made = list[str](), list[bool]()

    def step(batch: Batch) -> Tensor:
        draw()
        made.append(_State.records)
        return batch.inputs.sum()

    recorded = Recorded(step, torch.device("cuda"), notes.append, lambda: None)
    for _ in range(4):
        recorded(ones())
    assert made == [False] * 4
    assert [note.partition(": ")[2][:37] for note in notes] == ["it draws random numbers on the process"[:37]]


@pytest.mark.usefixtures("gpu")
def test_a_step_that_draws_nothing_there_is_recorded() -> None:
    notes, made = list[str](), list[bool]()

    def step(batch: Batch) -> Tensor:
        made.append(_State.records)
        torch.rand(1, generator=torch.Generator().manual_seed(0))  # its own, which nobody else's follow from
        return batch.inputs.sum()

    graph = SimpleNamespace(pool=lambda: None, replay=lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
        recorded = Recorded(step, torch.device("cuda"), notes.append, lambda: None)
        for _ in range(4):
            recorded(ones())
    assert (made, notes) == ([False, False, True], [])


def ones() -> Batch:
    tensor: Any = torch.ones(3)
    return Batch(**dict.fromkeys(("pixels", "inputs", "labels", "index"), tensor), second=None)
