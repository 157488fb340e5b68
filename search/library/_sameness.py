"""What must be the same when a study is resumed, beside its settings: the images, and the profile of its simulated board."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from edgesearch.board_eval import SimulatedBoard
from edgesearch.errors import StudyError
from edgesearch.objectives import DataSet
from edgesearch.search.library._inputs import Inputs

#: Attributes of an Optuna study.
_IMAGES, _PARTS, _COUNT, _PROFILE = "data_fingerprint", "data_fingerprints", "validation_images", "board_profile"
_WORDS = {"meta": "classes, channels, size or normalisation", "train": "the training images"}


def refuse_other_inputs(inputs: Inputs, study: optuna.Study) -> None:
    """Keep what a new study is started with; raise StudyError with the difference where a stored one had other inputs.

    The profiles that come with this program change with its versions, and are no reason to refuse a study.
    """
    _refuse_other_images(study, inputs.data)
    if isinstance(inputs.board, SimulatedBoard) and inputs.settings.board.endswith(".json"):
        _refuse_other_profile(study, inputs.settings.board, dict(inputs.board.content))


def _refuse_other_images(study: optuna.Study, data: DataSet) -> None:
    known = study.user_attrs.get(_IMAGES)
    if known is None:
        study.set_user_attr(_PARTS, dict(data.fingerprints))
        study.set_user_attr(_IMAGES, data.fingerprint)
        study.set_user_attr(_COUNT, len(data.validation))
    elif known != data.fingerprint:
        stored: Mapping[str, str] = study.user_attrs.get(_PARTS, {})
        others = [part for part, fingerprint in data.fingerprints.items() if stored.get(part, fingerprint) != fingerprint]
        named = [_WORDS.get(part, f"the {part} images") for part in others]
        difference = f" ({', '.join(named)} differ)" if named else ""
        raise StudyError(
            f"the images of data set {data.name!r} are not those that study {study.study_name!r} was started with"
            f"{difference}; "
            "restore them, or give the study on the new images another --name"
        )


def _refuse_other_profile(study: optuna.Study, path: str, content: dict[str, Any]) -> None:
    stored = study.user_attrs.get(_PROFILE)
    given = json.loads(json.dumps(content))  # tuples are lists once they were stored
    if stored is None:
        study.set_user_attr(_PROFILE, given)
        return
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
