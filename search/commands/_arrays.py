"""Arrays that a person names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.errors import DataError


def read_array(path: Path, option: str = "--images") -> npt.NDArray[Any]:
    """The array of the .npy file given as `option`; raises DataError when it is not one of numbers."""
    try:
        with path.open("rb") as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{option} {str(path)!r} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataError(
            f"{option} {str(path)!r} does not fit into this machine's memory ({str(error) or 'it gave no more'}); give fewer "
            "images, or save them again if it should hold fewer"
        ) from error
    except Exception as error:  # numpy's own words speak of a switch that must stay off; its parser has many exceptions
        raise DataError(f"{option} {str(path)!r} is not a .npy array of numbers; save one with numpy.save") from error
    return array
