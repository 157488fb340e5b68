"""The published figures as measurement rows and graphs: AMD's Model Zoo 3.0 and Table I of the thesis."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from _report import REFERENCE_DATA
from _zoo import ULTRA96, ZOO
from torch import nn

from edgesearch.board_eval.graph import Conv, Graph, Linear, without_weights
from edgesearch.board_eval.lowering import lower, with_widths
from edgesearch.board_eval.timing import MeasurementRow
from edgesearch.plugins import import_torchvision

#: Rows of Table I: name -> (network, widths in thesis_pruned_channels.json or "", frames per second, one thread, Python).
TABLE_I = {
    "ResNet-50 PTQ": ("resnet50", "", 83.52),
    "ResNet-50 QAT from trained weights": ("resnet50", "", 83.52),
    "ResNet-50 QAT scratch": ("resnet50", "", 83.50),
    "ResNet-50 one-step 20 % + PTQ": ("resnet50", "ResNet-50 one-step 20 %", 91.89),
    "ResNet-50 one-step 95 % + PTQ": ("resnet50", "ResNet-50 one-step 95 %", 427.55),
    "SqueezeNet distilled + PTQ": ("squeezenet1_0", "", 323.35),
    "ResNet-18 distilled + PTQ": ("resnet18", "", 201.09),
    "MobileNetV2 distilled + PTQ": ("mobilenet_v2", "", 271.61),
    "SqueezeNet distilled + iterative 20 % + PTQ": ("squeezenet1_0", "SqueezeNet iterative 20 %", 352.98),
    "ResNet-18 distilled + one-step 20 % + PTQ": ("resnet18", "ResNet-18 one-step 20 %", 215.44),
    "MobileNetV2 distilled + one-step 20 % + PTQ": ("mobilenet_v2", "MobileNetV2 one-step 20 %", 296.96),
}
#: The rows that may be used for fitting: the largest network and the smallest.
FITTED_ROWS = ("ResNet-50 PTQ", "ResNet-50 one-step 95 % + PTQ")


def thesis_network(name: str) -> Graph:
    """A network of Table I, unpruned. The ResNet-50 head has the three layers of its compiled xmodel: 256, 256, 10."""
    models = import_torchvision().models
    with torch.device("cpu"):
        model = getattr(models, name)(weights=None)
    if name == "resnet50":
        model.fc = nn.Sequential(nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.4), nn.Linear(256, 256), nn.Linear(256, 10))
    elif name == "resnet18":
        model.fc = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    elif name == "mobilenet_v2":
        model.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 128), nn.ReLU(), nn.Linear(128, 10))
    else:
        model.classifier[1] = nn.Conv2d(512, 10, 1)
    return without_weights(lower(model, (3, 224, 224), name=name))


def table_one() -> dict[str, tuple[Graph, float]]:
    """Row of Table I -> graph, frames per second."""
    widths = json.loads((REFERENCE_DATA / "dpu" / "thesis_pruned_channels.json").read_text())
    base = {name: thesis_network(name) for name in {network for network, _, _ in TABLE_I.values()}}
    out = {}
    for row, (network, pruned, fps) in TABLE_I.items():
        graph = base[network]
        # depthwise layers are listed too; theirs are their producers' channels
        chosen = {name: n for name, n in widths.get(pruned, {}).items() if isinstance(graph.by_name[name], Conv | Linear)}
        out[row] = (with_widths(graph, chosen), fps)
    return out


def zoo_fps() -> dict[tuple[str, str], tuple[float, float]]:
    """(network, board) -> frames per second with one thread, with many, as Vitis AI 3.0 publishes them."""
    with (REFERENCE_DATA / "dpu" / "zoo_boards_fps.csv").open(newline="") as file:
        return {
            (row["model_full"], row["board"]): (float(row["fps_single_thread"]), float(row["fps_multi_thread"]))
            for row in csv.DictReader(file)
            if row["vitis_ai"] == "3.0" and row["model_full"] in ZOO
        }


def ultra96_fps(board: str = "Ultra96") -> dict[str, tuple[float, float | None]]:
    """Network -> frames per second with one thread, with many, in Vitis AI 1.0's table of a board."""
    with (REFERENCE_DATA / "dpu" / "zoo_boards_fps.csv").open(newline="") as file:
        return {
            row["model_full"]: (float(row["fps_single_thread"]), float(row["fps_multi_thread"] or 0) or None)
            for row in csv.DictReader(file)
            if row["vitis_ai"] == "1.0" and row["board"] == board and row["model_full"] in ULTRA96
        }


def measurements(board: str = "ZCU104", *, without: str = "") -> tuple[tuple[MeasurementRow, ...], dict[str, Graph]]:
    """What the profile of a board is fitted to: the zoo's networks (but one family) and two rows of Table I.

    Throughput of the KV260's one core stands for the DPU; latency and throughput of the board itself for its host and cores.
    """
    published, table = zoo_fps(), table_one()
    rows: list[MeasurementRow] = []
    graphs: dict[str, Graph] = {}
    for name, (family, build) in ZOO.items():
        if family == without:
            continue
        graphs[name] = build(name)
        rows.append(MeasurementRow(name, "throughput", published[name, "KV260"][1], runner="cpp", cores=1, family=family))
        latency, many = published[name, board]
        rows.append(MeasurementRow(name, "latency", latency, runner="cpp", family=family))
        if board != "KV260":
            rows.append(MeasurementRow(name, "throughput", many, runner="cpp", family=family))
    for name in FITTED_ROWS:
        graphs[name], fps = table[name]
        rows.append(MeasurementRow(name, "latency", fps, runner="thesis_script", family=name))
    return tuple(rows), graphs


def write(folder: Path, rows: tuple[MeasurementRow, ...], graphs: Mapping[str, Graph]) -> Path:
    """The measurements as the files that `edgesearch calibrate` reads; returns the path of the CSV file."""
    from edgesearch.board_eval.graph import graph_to_json

    files = {}
    for number, (name, graph) in enumerate(graphs.items()):
        files[name] = f"network{number}.json"
        (folder / files[name]).write_text(json.dumps(graph_to_json(graph)[0]))
    path = folder / "measurements.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("network", "what", "fps", "runner", "cores", "family"))
        for row in rows:
            out.writerow((files[row.network], row.what, row.fps, row.runner, row.cores or "", row.family))
    return path
