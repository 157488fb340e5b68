"""From a candidate to the stages that make it: the teacher, the distilled student, pruned, quantized, measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from edgesearch.board_eval import DEFAULT_TARGET, Board, BoardPool, Compiler, Dpu, Feature
from edgesearch.errors import SpaceError
from edgesearch.objectives.data import Augmentation, DataSet, choose_augmentation
from edgesearch.objectives.stages._clock import timed_by
from edgesearch.objectives.stages._pipeline import Pipeline, Teacher
from edgesearch.objectives.stages._spec import TrainedSettings, stage_specs
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import Recipe, multiplies_bfloat16
from edgesearch.settings import Settings
from edgesearch.spaces import Candidate, Distillation, Student

R = TypeVar("R", bound=Recipe)

#: The largest class may have this share of the images more than its even one before guessing counts for more than that: hardly
#: any data set is even to the image, MNIST is not by 0.012, and what is stored of those was not wrong.
_UNEVEN = 0.05


@dataclass(frozen=True)
class Conditions:
    """What decides a result beside the candidate and the study's recipes.

    data: fingerprint of each part of the data set.
    views: how training images are shown: to a teacher whose logits are stored, in training, fine-tuning and QAT alike.
    board: what decides the board's results; a board of the user's own also has its import path, its code's fingerprint, and
    what it needs alone.
    timed: content of the board that tells a network's time without hardware; empty where there is none.
    compiler: what makes the file that the board runs.
    pool: the boards that measure, as `BoardPool.content`; empty where none does.
    board_images: validation images that they are given.
    toolchain: which Vitis AI compiles, by its versions or its image; empty where there is none.
    packages: versions of Vitis AI's Python packages, where its quantizer or its optimizer is asked for; else empty.
    allow: features that this program's code may use though no measured file has them.
    dpu: the board's, as a profile stores it; empty for one that this program has no compiler for.
    granularity: channels that the DPU works on side by side.
    seed: the study's.
    threads: of every stage's process.
    bfloat16: whether "auto" precision may take bfloat16.
    guessing: accuracy of always answering the largest class, where classes are far from equally many; else 0.
    images: how many each part of the data set has, which decides nothing but what stages are expected to cost.
    size, channels, classes: (height, width) of the data set's images, and so on, which decide nothing but how much memory
    stages are expected to take.
    """

    data: Mapping[str, str]
    views: Augmentation = "none"
    board: Mapping[str, Any] = field(default_factory=dict)
    board_import_path: str = ""
    board_source_sha256: str = ""
    board_resource: str = ""
    pool: Mapping[str, Any] = field(default_factory=dict)
    board_images: int = 0
    timed: Mapping[str, Any] = field(default_factory=dict)
    compiler: Compiler = "edgesearch"
    toolchain: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    allow: tuple[Feature, ...] = ()
    dpu: Mapping[str, Any] = field(default_factory=dict)
    granularity: int = DEFAULT_TARGET.channel_parallel
    seed: int = 0
    threads: int = 1
    bfloat16: bool = False
    guessing: float = 0.0
    images: Mapping[str, int] = field(default_factory=dict)
    size: tuple[int, int] = (1, 1)
    channels: int = 0
    classes: int = 0

    def measures(self, candidate: Candidate) -> bool:
        """Whether boards measure the candidate, if it is to be measured: those that have its file."""
        return bool(self.pool) and self.compiles(candidate)

    def compiles(self, candidate: Candidate) -> bool:
        """Whether a compiler that is there makes the candidate's file for the board."""
        is_there = self.compiler == "edgesearch" or bool(self.toolchain)
        return is_there and bool(self.dpu) and candidate.deployable

    def on_splits_of(self, data: DataSet) -> Conditions:
        """The same on other splits of the same images."""
        return replace(self, data=data.fingerprints, guessing=_guessing(data), images=_images(data))

    @classmethod
    def of(
        cls,
        data: DataSet,
        pipeline: Pipeline,
        board: Board,
        *,
        import_path: str = "",
        source_sha256: str = "",
        pool: BoardPool | None = None,
        board_images: int = 0,
        compiler: Compiler = "edgesearch",
        toolchain: str = "",
        allow: tuple[Feature, ...] = (),
        seed: int = 0,
        threads: int = 1,
    ) -> Conditions:
        """The conditions on this machine. Augmentation "auto" is what fits the data set.

        `import_path` and `source_sha256` are those of a board of the user's own; `pool` are the boards that measure, if any.
        """
        timed = timed_by(board)
        return cls(
            data=data.fingerprints,
            views=choose_augmentation(pipeline.train.augmentation, data.name),
            board=board.content,
            board_import_path=import_path,
            board_source_sha256=source_sha256,
            board_resource=board.resource,
            pool={} if pool is None else pool.content,
            board_images=0 if pool is None else board_images,
            timed={} if timed is None else timed.content,
            compiler=compiler,
            toolchain=toolchain,
            allow=allow,
            dpu=board.target.model_dump(mode="json") if isinstance(board.target, Dpu) else {},
            granularity=board.target.channel_parallel,
            seed=seed,
            threads=threads,
            bfloat16=multiplies_bfloat16(),
            guessing=_guessing(data),
            images=_images(data),
            size=data.size,
            channels=data.channels,
            classes=len(data.classes),
        )


def _images(data: DataSet) -> dict[str, int]:
    return {part: len(getattr(data, part)) for part in ("train", "validation", "calibration", "test")}


