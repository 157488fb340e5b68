"""Images per second of a distillation step and of quantization-aware training, beside plain ones on the same machine.

Run: python benchmarks/training_speed.py. ResNet-18 at 32 px learns from ResNet-50, in batches of 128 images that are moved and
mirrored; images are noise, which decides nothing about speed. The plain loop is in `_plain_training.py`: its teacher answers in
every step, and its loader works beside it. Ours has the teacher's logits in its store, made once for as many views as a study
stores: `distillation_run_ratio` counts them, for one student of --epochs epochs; students of one teacher share them, too. The
process is prepared as a stage's is. Both take turns; medians over --rounds.

On a GPU an epoch is 64 steps instead of four, and `matrix_share` is told, too: the multiply-accumulates of training ResNet-50
at 224 px (forward and twice that backward) in a second, over those of large bfloat16 matrices.

`qat_step_ratio`: a QAT step of ResNet-20 over a float step of the same network, both in float32 channels_last, on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from _plain_training import augmented_batches, step
from _report import finish
from torch import nn

from edgesearch.board_eval.lowering import lower_with_sources
from edgesearch.objectives import DataSet
from edgesearch.objectives.data import Split
from edgesearch.objectives.pruning import layer_macs
from edgesearch.objectives.quantization._qat import start
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.stages.kinds._logits import VIEWS
from edgesearch.objectives.training import (
    STEP_PASSES,
    Recipe,
    Supervision,
    choose_device,
    processor_name,
    teacher_logits,
    train,
)
from edgesearch.search.processes import prepare_process
from edgesearch.spaces import Student, build

BATCH, STEPS = 128, 4
GPU_STEPS = 64  # in an epoch: there four are over before they can be timed
READY = 4  # batches that the loader's two workers have ready at most
LARGE, LARGE_BATCH = 224, 256


def network(name: str) -> nn.Module:
    return build(Student(architecture=name, input_size=32, stem="small"), channels=3, classes=10)


def noise(count: int, size: int = 32) -> DataSet:
    dice = np.random.default_rng(0)
    split = Split(dice.integers(0, 256, (count, size, size, 3), dtype=np.uint8), dice.integers(0, 10, count))
    few = Split(split.images[:BATCH], split.labels[:BATCH])
    return DataSet("noise", tuple("0123456789"), 3, (size, size), split, few, few, few, "", {})


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def distillation(rounds: int, device: str) -> tuple[list[float], list[float], float]:
    """Seconds an image of plain steps and of ours, by round, and of one pass of the teacher."""
    where = choose_device(device)
    steps = GPU_STEPS if where.type == "cuda" else STEPS
    data, teacher = noise(BATCH * steps), network("resnet50").eval()
    teacher_logits(teacher, noise(BATCH), input_size=32, augmentation="flip_crop", views=1, device=device)  # warms up
    passes = seconds(lambda: teacher_logits(teacher, data, input_size=32, augmentation="flip_crop", views=1, device=device))
    logits = teacher_logits(teacher, data, input_size=32, augmentation="flip_crop", views=2, device=device)
    teacher, student = teacher.to(where), network("resnet18").to(where)
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    many = noise(BATCH * rounds * (READY + steps)).train  # one epoch, so that its loader starts its workers once
    source = augmented_batches(many.images, many.labels, BATCH)
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        begun = 0.0
        for number, (images, labels) in enumerate(islice(source, READY + steps)):
            if number == READY:  # what the loader made while ours trained is used up
                if where.type == "cuda":
                    torch.cuda.synchronize()
                begun = time.perf_counter()
            step(student, optimizer, images.to(where), labels.to(where), teacher)
        if where.type == "cuda":
            torch.cuda.synchronize()
        plain.append((time.perf_counter() - begun) / (steps * BATCH))
        training = train(
            network("resnet18"),
            data,
            recipe=Recipe(epochs=3, batch_size=BATCH, augmentation="flip_crop", warmup_epochs=0),
            input_size=32,
            seed=0,
            supervision=Supervision(stored_logits=logits),
            device=device,
        )
        ours.append(training.history[-1].seconds / len(data.train))  # the first epochs warm up
    return plain, ours, passes / len(data.train)


def matrix_share() -> float:
    """What training ResNet-50 at 224 px makes of the rate at which the GPU multiplies large matrices in bfloat16."""
    matrix = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    taken = []
    for _ in range(20):
        torch.cuda.synchronize()
        taken.append(seconds(lambda: (matrix @ matrix, torch.cuda.synchronize())))
    rate = 8192**3 / statistics.median(taken)
    model = build(Student(architecture="resnet50", input_size=LARGE), channels=3, classes=10)
    macs = sum(layer_macs(model, (3, LARGE, LARGE)).values())
    recipe = Recipe(epochs=3, batch_size=LARGE_BATCH, augmentation="flip_crop", warmup_epochs=0, mixed_precision="bf16")
    training = train(model, noise(16 * LARGE_BATCH, LARGE), recipe=recipe, input_size=LARGE, seed=0)
    images = 16 * LARGE_BATCH / training.history[-1].seconds
    print(f"{2e-12 * rate:.0f} TFLOP/s of matrices; ResNet-50 at {LARGE} px: {images:.0f} images/s of training", flush=True)
    return STEP_PASSES * macs * images / rate


def qat_step_ratio(rounds: int) -> float:
    """A QAT step over a float step, both by Adam, in turns."""
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    model = network("resnet20").eval()
    qat = QatNetwork(model, lower_with_sources(model, (3, 32, 32)), 8)
    start(qat, images.permute(0, 2, 3, 1).numpy(), 8, 0, scale=True)
    networks = (network("resnet20").to(memory_format=torch.channels_last).train(), qat.train())
    optimizers = [torch.optim.AdamW(each.parameters(), 1e-4) for each in networks]
    taken: list[list[float]] = [[], []]
    for number in range(4 * rounds):
        for each, optimizer, times in zip(networks, optimizers, taken, strict=True):
            spent = seconds(lambda each=each, optimizer=optimizer: step(each, optimizer, images, labels))
            if number:
                times.append(spent)
    return statistics.median(taken[1]) / statistics.median(taken[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of the run that distillation_run_ratio is about")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    prepare_process(torch.get_num_threads())
    plain, ours, teacher = distillation(arguments.rounds, arguments.device)
    a_plain, own = statistics.median(plain), statistics.median(ours)
    print(f"plain {1 / a_plain:.1f} images/s, ours {1 / own:.1f}, a pass of the teacher {1 / teacher:.1f}", flush=True)
    whole = own + teacher * VIEWS / arguments.epochs
    finish(
        {
            "benchmark": "training_speed",
            "distillation_step_ratio": round(a_plain / own, 2),
            "distillation_run_ratio": round(a_plain / whole, 2),
            "images_per_second": round(1 / own, 1),
            "plain_images_per_second": round(1 / a_plain, 1),
            "teacher_images_per_second": round(1 / teacher, 1),
            "qat_step_ratio": round(qat_step_ratio(arguments.rounds), 2),
            "matrix_share": round(matrix_share(), 3) if choose_device(arguments.device).type == "cuda" else None,
            "device": processor_name(choose_device(arguments.device)),
            "threads": torch.get_num_threads(),
        }
    )


if __name__ == "__main__":
    main()
