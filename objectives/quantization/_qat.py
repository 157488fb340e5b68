"""Quantization-aware training: the one training loop with the DPU's arithmetic in the forward pass.

What it adds are its rules: thresholds that learn faster than weights, parts of the layers at rates of their own, and
batch-norm and positions that are frozen before the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgesearch.board_eval.execution import full_float32, to_tensor
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import DEFAULT_TARGET, Target
from edgesearch.objectives.data import DataSet, prepare
from edgesearch.objectives.pruning import copied, re_estimate_batch_norm
from edgesearch.objectives.quantization._best import calibrate, find_grids, shuffled
from edgesearch.objectives.quantization._checks import check_bits, check_calibration
from edgesearch.objectives.quantization._method import Method
from edgesearch.objectives.quantization._positions import obey_limits
from edgesearch.objectives.quantization._qat_features import supervision_of_nodes
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.quantization._qat_recipe import QatRecipe
from edgesearch.objectives.training import Checkpoints, Part, Supervision, Training, goes_on, train

#: Share of the epochs after which batch-norm statistics and fix positions stay as they are.
FREEZE_AFTER = 0.6
#: Thresholds learn faster than weights: they have to cross whole powers of two.
THRESHOLD_LR = 10.0
#: Calibration images shown at a time when batch-norm statistics of an untrained network are measured.
_STATISTICS_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class QatSettings:
    """Where training begins, and on which grid.

    A model that is `trained` begins where PTQ by `method` "best" would before it learns rounding, its channels scaled (but not
    those behind a ReLU6); with any other its channels stay as they are. Of a model that is not trained, batch-norm statistics
    are measured on the calibration images first.
    """

    trained: bool = True
    method: Method = "best"
    bits: int = 8

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def freeze_at(self, epochs: int) -> int:
        """The epoch before which batch-norm and positions are frozen; a trained network has one epoch at least behind it."""
        share = math.ceil(FREEZE_AFTER * epochs)
        return min(share, epochs - 1) if self.trained else share


@dataclass(frozen=True)
class Qat:
    """A network that was trained as the DPU computes it, and its training, whose accuracy is that of the integers.

    From random weights, trained for one or two epochs, nothing is frozen: positions that the DPU's shifts do not allow move
    behind the training, and the integers may answer otherwise.
    """

    graph: Graph
    training: Training


def train_qat(
    model: nn.Module,
    data: DataSet,
    *,
    recipe: QatRecipe,
    input_size: int | None,
    seed: int = 0,
    settings: QatSettings | None = None,
    supervision: Supervision | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 10.0,
    checkpoint_within: float = 45.0,
    on_epoch: Callable[[int, float], None] | None = None,
    device: str = "cpu",
    note: Callable[[str], object] = lambda line: None,
    pieces: int = 1,
    target: Target | None = DEFAULT_TARGET,
) -> Qat:
    """Train `model` as the DPU will compute it; the model itself is not changed.

    Positions and biases to begin with are found on the calibration images of `data`. Stages that `supervision` names are
    modules of `model`. All else is as in `train`, which trains.
    The network is one for the DPU `target`; None looks at no limits of one (see `lower`).
    Raises QuantizationError for what cannot be quantized, TrainingError as `train` does.
    """
    settings = settings or QatSettings()
    size = data.size if input_size is None else (input_size, input_size)
    calibration = prepare(data.calibration.images, size, data.normalisation)
    if not settings.trained:
        model = with_statistics(model, calibration)
    network = QatNetwork.of(model, (data.channels, *size), settings.bits, target)
    check_calibration(network.graph, calibration)
    if supervision is not None and supervision.compares_features:
        supervision = supervision_of_nodes(supervision, model, network, to_tensor(calibration))
    if not goes_on(checkpoints, network, recipe.epochs):
        start(network, calibration, settings.bits, seed, scale=settings.trained and settings.method == "best")
    training = train(
        network,
        data,
        recipe=recipe.model_copy(update={"mixed_precision": "off"}),
        input_size=input_size,
        seed=seed,
        supervision=supervision,
        checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        checkpoint_within=checkpoint_within,
        on_epoch=on_epoch,
        device=device,
        note=note,
        pieces=pieces,
        rules=_QatRules(network, recipe.stage_lrs, settings.freeze_at(recipe.epochs)),
    )
    return Qat(network.to_graph(), training)


@dataclass(frozen=True)
class _QatRules:
    """`Rules` of a network on the DPU's grid."""

    network: QatNetwork
    stage_lrs: Sequence[float]
    freeze_at: int

    def parts(self) -> list[Part]:
        thresholds = self.network.thresholds()
        own = {id(threshold) for threshold in thresholds}
        layers, stages = list(self.network.layers.values()), len(self.stage_lrs)
        found = []
        for stage, factor in enumerate(self.stage_lrs):
            part = layers[len(layers) * stage // stages : len(layers) * (stage + 1) // stages]
            found.append(Part([p for layer in part for p in layer.parameters() if id(p) not in own], factor))
        return [*found, Part(thresholds, THRESHOLD_LR)]

    def begin(self, epoch: int) -> bool:
        if epoch >= self.freeze_at:
            self.network.freeze()
        return epoch == self.freeze_at


def start(network: QatNetwork, calibration: npt.NDArray[np.float32], bits: int, seed: int, *, scale: bool) -> None:
    """Put the network at the grids and biases that PTQ would choose, with its channels scaled for them or not."""
    images = shuffled(to_tensor(calibration), seed)
    with full_float32(), torch.no_grad():
        # what a ReLU6 clips must not depend on scales here, since training moves it
        grids = find_grids(network.to_network(), images, bits, seed, scale=scale, scale_relu6=False)
        if scale:
            network.rescale(grids.scales)
        rounded = grids.network.copy()
        positions = calibrate(rounded, images, bits, grids.positions)
        network.correct(rounded.biases)
    obey_limits(network.graph, positions)
    network.set_positions(positions)


def with_statistics(model: nn.Module, calibration: npt.NDArray[np.float32]) -> nn.Module:
    """A copy of an untrained model whose batch-norms know the mean and variance of the calibration images."""
    model = copied(model).cpu()
    if len(calibration) > 1:  # of one image some layers have a single value, and no variance
        re_estimate_batch_norm(model, to_tensor(calibration), batch_size=_STATISTICS_BATCH)
    return model.eval()
