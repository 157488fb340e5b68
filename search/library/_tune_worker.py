"""A recipe's training as Ray Tune wants it. Imported in processes that have Ray alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray import tune

from edgesearch.search.library._tune_training import Task, Training, prepare_worker

__all__ = ["TASK", "Trainable"]

#: The name in Tune's configuration of what is no setting.
TASK = "task"


class Trainable(tune.Trainable):
    """Each step of Tune is one rung."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with a recipe."""
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with another recipe in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung."""
        rung = self._training.step()
        return {**asdict(rung), "done": rung.is_last}

    def _begin(self, config: Mapping[str, Any]) -> None:
        task = Task.from_text(config[TASK])
        prepare_worker(task)
        self._training = Training(task, {name: value for name, value in config.items() if name != TASK})
