"""What every group of settings is: frozen, strict about its keys, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edgesearch.errors import SettingsError
from edgesearch.settings._explain import explain

__all__ = ["Settings"]

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which pydantic gives no public name


class _Refusing(ModelMetaclass):
    """Turns pydantic's error of a constructor into one sentence; those inside it and of `model_validate` stay as they are."""

    if not TYPE_CHECKING:  # which would take the result of every constructor for what this gives

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                raise SettingsError(f"{self.__name__}: {explain(error)}") from error


class Settings(BaseModel, metaclass=_Refusing):
    """A frozen group of settings; unknown keys and numbers that are not finite are refused.

    Its constructor raises SettingsError for what is not valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_stands_for_another(cls, given: Any) -> Any:
        """Texts and truths are no numbers, and only truths are truths: pydantic would take "1", true and "yes" for them."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            if name in cls.model_fields:
                single, listed = _kinds(cls.model_fields[name].annotation)
                for one in value if isinstance(value, list | tuple) else (value,):
                    _check_kind(name, one, listed if isinstance(value, list | tuple) else single)
        return given


def _kinds(annotation: Any) -> tuple[set[Any], set[Any]]:
    """The kinds of single values that a field may have, and those of its lists; groups of settings and None left out."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        parts = [_kinds(part) for part in get_args(annotation)]
        return set().union(*(single for single, _ in parts)), set().union(*(listed for _, listed in parts))
    if get_origin(annotation) is tuple:
        return set(), set().union(*(_kinds(part)[0] for part in get_args(annotation) if part is not Ellipsis))
    if annotation is type(None) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return set(), set()
    return {annotation}, set()


def _check_kind(name: str, given: Any, kinds: set[Any]) -> None:
    """Raise ValueError where pydantic would take a value of another kind for one of these."""
    if kinds and kinds <= {int, float} and (isinstance(given, bool) or _reads_as_number(given)):
        raise ValueError(f"`{name}` is {_shown(given)}, expected a number{_unquoted(given)}")
    if kinds == {bool} and isinstance(given, int | float | str) and not isinstance(given, bool):
        raise ValueError(f"`{name}` is {_shown(given)}, expected true or false{_unquoted(given)}")


def _reads_as_number(given: Any) -> bool:
    """Whether it is a text that is one; others are refused anyway."""
    try:
        return isinstance(given, str) and isinstance(float(given), float)
    except ValueError:
        return False


def _shown(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _unquoted(value: bool | int | float | str) -> str:
    return " without quotes" if isinstance(value, str) else ""
