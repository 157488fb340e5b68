"""Targets by name or by import path."""

from __future__ import annotations

from pathlib import Path

from edgesearch.board_eval.targets._dpu import DPUS, Dpu
from edgesearch.board_eval.targets._fingerprint import Fingerprint
from edgesearch.board_eval.targets._target import Target
from edgesearch.errors import PluginError, TargetError
from edgesearch.plugins import Registry, is_import_path

__all__ = ["TARGETS", "dpu_of_fingerprint", "find_target", "load_dpu"]

#: The sizes of the DPUCZDX8G by name; `TARGETS.add` registers another.
TARGETS: Registry[Target] = Registry("target")
for _name, _dpu in DPUS.items():
    TARGETS.add(_name, _dpu)


def find_target(name: str, *, folder: Path | None = None) -> Target:
    """The target called `name`, as "B4096", or the one behind an import path, which is looked for in `folder` first.

    Raises PluginError when there is none, or when what is there is not a Target.
    """
    target = TARGETS.find(name, folder=folder)
    if isinstance(target, type) or not isinstance(target, Target):
        raise PluginError(f"target {name!r} is a {type(target).__name__}; expected a Target, such as a Dpu(...)")
    return target


def load_dpu(name: str, *, folder: Path | None = None) -> Dpu:
    """Like `find_target` for one that a board profile can hold, a Dpu; raises TargetError."""
    if not is_import_path(name) and name not in TARGETS:
        raise TargetError(f"unknown DPU {name!r}; known are {', '.join(DPUS)}, or an import path such as my_dpus:SMALL")
    target = find_target(name, folder=folder)
    if not isinstance(target, Dpu):
        raise TargetError(f"target {name!r} is a {type(target).__name__}; a board profile stores its DPU and needs a Dpu(...)")
    return target


def dpu_of_fingerprint(fingerprint: Fingerprint) -> Dpu:
    """The DPU that a compiled file with this fingerprint is for.

    Raises TargetError for another instruction set, a size that is not known, other groups of feature-map banks, and more rows
    of the ALU than banks to read them from.
    """
    known = DPUS.get(fingerprint.size)
    if fingerprint.family != 1 or fingerprint.isa != 1 or known is None:
        raise TargetError(
            f"fingerprint {fingerprint} is that of a DPU of kind {fingerprint.family}, instruction set {fingerprint.isa} and "
            f"size {fingerprint.size}, expected kind 1 (DPUCZDX8G), instruction set 1 and one of the sizes {', '.join(DPUS)}"
        )
    if fingerprint.feature_groups != known.feature_groups:
        raise TargetError(
            f"fingerprint {fingerprint} is that of a {known.name} with {fingerprint.feature_groups} groups of feature-map "
            f"banks, expected {known.feature_groups}: code for another number is not known well enough"
        )
    if fingerprint.alu_rows > known.pixel_parallel or (fingerprint.alu_rows and known.pixel_parallel % fingerprint.alu_rows):
        raise TargetError(
            f"fingerprint {fingerprint} is that of a {known.name} whose ALU does {fingerprint.alu_rows} rows at a time, "
            f"expected a number that {known.pixel_parallel} is a multiple of: it is no DPU's, look for a wrong digit"
        )
    return Dpu.model_validate({**known.model_dump(), "fingerprint": fingerprint.value})
