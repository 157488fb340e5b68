"""Training steps of narrow networks on several threads, with torch's own kernels and with those of a training here.

Run: python benchmarks/narrow_layers.py [--threads 2]. The two take turns in one process; of each the best of --rounds counts,
since other work on a machine only ever slows one down. Images are noise, 32 x 32; bfloat16 where it pays. Of each network:
`ratio`, steps a second with our kernels over those with torch's; `of_whole`, the time of its step over that of the network of
its whole width, with our kernels.
"""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from _report import finish
from torch import nn
from torch.nn import functional

from edgesearch.objectives.training import safe_kernels
from edgesearch.objectives.training._device import use_bfloat16
from edgesearch.search.processes import prepare_process
from edgesearch.spaces import Student, build

#: Network and width; at these they have layers of 8, 24 or 40 channels, which are no multiples of 16.
CASES = [("resnet8", 0.5), ("resnet20", 0.5), ("vgg_small", 0.125), ("mobilenet_v2", 0.25), ("mobilenet_v2", 0.5)]
STEPS = 3


class Steps:
    """A network and its steps, without an optimizer's."""

    def __init__(self, name: str, width: float, batch: int) -> None:
        student = Student(architecture=name, width=width, input_size=32, stem="small")
        self._model = build(student, channels=3, classes=10).train()
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
        self._labels = torch.arange(batch) % 10
        self._bfloat16 = use_bfloat16("auto", self._model, (3, 32, 32), batch)

    def seconds(self, kernels: AbstractContextManager[object]) -> float:
        """The time of a step."""
        begun = time.perf_counter()
        for _ in range(STEPS):
            self._model.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16), kernels:
                loss = functional.cross_entropy(self._model(self._images), self._labels)
            loss.backward()  # type: ignore[no-untyped-call]
        return (time.perf_counter() - begun) / STEPS

    @property
    def narrow(self) -> int:
        """Layers whose channels are no multiple of 16."""
        return sum(isinstance(each, nn.BatchNorm2d) and each.num_features % 16 != 0 for each in self._model.modules())


def compare(name: str, width: float, batch: int, rounds: int) -> tuple[float, float, float, int]:
    """Seconds of a step with torch's kernels, with ours, and of the network of its whole width with ours; narrow layers."""
    part, whole = Steps(name, width, batch), Steps(name, 1.0, batch)
    taken = [
        (part.seconds(nullcontext()), part.seconds(safe_kernels()), whole.seconds(safe_kernels())) for _ in range(rounds + 1)
    ]
    plain, own, wide = (min(column) for column in zip(*taken[1:], strict=True))  # the first warms up
    return plain, own, wide, part.narrow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare_process(arguments.threads)
    figures: dict[str, object] = {}
    for name, width in CASES:
        plain, own, wide, narrow = compare(name, width, arguments.batch, arguments.rounds)
        print(f"{name} x{width}: {plain:.3f} s a step, {own:.3f} s with {narrow} narrow layers; whole {wide:.3f} s", flush=True)
        key = f"{name}_x{width}"
        figures |= {f"{key}_ratio": round(plain / own, 2), f"{key}_of_whole": round(own / wide, 2)}
    finish({"benchmark": "narrow_layers", "threads": arguments.threads, "batch": arguments.batch, **figures})


if __name__ == "__main__":
    main()
