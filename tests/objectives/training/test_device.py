"""What is known of the machine that trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgesearch.errors import TrainingError
from edgesearch.objectives.training import _device as device
from edgesearch.objectives.training import choose_device, multiplies_bfloat16, processor_name

CPU = torch.device("cpu")
TWO = """processor\t: 0
model name\t: Some CPU: 9
flags\t\t: fpu avx2 {flag}

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    def forget() -> None:
        device._cpu_multiplies_bfloat16.cache_clear()
        device.multiplies_bfloat16.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(("flag", "multiplies"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)])
def test_a_processor_is_named_with_its_instructions(
    flag: str, multiplies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(TWO.format(flag=flag))
    monkeypatch.setattr(device, "_CPU", file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert processor_name(CPU) == ("Some CPU: 9, AVX512, bfloat16" if multiplies else "Some CPU: 9, AVX512")
    assert multiplies_bfloat16() is multiplies


def test_a_processor_that_linux_does_not_tell_of_is_named_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_CPU", tmp_path / "nothing")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name, capability = processor_name(CPU).rsplit(", ", 1)
    assert name
    assert capability == torch.backends.cpu.get_cpu_capability()
    assert not multiplies_bfloat16()


def test_a_device_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"device 'abacus' cannot be used here .*try 'auto' or 'cpu'"):
        choose_device("abacus")
