"""The settings a study was started with, as its database keeps them, beside those that it is given now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import optuna
from pydantic import ValidationError

from edgesearch.board_eval import is_profile_path
from edgesearch.errors import StudyError
from edgesearch.objectives import QatRecipe, Recipe
from edgesearch.objectives.data import without_unread
from edgesearch.search.study._file import StudyFile, bundled_studies
from edgesearch.search.study._unread import unread_overrides, without_infinite
from edgesearch.settings import explain
from edgesearch.spaces import Student, identity, weights_fingerprint, without_paths

#: Attributes of an Optuna study: its settings, the version of edgesearch that stored them, the study file's folder, the
#: checksums of the weights files that its space names, the file's name, and when it was run last.
_SETTINGS, _VERSION, _FOLDER, _WEIGHTS, _FILE = "study", "edgesearch_version", "folder", "weights_files", "file"
_USED = "last_run"
#: Settings that may differ when a study is resumed: they say how far to go, not what is searched.
_MAY_CHANGE = {("search", "trials"), ("search", "rungs"), ("search", "proposals"), ("description",)}
#: Others that may: they say where tools and artifacts are.
_PLACES = ("vitis", "store")
#: What earlier versions wrote into a recipe that gave none, where now it depends on the others.
_ONCE_USUAL = {"warmup_epochs": 1.0, "clip_norm": 0.0}
#: Settings of a recipe that follow from others of it.
_FOLLOWING = ("weight_decay", "warmup_epochs")
#: Settings with the places of files whose contents are compared (see `_is_place`).
_NAME_FILES = ("data", "board", "teacher", "space", "candidates")


def stored_settings(study: optuna.Study) -> StudyFile:
    """The study file that a study was started with.

    A setting that the stored study does not name has its default, and so has one of its data that their source never read, and
    a limit that limits nothing.
    Raises StudyError for a study that is not edgesearch's, and for settings that this version does not know.
    """
    attributes = study.user_attrs
    content = attributes.get(_SETTINGS)
    if not isinstance(content, dict):
        raise StudyError(f"study {study.study_name!r} was not made by edgesearch; name another one")
    try:
        tables = {
            "data": without_unread(content.get("data", {})),
            "constraints": without_infinite(content.get("constraints", {})),
        }
        settings = StudyFile.model_validate(content | tables)
        settings = StudyFile.model_validate(settings.to_json())  # with every key, as what nobody wrote by hand
    except ValidationError as error:
        version = attributes.get(_VERSION, "another version")
        raise StudyError(
            f"the settings of study {study.study_name!r} were stored by edgesearch {version}, and edgesearch "
            f"{metadata.version('edgesearch')} cannot read them ({explain(error)}); use the version that stored them"
        ) from error
    settings = settings.model_copy(update={"name": study.study_name})  # a copy that Optuna made of a study has another
    return settings.in_folder(Path(attributes.get(_FOLDER, ".")))


def has_settings(study: optuna.Study) -> bool:
    """Whether settings are stored; a study that was killed while it was made has none yet."""
    return study.user_attrs.get(_SETTINGS) is not None


def store_settings(study: optuna.Study, settings: StudyFile) -> None:
    """Keep the settings with the study. They come last: what was stored before them is complete once they are there."""
    study.set_user_attr(_VERSION, metadata.version("edgesearch"))
    study.set_user_attr(_FOLDER, str(settings.folder))
    _store_weights(study, settings)
    study.set_user_attr(_SETTINGS, settings.to_json())


def study_file(study: optuna.Study) -> str:
    """What the study is of, as `edgesearch optimize` takes it: the name of a bundled study, or that of a file.

    Of a study that does not say so, made in Python perhaps, the file that its name would be that of.
    """
    name = study.study_name
    return study.user_attrs.get(_FILE) or (name if name in bundled_studies() else f"{name}.toml")


def store_places(study: optuna.Study, settings: StudyFile, file: str = "") -> None:
    """Keep where the study's files, its own code, Vitis AI's tools and artifacts lie now, and what else may change.

    `file` is the name of the study's own, or of the bundled study.

    The settings are those of the study otherwise (see `refuse_changes`). One that is given no store goes on with the one that
    it has.
    """
    if study.user_attrs.get(_FOLDER) != str(settings.folder):
        study.set_user_attr(_FOLDER, str(settings.folder))
    if file and study.user_attrs.get(_FILE) != file:
        study.set_user_attr(_FILE, file)
    known, now = stored_settings(study).to_json(), settings.to_json()
    places = (*_PLACES, *_NAME_FILES, *(path[0] for path in _MAY_CHANGE))
    moved = {place: now[place] for place in places if now[place] != known[place] and (place != "store" or settings.store)}
    if moved:
        _store_weights(study, settings)
        study.set_user_attr(_SETTINGS, {**study.user_attrs[_SETTINGS], **moved})


def store_use(study: optuna.Study) -> None:
    """Keep that the study is run now, whether or not it gets a trial more."""
    study.set_user_attr(_USED, time.time())


def last_use(study: optuna.Study) -> float:
    """When it was run last, in seconds since the epoch: for one of an earlier version, the moment of its newest trial."""
    moments = [trial.datetime_complete or trial.datetime_start for trial in study.get_trials(deepcopy=False)]
    trials = (moment.timestamp() for moment in moments if moment is not None)
    return max(float(study.user_attrs.get(_USED, 0.0)), *trials, 0.0)


def refuse_changes(study: optuna.Study, given: StudyFile) -> None:
    """Raise StudyError with the difference when a study was started with other settings than those given.

    Both are compared as this version reads them, so that a setting that came later differs only where it was given a value.
    Where images and a board's profile lie is no difference: who goes on compares their contents. Nor is an edit of the user's
    own code, which nobody wrote into the settings: its stages have other keys.
    """
    before, now = _identity(stored_settings(study)), _identity(given)
    changes = [
        (path, f"{'.'.join(path)}: was {json.dumps(old)}, is {json.dumps(new)}")
        for path, old, new in _differences(before, now)
        if path not in _MAY_CHANGE and path[0] not in _PLACES and not _is_place(study, path, old, new)
    ]
    if changes:
        follow = _following(before) & _following(now)  # from what was changed, and nobody gave them
        told = [change for path, change in changes if path not in follow] or [change for _, change in changes]
        raise StudyError(
            f"study {study.study_name!r} was started with other settings ({'; '.join(told)}); "
            "restore them to go on, or give the changed study another --name"
        )


def _identity(settings: StudyFile) -> dict[str, Any]:
    """The settings with every candidate in its canonical form.

    Weights files count by their content, not by their place; a user's own code by its import path. What earlier versions took
    and no student has is left out, so that a study goes on once its file does not say it.
    """
    content: dict[str, Any] = without_paths(settings.to_json())
    content["data"].pop("test_first", None)  # splits are compared by what they hold
    for name in {} if settings.teacher is None else settings.teacher.unread:
        content["teacher"][name] = Student.model_fields[name].default
    for student, name in unread_overrides(settings.space):
        content["space"]["student"][student][name] = None
    for _, kind, recipe in _recipes(content):
        usual = kind.usual(recipe["optimizer"], recipe["epochs"])
        once = {name: default for name, default in _ONCE_USUAL.items() if name in usual and recipe[name] == default}
        recipe.update({name: usual[name] for name in once})
    content["candidates"] = [identity(candidate.canonical()) for candidate in settings.candidates]
    return dict(without_code(content))


_Path: TypeAlias = tuple[str, ...]


def _recipes(content: Mapping[str, Any]) -> Iterator[tuple[_Path, type[Recipe], dict[str, Any]]]:
    """Each recipe of a study's settings: its path, its kind, itself."""
    for name, kind in (("train", Recipe), ("finetune", Recipe), ("qat", QatRecipe)):
        yield (name,), kind, content[name]
    if content["teacher"]:
        yield ("teacher", "recipe"), Recipe, content["teacher"]["recipe"]


