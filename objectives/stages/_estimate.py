"""The cheap objectives: speed, size and DPU support of a candidate, from its untrained network, before anything is trained."""

from __future__ import annotations

from edgesearch.board_eval import BoardProfile, Graph, lower
from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning import PrunableShape
from edgesearch.objectives.stages._metrics import describe
from edgesearch.spaces import Candidate, Student, build


class Estimator:
    """Estimates candidates for one data set and one board; equal networks are timed once."""

    def __init__(self, *, channels: int, classes: int, board: BoardProfile) -> None:
        self._channels, self._classes, self._board = channels, classes, board
        self._known: dict[tuple[str, float, int, int], dict[str, float]] = {}
        self._shapes: dict[str, PrunableShape] = {}  # by student: which channels go together is found once

    def estimate(self, candidate: Candidate) -> dict[str, float]:
        """The metrics of `describe`. A pruned candidate is taken as evenly pruned to its ratio; which channels really go is
        decided on trained weights.

        Raises LoweringError naming operations the DPU does not have, GraphError, or SpaceError if it cannot be built.
        """
        if candidate.distillation.kind == "intermediate" and candidate.student.architecture == "mlp":
            raise SpaceError("an mlp has no feature maps to compare with a teacher's; use logit distillation for it")
        student, pruning, bits = candidate.student, candidate.pruning, candidate.quantization.bits
        ratio = 0.0 if pruning.method == "none" else pruning.ratio
        key = (student.model_dump_json(), ratio, pruning.granularity if ratio else 0, bits)
        if key not in self._known:
            self._known[key] = describe(self._graph(student, ratio, pruning.granularity), self._board, bits)
        return dict(self._known[key])

    def _graph(self, student: Student, ratio: float, granularity: int) -> Graph:
        shape = (self._channels, student.input_size, student.input_size)
        if not ratio:
            return lower(build(student, channels=self._channels, classes=self._classes), shape)
        key = student.model_dump_json()
        if key not in self._shapes:
            model = build(student, channels=self._channels, classes=self._classes)
            lower(model, shape)  # the unpruned network first: its errors name the user's own layers
            self._shapes[key] = PrunableShape(model, shape)
        return lower(self._shapes[key].at(ratio=ratio, granularity=granularity), shape)
