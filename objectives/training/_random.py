"""Random numbers that a network's own code may draw: torch's, NumPy's and Python's, which have one state each per process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["all_numbers_kept", "drawn_here", "kept_numbers", "other_numbers", "seed_numbers", "seed_plain_numbers"]


def seed_numbers(seed: int) -> None:
    """Let all of them follow from `seed`."""
    torch.manual_seed(seed)
    seed_plain_numbers(seed)


def seed_plain_numbers(seed: int) -> None:
    """Let NumPy's and Python's follow from `seed`."""
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


def drawn_here() -> tuple[object, ...]:
    """What is equal as long as nobody draws any of them in this process; those of a GPU are not among them."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), kind, np.asarray(keys).tobytes(), *rest


@contextmanager
def kept_numbers() -> Iterator[None]:
    """NumPy's and Python's are behind it as they were before."""
    numpy, python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpy)
        random.setstate(python)


@contextmanager
def all_numbers_kept() -> Iterator[None]:
    """All of them are behind it as they were before, those of GPUs that are in use, too."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with kept_numbers(), torch.random.fork_rng(devices=list(gpus)):
        yield


@contextmanager
def other_numbers(seed: int) -> Iterator[None]:
    """All of them follow from `seed` meanwhile; behind it they are as before."""
    with all_numbers_kept():
        seed_numbers(seed)
        yield
