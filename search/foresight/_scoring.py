"""What a trial is told: the simulated figures, corrected by what was measured so far, or those that a board measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from edgesearch.board_eval import Board
from edgesearch.objectives import Artifact
from edgesearch.search.foresight._correction import Correction, HostLaw, Pair, Parts
from edgesearch.search.foresight._margin import at_best
from edgesearch.search.study import StudyFile, attributes_of, candidate_of
from edgesearch.spaces import Candidate

#: Figures of the simulation that a measurement replaces; their counterparts are kept as simulated_*.
_SPEEDS = ("fps", "latency_ms", "latency_fps")
#: Figures that tell of a prediction alone.
_PREDICTED = ("fps_error", "latency_error", "conditions")
#: What is taken over of a measurement as it is.
_TOLD = (
    *("board_images", "board_correct", "logits_differ", "largest_difference", "conditions", "measured_at"),
    *("joules", "net_joules", "power_w", "idle_power_w"),
)


class Scoring:
    """Makes the figures of trials and learns from those that were measured. `board` is the simulated one.

    `note` is told once where measurements came from more than one runner.
    """

    def __init__(self, settings: StudyFile, board: Board, note: Callable[[str], None] = lambda line: None) -> None:
        self._settings, self._law, self._note = settings, HostLaw.of(board), note
        self._runners: dict[str, int] = {}  # -> the first trial that it measured
        self._pairs: dict[int, Pair] = {}  # by trial
        self._told: dict[int, tuple[float, ...]] = {}  # trial -> losses of what may be on the front
        self.correction = Correction()

    # --- learning

    def observe(self, trial: FrozenTrial) -> None:
        """Learn from a trial that is COMPLETE."""
        attributes = attributes_of(trial)
        if trial.state != TrialState.COMPLETE or trial.values is None:
            return
        if attributes.get("deployable") and not attributes.get("violations"):
            self._told[trial.number] = self._losses(trial.values)
        simulated = attributes.get("simulated")
        if simulated and attributes.get("measured_by"):
            parts = self._parts(simulated, candidate_of(trial))
            self._pairs[trial.number] = Pair(parts, attributes["latency_ms"] * 1e-3, 1.0 / attributes["fps"])
            self.correction = Correction.of(self._pairs.values())
            self._compare_runners(trial)

    def _compare_runners(self, trial: FrozenTrial) -> None:
        runner = str(attributes_of(trial).get("conditions", {}).get("runner", "")).partition(" ")[0]
        if not runner or runner in self._runners:
            return
        self._runners[runner] = trial.number
        if len(self._runners) == 2:
            (first, one), (second, other) = self._runners.items()
            self._note(
                f"warning: trial {one} was measured with the {first} runner, trial {other} with the {second} one, which feed "
                'the DPU unequally fast: compare no speeds of both; set runner = "cpp" or "python" in the boards file'
            )

    # --- telling

    def corrected(self, figures: Mapping[str, Any], candidate: Candidate) -> dict[str, Any]:
        """Simulated figures as they are expected of the boards; unchanged where nothing was measured."""
        if self._settings.score == "simulated" or "fps" not in figures:
            return dict(figures)
        return self.correction.apply(figures, self._parts(figures, candidate))

    def favourable(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of a known network at the end of their interval that keeps constraints best.

        Nothing changes where scores are simulated, and so the figures are the scores.
        """
        error = figures.get("fps_error") or 0.0
        if self._settings.score == "simulated" or not error:
            return dict(figures)
        latency_error = figures.get("latency_error") or error
        return {**figures, "fps": figures["fps"] / (1 - error), "latency_ms": figures["latency_ms"] * (1 - latency_error)}

    def at_best(self, estimate: Mapping[str, Any], candidate: Candidate) -> dict[str, Any]:
        """What is expected of a candidate before training, at the end of its interval that keeps constraints best.

        A pruned one has a margin beside its board's, whose channels nobody knows yet.
        """
        return at_best(self.favourable(estimate), candidate.pruning)

    def wants_board(self, simulated: Mapping[str, Any], candidate: Candidate) -> bool:
        """Whether a candidate with these simulated figures is to be measured.

        With "board-front": unless what a finished trial was told dominates it. What is told never changes, so that a candidate
        which is not measured can never come to the front, and all of the front is measured.
        """
        if self._settings.score != "board-front":
            return self._settings.score == "board"
        figures = self.corrected(simulated, candidate)
        if self._settings.constraints.violations(self.favourable(figures)):
            return False
        losses = self._losses([float(figures[name]) for name in self._settings.objectives])
        return not any(_dominates(other, losses) for other in self._told.values())

    def figures(self, simulated: Mapping[str, Any], measured: Artifact | None, candidate: Candidate) -> dict[str, Any]:
        """What a trial keeps; the objectives are among it."""
        if self._settings.score == "simulated":
            return dict(simulated)
        kept = {"simulated": dict(simulated), **{f"simulated_{name}": simulated[name] for name in ("accuracy", *_SPEEDS)}}
        if measured is None:
            correction = {"correction": self.correction.to_json()} if self.correction.measurements else {}
            return {**self.corrected(simulated, candidate), **kept, **correction}
        board = measured.figures
        told = {name: value for name, value in simulated.items() if name not in _PREDICTED}
        told |= {name: board[name] for name in (*_SPEEDS, *_TOLD) if board.get(name) is not None}
        told |= _accuracy(simulated, board)
        expected = self.corrected(simulated, candidate)
        return {
            **told,
            **kept,
            "measured_by": board["board"],
            "fps_difference": told["fps"] / simulated["fps"] - 1.0,
            "latency_ms_difference": told["latency_ms"] / simulated["latency_ms"] - 1.0,
            "accuracy_difference": told["accuracy"] - simulated["accuracy"],
            "expected_fps": expected["fps"],
            "correction": self.correction.to_json(),
        }

    def _losses(self, values: Sequence[float]) -> tuple[float, ...]:
        signs = [-1.0 if direction == "maximize" else 1.0 for direction in self._settings.directions]
        return tuple(sign * value for sign, value in zip(signs, values, strict=True))

    def _parts(self, figures: Mapping[str, Any], candidate: Candidate) -> Parts:
        return self._law.parts(figures, candidate.student.input_size**2)


def _accuracy(simulated: Mapping[str, Any], board: Mapping[str, Any]) -> dict[str, Any]:
    """Our integers' accuracy on every validation image where the board computes as they do, else what the board gave."""
    if not board["logits_differ"]:
        return {"accuracy": simulated["accuracy"], "accuracy_of": "integers"}
    return {"accuracy": board["board_correct"] / board["board_images"], "accuracy_of": "board"}


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return tuple(first) != tuple(second) and all(a <= b for a, b in zip(first, second, strict=True))
