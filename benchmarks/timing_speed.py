"""How long a prediction takes on one core: ResNet-50, MobileNetV2, a ResNet of 305 convolutions, 1,000 pruned ResNet-18."""

from __future__ import annotations

import statistics
import time

import numpy as np
from _published import thesis_network
from _report import finish
from _zoo import resnet

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.lowering import channel_groups, with_widths
from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing import time_graph

PROFILE = load_profile("zcu104")


def milliseconds(graph: Graph, repeats: int = 15) -> float:
    """Median of whole predictions, schedule and table by layer included, after one to warm up."""
    time_graph(graph, PROFILE)
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        time_graph(graph, PROFILE)
        spent.append(time.perf_counter() - start)
    return 1e3 * statistics.median(spent)


def main() -> None:
    resnet50, mobilenet = milliseconds(thesis_network("resnet50")), milliseconds(thesis_network("mobilenet_v2"))
    deep = milliseconds(resnet("deep", (3, 8, 86, 3), 1000, "v1.5"))
    print(f"ResNet-50 {resnet50:.1f} ms, MobileNetV2 {mobilenet:.1f} ms, 305 convolutions {deep:.1f} ms per prediction")
    resnet18 = thesis_network("resnet18")
    groups, random = channel_groups(resnet18), np.random.default_rng(0)
    start = time.perf_counter()
    fps = []
    for _ in range(1000):
        widths = {}
        for group in groups:
            keep = random.uniform(0.2, 1.0)
            for name in group:
                widths[name] = max(1, round(keep * resnet18.by_name[name].shape[-1]))
        fps.append(time_graph(with_widths(resnet18, widths), PROFILE, layers=False).latency_fps)
    seconds = time.perf_counter() - start
    print(f"1,000 pruned ResNet-18: {seconds:.1f} s, {min(fps):.0f} to {max(fps):.0f} frames per second")
    finish(
        {
            "benchmark": "timing_speed",
            "resnet50_ms": round(resnet50, 2),
            "mobilenet_v2_ms": round(mobilenet, 2),
            "layers_305_ms": round(deep, 2),
            "variants_1000_s": round(seconds, 2),
        }
    )


if __name__ == "__main__":
    main()