def _following(content: Mapping[str, Any]) -> set[_Path]:
    """The paths of settings of recipes that have the value which follows from others where they are not given."""
    found = set()
    for path, kind, recipe in _recipes(content):
        usual = kind.usual(recipe["optimizer"], recipe["epochs"])
        for name in _FOLLOWING:
            if recipe[name] == usual.get(name, kind.model_fields[name].default):
                found.add((*path, name))
    return found


def without_code(content: Any) -> Any:
    """JSON values without the checksums of code that is given by import path."""
    if isinstance(content, list):
        return [without_code(value) for value in content]
    if not isinstance(content, dict):
        return content
    return {name: without_code(value) for name, value in content.items() if name != "source_sha256"}


def _is_place(study: optuna.Study, path: tuple[str, ...], old: Any, new: Any) -> bool:
    """Whether two values of a setting are places of the same file, or of files that are compared by themselves."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    if path == ("board",):
        return is_profile_path(old) and is_profile_path(new)
    if path[-1] != "weights":
        return path == ("data", "root")
    known = study.user_attrs.get(_WEIGHTS, {}).get(old)
    return known is not None and known == weights_fingerprint(new)


def _store_weights(study: optuna.Study, settings: StudyFile) -> None:
    """Keep checksums of the weights files that the space names; those of the teacher and of candidates stand beside them."""
    space = settings.space
    given = [] if space is None else [space.weights, *(getattr(own, "weights", None) for own in space.student.values())]
    known = {path: checksum for path in given if path and (checksum := weights_fingerprint(path))}
    if known:
        study.set_user_attr(_WEIGHTS, known)


def _differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), (*path, key))]
    return [] if old == new else [(path, old, new)]
