"""What a study reads before anything is trained: its data set, its board, and whether the DPU can run its students."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgesearch.board_eval import BOARDS, Board, BoardPool, find_board, find_compiler
from edgesearch.board_eval.targets import profile_names
from edgesearch.errors import EdgesearchError, PluginError, SpaceError, StudyError, ToolchainError, TrainingError
from edgesearch.objectives import Artifact, Conditions, DataSet, Estimator, Stage, check_outputs, load_data, plan
from edgesearch.objectives.data import BUILT_IN, DATA_SOURCES, DataSettings
from edgesearch.objectives.pruning import PRUNERS
from edgesearch.objectives.quantization import QUANTIZERS
from edgesearch.objectives.training import check_small_epochs, find_stages
from edgesearch.objectives.vitis import Task, check_packages
from edgesearch.plugins import is_import_path, load, source_fingerprint
from edgesearch.search.foresight import ForesightSettings
from edgesearch.search.library._boards import check_kind, with_boards
from edgesearch.search.study import StudyFile, with_fingerprint
from edgesearch.spaces import Candidate, Student, build


@dataclass(frozen=True)
class Inputs:
    """A study's settings, what they name, and what decides its results beside them."""

    settings: StudyFile
    data: DataSet
    board: Board
    estimator: Estimator
    conditions: Conditions
    #: The boards that measure; None where none does.
    pool: BoardPool | None = None
    #: Why no compiler of Vitis AI is there for a study that leaves compiling to it; "" where one is, or none is needed.
    no_compiler: str = ""

    @property
    def foresight(self) -> ForesightSettings:
        """How another process tells of candidates what `estimator` does."""
        settings, conditions = self.settings, self.conditions
        return ForesightSettings(
            board=settings.board,
            compiler=settings.compiler,
            allow=settings.allow,
            source_sha256=conditions.board_source_sha256,
            channels=self.data.channels,
            classes=len(self.data.classes),
            images=conditions.images,
            size=conditions.size,
            pipeline=settings.pipeline.model_dump(mode="json"),
            folder=str(settings.folder),
            python_path=tuple(sys.path),
        )

    def plan(self, candidate: Candidate, *, last: str = "measured") -> Stage:
        """A candidate's stage of that kind, with all it needs.

        Raises StudyError for distillation from a teacher that the study does not have.
        """
        if self.settings.teacher is None and candidate.distillation.needs_teacher:
            raise StudyError(
                f"{candidate} distils from a teacher, but study {self.settings.name!r} has no [teacher]; add one to the study"
            )
        return plan(candidate, self.settings.pipeline, self.conditions, last=last)

    def on_packages(self, versions: Mapping[str, str]) -> Inputs:
        """The same on these packages of Vitis AI's, which count where its quantizer or its optimizer is asked for."""
        return replace(self, conditions=replace(self.conditions, packages=dict(versions)))

    def on_splits(self, drawn: DataSettings) -> Inputs:
        """The same on splits that are drawn by these settings."""
        data = load_data(drawn, folder=self.settings.folder)
        settings = self.settings.model_copy(update={"data": drawn})
        return replace(self, settings=settings, data=data, conditions=self.conditions.on_splits_of(data))

    def compiled(self, candidate: Candidate) -> Stage | None:
        """The stage that makes the candidate's file for the board; None where no compiler that is there makes it."""
        return self.plan(candidate, last="compiled") if self.conditions.compiles(candidate) else None

    def compiled_from(self, network: Artifact, candidate: Candidate) -> Stage | None:
        """As `compiled`, on as many threads as the candidate's quantized network was made with."""
        conditions = replace(self.conditions, threads=int(network.recipe.get("threads", 1)))
        return replace(self, conditions=conditions).compiled(candidate)

    def complete(self, candidate: Candidate) -> Candidate:
        """The candidate with checksums of its files, what is left to the DPU filled in, and what has no effect left out."""
        candidate = with_fingerprint(candidate, self.settings.folder)
        return candidate.resolved(granularity=self.conditions.granularity).canonical()


def read_inputs(settings: StudyFile, *, threads: int = 1, to_run: bool = True) -> Inputs:
    """Read the data and the board, and where the study is to run, find the boards that measure.

    Raises DataError, TargetError and PluginError, and BoardError or StudyError when those boards cannot be used.
    """
    folder, pool = settings.folder, None
    if to_run:
        _check_names(settings)
        settings, pool = with_boards(settings)
    data = load_data(settings.data, folder=folder)
    board = find_board(settings.board, folder=folder, compiler=settings.compiler, allow=settings.allow)
    if pool is not None:
        check_kind(pool, board)
    settings = settings.resolved(granularity=board.target.channel_parallel)
    toolchain, no_compiler = _toolchain(settings)
    import_path = settings.board if is_import_path(settings.board) else ""
    conditions = Conditions.of(
        data,
        settings.pipeline,
        board,
        import_path=import_path,
        source_sha256=source_fingerprint(import_path, folder=folder) if import_path else "",
        pool=pool,
        board_images=settings.board_images,
        compiler=settings.compiler,
        toolchain=toolchain,
        allow=settings.allow,
        seed=settings.seed,
        threads=threads,
    )
    estimator = Estimator(
        channels=data.channels, classes=len(data.classes), board=board, folder=folder, pipeline=settings.pipeline
    )
    inputs = Inputs(settings, data, board, estimator, conditions, pool, no_compiler)
    if pool is not None and not conditions.measures(Candidate(student=Student(architecture="mlp"))):
        raise StudyError(
            f"score = {settings.score!r} needs files that the boards run, and there is nothing to make them "
            f"({no_compiler or 'no compiler for their DPU'}); take compiler = 'edgesearch', or score = 'simulated'"
        )
    return inputs


