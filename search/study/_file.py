"""The study file: one TOML that says what is searched, on what, and for which board."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from edgesearch.board_eval import DEFAULT_BOARD, Compiler, Feature, VitisSettings, is_profile_path
from edgesearch.errors import SettingsError, SpaceError, StudyError
from edgesearch.files import expanded, is_utf8, parse_toml
from edgesearch.objectives import DataSettings, Pipeline, PruneSearch, QatRecipe, Recipe, Teacher, is_folder
from edgesearch.plugins import is_import_path
from edgesearch.search.study._constraints import Constraints
from edgesearch.search.study._unread import unread_choices, unread_recipes, unread_students
from edgesearch.settings import Settings, explain
from edgesearch.spaces import (
    TAUGHT_BY_TEACHER,
    Candidate,
    NetworkStageChoices,
    Space,
    StagedChoices,
    Student,
    candidate_keys,
    complete,
    complete_candidate,
    with_declared_parameters,
)

#: What candidates are scored by: the simulated board; boards, each of them; or boards for those that would be on the front.
Score: TypeAlias = Literal["simulated", "board", "board-front"]
#: Objective -> direction. Accuracy is the quantized network's, top-1 on validation; fps is throughput with every core busy.
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "fps": "maximize",
    "latency_ms": "minimize",
    "size_bytes": "minimize",
    "macs": "minimize",
}
ObjectiveName = Literal["accuracy", "fps", "latency_ms", "size_bytes", "macs"]


class SearchSettings(Settings):
    """How candidates are proposed."""

    #: tpe, nsga2, nsga3, random, gp, or the import path of an Optuna sampler, called with `sampler_options` (and a `seed`).
    sampler: str = "tpe"
    sampler_options: dict[str, Any] = Field(default_factory=dict)
    trials: int = Field(default=100, ge=1)
    #: Trials drawn at random before TPE or GP starts to model.
    startup_trials: int = Field(default=20, ge=1)
    population: int = Field(default=24, ge=2)
    #: The sampler's asks one after the other, or of several, and of variants of trained students, what gains most per second.
    proposals: Literal["cost_aware", "plain"] = "cost_aware"
    #: Whether trainings are judged after a ninth and a third of their epochs, and stopped where they lead to nothing. Those of
    #: fewer than three epochs never are, nor are the study's own candidates.
    rungs: bool = True


class TeacherTable(Student):
    """[teacher]: a student's settings, whether its weights are trained already, and its own training."""

    trained: bool = False
    recipe: Recipe = Recipe()


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise PydanticCustomError(
            "name", "letters, digits, dots, dashes and underscores, 64 at most, of which the first is a letter or a digit"
        )
    return name


