"""From what a person names on the command line to a Graph: a student, an import path, a candidate file or an xmodel."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from edgesearch.board_eval import Graph, lower, pruned_estimate, read_xmodel
from edgesearch.errors import SpaceError
from edgesearch.spaces import STUDENTS, Candidate, Pruning, build, parse_candidate

if TYPE_CHECKING:
    from torch import nn


def read_candidate(path: Path) -> Candidate:
    """The candidate of a TOML file; raises SpaceError when it is not one. Relative weights start at the file's folder."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise SpaceError(f"candidate file {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path} is not valid TOML: {error}") from error
    student = tables.get("student")
    if isinstance(student, dict) and student.get("weights") not in (None, "", "imagenet"):
        student["weights"] = str(path.resolve().parent / Path(str(student["weights"])).expanduser())
    return parse_candidate(tables, str(path))


def find_network(
    name: str, *, width: float, input_size: int | None, channels: int, classes: int, stem: str, folder: Path | None = None
) -> tuple[Graph, nn.Module | None]:
    """The network called `name`, and the untrained model behind it unless it is an xmodel.

    A model by import path is looked for in `folder` first; left out, in the working directory. Raises
    PluginError or SpaceError for an unknown name, XmodelError or LoweringError for what cannot be read or run.
    """
    if name.endswith(".xmodel"):
        return read_xmodel(Path(name)), None
    pruning = Pruning()
    if name.endswith(".toml"):
        candidate = read_candidate(Path(name)).canonical()
        student, pruning = candidate.student, candidate.pruning
    elif name in STUDENTS or ":" in name:
        size = input_size or (224 if stem == "imagenet" else 32)
        fields = {"architecture": name, "width": width, "input_size": size, "stem": stem}
        student = parse_candidate({"student": fields}, "the options given").student
    else:
        known = ", ".join(STUDENTS)
        raise SpaceError(
            f"unknown network {name!r}; expected one of {known}, my_pkg.models:Net, a .xmodel or a candidate's .toml"
        )
    model = build(student, channels=channels, classes=classes, folder=folder or Path.cwd())
    graph = lower(model, (channels, student.input_size, student.input_size))
    if pruning.ratio:  # which channels go is decided on trained weights; until then, evenly
        graph = pruned_estimate(graph, pruning.ratio, granularity=pruning.granularity or 16)
    return graph, model
