"""What every group of settings is: frozen, strict about its keys, and refused in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgesearch.errors import SettingsError
from edgesearch.spaces._validation import explain

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
