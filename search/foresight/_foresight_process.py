"""What the process beside the driver answers: what candidates and stages will be like."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from edgesearch.errors import EdgesearchError
from edgesearch.search.foresight._foresight import ForesightSettings, answer_in
from edgesearch.search.processes import extend_path


class _Answers:
    """Answers questions; what for all of them is the same is made with the first."""

    def __init__(self) -> None:
        self._answer: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._answer is None:
                import torch

                torch.set_num_threads(1)  # the cores are the workers'
                settings = ForesightSettings(**question["settings"])
                extend_path(tuple(settings.python_path))
                self._answer = answer_in(settings)
            return self._answer(question)
        except EdgesearchError as error:
            return {"error": str(error)}
        except (Exception, SystemExit):
            return {"bug": traceback.format_exc()}


#: Answers a question.
foresee = _Answers()
