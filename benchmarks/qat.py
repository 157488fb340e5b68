"""What a step of quantization-aware training costs, and whether training computes what the DPU's integers compute.

Run: python benchmarks/qat.py. Needs the reference data (EDGESEARCH_REFERENCE_DATA). ResNet-20 at 32 px, batches of 64, the same
optimizer on both sides, steps taken in turns. The agreement is that of top-1 on 2,000 test images after a short training.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import _golden
import numpy as np
import torch
import torch.nn.functional as F
from _report import finish
from _trained import labels, pixels
from torch import Tensor, nn

from edgesearch.board_eval.execution import execute, to_tensor
from edgesearch.board_eval.lowering import lower_with_sources
from edgesearch.objectives.quantization._qat import start
from edgesearch.objectives.quantization._qat_network import QatNetwork

SHAPE = (3, 32, 32)
BATCH, STEPS, TEST = 64, 12, 2000


def stepper(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    """A function that takes one training step and says how long it took."""
    optimizer, source = torch.optim.AdamW(model.parameters(), 1e-4), iter(batches)

    def step() -> float:
        images, labels = next(source)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def batches(seed: int, images: Tensor, labels: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        index = torch.randint(len(images), (BATCH,), generator=generator)
        yield images[index].contiguous(memory_format=torch.channels_last), labels[index]


def main() -> None:
    images = _golden.normalise(pixels("train_1")[:2000])
    truth = torch.from_numpy(labels("train")[:2000])
    model = _golden.float_model("resnet20")
    network = QatNetwork(model, lower_with_sources(model, SHAPE), 8)
    start(network, images[:128], 8, 0, scale=True)
    floats = _golden.float_model("resnet20").to(memory_format=torch.channels_last)
    inputs = to_tensor(images)
    steps = {"float": stepper(floats.train(), batches(0, inputs, truth))}
    steps["training"] = stepper(network.train(), batches(0, inputs, truth))
    times: dict[str, list[float]] = {name: [] for name in (*steps, "frozen")}
    for phase in ("training", "frozen"):
        if phase == "frozen":
            network.freeze()
        for number in range(STEPS + 2):
            taken = {"float": steps["float"](), phase: steps["training"]()}
            if number >= 2:  # the first two warm up
                for name, seconds in taken.items():
                    times[name].append(seconds)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<10}{1000 * seconds:8.1f} ms a step, {seconds / medians['float']:.2f} x float")
    test = _golden.normalise(pixels("test")[:TEST])
    network.eval()
    with torch.inference_mode():
        ours = torch.cat([network(part) for part in torch.split(to_tensor(test), 250)]).numpy()
    integers = execute(network.to_graph(), test)
    agreement = float((ours.argmax(1) == integers.argmax(1)).mean())
    largest = float(np.abs(ours - integers).max())
    print(f"top-1 agrees on {agreement:.2%} of {TEST} images; largest difference of a logit {largest:g}")
    finish(
        {
            "step_ratio": round(medians["training"] / medians["float"], 3),
            "step_ratio_frozen": round(medians["frozen"] / medians["float"], 3),
            "agreement": agreement,
            "largest_difference": largest,
            "images": TEST,
        }
    )


if __name__ == "__main__":
    main()
