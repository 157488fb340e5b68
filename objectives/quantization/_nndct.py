"""Quantization by Vitis AI's own quantizer, pytorch_nndct, in its own Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgesearch.board_eval.graph import Graph, Reshape
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.targets import DEFAULT_TARGET, Target
from edgesearch.board_eval.vitis import VitisSettings
from edgesearch.errors import QuantizationError, TrainingError
from edgesearch.objectives.data import resize_weights
from edgesearch.objectives.pruning import copied
from edgesearch.objectives.quantization._checks import check_calibration, check_graph
from edgesearch.objectives.quantization._qat import THRESHOLD_LR, with_statistics
from edgesearch.objectives.vitis import Array, Job, ModelSource, Results, finished, torch_source

__all__ = ["Nndct", "NndctTraining", "quantize_nndct", "train_nndct"]

#: Thresholds learn faster than weights: they have to cross whole powers of two.


@dataclass(frozen=True)
class Nndct:
    """What pytorch_nndct made: the quantized Graph, the float network that it quantized, and versions of its packages."""

    graph: Graph
    model: nn.Module
    versions: dict[str, str]
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NndctTraining:
    """Images and recipe of a training. `pixels` and `logits` give one view each; `views` are shown in turn, epoch by epoch.

    size: (height, width) of the images, which are resized. labels (N,) of them; order (epochs, N) in which they are shown; mean
    and std of each channel, or of all. Loss: that of `SoftTargets` with `loss`.
    Of a model that is not `trained`, batch-norm statistics are measured on the calibration images first.
    """

    epochs: int
    lr: float
    batch_size: int
    size: tuple[int, int]
    labels: npt.NDArray[np.int64]
    order: npt.NDArray[np.int32]
    views: int
    pixels: Callable[[int], npt.NDArray[np.uint8]] = field(repr=False)  # view -> (N, H, W, C)
    logits: Callable[[int], npt.NDArray[np.float32]] | None = field(default=None, repr=False)  # view -> (N, classes)
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    weight_decay: float = 1e-5
    temperature: float = 4.0
    alpha: float = 1.0
    loss: Literal["logit", "nkd"] = "logit"
    gamma: float = 1.5
    trained: bool = True
    device: str = "cpu"


def quantize_nndct(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    calibration: npt.NDArray[np.float32],
    vitis: VitisSettings,
    *,
    fast_finetune: bool = False,
    seed: int = 0,
    target: Target | None = DEFAULT_TARGET,
    packages: Mapping[str, str] | None = None,
) -> Nndct:
    """PTQ of `model`, which is not changed, for images of `input_shape` (C, H, W), on `calibration` (N, H, W, C), normalised.

    The network is one for the DPU `target`; None looks at no limits of one (see `lower`). `packages` are versions that Vitis
    AI's Python must have, by name.
    Raises LoweringError and QuantizationError for what cannot be quantized, or what comes back and the DPU does not have,
    ToolchainMissing where Vitis AI's Python is not there or has other packages, and ToolchainError where it fails.
    """
    source = _source(model, input_shape, calibration, target, trainable=False)
    job = Job(
        task="ptq",
        source=source,
        seed=seed,
        threads=torch.get_num_threads(),
        packages=packages or {},
        settings={"fast_finetune": fast_finetune},
        arrays={"calibration": _channels_first(calibration)},
    )
    with finished(job, vitis) as results:
        return Nndct(_graph(results, model, input_shape), copied(model), dict(results.versions))


# Long for its arguments, and for what is told of them.
def train_nndct(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    calibration: npt.NDArray[np.float32],
    training: NndctTraining,
    vitis: VitisSettings,
    *,
    seed: int = 0,
    target: Target | None = DEFAULT_TARGET,
    packages: Mapping[str, str] | None = None,
) -> Nndct:
    """QAT of `model`, which is not changed; see `quantize_nndct`. Of `calibration` only the first image is shown.

    Raises TrainingError too, for weights that come back and are none of this network.
    """
    if not training.trained:
        model = with_statistics(model, calibration)
    source = _source(model, input_shape, calibration, target, trainable=True)
    resized = training.size != input_shape[1:]
    rows, columns, bits = resize_weights(training.size, (input_shape[1], input_shape[2]))
    arrays: dict[str, Array | Callable[[], Array]] = {
        "calibration": _channels_first(calibration[:1]),
        "labels": training.labels,
        "order": training.order,
        **({"rows": rows, "columns": columns} if resized else {}),
        **{f"pixels_{view}": partial(training.pixels, view) for view in range(training.views)},
    }
    if training.logits is not None:
        arrays |= {f"logits_{view}": partial(training.logits, view) for view in range(training.views)}
    settings: dict[str, Any] = {
        "recipe": {
            "epochs": training.epochs,
            "lr": training.lr,
            "threshold_lr": training.lr * THRESHOLD_LR,
            "weight_decay": training.weight_decay,
            "batch_size": training.batch_size,
            "temperature": training.temperature,
            "alpha": training.alpha,
            "loss": training.loss,
            "gamma": training.gamma,
        },
        "views": training.views,
        "taught": training.logits is not None,
        "mean": list(training.mean),
        "std": list(training.std),
        "resize_bits": bits if resized else 0,
    }
    threads = torch.get_num_threads()
    device: Any = "cuda" if training.device.startswith("cuda") else "cpu"
    job = Job(
        task="qat",
        source=source,
        seed=seed,
        threads=threads,
        device=device,
        packages=packages or {},
        settings=settings,
        arrays=arrays,
    )
    with finished(job, vitis) as results:
        trained = copied(model).cpu()
        tensors = {name: torch.from_numpy(array) for name, array in results.tensors("trained").items()}
        try:
            trained.load_state_dict(trained.state_dict() | {k: v for k, v in tensors.items() if k in trained.state_dict()})
        except RuntimeError as error:
            raise TrainingError(f"the weights that pytorch_nndct trained are none of this network: {error}") from error
        graph = _graph(results, trained, input_shape)
        return Nndct(graph, trained.eval(), dict(results.versions), results.numbers("losses"))


def _source(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    calibration: npt.NDArray[np.float32],
    target: Target | None,
    *,
    trainable: bool,
) -> ModelSource:
    """The network's code, once it is known that the DPU takes the network and that the images fit."""
    graph = lower(model, input_shape, target=target)
    check_graph(graph)
    check_calibration(graph, calibration)
    return torch_source(model, input_shape, trainable=trainable)


def _graph(results: Results, model: nn.Module, input_shape: tuple[int, int, int]) -> Graph:
    """The Graph that came back; raises QuantizationError unless it has the network's outputs."""
    graph = results.xmodel()
    expected = lower(model, input_shape, target=None).output.shape
    output = graph.output
    if output.shape == expected:
        return graph
    if output.shape != (1, 1, *expected):
        raise QuantizationError(f"what pytorch_nndct wrote puts out {output.shape}, the network {expected}")
    vector = Reshape(name=f"{output.name}_vector", inputs=(output.name,), shape=expected)
    return Graph(graph.name, (*graph, vector), graph.bits)


def _channels_first(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
