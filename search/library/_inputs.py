"""What a study reads before anything is trained: its data set, its board, and whether the DPU can run its students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgesearch.board_eval import BoardProfile, load_profile
from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import DataSet, Estimator, Stage, load_data, plan
from edgesearch.search.study import StudyFile, code_beside
from edgesearch.spaces import Candidate


@dataclass(frozen=True)
class Inputs:
    """A study's settings and what they name."""

    settings: StudyFile
    data: DataSet
    board: BoardProfile
    estimator: Estimator

    def plan(self, candidate: Candidate) -> Stage:
        """The last stage of a candidate of this study.

        Raises StudyError for distillation from a teacher that the study does not have.
        """
        if self.settings.teacher is None and candidate.distillation.kind in ("logit", "intermediate"):
            raise StudyError(
                f"{candidate} distils from a teacher, but study {self.settings.name!r} has no [teacher]; add one to the study"
            )
        board: dict[str, Any] = self.board.model_dump(mode="json", exclude={"origin"})
        settings = self.settings
        return plan(candidate, settings.pipeline, data=self.data.fingerprint, seed=settings.seed, board=board)

    def test_stage(self, candidate: Candidate) -> Stage:
        """The stage that measures a candidate's quantized network on the test images."""
        network = self.plan(candidate).inputs["network"]
        return Stage("tested", {}, self.settings.seed, self.data.fingerprint, {"network": network})


def read_inputs(settings: StudyFile) -> Inputs:
    """Read the data and the board profile. Raises DataError and TargetError."""
    data = load_data(settings.data)
    board = load_profile(settings.board)
    return Inputs(settings, data, board, Estimator(channels=data.channels, classes=len(data.classes), board=board))


def unsupported_students(inputs: Inputs) -> list[str]:
    """Sentences on students of the space that the DPU cannot run at their narrowest; raises when that is all of them."""
    space = inputs.settings.space
    if space is None:
        return []
    errors: list[EdgesearchError] = []
    with code_beside(inputs.settings.folder):
        for student in space.smallest_students():
            try:
                inputs.estimator.estimate(Candidate(student=student))
            except EdgesearchError as error:
                errors.append(error)
    if len(errors) == len(space.students):
        raise errors[0]
    return [str(error) for error in errors]