def _guessing(data: DataSet) -> float:
    """See `Conditions.guessing`. Counted on all training images: the few that a network is scored on are a draw of them."""
    counts = Counter(data.train.labels.tolist())
    share = max(counts.values()) / len(data.train)
    return share if share > 1 / len(data.classes) + _UNEVEN else 0.0


def plan(
    candidate: Candidate, pipeline: Pipeline, conditions: Conditions, *, last: str = "measured", teacher_apart: bool = False
) -> Stage:
    """The stage `last` of `candidate`, which has one of this kind; `Stage.walk` gives all before it.

    teacher_apart: the teacher is a stage of its own even where it is trained as the students are, so that it stays the same
    where they are not. Raises SpaceError if the candidate distils from a teacher and the pipeline has none.
    """
    stage = Plan(candidate, pipeline, conditions, teacher_apart=teacher_apart).stage(last)
    assert stage is not None, last
    return stage


class Plan:
    """The stages of one candidate, each made when another needs it."""

    def __init__(
        self, candidate: Candidate, pipeline: Pipeline, conditions: Conditions, *, teacher_apart: bool = False
    ) -> None:
        self._teacher_apart = teacher_apart
        self.candidate = candidate.resolved(granularity=conditions.granularity).canonical()
        self.pipeline, self.conditions = pipeline, conditions
        self._made: dict[str, Stage | None] = {}

    def stage(self, kind: str) -> Stage | None:
        """The candidate's stage of this kind, if it has one."""
        if kind not in self._made:
            self._made[kind] = stage_specs().find(kind).place(self)
        return self._made[kind]

    def first(self, *kinds: str) -> Stage:
        """The first of `kinds` that the candidate has."""
        return next(stage for kind in kinds if (stage := self.stage(kind)) is not None)

    def make(self, kind: str, settings: Settings, *, reads: tuple[str, ...], **inputs: Stage | None) -> Stage:
        """A stage with these settings that reads these parts of the data set; inputs that are None are left out."""
        spec = stage_specs().find(kind)
        if isinstance(settings, TrainedSettings):
            settings = settings.with_versions(compares=inputs.get("teacher") is not None)
        parts = {part: self.conditions.data[part] for part in ("meta", *reads)}
        return Stage(
            kind=kind,
            version=spec.version,
            parameters=settings.model_dump(mode="json", exclude_defaults=True),
            data=parts,
            seed=self.conditions.seed if spec.random else None,
            threads=self.conditions.threads,
            inputs={role: stage for role, stage in inputs.items() if stage is not None},
        )

    def recipe(self, recipe: R, *, own_views: bool = False, student: Student | None = None) -> R:
        """The recipe with nothing left open: the study's views (a teacher's training has its own), and the precision.

        A `student` that starts from trained weights is not given other ones.
        """
        chosen: dict[str, Any] = {}
        if student is not None and student.weights:
            chosen = {"whitened": False, "identity": False}
        if not own_views or recipe.augmentation == "auto":
            strength = self.pipeline.strength(recipe) if own_views else self.pipeline.train.augmentation_strength
            chosen |= {"augmentation": self.conditions.views, "augmentation_strength": strength}
        if not own_views:
            chosen |= {"mix": self.pipeline.train.mix, "mix_alpha": self.pipeline.train.mix_alpha}
        if recipe.mixed_precision == "auto" and not self.conditions.bfloat16:
            chosen["mixed_precision"] = "off"
        whole = recipe.model_copy(update=chosen)
        return whole.model_copy(update={name: type(whole).model_fields[name].default for name in whole.unread})

    @property
    def mixes(self) -> bool:
        """Whether students are shown two images in one, for which no teacher's logits can be stored."""
        return self.pipeline.train.mix != "none"

    @property
    def distillation(self) -> Distillation:
        """How the student is taught."""
        return self.candidate.distillation

    def present(self) -> Stage | None:
        """The teacher, where it answers in the training itself: its feature maps count, or its logits are not stored."""
        return self.teacher() if self.mixes or self.distillation.kind == "intermediate" else None

    def teacher(self) -> Stage | None:
        """Whom the student learns from: the study's teacher, or an earlier training of the same student.

        A teacher that is trained as the study's students are is a student: one training serves where both are needed.
        """
        if self.distillation.kind == "none":
            return None
        if self.distillation.kind == "self":
            return self._plain(self.candidate.student)
        teacher = self.pipeline.teacher
        if teacher is None:
            raise SpaceError(f"distillation = {self.distillation.kind!r} needs a [teacher] in the study; add one")
        if not (teacher.trained or self._teacher_apart) and self._trained_alike(teacher):
            return self._plain(teacher.student)
        return self.stage("teacher")

    def teaching_student(self) -> Student:
        """The network that `teacher` is, where there is one."""
        teacher = None if self.distillation.kind == "self" else self.pipeline.teacher
        return self.candidate.student if teacher is None else teacher.student

    def _trained_alike(self, teacher: Teacher) -> bool:
        """Whether the teacher is trained as the study's students are."""
        own = self.recipe(teacher.recipe, own_views=True, student=teacher.student)
        return own == self.recipe(self.pipeline.train, student=teacher.student)

    def _plain(self, student: Student) -> Stage | None:
        """The training of a student without a teacher."""
        plain = self.candidate.model_copy(update={"student": student, "distillation": Distillation()})
        return Plan(plain, self.pipeline, self.conditions).stage("student")
