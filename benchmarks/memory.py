"""Peak memory of trainings as foretold before them, beside what the process took, each training in a process of its own.

Run: python benchmarks/memory.py. Some minutes of one core; `--quick` takes every third case. Images are noise, 32 x 32.
`worst_error` and `mean_error` are relative, of the whole process, interpreter and torch included; `worst_own_error` and
`mean_own_error` are of what the training takes beside what the process had before. A GPU, where there is one, is measured by
what torch took there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from _report import finish

from edgesearch.objectives import DataSet
from edgesearch.objectives.data import Split
from edgesearch.objectives.quantization import QatRecipe, predict_qat_memory, train_qat
from edgesearch.objectives.training import DataShape, MemoryForecast, Recipe, Supervision, Training, predict_memory, train
from edgesearch.search.processes import prepare_process, with_whole_blocks
from edgesearch.spaces import Student, build

#: Network, batch, precision ("qat": in the DPU's arithmetic), optimizer, and the teacher with the way it teaches.
CASES = [
    ("vgg_small", 32, "off", "sgd", ""),
    ("vgg_small", 128, "bf16", "adamw", ""),
    ("vgg_small", 256, "off", "muon", ""),
    ("resnet20", 32, "bf16", "sgd", ""),
    ("resnet20", 128, "off", "adamw", ""),
    ("resnet20", 256, "bf16", "sgd", ""),
    ("resnet8", 64, "off", "sgd", ""),
    ("resnet8", 256, "bf16", "adamw", ""),
    ("resnet8", 128, "off", "sgd", "logit resnet20"),
    ("mobile_small", 64, "off", "adamw", ""),
    ("mobile_small", 128, "bf16", "sgd", ""),
    ("resnet20", 64, "off", "sgd", "intermediate vgg_small"),
    ("resnet18", 32, "off", "sgd", ""),
    ("resnet18", 64, "bf16", "adamw", ""),
    ("resnet18", 128, "bf16", "sgd", "logit resnet18"),
    ("resnet56", 64, "off", "sgd", ""),
    ("mobilenet_v2", 64, "off", "adamw", ""),
    ("squeezenet1_1", 256, "bf16", "sgd", ""),
    ("vgg_small", 128, "qat", "adamw", ""),
    ("resnet20", 128, "qat", "adamw", ""),
    ("resnet18", 64, "qat", "adamw", "logit resnet18"),
    ("mobilenet_v2", 64, "qat", "adamw", ""),
    ("resnet8", 256, "qat", "sgd", "intermediate vgg_small"),
]
SIDE, STEPS = 32, 3


def network(name: str) -> torch.nn.Module:
    stem = {"stem": "small"} if name in ("resnet18", "mobilenet_v2") else {}
    return build(Student(architecture=name, input_size=SIDE, **stem), channels=3, classes=10)


def measure(case: list[Any], device: str) -> dict[str, int]:
    """One training in this process: bytes before it, foretold and taken."""
    name, batch, precision, optimizer, taught = case
    dice = np.random.default_rng(0)
    images, labels = dice.integers(0, 256, (STEPS * batch, SIDE, SIDE, 3), dtype=np.uint8), np.arange(STEPS * batch) % 10
    split, few = Split(images, labels), Split(images[:256], labels[:256])
    data = DataSet("noise", tuple("0123456789"), 3, (SIDE, SIDE), split, few, few, few, "", {})
    supervision = None
    if taught:
        kind, teacher = taught.split()
        supervision = Supervision(kind=kind, teacher=network(teacher))
    model, common = network(name), {"input_size": SIDE, "supervision": supervision}
    if precision == "qat":
        asked = QatRecipe(epochs=2, batch_size=batch, optimizer=optimizer, augmentation="flip_crop")
        foretold = predict_qat_memory(model.eval(), DataShape.of(data), recipe=asked, device=device, **common)
        training = train_qat(model, data, recipe=asked, seed=0, device=device, **common).training
        return figures(foretold, training, batch)
    recipe = Recipe(epochs=2, batch_size=batch, optimizer=optimizer, mixed_precision=precision, augmentation="flip_crop")
    foretold = predict_memory(model, DataShape.of(data), recipe=recipe, device=device, **common)
    training = train(model, data, recipe=recipe, seed=0, device=device, **common)
    return figures(foretold, training, batch)


def figures(foretold: MemoryForecast, training: Training, batch: int) -> dict[str, int]:
    """Bytes; `fixed` are there from the first step to the last, `alive` the most in tensors that come and go in one."""
    alive = foretold.step.peak(batch, holes=False)
    sizes = {"before": foretold.before, "foretold": foretold.bytes(batch), "taken": training.peak_bytes or 0}
    return sizes | {"fixed": foretold.fixed, "alive": alive}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.case:
        prepare_process(arguments.threads)  # as a stage's process is
        print(json.dumps(measure(json.loads(arguments.case), device)))
        return
    errors, own = [], []
    for case in CASES[:: 3 if arguments.quick else 1]:
        command = [sys.executable, __file__, "--case", json.dumps(case), "--threads", str(arguments.threads)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=with_whole_blocks(os.environ))
        found = json.loads(ended.stdout.splitlines()[-1])
        before, foretold, taken = found["before"], found["foretold"], found["taken"]
        errors.append(foretold / taken - 1)
        own.append((foretold - before) / (taken - before) - 1)
        factor = (taken - before - found["fixed"]) / found["alive"]
        print(
            f"{case[0]:13} batch {case[1]:3} {case[2]:5} {case[3]:6} {case[4] or '-':22} before {before / 1e6:5.0f} MB, "
            f"foretold {foretold / 1e6:5.0f}, taken {taken / 1e6:5.0f}: {errors[-1]:+.1%} (own part {own[-1]:+.1%}), "
            f"{factor:.2f} bytes for one alive",
            flush=True,
        )
    finish(
        {
            "benchmark": "memory",
            "trainings": len(errors),
            "worst_error": round(max(map(abs, errors)), 3),
            "mean_error": round(sum(map(abs, errors)) / len(errors), 3),
            "worst_own_error": round(max(map(abs, own)), 3),
            "mean_own_error": round(sum(map(abs, own)) / len(own), 3),
            "device": device,
            "threads": arguments.threads,
        }
    )


if __name__ == "__main__":
    main()
