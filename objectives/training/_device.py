"""Where a training runs and with which numbers."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from edgesearch.errors import DeviceError
from edgesearch.objectives.pruning import layer_macs

__all__ = ["choose_device", "multiplies_bfloat16", "out_of_memory", "processor_has_tiles", "processor_name", "use_bfloat16"]

#: Below this many MACs in a batch, casting costs a CPU what bfloat16 saves. Measured on a Zen 4 core, one thread: a step of
#: 15 MMAC takes 3.4 ms in float32 and 3.9 in bfloat16, one of 240 MMAC 25 and 16.
_CPU_WORTHWHILE_MACS = 50_000_000
#: What Linux tells of the processors.
_CPU = Path("/proc/cpuinfo")


def choose_device(device: str) -> torch.device:
    """The device called `device`; "auto" is a GPU if torch sees one. DeviceError if torch does not know it or has none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try 'auto' or 'cpu'"
        ) from error
    return chosen


@lru_cache(maxsize=1)
def _cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it; without them torch emulates bfloat16, slower than float32."""
    flags = _cpu_information("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


@lru_cache(maxsize=1)
def processor_has_tiles() -> bool:
    """Whether the processor multiplies matrices of bfloat16 by tiles (Intel's AMX)."""
    return "amx_bf16" in _cpu_information("flags").split()


def _cpu_information(name: str) -> str:
    """What Linux says of the first processor under this name; "" where it says nothing."""
    try:
        lines = _CPU.read_text().splitlines()
    except OSError:
        return ""
    said = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in said if key.strip() == name), "")


def processor_name(device: torch.device) -> str:
    """What computes, as far as it decides speed and last digits: a GPU's name, or the processor's with its instructions."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = _cpu_information("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}{', bfloat16' if _cpu_multiplies_bfloat16() else ''}"


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether this machine has hardware for bfloat16: its GPU, or its processor. Without, torch emulates it, slowly."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_multiplies_bfloat16()


def use_bfloat16(
    asked: Literal["auto", "off", "bf16"],
    model: nn.Module,
    input_shape: tuple[int, int, int],
    batch_size: int,
) -> bool:
    """Whether to train with bfloat16 autocast: by the network and its batch alone, so that a key says what was computed.

    "auto" means where it pays on hardware that has it; a plan asks for "off" where it does not (see `multiplies_bfloat16`).
    `input_shape` is (channels, height, width).
    """
    if asked != "auto":
        return asked == "bf16"
    # oneDNN's depthwise convolutions are slow in bfloat16: a step of MobileNetV2 takes 2.2 times as long as in float32.
    if any(isinstance(m, nn.Conv2d) and m.groups > 1 and m.groups == m.in_channels for m in model.modules()):
        return False
    return batch_size * sum(layer_macs(model, input_shape).values()) >= _CPU_WORTHWHILE_MACS


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is torch's or Python's way to say that there is no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
