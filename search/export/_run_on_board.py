"""Runs a compiled xmodel on the board: checks golden images, measures frames per second, prints JSON.

Copy the exported folder, which holds the compiled xmodel, to the board, then:

    python3 run_on_board.py compiled/NAME.xmodel
    python3 run_on_board.py compiled/NAME.xmodel --seconds 10 --csv measurements.csv

It needs what the board's image has: Python 3.7, numpy, and Vitis AI's vart and xir. Exit code 0: the golden images came out bit
for bit; 1: they did not; 2: the xmodel or a file is not what it should be (one sentence on stderr).

--csv writes the figures as rows for `edgesearch calibrate`, which fits the simulated board to this one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import threading
import time
from typing import Any

import numpy as np


class Refused(Exception):
    """What was given cannot be used; one sentence."""


class Network:
    """One compiled xmodel on one runner: int8 in, int8 out. Runners are not shared between threads."""

    def __init__(self, subgraph: Any) -> None:
        import vart

        self.runner = vart.Runner.create_runner(subgraph, "run")
        inputs, outputs = self.runner.get_input_tensors(), self.runner.get_output_tensors()
        if len(inputs) != 1 or len(outputs) != 1:
            raise Refused(f"the xmodel has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
        self.input, self.output = inputs[0], outputs[0]
        self.batch = int(self.input.dims[0])
        self._in = np.zeros(tuple(self.input.dims), np.int8)
        self._out = np.zeros(tuple(self.output.dims), np.int8)

    def run(self, images: np.ndarray) -> np.ndarray:
        """At most `batch` images int8 (n, H, W, C) to int8 (n, values)."""
        self._in[: len(images)] = images.reshape((len(images), *self._in.shape[1:]))
        job = self.runner.execute_async([self._in], [self._out])
        self.runner.wait(job[0] if isinstance(job, tuple) else job)
        return self._out[: len(images)].reshape(len(images), -1).copy()


def dpu_subgraph(path: str) -> Any:
    """The one subgraph of the xmodel that runs on the DPU."""
    import xir

    if not os.path.isfile(path):
        raise Refused(f"there is no file {path}; compile the exported xmodel first (the manifest has the line: compile)")
    graph = xir.Graph.deserialize(path)
    children = graph.get_root_subgraph().toposort_child_subgraph()
    devices = [s.get_attr("device").upper() if s.has_attr("device") else "NONE" for s in children]
    on_dpu = [s for s, device in zip(children, devices) if device == "DPU"]  # noqa: B905 - not in Python 3.9
    if len(on_dpu) != 1:
        counts = ", ".join(f"{devices.count(d)} {d}" for d in sorted(set(devices))) or "none"
        raise Refused(f"{path} has subgraphs {counts}, expected exactly one for the DPU; is it compiled for this board?")
    return on_dpu[0]


def check_positions(network: Network, manifest: dict[str, Any]) -> None:
    """The xmodel's fix positions and shapes must be those that the manifest names."""
    for tensor, entry, name in ((network.input, "input", "input"), (network.output, "output", "output")):
        if tensor.has_attr("fix_point") and tensor.get_attr("fix_point") != manifest[entry]["fix_position"]:
            found, expected = tensor.get_attr("fix_point"), manifest[entry]["fix_position"]
            raise Refused(
                f"the xmodel's {name} has fix position {found}, the manifest says {expected}; they are of two networks"
            )
    if list(network.input.dims[1:]) != manifest["input"]["shape"]:
        found, expected = list(network.input.dims[1:]), manifest["input"]["shape"]
        raise Refused(f"the xmodel takes images of {found}, the manifest says {expected}; they are of two networks")