class StudyFile(Settings):
    """A study, whole and validated.

    `parse` and `load` check what they are given and say in one sentence what is wrong. `folder` is where the study's own code
    is looked for; it is no setting and decides nothing else.
    """

    name: Annotated[str, AfterValidator(_check_name)]
    description: str = ""
    seed: int = Field(default=0, ge=0)
    data: DataSettings = DataSettings()
    teacher: TeacherTable | None = None
    train: Recipe = Recipe()
    finetune: Recipe = Recipe(epochs=5, lr=1e-3)
    qat: QatRecipe = QatRecipe()
    prune: PruneSearch = PruneSearch()
    space: Space | None = None
    objectives: Annotated[tuple[ObjectiveName, ...], Field(min_length=1)] = ("accuracy", "fps")
    constraints: Constraints = Constraints()
    search: SearchSettings = SearchSettings()
    board: str = DEFAULT_BOARD
    #: What candidates are scored by.
    score: Score = "simulated"
    #: Boards that measure: names of boards and pools of the boards file, or import paths. All have the DPU of `board`.
    boards: tuple[str, ...] = ()
    #: Validation images that a board is given.
    board_images: int = Field(default=1000, ge=1)
    #: What makes the file that the board runs: this program, or vai_c_xir of Vitis AI. Simulated boards time its code.
    compiler: Compiler = "edgesearch"
    #: What this program's code may use though no file has it that was measured on a board: see docs/compiler.md.
    allow: tuple[Feature, ...] = ()
    #: Where Vitis AI's tools are, and how long they may take; may differ when a study is resumed.
    vitis: VitisSettings = VitisSettings()
    #: Where artifacts are kept: a folder, or a URL as s3://bucket/folder; "": in the home. May differ when a study is resumed.
    store: str = ""
    #: Tried first, in this order. Without a [space] they are the whole study.
    candidates: tuple[Candidate, ...] = ()

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @classmethod
    def load(cls, name_or_path: str | Path) -> StudyFile:
        """A study by the name of a bundled one or by its file.

        Raises StudyError when there is none, SpaceError naming every key that is wrong with its value.
        """
        return load_study(str(name_or_path))

    @classmethod
    def parse(cls, tables: Mapping[str, Any], *, folder: Path | str | None = None, where: str = "the study") -> StudyFile:
        """A study from the tables of its file, as nested mappings; settings made in Python may stand in for their tables.

        Relative paths in tables, and import paths, start at `folder` (default: the working directory). Raises SpaceError naming
        every key that is wrong with its value; `where` is what its sentence starts with.
        """
        return parse_tables(tables, where=where, folder=Path.cwd() if folder is None else Path(folder))

    @property
    def folder(self) -> Path:
        """Where import paths are looked for first: the study file's folder; for bundled studies the working directory."""
        return self._folder

    def resolved(self, *, granularity: int) -> StudyFile:
        """The study with what is left to the DPU filled in: the channels that it works on side by side."""
        candidates = tuple(candidate.resolved(granularity=granularity) for candidate in self.candidates)
        space = None if self.space is None else self.space.resolved(channel_parallel=granularity)
        return self.model_copy(update={"candidates": candidates, "space": space})

    @property
    def trials(self) -> int:
        """How many trials are asked for."""
        return self.search.trials if self.space is not None else len(self.candidates)

    def in_folder(self, folder: Path) -> StudyFile:
        """The same study with its code in `folder`."""
        moved = self.model_copy()
        moved._folder = folder
        return moved

    def with_changes(self, **changes: Any) -> StudyFile:
        """The study with other values for some of its keys; raises SpaceError for values that are not possible.

        Relative paths among them start at the working directory.
        """
        return _validate(self.to_json() | changes, where=f"study {self.name}", folder=self.folder)

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, objectives: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if len(set(objectives)) != len(objectives):
            raise ValueError(f"an objective is named twice in {list(objectives)}")
        return objectives

    @model_validator(mode="after")
    def _complete(self) -> StudyFile:
        if self.space is None and not self.candidates:
            raise ValueError("a study needs a [space] or at least one [[candidates]]")
        if self.allow and self.compiler == "vai":
            raise ValueError(
                f"allow = {list(self.allow)} is for this program's compiler, and compiler = 'vai' leaves compiling to Vitis "
                "AI; leave one of them out"
            )
        kinds = {c.distillation.kind for c in self.candidates} | set(self.space.distillation if self.space else ())
        if self.teacher is None and kinds & TAUGHT_BY_TEACHER:
            raise ValueError(
                "a candidate or a choice of [space] is distilled from a teacher, and there is no [teacher]; add one"
            )
        trained = {c.quantization.backend for c in self.candidates if c.quantization.method == "qat"}
        if self.space is not None and "qat" in self.space.quantization:
            trained |= set(self.space.quantization_backend)
        if "nndct" in trained and self.train.mix != "none":
            raise ValueError(
                f"pytorch_nndct trains on single images, and train.mix = {self.train.mix!r} mixes them; leave out mix, or "
                "quantization_backend = 'nndct' together with 'qat'"
            )
        try:
            _ = self.pipeline
        except SettingsError as error:
            raise ValueError(str(error).partition(": ")[2]) from error
        return self

    @property
    def pipeline(self) -> Pipeline:
        """What the stages need of this study."""
        teacher = None
        if self.teacher is not None:
            fields = self.teacher.model_dump(exclude={"trained", "recipe"})
            student = Student(**fields)
            if student.network is not None:  # however it is named, it is one network with one key
                student = student.canonical()
            teacher = Teacher(student=student, recipe=self.teacher.recipe, trained=self.teacher.trained)
        return Pipeline(
            data=self.data, teacher=teacher, train=self.train, finetune=self.finetune, qat=self.qat, prune=self.prune
        )

    @property
    def students(self) -> dict[str, Student]:
        """The teacher and the students of its own candidates, by their place in the file."""
        teacher: dict[str, Student] = {} if self.teacher is None else {"teacher": self.teacher}
        return teacher | {f"candidates.{number}.student": each.student for number, each in enumerate(self.candidates)}

    @property
    def weights(self) -> set[str]:
        """What its networks start from: files and "imagenet"; "" where one begins at random."""
        found = {candidate.student.weights for candidate in self.candidates}
        if self.teacher is not None:
            found.add(self.teacher.weights)
        if self.space is not None:
            found |= {self.space.choices(name, "weights") for name in self.space.students}
        return found

    def checked(self) -> StudyFile:
        """As if it had been read from a file in its folder: paths are whole, weights and code have their checksums.

        Raises SpaceError for settings that nothing would read, and for a weights file that cannot be read.
        """
        return parse_tables(self.model_dump(mode="json", exclude_unset=True), where="the study", folder=self.folder)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Optuna's direction per objective."""
        return [OBJECTIVES[name] for name in self.objectives]

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON."""
        return self.model_dump(mode="json")

    def to_toml(self) -> str:
        """A study file that says the same, and nothing that is so without saying it.

        Raises StudyError for options of a source that TOML has no form for.
        """
        from edgesearch.search.study._toml import study_toml

        return study_toml(self)


def bundled_studies() -> list[str]:
    """Names of the studies that come with edgesearch."""
    folder = resources.files("edgesearch.studies")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_study(name_or_path: str) -> StudyFile:
    """A study by the name of a bundled one or by its file.

    Raises StudyError when there is none, SpaceError naming every key that is wrong with its value.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        path = expanded(name_or_path, "study file", StudyError)
        try:
            return parse_study(path.read_bytes(), where=str(path), folder=path.resolve().parent)
        except OSError as error:
            raise StudyError(f"study file {name_or_path!r} cannot be read: {error.strerror or error}") from error
    if name_or_path not in bundled_studies():
        raise StudyError(
            f"unknown study {name_or_path!r}; expected one of {', '.join(bundled_studies())} or the path of a .toml file"
        )
    resource = resources.files("edgesearch.studies") / f"{name_or_path}.toml"
    return parse_study(resource.read_bytes(), where=f"bundled study {name_or_path}", folder=Path.cwd())


