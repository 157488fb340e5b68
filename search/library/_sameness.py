"""What must be the same when a study is resumed or its trials exported: settings, images, profile of its simulated board."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from edgesearch.board_eval import SimulatedBoard, is_profile_path
from edgesearch.errors import DataError, StudyError
from edgesearch.objectives import DataSet
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.study import StudyFile, refuse_changes

#: Attributes of an Optuna study.
_IMAGES, _PARTS, _COUNT, _PROFILE = "data_fingerprint", "data_fingerprints", "validation_images", "board_profile"
_PACKAGES, _THREADS = "vitis_packages", "threads"
_WORDS = {"meta": "classes, channels, size or normalisation", "train": "the training images"}


def same_inputs(inputs: Inputs, settings: StudyFile, study: optuna.Study | None) -> Inputs:
    """The inputs, which a stored study with these settings was made with, on the packages of Vitis AI that it ran with last.

    Raises StudyError with the difference where it has trials that were started with other settings or inputs.
    """
    if study is not None and study.get_trials(deepcopy=False):
        refuse_changes(study, settings)
        inputs = on_splits_of(study, inputs)
        refuse_other_inputs(inputs, study)
    return inputs if study is None else inputs.on_packages(study.user_attrs.get(_PACKAGES, {}))


def on_splits_of(study: optuna.Study, inputs: Inputs) -> Inputs:
    """The inputs, on splits as earlier versions drew them where the study was started with those."""
    known, drawn = study.user_attrs.get(_IMAGES), inputs.settings.data
    if known in (None, inputs.data.fingerprint) or drawn.test_first or drawn.test_images is None:
        return inputs
    earlier = inputs.on_splits(drawn.model_copy(update={"test_first": True}))
    return earlier if earlier.data.fingerprint == known else inputs


def threads_of(study: optuna.Study | None) -> int:
    """Threads of a stage of the stored study as it ran last."""
    return 1 if study is None else int(study.user_attrs.get(_THREADS, 1))


@contextmanager
def moved_data(root: Path | None) -> Iterator[None]:
    """Within it, a DataError on a data set that is not where the stored study has it says what to do if both were moved."""
    try:
        yield
    except DataError as error:
        if root is None or root.exists():
            raise
        again = "`edgesearch optimize FILE`, given once from the study's new place, stores where they are now"
        raise DataError(f"{error}; if they were moved together with their study, {again}") from error


def refuse_other_inputs(inputs: Inputs, study: optuna.Study) -> None:
    """Raise StudyError with the difference where a stored study was started with other inputs.

    The profiles that come with this program change with its versions, and are no reason to refuse a study.
    """
    _refuse_other_images(study, inputs.data)
    if (profile := _profile(inputs)) is not None:
        _refuse_other_profile(study, inputs.settings.board, profile)


def keep_inputs(inputs: Inputs, study: optuna.Study) -> None:
    """Keep what a study is started with, where nothing is kept yet, and how many threads a stage has now, and which packages
    of Vitis AI.
    """
    known, data = study.user_attrs, inputs.data
    if _IMAGES not in known:
        study.set_user_attr(_COUNT, len(data.validation))
        study.set_user_attr(_PARTS, dict(data.fingerprints))
        study.set_user_attr(_IMAGES, data.fingerprint)  # last: it says that the others are there
    if (packages := dict(inputs.conditions.packages)) != known.get(_PACKAGES, {}):
        study.set_user_attr(_PACKAGES, packages)
    if (threads := inputs.conditions.threads) != known.get(_THREADS, 1):
        study.set_user_attr(_THREADS, threads)
    if (profile := _profile(inputs)) is not None and _PROFILE not in known:
        study.set_user_attr(_PROFILE, profile)


def _refuse_other_images(study: optuna.Study, data: DataSet) -> None:
    if study.user_attrs.get(_IMAGES, data.fingerprint) != data.fingerprint:
        stored: Mapping[str, str] = study.user_attrs.get(_PARTS, {})
        others = [part for part, fingerprint in data.fingerprints.items() if stored.get(part, fingerprint) != fingerprint]
        named = [_WORDS.get(part, f"the {part} images") for part in others]
        difference = f" ({', '.join(named)} differ)" if named else ""
        raise StudyError(
            f"the images of data set {data.name!r} are not those that study {study.study_name!r} was started with"
            f"{difference}; "
            "restore them, or give the study on the new images another --name"
        )


def _profile(inputs: Inputs) -> dict[str, Any] | None:
    """The content of the user's own profile, as it is stored; None where the board is no profile of theirs."""
    if not isinstance(inputs.board, SimulatedBoard) or not is_profile_path(inputs.settings.board):
        return None
    content: dict[str, Any] = json.loads(json.dumps(dict(inputs.board.content)))  # tuples are lists once they were stored
    return content


def _refuse_other_profile(study: optuna.Study, path: str, given: dict[str, Any]) -> None:
    stored = study.user_attrs.get(_PROFILE, given)
    changes = [f"{'.'.join(where)}: was {json.dumps(old)}, is {json.dumps(new)}" for where, old, new in _changes(stored, given)]
    if changes:
        raise StudyError(
            f"board profile {path!r} is not what study {study.study_name!r} was started with ({'; '.join(changes)}); "
            "restore it to go on, or give the study on the changed board another --name"
        )


def _changes(old: Any, new: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """What differs; keys that only one of the two has came, or went, with another version of this program."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (key for key in old if key in new):
            yield from _changes(old[key], new[key], (*where, key))
    elif old != new:
        yield where, old, new
