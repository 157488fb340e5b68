"""Trainings do without torch's compiler, and step as torch's optimizers do."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from edgesearch.objectives.training import _eager


def _trained(kind: type[torch.optim.Optimizer], **settings: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    weights, biases = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.05, **settings)  # type: ignore[arg-type]
    for _ in range(5):
        model(torch.randn(4, 5, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_step_is_that_of_torch(name: str, fused: bool) -> None:
    settings = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
    own = _trained(getattr(_eager, name), fused=fused, **settings)
    theirs = _trained(getattr(torch.optim, name), fused=fused, **settings)
    assert torch.equal(own, theirs)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_a_process_that_trains_does_not_import_the_compiler(optimizer: str) -> None:
    script = f"""
import sys
import torch
from torch import nn
from edgesearch.objectives.training import Recipe
from edgesearch.objectives.training._optimizers import make_optimizer, set_rate
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(3))
model(torch.randn(2, 1, 8, 8))
optimizer = make_optimizer(Recipe(optimizer={optimizer!r}), model)
set_rate(optimizer, 0.1)
model(torch.randn(2, 1, 8, 8)).sum().backward()
optimizer.step()
optimizer.zero_grad(set_to_none=True)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
