"""Integer execution on the golden networks: are the integers those of AMD's tools, and how long beside torch in float32?

Run: python benchmarks/integer_execution.py. Needs the reference data (EDGESEARCH_REFERENCE_DATA). About a minute.
Both sides run the same images on the same machine with the same number of threads, equally often and in turns; the shortest
time of each counts. The float model runs in both memory layouts and in three batch sizes. The tiny network has no torch model;
its Graph in float32 stands in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import _golden
import numpy as np
import torch
from _report import finish

from edgesearch.board_eval.execution import Executor, execute_all, run_float
from edgesearch.board_eval.xmodel import read_xmodel

REPETITIONS = 5
#: How many images are timed; the golden ones are repeated.
IMAGES = {"squeezenet": 20, "resnet20": 500, "tiny": 400}


def seconds(*functions: Callable[[], Any]) -> list[float]:
    """Shortest time of each, taken in turns so that a busy machine treats them alike."""
    for function in functions:
        function()
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(REPETITIONS):
        for function, times in zip(functions, taken, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [min(times) for times in taken]


def float_runs(name: str, images: np.ndarray) -> list[Callable[[], Any]]:
    """The float32 model on the images, once per memory layout and batch."""
    if name == "tiny":
        graph = read_xmodel(_golden.XMODELS[name])
        return [lambda: run_float(graph, images)]
    runs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = _golden.float_model(name).to(memory_format=layout)
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        for size in (4, len(images) // 5, len(images)):

            def run(model: Any = model, batch: torch.Tensor = batch, size: int = size) -> None:
                with torch.inference_mode():
                    for part in batch.split(size):
                        model(part)

            runs.append(run)
    return runs


def main() -> None:
    figures = {}
    for name, path in _golden.XMODELS.items():
        graph, images = read_xmodel(path), _golden.images(name)
        folder = path.parent
        compared = differing = 0
        for image in (0, 3):
            file = folder / f"fix_tensors_image{image}.npz"
            if file.exists():
                ours, theirs = execute_all(graph, images[image : image + 1]), np.load(file)
                compared += len(theirs)
                differing += sum(key not in ours or not np.array_equal(ours[key], theirs[key]) for key in theirs)
        logits = np.load(next(folder.glob("logits_*.npy")))
        executor = Executor(graph)
        wrong = int((executor.logits(images) != logits).any(axis=1).sum())
        many = np.resize(images, (IMAGES[name], *images.shape[1:]))
        floats = float_runs(name, many)
        taken = seconds(*(run for float_run in floats for run in (lambda e=executor, m=many: e.logits(m), float_run)))
        integer, floating = min(taken[::2]), min(taken[1::2])
        figures[name] = {
            "fix_tensors": compared,
            "differing": differing,
            "images_with_other_logits": wrong,
            "integer_ms_per_image": round(integer / len(many) * 1e3, 3),
            "float_ms_per_image": round(floating / len(many) * 1e3, 3),
            "time_ratio": round(integer / floating, 2),
        }
        print(
            f"{name}: {differing} of {compared} fix tensors differ, logits differ on {wrong} of {len(images)} images; "
            f"{integer / len(many) * 1e3:.2f} ms per image, float32 {floating / len(many) * 1e3:.2f} ms, "
            f"ratio {integer / floating:.2f} ({torch.get_num_threads()} threads)"
        )
    finish({**figures, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
