"""Training steps of networks as they are, beside the same networks through torch.compile: why trainings here do without it.

Run: python benchmarks/torch_compile.py. It needs a C++ compiler (g++), and takes minutes, most of them to compile. Both take
turns in one process; of each the best of --rounds counts, since other work on a machine only ever slows one down. Images are
noise, 32 x 32; bfloat16 where the processor multiplies it. `epochs_to_pay_back`: of 50,000 images, until what compiling takes
is won back; null where steps are no faster.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable

import torch
from _report import finish
from torch import Tensor, nn
from torch.nn import functional

from edgesearch.objectives.training._device import use_bfloat16
from edgesearch.search.processes import prepare_process
from edgesearch.spaces import Student, build

#: Network and batch.
CASES = [("resnet20", 128), ("vgg_small", 256), ("staged 24k2 r2x96 c1x256 r2x384 max", 256)]
STEPS = 3


def stepper(model: Callable[[Tensor], Tensor], trained: nn.Module, batch: int, bfloat16: bool) -> Callable[[], None]:
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def step() -> None:
        trained.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, batch: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a step as it is and compiled, and those of compiling."""
    model = build(Student(architecture=name, input_size=32, stem="small"), channels=3, classes=10).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bfloat16 = use_bfloat16("auto", model, (3, 32, 32), batch)
    ways = [stepper(way, model, batch, bfloat16) for way in (model, torch.compile(model))]
    first = [seconds(way) for way in ways]
    took = [[seconds(way) for way in ways for _ in range(STEPS)] for _ in range(rounds)]
    plain, compiled = (min(sum(times[at : at + STEPS]) for times in took) / STEPS for at in (0, STEPS))
    return plain, compiled, first[1] - compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if shutil.which("g++") is None:
        print("torch.compile needs g++, and there is none; install it: apt-get install g++", file=sys.stderr)
        sys.exit(2)
    prepare_process(arguments.threads)
    figures: dict[str, object] = {}
    for name, batch in CASES:
        plain, compiled, compiling = compare(name, batch, arguments.rounds)
        won = (plain - compiled) * 50_000 / batch
        print(f"{name}, batch {batch}: {plain:.3f} s a step, compiled {compiled:.3f} s after {compiling:.0f} s", flush=True)
        key = name.split()[0]
        figures |= {f"{key}_ratio": round(plain / compiled, 2), f"{key}_compiling_s": round(compiling)}
        figures[f"{key}_epochs_to_pay_back"] = round(compiling / won, 1) if won > 0 else None
    finish({"benchmark": "torch_compile", "threads": arguments.threads, **figures})


if __name__ == "__main__":
    main()
