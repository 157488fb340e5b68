"""What each stage is given of this machine where nobody says: how many run side by side, and on which share of a GPU."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

__all__ = ["MachineShare", "local_gpus", "local_workers", "share_machine"]

#: Stages that share a GPU unless the user says how many: one computes while the other is saved, or makes images ready.
_PER_GPU = 2


@dataclass(frozen=True)
class MachineShare:
    """So many workers, each on a share of a GPU, of which the machine has so many."""

    workers: int
    gpus_per_job: float = 0.0
    gpus: int = 0


def local_workers(threads: int) -> int:
    """How many workers of so many threads this machine's cores are enough for, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // threads)


def local_gpus() -> int:
    """How many GPUs torch can use on this machine."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def share_machine(threads: int, workers: int | None = None, gpus_per_job: float | None = None) -> MachineShare:
    """How the machine is shared out to stages of so many threads; what is given stays.

    Without GPUs, as many workers as the cores are enough for. With GPUs two for each, unless another number of workers is
    given, or another share, for which as many as the GPUs are enough for; workers share the GPUs evenly, each on one of them.
    """
    gpus = local_gpus()
    if workers is None:
        workers = local_workers(threads)
        if gpus and gpus_per_job is None:
            workers = min(workers, _PER_GPU * gpus)
        elif gpus and gpus_per_job:
            workers = max(1, min(workers, _places(gpus, gpus_per_job)))
    if gpus_per_job is None:
        gpus_per_job = min(1.0, 1 / math.ceil(workers / gpus)) if gpus and workers else 0.0
    return MachineShare(workers, gpus_per_job, gpus)


def _places(gpus: int, share: float) -> int:
    """How many jobs GPUs are enough for, each with this share of one, or with several."""
    return gpus * int(1 / share + 1e-6) if share <= 1 else int(gpus // share)
