"""Memory of this process and this machine, or of its GPU."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil
import torch

__all__ = ["PeakMemory", "free_memory", "give_back", "process_memory"]

#: Of the control group that a container is: its limit, what is taken of it, and which parts of that are files that Linux lets
#: go when a process wants more (the cache of what was read and written), in both versions.
_GROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)


def give_back() -> None:
    """Let the machine have what the heap of this process keeps and nobody uses."""
    with suppress(OSError, AttributeError):  # other C libraries than glibc have no such function
        ctypes.CDLL(None).malloc_trim(0)


def process_memory() -> int:
    """Bytes of this process that lie in memory, without those that nobody uses."""
    give_back()
    return int(psutil.Process().memory_info().rss)


def free_memory(device: torch.device) -> int:
    """Bytes that a process can still take on the device: what the machine and the container's limit leave, or the GPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = int(psutil.virtual_memory().available)
    for limit, taken, parts, files in _LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            left = int((_GROUP / limit).read_text()) - int((_GROUP / taken).read_text())
            free = min(free, left + _sum_of(_GROUP / parts, files))
    return max(0, free)


def _sum_of(file: Path, names: tuple[str, ...]) -> int:
    """Of a control group's lines of a name and bytes."""
    with suppress(OSError, ValueError):
        lines = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
        return sum(int(lines.get(name, 0)) for name in names)
    return 0


class PeakMemory:
    """The most memory since it was made: of this process, or that torch took on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        self._before = _peak()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux's way to forget the peak so far
            self._before = None

    def bytes(self) -> int | None:
        """None where it is not known: the process took more before, and the system does not forget that."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        peak = _peak()
        return None if peak is None or peak == self._before else peak


def _peak() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
