"""Optimizers by name, and the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgesearch.objectives.training._eager import SGD, Adam, AdamW, Eager
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._rules import Part

__all__ = ["Muon", "learning_rate", "make_optimizer", "optimizer_version", "set_rate"]

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


class Muon(Eager):
    """Nesterov momentum whose step is orthogonal: every direction in which a kernel can change counts alike.

    A kernel (O, ...) is a matrix of O rows. Groups with `orthogonal` False are trained by AdamW. Rates of both are the groups'.
    """

    def __init__(self, groups: list[dict[str, object]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            if group["orthogonal"]:
                self._orthogonal_step(parameters, group["lr"], group["momentum"])
            else:
                self._adam_step(parameters, group["lr"])

    def _orthogonal_step(self, parameters: list[Tensor], lr: float | Tensor, momentum: float) -> None:
        gradients, momenta = _gradients(parameters), self._remembered("momentum", parameters)
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, momenta, momentum)
        for places in _alike(parameters):
            matrices = [ahead[place].reshape(len(ahead[place]), -1) for place in places]
            rows, columns = matrices[0].shape
            steps = orthogonalized(torch.stack(matrices) if len(places) > 1 else matrices[0])
            for place, step in zip(places, steps if len(places) > 1 else [steps], strict=True):
                _move(parameters[place], step.view_as(ahead[place]), -lr * math.sqrt(max(1.0, rows / columns)))

    def _adam_step(self, parameters: list[Tensor], lr: float | Tensor) -> None:
        gradients, steps = _gradients(parameters), self._counted(parameters)
        means, squares = self._remembered("mean", parameters), self._remembered("square", parameters)
        torch._foreach_lerp_(means, gradients, 1 - _ADAM_BETAS[0])
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - _ADAM_BETAS[1])
        for parameter, mean, square, step in zip(parameters, means, squares, steps, strict=True):
            root = (square / (1 - _ADAM_BETAS[1] ** step)).sqrt_().add_(_ADAM_EPS)
            _move(parameter, mean / (1 - _ADAM_BETAS[0] ** step), -lr, root)

    def _remembered(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _counted(self, parameters: list[Tensor]) -> Sequence[float | Tensor]:
        """Of each parameter, which step this is: a number, or on a GPU, where steps are recorded, a tensor."""
        for parameter in parameters:
            state = self.state[parameter]
            if "step" not in state:
                state["step"] = torch.zeros((), device=parameter.device)
            state["step"] += 1
        steps = [self.state[parameter]["step"] for parameter in parameters]
        return [float(step) if step.device.type == "cpu" else step for step in steps]


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    gradients = [parameter.grad for parameter in parameters]
    return [gradient for gradient in gradients if gradient is not None]


def _alike(parameters: list[Tensor]) -> list[list[int]]:
    """Places of parameters whose steps are computed together: on a GPU all of one shape, on a CPU each alone."""
    if parameters[0].device.type == "cpu":
        return [[place] for place in range(len(parameters))]
    found: dict[torch.Size, list[int]] = {}
    for place, parameter in enumerate(parameters):
        found.setdefault(parameter.shape, []).append(place)
    return list(found.values())


def _move(parameter: Tensor, direction: Tensor, factor: float | Tensor, divisor: Tensor | None = None) -> None:
    """Add `factor` times the direction, divided by the divisor where there is one."""
    if isinstance(factor, Tensor):
        parameter.add_(direction * factor if divisor is None else direction * factor / divisor)
    elif divisor is None:
        parameter.add_(direction, alpha=factor)
    else:
        parameter.addcdiv_(direction, divisor, value=factor)


_ADAM_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix (R, C), or each of several (N, R, C), with all its singular values near 1, by products of matrices alone.

    A step makes P X of X, where P = a + b G + c G^2 and G = X X^T. Since P and G commute, the next G is P G P: the steps are
    made on G, which is much smaller than a kernel's matrix, and X is multiplied once, by all of them.
    """
    a, b, c = _QUINTIC
    rows, columns = matrix.shape[-2:]
    wide = matrix.mT if rows > columns else matrix
    scale = 1 / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    gram = (wide @ wide.mT) * scale.square()
    steps = torch.eye(wide.shape[-2], dtype=wide.dtype, device=wide.device) * scale
    for _ in range(_ITERATIONS):
        step = b * gram + c * (gram @ gram)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        steps, gram = step @ steps, step @ gram @ step
    result: Tensor = steps @ wide
    return result.mT if rows > columns else result


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let each group's next steps be made at its share of `rate`. Where parameters lie on a GPU, the rate does, too."""
    for group in optimizer.param_groups:
        own = rate * group["scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        elif group["params"] and group["params"][0].device.type == "cuda":
            group["lr"] = torch.tensor(own, device=group["params"][0].device)
        else:
            group["lr"] = own


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
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return kind(groups, lr=recipe.lr, fused=True, capturable=on_gpu)


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
