"""A study file that says what a study's settings are, and nothing that is so without saying it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from edgesearch.errors import StudyError
from edgesearch.objectives import Recipe

__all__ = ["study_toml"]


def study_toml(settings: BaseModel) -> str:
    """The settings as TOML. Raises StudyError for what has no form there, as None within a list of a source's options."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.dumps(_said(settings))
    except (TOMLKitError, ValueError, TypeError) as error:
        raise StudyError(f"the study cannot be written as TOML: {error}; give its `options` other values") from error


def _said(settings: BaseModel) -> dict[str, Any]:
    """The settings that are not at their defaults, nor what follows from others; reading a file fills checksums in."""
    written = settings.model_dump(mode="json")
    usual = settings.usual(settings.optimizer, settings.epochs) if isinstance(settings, Recipe) else {}
    said = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        is_told = name in usual and value == usual[name]
        if value is None or is_told or name.endswith("sha256") or (name not in usual and value == field.default):
            continue
        if field.default_factory is not None and not value:
            continue
        said[name] = _plain(value, written[name])
    return said


def _plain(value: Any, written: Any) -> Any:
    """A setting as TOML has it: groups of settings by what they say, all else as it is written in JSON."""
    if isinstance(value, BaseModel):
        return _said(value)
    if isinstance(value, Mapping):
        pairs = ((name, each, written[name]) for name, each in value.items())
        return {name: _plain(each, as_json) for name, each, as_json in pairs if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each, as_json) for each, as_json in zip(value, written, strict=True)]
    return written
