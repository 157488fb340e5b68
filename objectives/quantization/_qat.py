"""Quantization-aware training: the DPU's arithmetic in the forward pass, batch-norm and positions frozen before the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import to_tensor
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.lowering import lower_with_sources
from edgesearch.errors import QuantizationError, TrainingError
from edgesearch.objectives.pruning import re_estimate_batch_norm
from edgesearch.objectives.quantization._best import calibrate, find_grids, shuffled
from edgesearch.objectives.quantization._checks import check_bits, check_calibration, check_graph
from edgesearch.objectives.quantization._method import Method
from edgesearch.objectives.quantization._positions import obey_limits
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.training import (
    Checkpoints,
    Hints,
    SoftTargets,
    choose_device,
    make_projections,
    match_stages,
    pack,
    safe_convolutions,
    stage_loss,
    unpack,
)


class QatBatch(NamedTuple):
    """Images (N, C, H, W), labels (N,), the teacher's logits (N, classes) or None, and its feature maps (N, C', H', W')."""

    images: Tensor
    labels: Tensor
    logits: Tensor | None = None
    features: Sequence[Tensor] = ()


Batch: TypeAlias = QatBatch | tuple[Tensor, Tensor, Tensor | None]

#: Share of the epochs after which batch-norm statistics and fix positions stay as they are.
FREEZE_AFTER = 0.6
#: Thresholds learn faster than weights: they have to cross whole powers of two.
_THRESHOLD_LR = 10.0
#: Calibration images shown at a time when batch-norm statistics of an untrained network are measured.
_STATISTICS_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class QatSettings:
    """How to train: `stage_lrs` are factors on the learning rate for equal parts of the layers, first to last.

    A model that is `trained` begins where PTQ by `method` "best" would before it learns rounding, its channels scaled (but not
    those behind a ReLU6); with any other its channels stay as they are. Of a model that is not trained, batch-norm statistics
    are measured on the calibration images first.
    Loss: that of `SoftTargets` with `loss`, and `temperature`, `alpha` and `gamma`.
    """

    epochs: int
    lr: float
    stage_lrs: Sequence[float] = (1.0,)
    weight_decay: float = 1e-5
    temperature: float = 4.0
    alpha: float = 1.0
    loss: Literal["logit", "nkd"] = "logit"
    gamma: float = 1.5
    trained: bool = True
    method: Method = "best"
    bits: int = 8
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.epochs < 1 or not self.stage_lrs:
            asked = f"{self.epochs} epochs with stage rates {tuple(self.stage_lrs)}"
            raise QuantizationError(f"{asked} were asked for; give at least one")

    @property
    def soft_targets(self) -> SoftTargets:
        """The loss of the logits."""
        return SoftTargets(kind=self.loss, temperature=self.temperature, alpha=self.alpha, gamma=self.gamma)

    @property
    def freeze_at(self) -> int:
        """The epoch before which batch-norm and positions are frozen; a trained network has one epoch at least behind it."""
        share = math.ceil(FREEZE_AFTER * self.epochs)
        return min(share, self.epochs - 1) if self.trained else share


def train_qat(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    batches: Callable[[int], Iterable[Batch]],
    calibration: npt.NDArray[np.float32],
    settings: QatSettings,
    *,
    teacher: nn.Module | None = None,
    hints: Hints | None = None,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Graph:
    """Train `model` as the DPU will compute it and return the quantized Graph; the model itself is not changed.

    `input_shape` is (C, H, W). `batches(epoch)` gives an epoch's batches. Positions and biases to begin with are found on
    `calibration` (N, H, W, C). Batches without the teacher's logits are shown to `teacher`; without either, cross-entropy
    counts alone. With `hints` the batches have the teacher's feature maps, which the network's are drawn to.
    `on_epoch(epoch, mean loss)` is called with epochs counted from 1. With `checkpoints` the training goes on
    where it was cut off, to the same result.
    Raises QuantizationError for what cannot be quantized, TrainingError when the loss is no longer a number.
    """
    if not settings.trained:
        model = with_statistics(model, calibration)
    lowered = lower_with_sources(model, input_shape)
    check_graph(lowered.graph)
    check_calibration(lowered.graph, calibration)
    network = QatNetwork(model, lowered, settings.bits)
    saved = checkpoints.latest() if checkpoints is not None else None
    if saved is None:
        start(network, calibration, settings.bits, settings.seed, scale=settings.trained and settings.method == "best")
    place = choose_device(settings.device)
    network.to(place)
    if teacher is not None:
        teacher = copy.deepcopy(teacher).to(place).eval()
    loss_of = _Loss(network, settings, hints, teacher)
    optimizer = _optimizer(network, settings, loss_of.projections)
    trained: dict[str, nn.Module] = {"network": network, **({} if hints is None else {"projections": loss_of.projections})}
    first = 0
    if saved is not None:
        first = saved[0]
        unpack(saved[1], trained, optimizer)
        if first > settings.freeze_at:
            network.freeze()
    for epoch in range(first, settings.epochs):
        if epoch == settings.freeze_at:
            network.freeze()
        _set_rate(optimizer, 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs)))
        with safe_convolutions():
            loss = _epoch(network, optimizer, batches(epoch), loss_of, place)
        if checkpoints is not None:
            checkpoints.save(epoch + 1, pack(trained, optimizer), {})
        if on_epoch is not None:
            on_epoch(epoch + 1, loss)
    return network.eval().to_graph()


def _epoch(
    network: QatNetwork,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    loss_of: _Loss,
    device: torch.device,
) -> float:
    network.train()
    total, count = torch.zeros((), device=device), 0
    for images, labels, logits, features in (QatBatch(*batch) for batch in batches):
        images, labels = images.to(device), labels.to(device)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = None if logits is None else logits.to(device)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(QatBatch(images, labels, logits, [each.to(device) for each in features]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(labels)
        count += len(labels)
    mean = float(total) / max(count, 1)
    if not math.isfinite(mean):
        raise TrainingError(f"the loss of quantization-aware training became {mean}; use a smaller learning rate")
    return mean


class _Loss:
    """The loss of a batch; `projections` are trained beside the network."""

    def __init__(self, network: QatNetwork, settings: QatSettings, hints: Hints | None, teacher: nn.Module | None) -> None:
        self._network, self._soft_targets, self._teacher = network, settings.soft_targets, teacher
        self._keep: tuple[str, ...] = ()
        self._beta = 0.0
        self.projections = nn.ModuleList()
        if hints is not None:
            pairs = match_stages(network.stages(), hints.stages)
            self._keep, self._beta = tuple(ours[0] for ours, _ in pairs), hints.beta
            channels = [(ours[1], theirs[1]) for ours, theirs in pairs]
            self.projections = make_projections(channels, settings.seed).to(next(network.parameters()).device)

    def __call__(self, batch: QatBatch) -> Tensor:
        soft = batch.logits
        if soft is None and self._teacher is not None and self._soft_targets.uses_teacher:
            with torch.no_grad():
                soft = self._teacher(batch.images)
        logits, maps = self._network.run(batch.images, self._keep)
        loss = self._soft_targets(logits, batch.labels, soft)
        if not maps:
            return loss
        return loss + self._beta * stage_loss(self.projections, maps, batch.features[-len(maps) :])


def start(network: QatNetwork, calibration: npt.NDArray[np.float32], bits: int, seed: int, *, scale: bool) -> None:
    """Put the network at the grids and biases that PTQ would choose, with its channels scaled for them or not."""
    images = shuffled(to_tensor(calibration), seed)
    with torch.no_grad():
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
    model = copy.deepcopy(model).cpu()
    if len(calibration) > 1:  # of one image some layers have a single value, and no variance
        re_estimate_batch_norm(model, to_tensor(calibration), batch_size=_STATISTICS_BATCH)
    return model.eval()


def _optimizer(network: QatNetwork, settings: QatSettings, projections: nn.ModuleList) -> torch.optim.Optimizer:
    lr, stage_lrs, weight_decay = settings.lr, settings.stage_lrs, settings.weight_decay
    layers = list(network.layers.values())
    groups = []
    for stage, factor in enumerate(stage_lrs):
        part = layers[len(layers) * stage // len(stage_lrs) : len(layers) * (stage + 1) // len(stage_lrs)]
        named = [(name, p) for layer in part for name, p in layer.named_parameters() if not name.endswith("_threshold")]
        for decay, chosen in (
            (weight_decay, [p for name, p in named if name == "weight"]),
            (0.0, [p for name, p in named if name != "weight"]),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": lr * factor, "weight_decay": decay})
    groups.append({"params": network.thresholds(), "lr": lr * _THRESHOLD_LR, "weight_decay": 0.0})
    if len(projections):
        groups.append({"params": list(projections.parameters()), "lr": lr, "weight_decay": weight_decay})
    for group in groups:
        group["highest"] = group["lr"]
    return torch.optim.AdamW(groups)


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share
