"""The losses that draw a student's logits to its teacher's.

With z the student's logits, t the teacher's and y the label of an image, at temperature T:

    logit: alpha * CE(z, y) + (1 - alpha) * T^2 * KL(softmax(t / T) || softmax(z / T))          (G. Hinton et al. 2015)
    nkd:   CE(z, y) - p_y(t) * log p_y(z) - gamma * T^2 * sum over i != y of n_i(t) * log n_i(z)

where p = softmax of the logits and n = softmax of the logits / T over all classes but y, which sums to one for student and
teacher alike (Z. Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized
Loss and Customized Soft Labels", ICCV 2023; there gamma = 1.5 and T = 1 on ImageNet).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Second", "SoftTargets", "label_loss"]


class Second(NamedTuple):
    """What else a mixed image shows: the second labels (B,), and how much the first ones count (B,), 0 to 1."""

    labels: Tensor
    share: Tensor

    def mean(self, first: Tensor, second: Tensor) -> Tensor:
        """The mean of losses by the first labels (B,) and by the second ones (B,), each as much as it counts; a scalar."""
        return second.lerp(first, self.share.to(first.dtype)).mean()


def label_loss(logits: Tensor, labels: Tensor, *, smoothing: float, second: Second | None) -> Tensor:
    """The mean cross-entropy of logits (B, classes) with labels (B,), which are smoothed; a scalar."""
    if second is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    both = (F.cross_entropy(logits, each, label_smoothing=smoothing, reduction="none") for each in (labels, second.labels))
    return second.mean(*both)


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """How labels and a teacher's logits are weighed: `alpha` is for "logit" alone, `gamma` for "nkd" alone."""

    kind: Literal["logit", "nkd"] = "logit"
    temperature: float = 4.0
    alpha: float = 0.5
    gamma: float = 1.5

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher's logits count at all."""
        return self.kind == "nkd" or self.alpha < 1

    def __call__(
        self, logits: Tensor, labels: Tensor, soft: Tensor | None, *, smoothing: float = 0.0, second: Second | None = None
    ) -> Tensor:
        """The mean loss of logits (B, classes) for labels (B,) and the teacher's logits `soft` (B, classes), a scalar.

        `smoothing` is that of the labels. Without `soft` the labels count alone. second: the other labels of mixed images,
        for which the teacher has answered, too.
        """
        hard = label_loss(logits, labels, smoothing=smoothing, second=second)
        if soft is None or not self.uses_teacher:
            return hard
        if self.kind == "nkd":
            return hard + self._normalised(logits, labels, soft, second)
        divergence = F.kl_div(
            F.log_softmax(logits / self.temperature, 1),
            F.log_softmax(soft / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        return self.alpha * hard + (1 - self.alpha) * self.temperature**2 * divergence

    def _normalised(self, logits: Tensor, labels: Tensor, soft: Tensor, second: Second | None) -> Tensor:
        of_label, of_others = self._parts(logits, labels, soft)
        if second is None:
            return -of_label.mean() - self.gamma * self.temperature**2 * of_others.mean()
        more_label, more_others = self._parts(logits, second.labels, soft)
        return -second.mean(of_label, more_label) - self.gamma * self.temperature**2 * second.mean(of_others, more_others)

    def _parts(self, logits: Tensor, labels: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        """For each image (B,), how far the student is with the label, and with the other classes."""
        own, column = F.log_softmax(logits, 1), labels[:, None]
        of_label = (soft.softmax(1).gather(1, column) * own.gather(1, column))[:, 0]
        is_label = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, column, True)
        theirs = (soft / self.temperature).masked_fill(is_label, -torch.inf).softmax(1)  # 0 at the label
        scaled = logits / self.temperature
        ours = scaled - scaled.masked_fill(is_label, -torch.inf).logsumexp(1, keepdim=True)  # finite at the label, too
        return of_label, (theirs * ours).sum(1)
