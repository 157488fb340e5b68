from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from edgesearch.errors import SettingsError
from edgesearch.objectives.quantization import QatRecipe
from edgesearch.objectives.training import Recipe


@pytest.mark.parametrize(
    ("given", "decay"),
    [
        ({}, 1e-2),
        ({"optimizer": "muon"}, 1e-2),
        ({"optimizer": "sgd"}, 5e-4),
        ({"optimizer": "adam"}, 0.0),
        ({"optimizer": "adam", "weight_decay": 1e-2}, 1e-2),
        ({"optimizer": "sgd", "weight_decay": 1e-2}, 1e-2),
        ({"optimizer": "sgd", "weight_decay": 1e-5}, 1e-5),
    ],
)
def test_weight_decay_is_what_the_optimizer_usually_takes(given: dict[str, Any], decay: float) -> None:
    recipe = Recipe.model_validate(given)
    assert recipe.weight_decay == decay
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    # A key, and what a worker is told, hold what is not the default: also the default where it is not the optimizer's own.
    told = recipe.model_dump(exclude_defaults=True)
    assert ("weight_decay" in told) == (recipe.optimizer in ("sgd", "adam"))
    assert Recipe.model_validate(told) == recipe


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam", "muon"])
@pytest.mark.parametrize("decay", [None, 1e-5, 1e-2])
def test_a_recipe_of_qat_comes_to_the_worker_as_it_was_given(optimizer: str, decay: float | None) -> None:
    recipe = QatRecipe.model_validate({"optimizer": optimizer} | ({} if decay is None else {"weight_decay": decay}))
    assert decay is None or recipe.weight_decay == decay
    assert QatRecipe.model_validate(recipe.model_dump(exclude_defaults=True)) == recipe


@pytest.mark.parametrize(
    ("given", "warm_up"),
    [
        ({}, 1.0),
        ({"epochs": 4}, 1.0),
        ({"epochs": 2}, 0.5),
        ({"epochs": 1}, 0.25),
        ({"epochs": 2, "warmup_epochs": 1.0}, 1.0),
        ({"epochs": 2.0}, 0.5),
        ({"epochs": 1, "warmup_epochs": 0.0}, 0.0),
    ],
)
def test_the_usual_warm_up_leaves_most_of_a_training(given: dict[str, Any], warm_up: float) -> None:
    recipe = Recipe.model_validate(given)
    assert recipe.warmup_epochs == warm_up
    assert Recipe.model_validate(recipe.model_dump(exclude_defaults=True)) == recipe
    told = recipe.model_dump(exclude_defaults=True)
    assert ("warmup_epochs" in told) == (recipe.epochs < 4)  # keys of longer trainings are as they were


@pytest.mark.parametrize("given", [None, 0.0, 0.5, 1.0])
def test_gradients_of_plain_steps_are_clipped_in_qat(given: float | None) -> None:
    recipe = QatRecipe.model_validate({"optimizer": "sgd"} | ({} if given is None else {"clip_norm": given}))
    assert recipe.clip_norm == (1.0 if given is None else given)
    assert QatRecipe.model_validate(recipe.model_dump(exclude_defaults=True)) == recipe
    assert QatRecipe(optimizer="adamw").clip_norm == Recipe(optimizer="sgd").clip_norm == 0.0


@pytest.mark.parametrize(
    "given", [{"optimizer": "lion"}, {"optimizer": 3}, {"optimizer": ["sgd"]}, "sgd", {"optimizer": "sgd", "weight_decay": -1}]
)
def test_what_is_no_recipe_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": -1},
        {"optimizer": "lion"},
        {"warmup_epochs": 30},
        {"batchsize": 3},
        {"epochs": 3, "small_epochs": 3},
        {"augmentation": "randomaugment"},
        {"augmentation_strength": 0},
        {"augmentation_strength": 2.5},
        {"mix": "cutout"},
        {"mix_alpha": 0},
        {"lr": math.inf},
        {"weight_decay": math.inf},
        {"average_epochs": math.inf},
    ],
)
def test_recipes_are_validated(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Recipe(**wrong)
