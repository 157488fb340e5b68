"""Steps that a GPU plays again: a step is recorded once as a CUDA graph, and then costs its kernels, not their launches.

A step of a small network is some hundred kernels of a few microseconds each, which a processor takes several times as long to
launch one by one. What changes from step to step (rates, the weight of a mean) therefore lies on the GPU, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from edgesearch.objectives.training._device import out_of_memory
from edgesearch.objectives.training._distillation import Batch
from edgesearch.objectives.training._random import drawn_here
from edgesearch.objectives.training._soft_targets import Second

__all__ = ["Recorded", "clear_workspaces"]

#: Steps of a kind that are made one kernel after the other before one is recorded: the first ones load kernels and make what
#: an optimizer remembers.
_BEFORE = 2

#: What batches of one recording have in common.
_Kind: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    batch: Batch  # where it reads
    loss: Tensor  # where it writes


class Recorded:
    """Called as `step` is, with a batch: the loss. On a CPU it is `step` itself.

    step: computes on `device` alone, with parameters that stay where they are, and tells nothing by Python objects but the
    loss. One that cannot be recorded, since it asks for values, draws numbers on the processor or there is no memory for it, is
    made as it is from then on, and `note` is told once. `clear` takes all gradients away: those that a recording which failed
    has left were never computed.
    """

    def __init__(
        self,
        step: Callable[[Batch], Tensor],
        device: torch.device,
        note: Callable[[str], object],
        clear: Callable[[], object],
    ) -> None:
        self._step, self._note, self._clear = step, note, clear
        self._device = device if device.type == "cuda" else None
        self._stream: Any = None if self._device is None else _stream(device)
        self._pool: Any = None
        self._made: dict[_Kind, int] = {}
        self._recordings: dict[_Kind, _Recording] = {}

    def __call__(self, batch: Batch) -> Tensor:
        if self._device is None:
            return self._step(batch)
        kind = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(batch))
        recording = self._recordings.get(kind)
        if recording is None and self._made.get(kind, 0) >= _BEFORE:
            recording = self._record(batch, kind)
        if recording is None:
            self._made[kind] = self._made.get(kind, 0) + 1
            before = drawn_here()
            loss = self._aside(batch)
            if drawn_here() != before:
                self._give_up("it draws random numbers on the processor, and a recording would repeat what followed from them")
            return loss
        for place, tensor in zip(_tensors(recording.batch), _tensors(batch), strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        return recording.loss.clone()

    def forget(self) -> None:
        """From now on `step` computes something else, or with other parameters."""
        self._recordings.clear()
        self._made.clear()
        self._pool = None

    def _give_up(self, why: str) -> None:
        self.forget()
        self._device = None
        self._note(f"steps of this network cannot be recorded for the GPU, which makes them slower: {why}")

    def _aside(self, batch: Batch) -> Tensor:
        """A step on the stream that is recorded from, so that nothing that it leaves belongs to another one."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._step(batch)
        current.wait_stream(self._stream)
        return loss.clone()

    def _record(self, batch: Batch, kind: _Kind) -> _Recording | None:
        own = _copied(batch)
        graph = torch.cuda.CUDAGraph()
        clear_workspaces()
        try:
            # other threads of the process may ask CUDA for something meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                loss = self._step(own)
        except RuntimeError as error:
            self._clear()
            cause = _cause(error)
            said = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            self._give_up("there is no memory for it" if out_of_memory(cause) else said)
            return None
        finally:
            clear_workspaces()
        self._pool = graph.pool()
        recording = self._recordings[kind] = _Recording(graph, own, loss)
        return recording


@lru_cache(maxsize=8)
def _stream(device: torch.device) -> Any:
    """One for all trainings of a process: for each stream cuBLAS keeps memory as long as the process lives."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def clear_workspaces() -> None:
    """Let cuBLAS take its memory anew: what it took before a recording is not the recording's, and the other way round."""
    torch._C._cuda_clearCublasWorkspaces()


def _tensors(batch: Batch) -> list[Tensor]:
    second = () if batch.second is None else batch.second
    return [batch.pixels, batch.inputs, batch.labels, batch.index, *second]


def _copied(batch: Batch) -> Batch:
    pixels, inputs, labels, index, *second = (tensor.clone() for tensor in _tensors(batch))
    return replace(batch, pixels=pixels, inputs=inputs, labels=labels, index=index, second=Second(*second) if second else None)


def _cause(error: BaseException) -> BaseException:
    """What broke the recording, not that it could not be ended."""
    while error.__context__ is not None:
        error = error.__context__
    return error
