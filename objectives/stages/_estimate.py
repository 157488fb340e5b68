"""The cheap objectives: speed, size and DPU support of a candidate, from its untrained network, before anything is trained."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgesearch.board_eval import Board, Graph, Input, Node, lower
from edgesearch.errors import SpaceError, TrainingError
from edgesearch.objectives.pruning import TOLERANCE, Clock, PrunableShape, make_hollow
from edgesearch.objectives.stages._clock import clock_of
from edgesearch.objectives.stages._metrics import estimate
from edgesearch.objectives.stages._outputs import refuse_outputs
from edgesearch.objectives.stages._pipeline import Pipeline
from edgesearch.objectives.stages._structure import network_key, structure
from edgesearch.objectives.training import all_numbers_kept, check_small_epochs, give_back
from edgesearch.plugins import is_import_path
from edgesearch.spaces import Candidate, Student, build, check_weights

#: Parameters of a network whose memory is worth a look for what nobody holds any more.
_LARGE = 2_000_000
#: Weights of a tensor that is not kept: it is a layer's, and no constant that may decide what the DPU can run.
_LARGE_TENSOR = 100_000


@dataclass(frozen=True)
class Facts:
    """All that an estimator tells of a candidate, to be told by another one without finding it out.

    reach: the largest share that can be pruned, where that is looked at. structure, has_maps: of the unpruned student.
    """

    metrics: Mapping[str, float]
    structure: str
    has_maps: bool
    reach: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON, to hand it to another process."""
        return asdict(self)


