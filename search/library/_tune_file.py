"""A copy of a study file with another recipe; its comments and its order stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import resources
from pathlib import Path
from typing import Any

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.files import expanded, write_atomically
from edgesearch.objectives.data import has_strength
from edgesearch.plugins import is_import_path
from edgesearch.search.library._tune_space import Target
from edgesearch.search.study import StudyFile

__all__ = ["check_place", "read_text", "tuned_text", "write_text"]

_LONGEST_NAME = 64
_SUFFIX = "_tuned"


def read_text(study: str) -> str:
    """The text of a study that `StudyFile.load` reads."""
    if Path(study).suffix == ".toml":
        return expanded(study, "study file", StudyError).read_bytes().decode("utf-8-sig")
    return (resources.files("edgesearch.studies") / f"{study}.toml").read_bytes().decode("utf-8")


def tuned_text(text: str, target: Target, settings: Mapping[str, Any], *, name: str) -> str:
    """The study file `text` with these settings and another name: its trials would not mix with those of study `name`.

    [train] or [teacher] recipe get the recipe; the space, and the student's own candidates, how it is taught. What is as in the
    file is not touched.
    """
    import tomlkit

    document = tomlkit.parse(text)
    document["name"] = name[: _LONGEST_NAME - len(_SUFFIX)] + _SUFFIX
    changed = {key: value for key, value in settings.items() if value != target.own[key]}
    recipe = {key: value for key, value in changed.items() if key not in target.taught}
    if target.kind == "teacher":
        _table(document["teacher"], "recipe").update(recipe)
        return tomlkit.dumps(document)
    if recipe:
        _table(document, "train").update(recipe)
    if "augmentation" in recipe:
        _keep_views_in_step(document, target, recipe["augmentation"])
    teaching = {key: settings[key] for key in target.taught}
    if teaching and "space" in document:
        document["space"].update({key: [value] for key, value in teaching.items()})
    for candidate in document.get("candidates", ()):
        is_of = candidate["student"]["architecture"] == target.name
        if is_of and candidate.get("distillation", {}).get("kind", "none") == target.candidate.distillation.kind and teaching:
            candidate["distillation"].update(teaching)
    return tomlkit.dumps(document)


def _keep_views_in_step(document: MutableMapping[str, Any], target: Target, views: str) -> None:
    """Another augmentation in [train] is that of [finetune] and [qat], too, and leaves the teacher as it is."""
    for table in ("finetune", "qat"):
        if document.get(table, {}).get("augmentation", "auto") != "auto":
            document[table]["augmentation"] = views
    teacher = target.pipeline.teacher
    if teacher is not None and not teacher.trained and "teacher" in document:
        recipe = _table(document["teacher"], "recipe")
        if recipe.get("augmentation", "auto") == "auto":
            recipe["augmentation"] = teacher.recipe.augmentation
            if has_strength(recipe["augmentation"]):
                recipe["augmentation_strength"] = teacher.recipe.augmentation_strength


def _table(document: MutableMapping[str, Any], name: str) -> MutableMapping[str, Any]:
    import tomlkit

    if name not in document:
        document[name] = tomlkit.inline_table() if name == "recipe" else tomlkit.table()
    table: MutableMapping[str, Any] = document[name]
    return table


def check_place(text: str, study: StudyFile, output: Path) -> None:
    """Raise StudyError where the file would be another study in the folder of `output`: its paths start at its own folder."""
    import tomllib

    folder, tables = output.resolve().parent, tomllib.loads(text)
    if folder == study.folder:
        return
    try:
        is_same = StudyFile.parse(tables, folder=folder).to_json() == study.to_json()
    except EdgesearchError:
        is_same = False
    if not is_same or any(map(is_import_path, _strings(tables))):
        raise StudyError(
            "the study names files or code that are looked for from its own folder, and a copy in "
            f"{str(folder)!r} would not find them; give -o a name in {str(study.folder)!r}"
        )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def write_text(text: str, output: Path, *, overwrite: bool) -> None:
    """Write the copy, whole or not at all; raises StudyError where it cannot be, or where a file is there."""
    if output.exists() and not overwrite:
        raise StudyError(f"{str(output)!r} is there already; give -o another name, or --overwrite")
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise StudyError(f"{str(output)!r} cannot be written: {error.strerror or error}") from error
