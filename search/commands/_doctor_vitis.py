"""What `edgesearch doctor` says of Vitis AI: its compiler, its container, its packages for Python."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from edgesearch.board_eval import VitisSettings
from edgesearch.board_eval.vitis import find_compiler, find_container, find_python, python_versions
from edgesearch.errors import ToolchainError
from edgesearch.search.commands._checks import Check

__all__ = ["vitis_checks"]

#: The quantizer's package, and what the optimizer adds to it.
_QUANTIZER, _PRUNER = "pytorch_nndct", "pytorch_nndct:get_pruning_runner"
_NOT_NEEDED = "not needed unless a study says"


def vitis_checks(settings: VitisSettings) -> list[Check]:
    """Lines on vai_c_xir, the container's engine and image, pytorch_nndct and the optimizer: none of them is needed."""
    return [
        Check("vai_c_xir", lambda: _compiler(settings), needed=False),
        Check("container", lambda: _container(settings), needed=False),
        Check("pytorch_nndct", lambda: _package(settings, _QUANTIZER, 'backend = "nndct" for quantization'), needed=False),
        Check("vai_optimizer", lambda: _package(settings, _PRUNER, 'backend = "vai" for pruning'), needed=False),
    ]


def _compiler(settings: VitisSettings) -> str:
    try:
        place = find_compiler(settings)
    except ToolchainError as error:
        raise ToolchainError(f'{error} ({_NOT_NEEDED} compiler = "vai": edgesearch compiles for the board itself)') from error
    return f"{place.description} ({place.identity})"


def _container(settings: VitisSettings) -> str:
    return find_container(settings, "vai_c_xir").description


def _package(settings: VitisSettings, name: str, use: str) -> str:
    try:
        where, found, missing = _packages(settings)
    except ToolchainError as error:
        said = str(error) if name == _QUANTIZER else "it comes with pytorch_nndct, see above"
        raise ToolchainError(f"{said} ({_NOT_NEEDED} {use})") from error
    if name in missing:
        raise ToolchainError(
            f"{where} lacks {name} ({missing[name]}); set [vitis] python to a Python that has it ({_NOT_NEEDED} {use})"
        )
    return f"{found[name]}, in Python {found['python']} of {where}"


@lru_cache(maxsize=1)
def _packages(settings: VitisSettings) -> tuple[str, Mapping[str, str], Mapping[str, str]]:
    """Where Vitis AI's Python is, versions of the packages that it has, and why it lacks others."""
    place = find_python(settings, needs=(_QUANTIZER,))
    return place.description, *python_versions(place, (_QUANTIZER, _PRUNER))