class Estimator:
    """Estimates candidates for one data set and one board; equal networks are timed once.

    pipeline: how candidates are trained, which may be on smaller images first; not every network takes these.
    """

    def __init__(
        self, *, channels: int, classes: int, board: Board, folder: Path | None = None, pipeline: Pipeline | None = None
    ) -> None:
        self._channels, self._classes, self.board, self._folder = channels, classes, board, folder
        self._pipeline = pipeline
        self._takes_smaller: dict[str, str] = {}  # by student: why not, or ""
        self._unfit: dict[str, str] = {}  # by student: why its starting weights are not its own, or ""
        self._known: dict[tuple[str, float, str, int, int], dict[str, float]] = {}
        self._shapes: dict[str, PrunableShape] = {}  # by student: which channels go together is found once
        self._reach: dict[tuple[str, str, int], float] = {}
        self._structures: dict[str, str] = {}  # by student
        self._has_maps: dict[str, bool] = {}  # by student

    @all_numbers_kept()  # which a network draws when it is built, and its own code when it is looked at
    def estimate(self, candidate: Candidate) -> dict[str, float]:
        """The metrics that are known before training.

        A pruned candidate is taken as evenly pruned to its ratio; which channels really go is
        decided on trained weights.

        Raises LoweringError naming operations the DPU does not have, GraphError, SpaceError if it cannot be built or its
        starting weights are of another network or it does not tell the data set's classes apart or is pruned by the time of a
        board that has none or cannot be trained on smaller images where the study asks for it, PluginError if its code cannot
        be imported.
        """
        if candidate.distillation.kind == "intermediate":
            self._refuse_without_maps(candidate.student)
        if candidate.pruning.backend == "vai" and candidate.student.architecture == "mlp":
            raise SpaceError("Vitis AI's optimizer removes channels of convolutions, and an mlp has none; prune it otherwise")
        _refuse_pooled_norms(candidate)
        if self._sees_smaller(candidate):
            self._refuse_one_size(candidate.student)
        key = self._key(candidate)
        if key not in self._known:
            _, ratio, target, granularity, bits = key
            self._known[key] = estimate(self._graph(candidate.student, ratio, target, granularity), self.board, bits)
            if self._known[key]["parameters"] > _LARGE:
                gc.collect()
                give_back()
        return dict(self._known[key])

    def _key(self, candidate: Candidate) -> tuple[str, float, str, int, int]:
        student, pruning, bits = candidate.student.model_dump_json(), candidate.pruning, candidate.quantization.bits
        if not pruning.removes or not pruning.ratio:
            return student, 0.0, "macs", 0, bits
        return student, pruning.ratio, pruning.target, pruning.granularity or self.board.target.channel_parallel, bits

    def network_key(self, candidate: Candidate) -> str:
        """The same for candidates that are one network, as where a class ignores `width`; raises as `estimate`.

        So are those that ask for more than can be pruned.
        """
        student = candidate.student.model_dump_json()
        if student not in self._structures:
            self._unpruned(candidate.student)
        return network_key(candidate, self._structures[student], narrowest=self.beyond_reach(candidate) is not None)

    def beyond_reach(self, candidate: Candidate) -> float | None:
        """The largest share that can be pruned, where the candidate asks for more: all such ratios are one network.

        None where its ratio can be met, or somebody else prunes. Raises as `estimate`.
        """
        reach, pruning = self._reach_of(candidate), candidate.pruning
        hardly = 0.0 if pruning.target == "fps" else TOLERANCE
        return reach if reach is not None and pruning.ratio > reach + hardly else None

    def _reach_of(self, candidate: Candidate) -> float | None:
        key = self._reach_key(candidate)
        if key is None:
            return None
        if key not in self._reach:
            _, target, granularity = key
            clock = self._clock(candidate.student, target)
            self._reach[key] = self._prunable(candidate.student).reach(granularity=granularity, clock=clock)
        return self._reach[key]

    def _reach_key(self, candidate: Candidate) -> tuple[str, str, int] | None:
        pruning = candidate.pruning
        if not pruning.removes or is_import_path(pruning.method) or pruning.backend != "edgesearch":
            return None
        granularity = pruning.granularity or self.board.target.channel_parallel
        return candidate.student.model_dump_json(), pruning.target, granularity

    # --- for another estimator of the same data set and board

    def facts(self, candidate: Candidate) -> Facts:
        """What `learn` takes; raises as `estimate`."""
        metrics, student = self.estimate(candidate), candidate.student.model_dump_json()
        if student not in self._structures:
            self._unpruned(candidate.student)
        return Facts(metrics, self._structures[student], self._has_maps[student], self._reach_of(candidate))

    def knows(self, candidate: Candidate) -> bool:
        """Whether all is told at once, without building the network."""
        reach = self._reach_key(candidate)
        student = candidate.student.model_dump_json()
        is_student_known = student in self._structures and (student in self._takes_smaller or not self._sees_smaller(candidate))
        return is_student_known and self._key(candidate) in self._known and (reach is None or reach in self._reach)

    def learn(self, candidate: Candidate, facts: Facts) -> None:
        """Take over what another estimator, of the same pipeline, found out."""
        student = candidate.student.model_dump_json()
        if self._sees_smaller(candidate):
            self._takes_smaller[student] = ""
        self._known[self._key(candidate)] = dict(facts.metrics)
        self._structures[student], self._has_maps[student] = facts.structure, facts.has_maps
        if (key := self._reach_key(candidate)) is not None and facts.reach is not None:
            self._reach[key] = facts.reach

    def _refuse_without_maps(self, student: Student) -> None:
        key = student.model_dump_json()
        if key not in self._has_maps:
            self._unpruned(student)
        if not self._has_maps[key]:
            who = "an mlp" if student.architecture == "mlp" else student.name
            raise SpaceError(f"{who} has no feature maps to compare with a teacher's; use logit distillation for it")

    def _sees_smaller(self, candidate: Candidate) -> bool:
        """Whether one of its trainings begins on smaller images: QAT alone never does, a student that teaches itself may."""
        if self._pipeline is None:
            return False
        begins_so = bool(self._pipeline.train.small_epochs)
        if candidate.quantization.from_scratch:
            return candidate.distillation.kind == "self" and begins_so
        is_pruned = candidate.pruning.canonical().method != "none"
        return begins_so or (is_pruned and bool(self._pipeline.finetune.small_epochs))

    def _refuse_one_size(self, student: Student) -> None:
        key, size = student.model_dump_json(), (student.input_size, student.input_size)
        if key not in self._takes_smaller:
            model = build(student, channels=self._channels, classes=self._classes, folder=self._folder)
            self._takes_smaller[key] = ""
            try:
                check_small_epochs(model, self._channels, size)
            except TrainingError as error:
                self._takes_smaller[key] = f"{student.name}: {error}"
        if self._takes_smaller[key]:
            raise SpaceError(self._takes_smaller[key])

    def _refuse_other_weights(self, model: nn.Module, student: Student) -> None:
        """SpaceError where the student's starting weights are of another network, of another width perhaps.

        A file that is known by its checksum may be away: whoever was trained from it is in the store.
        """
        key = student.model_dump_json()
        if key not in self._unfit:
            self._unfit[key] = ""
            is_away = student.weights_sha256 and not Path(student.weights).is_file()
            try:
                if student.weights and not is_away:
                    check_weights(model, student)
            except SpaceError as error:
                self._unfit[key] = str(error)
        if self._unfit[key]:
            raise SpaceError(self._unfit[key])

    def _graph(self, student: Student, ratio: float, target: str, granularity: int) -> Graph:
        if not ratio:
            return self._unpruned(student)[1]
        clock = self._clock(student, target)
        pruned = self._prunable(student).at(ratio=ratio, granularity=granularity, clock=clock)
        return lower(pruned, self._input_shape(student), target=self.board.target)

    def _clock(self, student: Student, target: str) -> Clock | None:
        return clock_of(self.board, self._input_shape(student)) if target == "fps" else None

    def _input_shape(self, student: Student) -> tuple[int, int, int]:
        return self._channels, student.input_size, student.input_size

    def _prunable(self, student: Student) -> PrunableShape:
        key = student.model_dump_json()
        if key not in self._shapes:
            model = self._unpruned(student)[0]  # its errors name the user's own layers
            _collect(model)  # its graph's weights
            self._shapes[key] = PrunableShape(model, self._input_shape(student))
            make_hollow(model)
            _collect(model)
        return self._shapes[key]

    def _unpruned(self, student: Student) -> tuple[nn.Module, Graph]:
        model = build(student, channels=self._channels, classes=self._classes, folder=self._folder)
        self._refuse_other_weights(model, student)
        make_hollow(model, least=_LARGE_TENSOR)
        graph = lower(model, self._input_shape(student), target=self.board.target)
        if graph.output.shape != (self._classes,):
            refuse_outputs(student, graph.output.shape, self._classes)
        key = student.model_dump_json()
        self._structures[key] = structure(model, graph)
        self._has_maps[key] = any(_is_map(node) for node in graph)
        return model, graph


def _collect(model: nn.Module) -> None:
    """Give back what was made of a large network: traced networks are parts of cycles, and keep their weights until then."""
    if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
        gc.collect()


def _refuse_pooled_norms(candidate: Candidate) -> None:
    """SpaceError where Vitis AI's packages would measure batch-norms in front of the pools that these go by."""
    network, pruning, quantization = candidate.student.network, candidate.pruning, candidate.quantization
    if network is None or not any(stage.down == "pool_norm" for stage in network.stages):
        return
    prunes = pruning.removes and pruning.backend == "vai"
    if prunes or (quantization.backend == "nndct" and quantization.method == "qat"):
        what = "optimizer" if prunes else "quantization-aware training"
        raise SpaceError(
            f'Vitis AI\'s {what} does not know batch-norms that go by what a pool passes on; take down = "pool" (p in place '
            f"of pn in {candidate.student.name!r}), or leave that part to edgesearch"
        )


def _is_map(node: Node) -> bool:
    """Whether its value is of more than one place, and computed."""
    return not isinstance(node, Input) and len(node.shape) == 3 and node.shape[0] * node.shape[1] > 1
