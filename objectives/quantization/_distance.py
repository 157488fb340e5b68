"""How far a quantized network's answers are from the float network's: what candidates are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesearch.board_eval.execution import execute, run_float
from edgesearch.board_eval.graph import Graph

#: How many standard errors over images make a difference clear.
_CLEARLY = 2.0


def answers_classes(graph: Graph) -> bool:
    """Whether the output is one vector of logits: several values, and one place that they belong to."""
    shape = graph.output.shape
    return shape[-1] > 1 and math.prod(shape) == shape[-1]


def answer_distances(exact: Tensor, found: Tensor, *, classes: bool) -> Tensor:
    """How far the answers `found` (N, outputs) are from `exact`, image by image (N,), float64.

    Of `classes` it is the total variation distance between the softmax of both: half the sum of what the probabilities moved.
    It lies in 0..1, and an image whose class is beyond doubt adds next to nothing, however far its logits moved. Of several
    other outputs it is the Kullback-Leibler divergence of `found` from `exact` in nats, of a single one the squared error.
    """
    exact, found = exact.double(), found.double()
    if classes:
        return (found.softmax(1) - exact.softmax(1)).abs().sum(1) / 2
    if exact.shape[1] == 1:
        return (found - exact).square().flatten()
    return F.kl_div(found.log_softmax(1), exact.log_softmax(1), reduction="none", log_target=True).sum(1)


def clearly_less(some: Tensor, others: Tensor) -> bool:
    """Whether the mean of `some` (N,) is below that of `others` by more than chance, image by image, would explain."""
    gained = others - some
    if len(gained) < 2:
        return False
    return float(gained.mean()) > _CLEARLY * float(gained.std()) / math.sqrt(len(gained))


@dataclass(frozen=True)
class Judge:
    """Knows the float network's answers `exact` (N, outputs) on `images`, and judges quantized networks by them."""

    images: npt.NDArray[np.float32]
    exact: Tensor
    classes: bool
    device: str = "cpu"

    @classmethod
    def of(cls, graph: Graph, images: npt.NDArray[np.float32], *, device: str = "cpu") -> Judge:
        """The judge of what is made of the float `graph`."""
        exact = torch.from_numpy(run_float(graph, images, device=device)).flatten(1)
        return cls(images, exact, answers_classes(graph), device)

    def distances(self, quantized: Graph) -> Tensor:
        """How far the integers' answers are from the float network's (N,); see `answer_distances`."""
        found = torch.from_numpy(execute(quantized, self.images, device=self.device)).flatten(1)
        return answer_distances(self.exact, found, classes=self.classes)