def _check_names(settings: StudyFile) -> None:
    """Raise PluginError for what is registered by name in this process: stages run in others, which do not know it."""
    own_data = settings.data.name in set(DATA_SOURCES) - BUILT_IN
    own_board = settings.board in set(BOARDS) - set(profile_names())
    for is_own, what, name in ((own_data, "data source", settings.data.name), (own_board, "board", settings.board)):
        if is_own:
            raise PluginError(
                f"{what} {name!r} is registered in this process alone, and the study's stages run in others; give it by its "
                "import path, such as my_pkg.module:Thing"
            )


def _toolchain(settings: StudyFile) -> tuple[str, str]:
    """Which Vitis AI compiles the study's networks, or why none does."""
    if settings.compiler != "vai":
        return "", ""
    try:
        return find_compiler(settings.vitis).identity, ""
    except ToolchainError as error:
        return "", str(error)


def check_teacher(inputs: Inputs, *candidates: Candidate) -> None:
    """Raise SpaceError for a teacher that students cannot learn from: those of the study, and these candidates.

    That is one that cannot take its images or does not tell the data set's classes apart, one that takes no smaller images
    where its recipe shows them first, and one without feature maps where these are to be compared.
    """
    settings, data = inputs.settings, inputs.data
    teacher = settings.pipeline.teacher
    if teacher is None:
        return
    student, shape = teacher.student, {"channels": data.channels, "classes": len(data.classes)}
    model, size = build(student, **shape, folder=settings.folder), student.input_size
    check_outputs(model, student, **shape, trains=is_import_path(student.architecture) and not teacher.trained)
    if teacher.recipe.small_epochs and not teacher.trained:
        try:
            check_small_epochs(model, data.channels, (size, size))
        except TrainingError as error:
            raise SpaceError(f"teacher.recipe: {error}") from error
    kinds = {c.distillation.kind for c in (*settings.candidates, *candidates)}
    kinds |= set(settings.space.distillation if settings.space else ())
    if "intermediate" in kinds and not find_stages(model, (data.channels, size, size)):
        raise SpaceError(
            f"distillation = 'intermediate' compares feature maps, and the teacher, {student.name}, has none; give another "
            "teacher, or use logit distillation"
        )


def check_vitis(settings: StudyFile, *candidates: Candidate) -> dict[str, str]:
    """The versions of Vitis AI's packages that decide results, where they are asked for; else none.

    Asked for by the `candidates`, or without any by the study's space and its own candidates. Raises ToolchainMissing, before
    anything is trained, where they cannot be used.
    """
    space = settings.space if not candidates else None
    named = candidates or settings.candidates
    tasks: list[Task] = []
    if any(c.quantization.backend == "nndct" for c in named) or (space and "nndct" in space.quantization_backend):
        tasks += ["ptq", "qat"]
    prunes = any(c.pruning.backend == "vai" and c.pruning.method != "none" for c in named)
    if prunes or (space and "vai" in space.pruning_backend and set(space.pruning) != {"none"}):
        tasks += ["prune_one_step", "prune_iterative"]
    if not tasks:
        return {}
    return {name: version for name, version in check_packages(settings.vitis, *tasks).items() if name != "python"}


def check_code(settings: StudyFile, *candidates: Candidate) -> None:
    """Raise PluginError, before anything is trained, for pruners and quantizers by import path that are none.

    Named by the `candidates`, or without any by the study's space and its own candidates.
    """
    space = settings.space if not candidates else None
    named = candidates or settings.candidates
    pruners = {c.pruning.method for c in named} | set(space.pruning if space else ())
    quantizers = {c.quantization.algorithm for c in named} | set(space.algorithm if space else ())
    for registry, names in ((PRUNERS, pruners), (QUANTIZERS, quantizers)):
        for name in sorted(filter(is_import_path, names)):
            thing = registry.find(name, folder=settings.folder)
            if not callable(thing):
                raise PluginError(f"{registry.noun} {name!r} is a {type(thing).__name__}; expected a function")


def unsupported_students(inputs: Inputs) -> list[str]:
    """Sentences on students that the DPU cannot run: the space's of which it runs neither the smallest nor any other that
    is looked at; without a space the named candidates'.

    Raises when that is all of them, and PluginError for a named one whose code cannot be imported.
    """
    settings = inputs.settings
    named = {candidate.student.model_dump_json(): candidate.student for candidate in settings.candidates}
    for student in named.values():
        if is_import_path(student.architecture):
            load(student.architecture, folder=settings.folder, noun="student")
    students = tuple(named.values()) if settings.space is None else settings.space.smallest_students()
    errors: list[EdgesearchError] = []
    for student in students:
        error = _refusal(inputs, student)
        others = settings.space.other_students(student.architecture) if settings.space is not None else ()
        if error is not None and all(_refusal(inputs, other) for other in others):
            errors.append(error)
    if len(errors) == len(students):
        raise errors[0]
    return [str(error) for error in errors]


def _refusal(inputs: Inputs, student: Student) -> EdgesearchError | None:
    """Why the DPU cannot run a student, whatever weights it starts from."""
    try:
        inputs.estimator.estimate(Candidate(student=student.model_copy(update={"weights": "", "weights_sha256": ""})))
    except EdgesearchError as error:
        return error
    return None
