"""Narrow layers are trained safely, on one thread and on several, and compute what plain convolutions would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.objectives.training import _kernels
from edgesearch.objectives.training._kernels import safe_kernels

# Batches of odd sizes make two threads share the kernel unevenly: 62 and 63 images ended the process within some ten steps.
_NARROW = """
import sys

import torch
import torch.nn.functional as F
from torch import nn
from edgesearch.objectives.training import safe_kernels

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
narrow = [nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
narrow += [nn.Conv2d(16, 8, 1, 1), nn.ReLU(), nn.Conv2d(8, 12, 1, (1, 2)), nn.ReLU(), nn.Conv2d(12, 32, 1, 2)]
narrower = [nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 8, 1, (1, 2)), nn.ReLU(), nn.Conv2d(8, 32, 1)]
heads = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
models = [nn.Sequential(*layers, *heads).to(memory_format=torch.channels_last) for layers in (narrow, narrower)]
optimizer = torch.optim.AdamW(nn.ModuleList(models).parameters(), fused=True)
for step in range(24):
    images = torch.randn(62 + step % 2, 3, 16, 16).to(memory_format=torch.channels_last)
    with safe_kernels(), torch.autocast("cpu", torch.bfloat16, enabled=step % 4 > 1):
        labels = torch.randint(0, 10, (len(images),))
        loss = sum(F.cross_entropy(model(images).float(), labels) for model in models)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_narrow_strided_convolutions_are_trained(threads: int) -> None:
    # Where the C library has its checks, a block whose end was written over ends the process when it is freed.
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    command = [sys.executable, "-c", _NARROW, str(threads)]
    done = subprocess.run(command, env=os.environ | checked, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@settings(deadline=None)
@given(
    channels=st.integers(1, 20),
    kernel=st.sampled_from([1, 1, 3]),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from([0, 1, (1, 0), "valid"]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    grouped=st.booleans(),
)
@pytest.mark.usefixtures("two_threads")
def test_the_result_is_that_of_the_plain_convolution(
    channels: int,
    kernel: int,
    stride: tuple[int, int],
    padding: int | tuple[int, int] | str,
    size: tuple[int, int],
    grouped: bool,
) -> None:
    groups = channels if grouped else 1
    layer = nn.Conv2d(channels, 2 * channels, kernel, stride, padding, groups=groups).double()
    images = torch.randn(2, channels, *size, dtype=torch.float64)
    expected = layer(images)
    with safe_kernels():
        found = layer(images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("capability", "is_alone_safe"), [("AVX512", True), ("AVX512_VNNI", True), ("AVX2", False)])
def test_one_thread_with_long_vectors_is_left_alone(
    capability: str, is_alone_safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(_kernels, "processor_has_tiles", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with safe_kernels():
        assert (not torch.overrides._get_current_function_mode_stack()) is is_alone_safe
    torch.set_num_threads(before)
