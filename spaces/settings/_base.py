"""What every group of settings is: frozen, strict about its keys, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

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
    def _no_truth_is_a_number(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, Mapping) else ():
            if isinstance(value, bool) and name in cls.model_fields and _is_number(cls.model_fields[name].annotation):
                raise ValueError(f"`{name}` is {str(value).lower()}, expected a number")
        return given


def _is_number(annotation: Any) -> bool:
    """Whether a field holds a number or nothing, and no truth."""
    kinds = {*(get_args(annotation) or (annotation,))} - {type(None)}
    return bool(kinds) and kinds <= {int, float}
