"""Accuracy of the DPU's integers after Vitis AI's quantizer and after ours, beside the float network.

Run: python benchmarks/ptq.py [--networks resnet20,squeezenet,mobilenet_v2] [--images N]. Needs the reference data
(EDGESEARCH_REFERENCE_DATA). "vitis" is calibrated on 100 training images, one at a time, as it does by default, and replaces
ReLU6 by ReLU; "best" on 256. Accuracy is read on the first N test images (default: all 10,000; SqueezeNet takes half an hour).
The MobileNetV2 is trained first, for about an hour, where runs/benchmarks does not hold it; its calibration images were set
aside before that, those of the golden networks belong to what they were trained on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import _golden
import numpy as np
import numpy.typing as npt
import torch
from _report import finish
from _trained import labels, pixels, trained
from PIL import Image

from edgesearch.board_eval.execution import Executor, Network, to_tensor
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.lowering import lower
from edgesearch.objectives.data import prepare as resized
from edgesearch.objectives.quantization._quantize import quantize

SIZES = {"resnet20": 32, "squeezenet": 224}
VITIS_IMAGES, BEST_IMAGES = 100, 256
#: Test images that are resized, normalised and classified at a time.
PART = 200
Prepare = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def prepare(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.float32]:
    if size != 32:
        resized = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in images]
        images = np.stack([np.asarray(image) for image in resized])
    return _golden.normalise(images)


def measure(name: str, count: int) -> dict[str, Any]:
    """One row of the table."""
    if name == "mobilenet_v2":
        model, student, data = trained(name)
        size, own = student.input_size, data.calibration.images
        ready: Prepare = partial(resized, size=size, normalisation=data.normalisation)
    else:
        model, size, own = _golden.float_model(name), SIZES[name], pixels("train_1")
        ready = partial(prepare, size=size)
    graph = lower(model, (3, size, size), name=name)
    train = ready(own[:BEST_IMAGES])
    row: dict[str, Any] = {"images": count}
    graphs: dict[str, Graph] = {}
    for method, number in (("vitis", VITIS_IMAGES), ("best", BEST_IMAGES)):
        start = time.perf_counter()
        graphs[method] = quantize(graph, train[:number], method=method)
        row[f"{method}_seconds"] = round(time.perf_counter() - start, 1)
        print(f"  {name}: {method} took {row[f'{method}_seconds']} s", flush=True)
    executors = {method: Executor(quantized) for method, quantized in graphs.items()}
    network = Network.of(graph)
    test, truths = pixels("test")[:count], labels("test")[:count]
    right = dict.fromkeys(("float", "vitis", "best"), 0)
    for start in range(0, count, PART):
        images, truth = ready(test[start : start + PART]), truths[start : start + PART]
        with torch.inference_mode():
            parts = [network.logits(part).numpy() for part in torch.split(to_tensor(images), 20)]
        logits = {"float": np.concatenate(parts)}
        logits |= {method: executor.logits(images).reshape(len(images), -1) for method, executor in executors.items()}
        for method, answer in logits.items():
            right[method] += int((answer.argmax(1) == truth).sum())
    return row | {method: round(100 * number / count, 2) for method, number in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="resnet20,squeezenet,mobilenet_v2")
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    print(f"top-1 on the first {arguments.images} CIFAR-10 test images, {torch.get_num_threads()} threads", flush=True)
    rows = {name: measure(name, arguments.images) for name in arguments.networks.split(",")}
    print(f"{'network':<14}{'float':>8}{'vitis':>8}{'best':>8}{'vitis s':>9}{'best s':>9}")
    for name, row in rows.items():
        print(
            f"{name:<14}{row['float']:>8.2f}{row['vitis']:>8.2f}{row['best']:>8.2f}"
            f"{row['vitis_seconds']:>9.1f}{row['best_seconds']:>9.1f}"
        )
    finish({"networks": rows})


if __name__ == "__main__":
    main()