def check_golden(network: Network, images: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """How the golden images come out, beside the integers that they should."""
    pieces = [network.run(images[start : start + network.batch]) for start in range(0, len(images), network.batch)]
    difference = np.abs(np.concatenate(pieces).astype(np.int32) - expected.reshape(len(expected), -1))
    return {
        "images": len(images),
        "equal": not difference.any(),
        "equal_images": int((difference.max(axis=1) == 0).sum()),
        "largest_difference": int(difference.max()),
    }


def measure_latency(network: Network, image: np.ndarray, seconds: float) -> dict[str, Any]:
    """One thread, one batch in flight."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        network.run(image)
        times.append(time.perf_counter() - start)
    middle, high = np.percentile(times, [50, 95])
    return {
        "latency_ms": round(float(middle) * 1e3, 4),
        "latency_ms_95_percent": round(float(high) * 1e3, 4),
        "latency_fps": round(network.batch / float(np.mean(times)), 2),
        "runs": len(times),
    }


def measure_throughput(subgraph: Any, image: np.ndarray, seconds: float, threads: int) -> dict[str, Any]:
    """All cores busy: every thread has a runner of its own."""
    networks = [Network(subgraph) for _ in range(threads)]
    counts = [0] * threads
    begin = threading.Event()
    end = [0.0]

    def work(index: int) -> None:
        begin.wait()
        while time.perf_counter() < end[0]:
            networks[index].run(image)
            counts[index] += networks[index].batch

    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(threads)]
    for worker in workers:
        worker.start()
    start = time.perf_counter()
    end[0] = start + seconds
    begin.set()
    for worker in workers:
        worker.join()
    return {"fps": round(sum(counts) / (time.perf_counter() - start), 2), "images": sum(counts), "threads": threads}


def expected_fps(manifest: dict[str, Any]) -> Any:
    """What the compiled file should reach; where Vitis AI compiled it, what the study found. None: not known."""
    predicted = (manifest.get("compiled") or {}).get("predicted") or manifest["scores"]
    return predicted.get("fps")


def write_rows(path: str, network: str, cores: int, figures: dict[str, Any]) -> None:
    """Append the figures to a CSV file that `edgesearch calibrate` reads."""
    is_new = not os.path.exists(path) or os.path.getsize(path) == 0
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["network", "what", "fps", "runner", "cores"])
        writer.writerow([network, "latency", figures["latency"]["latency_fps"], "python", ""])
        writer.writerow([network, "throughput", figures["throughput"]["fps"], "python", cores])


def read_export(folder: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The manifest of the exported trial, and its golden images and outputs."""
    try:
        with open(os.path.join(folder, "manifest.json")) as file:
            manifest = json.load(file)
        names = [os.path.join(folder, manifest["golden"][kind]) for kind in ("input", "output")]
        return manifest, np.load(names[0], allow_pickle=False), np.load(names[1], allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{folder} is not the folder of an exported trial ({error}); give it as --export") from error


def run(arguments: argparse.Namespace) -> int:
    """Check, measure, print."""
    manifest, images, expected = read_export(arguments.export)
    try:
        import vart  # noqa: F401
        import xir  # noqa: F401
    except ImportError as error:
        raise Refused(f"{error}; run this on the board, whose image has Vitis AI's vart and xir for Python") from error
    subgraph = dpu_subgraph(arguments.xmodel)
    network = Network(subgraph)
    check_positions(network, manifest)
    cores = manifest["board"]["cores"] or 1
    figures = {"xmodel": os.path.basename(arguments.xmodel), "trial": manifest["trial"], "study": manifest["study"]}
    figures["golden"] = check_golden(network, images, expected)
    if figures["golden"]["equal"] or arguments.measure_anyway:
        batch = images[np.arange(network.batch) % len(images)]
        figures["latency"] = measure_latency(network, batch, arguments.seconds)
        figures["throughput"] = measure_throughput(subgraph, batch, arguments.seconds, arguments.threads or 2 * cores)
        figures["expected_fps"] = expected_fps(manifest)
        if arguments.csv:
            uncompiled = next(name for name in manifest["sha256"] if name.endswith("_int.xmodel"))
            write_rows(
                arguments.csv, os.path.join(os.path.basename(os.path.abspath(arguments.export)), uncompiled), cores, figures
            )
    print(json.dumps(figures, indent=1))
    return 0 if figures["golden"]["equal"] else 1


def main() -> int:
    """Read the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check a compiled xmodel bit for bit and measure it, on the board.")
    parser.add_argument("xmodel", help="the compiled xmodel")
    parser.add_argument("--export", default=os.path.dirname(os.path.abspath(__file__)), help="folder of the exported trial")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each figure is measured (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of the throughput (default: two for each core)")
    parser.add_argument("--csv", help="append the figures to this file, for `edgesearch calibrate`")
    parser.add_argument("--measure-anyway", action="store_true", help="measure although golden images came out differently")
    try:
        return run(parser.parse_args())
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
