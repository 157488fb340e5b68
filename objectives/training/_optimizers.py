"""Optimizers by name, and the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._rules import Part

__all__ = ["Muon", "learning_rate", "make_optimizer", "optimizer_version"]

#: Coefficients of the quintic iteration that brings every singular value near 1 within five steps (K. Jordan et al. 2024,
#: "Muon: an optimizer for hidden layers in neural networks"): they are steep at zero, and so end between about 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
#: What Muon does not train (first and last layer, biases, batch-norm) is trained by AdamW at this share of its rate.
_MUON_REST = 0.1


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate at `step` (from 0), where an epoch has `steps`: a linear warm-up, then a cosine or a line that ends at zero."""
    total, warm = recipe.epochs * steps, min(recipe.warmup_epochs, recipe.epochs) * steps
    if step < warm:
        return recipe.lr * min(1.0, (step + 1) / warm)
    done = (step - warm) / max(1.0, total - warm)
    return recipe.lr * (1 - done if recipe.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is orthogonal: every direction in which a kernel can change counts alike.

    A kernel (O, ...) is a matrix of O rows. Groups with `orthogonal` False are trained by AdamW. Rates of both are the groups'.
    """

    def __init__(self, groups: list[dict[str, object]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group in self.param_groups:
            rule = self._orthogonal_step if group["orthogonal"] else self._adam_step
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    rule(parameter, group["lr"], group["momentum"])

    def _orthogonal_step(self, parameter: Tensor, lr: float, momentum: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["momentum"], momentum)
        rows, columns = len(ahead), ahead[0].numel()
        step = orthogonalized(ahead.reshape(rows, columns)).view_as(ahead)
        parameter.add_(step, alpha=-lr * math.sqrt(max(1.0, rows / columns)))

    def _adam_step(self, parameter: Tensor, lr: float, momentum: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "step" not in state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - _ADAM_BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - _ADAM_BETAS[1])
        step = float(state["step"])
        mean = state["mean"] / (1 - _ADAM_BETAS[0] ** step)
        root = (state["square"] / (1 - _ADAM_BETAS[1] ** step)).sqrt_().add_(_ADAM_EPS)
        parameter.addcdiv_(mean, root, value=-lr)


_ADAM_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix (R, C) with all its singular values near 1, by products of matrices alone.

    A step makes P X of X, where P = a + b G + c G^2 and G = X X^T. Since P and G commute, the next G is P G P: the steps are
    made on G, which is much smaller than a kernel's matrix, and X is multiplied once, by all of them.
    """
    a, b, c = _QUINTIC
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    scale = 1 / (wide.norm() + 1e-7)
    gram = (wide @ wide.T) * scale.square()
    steps = torch.eye(len(wide), dtype=wide.dtype, device=wide.device) * scale
    for _ in range(_ITERATIONS):
        step = b * gram + c * (gram @ gram)
        step.diagonal().add_(a)
        steps, gram = step @ steps, step @ gram @ step
    result: Tensor = steps @ wide
    return result.T if len(matrix) > matrix.shape[1] else result


def optimizer_version(recipe: Recipe) -> int:
    """Raised by one whenever the code of the recipe's optimizer changes the result; such trainings have another key then."""
    return 2 if recipe.optimizer == "muon" else 1  # 1: its steps were made in bfloat16


def make_optimizer(
    recipe: Recipe, model: nn.Module, others: Sequence[nn.Module] = (), parts: Sequence[Part] | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimizer of all parameters of `model` and `others`. Each group's "scale" is its share of the rate.

    Weight decay is for matrices and kernels only. The fused step is the fastest there is, also for a CPU. parts: those of
    `model`, where its parameters are not trained alike.
    """
    beside = [p for module in others for p in module.parameters()]
    chosen = [Part([*model.parameters(), *beside])] if parts is None else [*parts, Part(beside)]
    if recipe.optimizer == "muon":
        inner = _inner_kernels(model)
        return Muon([group for part in chosen for group in _muon_groups(recipe, part, inner)], recipe.lr, recipe.momentum)
    groups = [group for part in chosen for group in _groups(recipe, part)]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, fused=True)


def _groups(recipe: Recipe, part: Part) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = [
        {"params": [p for p in part.parameters if p.ndim > 1], "weight_decay": recipe.weight_decay, "scale": part.scale},
        {"params": [p for p in part.parameters if p.ndim <= 1], "weight_decay": 0.0, "scale": part.scale},
    ]
    return [group for group in groups if group["params"]]


def _inner_kernels(model: nn.Module) -> set[int]:
    """Kernels of the layers between first and last are orthogonal, but not those of depthwise layers, whose rows are apart."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return {id(p) for p in weights[1:-1] if p.shape[1] > 1}


def _muon_groups(recipe: Recipe, part: Part, inner: set[int]) -> list[dict[str, object]]:
    parameters, rest = part.parameters, _MUON_REST * part.scale
    chosen = [
        ([p for p in parameters if id(p) in inner], recipe.weight_decay, part.scale, True),
        ([p for p in parameters if p.ndim > 1 and id(p) not in inner], recipe.weight_decay, rest, False),
        ([p for p in parameters if p.ndim <= 1], 0.0, rest, False),
    ]
    return [
        {"params": params, "weight_decay": decay, "scale": scale, "orthogonal": orthogonal}
        for params, decay, scale, orthogonal in chosen
        if params
    ]