def parse_study(content: bytes, *, where: str, folder: Path) -> StudyFile:
    """A StudyFile from TOML, with or without a byte-order mark; relative paths in it start at `folder`."""
    try:
        tables = parse_toml(content)
    except ValueError as error:
        raise SpaceError(f"{where} is not valid TOML: {error}") from error
    return parse_tables(tables, where=where, folder=folder)


def parse_tables(tables: Mapping[str, Any], *, where: str, folder: Path) -> StudyFile:
    """See `StudyFile.parse`."""
    if not isinstance(tables, Mapping):
        raise SpaceError(f"{where} is of type {type(tables).__name__}, expected the tables of a study file as a mapping")
    anchored = {name: _as_tables(value) for name, value in tables.items()}
    _anchor_paths(anchored, where, folder)
    study = _validate(anchored, where=where, folder=folder)
    named = {f"candidates.{number}": each for number, each in enumerate(study.candidates)}
    if unread := (
        unread_recipes(tables, study.train, finetune=study.finetune, qat=study.qat)
        or unread_students(study.students, study.space)
        or unread_choices(named)
    ):
        raise SpaceError(f"{where}: {unread}")
    return study


def _as_tables(value: Any) -> Any:
    """Copies of tables and lists, and settings that were made in Python as the tables they would be written as."""
    if isinstance(value, Settings):
        return {name: _as_tables(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, Mapping):
        return {name: _as_tables(each) for name, each in value.items()}
    return [_as_tables(each) for each in value] if isinstance(value, list | tuple) else value


def _validate(tables: Mapping[str, Any], *, where: str, folder: Path) -> StudyFile:
    try:
        study = StudyFile.model_validate(tables)
    except ValidationError as error:
        raise SpaceError(f"{where}: {explain(error, _known_keys())}") from error
    return with_fingerprints(study.in_folder(folder))


def _anchor_paths(tables: dict[str, Any], where: str, folder: Path) -> None:
    def anchor(table: Any, key: str) -> None:
        value = table.get(key) if isinstance(table, dict) else None
        value = str(value) if isinstance(value, Path) else value
        if isinstance(value, str) and value and not (key == "weights" and value == "imagenet"):
            table[key] = str(folder / expanded(value, f"{where}: {key}", SpaceError))
            if not is_utf8(table[key]):  # it is stored
                raise SpaceError(f"{where}: {key} leads to {table[key]!r}, a path that is not UTF-8; move the study elsewhere")

    anchor(tables.get("data"), "root")
    anchor(tables.get("teacher"), "weights")
    if isinstance(vitis := tables.get("vitis"), dict) and "/" in str(vitis.get("python", "")):
        anchor(vitis, "python")  # a bare name is looked for on PATH
    if is_folder(str(tables.get("store", ""))):
        anchor(tables, "store")
    space = tables.get("space")
    anchor(space, "weights")
    if isinstance(space, dict) and isinstance(space.get("student"), dict):
        for override in space["student"].values():
            anchor(override, "weights")
    candidates = tables.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else []:
        anchor(candidate.get("student") if isinstance(candidate, dict) else None, "weights")
    if isinstance(tables.get("board"), str) and is_profile_path(tables["board"]):
        anchor(tables, "board")


def with_fingerprints(study: StudyFile) -> StudyFile:
    """The study with the checksums of the weights files and of the code that it names.

    The normalisation that ImageNet weights were trained with is filled in where a student or the teacher starts from them, and
    neither the study nor a data source of its own says another. Raises SpaceError for a weights file that cannot be read.
    """
    folder = study.folder
    update: dict[str, Any] = {"candidates": tuple(with_fingerprint(candidate, folder) for candidate in study.candidates)}
    if study.teacher is not None:
        update["teacher"] = complete(study.teacher, folder=folder)
    if study.space is not None:
        update["space"] = with_declared_parameters(study.space, folder=folder)
    if "imagenet" in study.weights and study.data.normalisation is None and not is_import_path(study.data.name):
        update["data"] = study.data.model_copy(update={"normalisation": "imagenet"})
    return study.model_copy(update=update)


def with_fingerprint(candidate: Candidate, folder: Path | None = None) -> Candidate:
    """The candidate with the checksums of its weights file and of the code it names by import path."""
    return complete_candidate(candidate, folder=folder)


def _known_keys() -> dict[str, list[str]]:
    tables: dict[str, Any] = {
        "": StudyFile,
        "data": DataSettings,
        "teacher": TeacherTable,
        "teacher.recipe": Recipe,
        "train": Recipe,
        "finetune": Recipe,
        "qat": QatRecipe,
        "prune": PruneSearch,
        "space": Space,
        "space.student.staged": StagedChoices,
        **{f"space.student.staged.stage{number}": NetworkStageChoices for number in range(1, 5)},
        "constraints": Constraints,
        "search": SearchSettings,
        "vitis": VitisSettings,
    }
    return {table: list(model.model_fields) for table, model in tables.items()} | candidate_keys("candidates")
