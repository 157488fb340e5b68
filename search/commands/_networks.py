"""From what a person names on the command line to a Graph: a student, an import path, a candidate file or an xmodel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgesearch.board_eval import Graph, Target, lower, pruned_estimate, read_xmodel
from edgesearch.errors import SpaceError
from edgesearch.files import expanded, parse_toml
from edgesearch.plugins import source_fingerprint
from edgesearch.search.study import unread_choices, unread_students
from edgesearch.spaces import (
    PRESETS,
    STUDENTS,
    TORCHVISION_STUDENTS,
    Candidate,
    Pruning,
    build,
    complete,
    is_staged_name,
    parse_candidate,
)

if TYPE_CHECKING:
    from torch import nn

_CHANNELS, _CLASSES = 3, 10


def read_candidate(path: Path) -> Candidate:
    """The candidate of a TOML file; raises SpaceError when it is not one. Relative weights start at the file's folder."""
    try:
        tables = parse_toml(path.read_bytes())
    except OSError as error:
        raise SpaceError(f"candidate file {str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SpaceError(f"{path} is not valid TOML: {error}") from error
    student = tables.get("student")
    if isinstance(student, dict) and student.get("weights") not in (None, "", "imagenet"):
        student["weights"] = str(path.resolve().parent / expanded(str(student["weights"]), f"{path}: weights", SpaceError))
    candidate = parse_candidate(tables, str(path))
    if unread := unread_students({"student": candidate.student}, None) or unread_choices({"": candidate}):
        raise SpaceError(f"{path}: {unread}")
    return candidate


# Long for its arguments, and for what is told of them.
def find_network(
    name: str,
    *,
    width: float | None = None,
    input_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    stem: str | None = None,
    folder: Path | None = None,
    target: Target,
    seconds: Callable[[Graph], float] | None = None,
) -> tuple[Graph, nn.Module | None]:
    """The network called `name`, and the untrained model behind it unless it is an xmodel.

    What is left out is width 1, three channels, ten classes and an ImageNet stem at 224 pixels; 32 pixels for a small stem and
    for staged networks. A model by import path is looked for beside the candidate's file that names it, then in `folder`; left
    out, in the working directory. `target` is the DPU that is to run the network, `seconds` what one takes on the board.
    Raises SpaceError for an option that the file has decided already or that the student does not have, and where no board says
    how much a candidate loses that is pruned by time; PluginError or SpaceError for an unknown name, and for a model whose
    outputs are not the `classes` that were asked for; XmodelError or LoweringError for what cannot be read or run.
    """
    shape = {"--width": width, "--input-size": input_size, "--stem": stem}
    if name.endswith(".xmodel"):
        _refuse(name, shape | {"--channels": channels, "--classes": classes})
        return read_xmodel(Path(name)), None
    folder = folder or Path.cwd()
    pruning = Pruning()
    if name.endswith(".toml"):
        _refuse(name, shape)
        candidate = read_candidate(Path(name)).canonical()
        student, pruning = candidate.student, candidate.pruning
        beside = Path(name).resolve().parent
        if source_fingerprint(student.architecture, folder=beside):
            folder = beside
    elif name in STUDENTS or is_staged_name(name) or ":" in name:
        begins = stem or ("small" if name in PRESETS or is_staged_name(name) else "imagenet")
        is_large = begins == "imagenet" and (name in TORCHVISION_STUDENTS or ":" in name)
        size = input_size or (224 if is_large else 32)
        fields = {"architecture": name, "width": 1.0 if width is None else width, "input_size": size, "stem": begins}
        student = parse_candidate({"student": fields}, "the options given").student
        if stem and (unread := unread_students({"student": student}, None)):
            raise SpaceError(f"the options given: {unread}")
        if width is not None and complete(student, folder=folder).width != width:
            raise SpaceError(
                f"--width is {width:g}, and {name} takes none; leave it out, or give its class an argument `width`"
            )
    else:
        known = ", ".join(STUDENTS)
        raise SpaceError(
            f"unknown network {name!r}; expected one of {known}, a staged network such as {str(PRESETS['resnet8'])!r}, "
            "my_pkg.models:Net, a .xmodel or a candidate's .toml"
        )
    channels = channels or _CHANNELS
    model = build(student, channels=channels, classes=classes or _CLASSES, folder=folder)
    graph = lower(model, (channels, student.input_size, student.input_size), target=target)
    outputs = graph.output.shape[-1]
    if classes is not None and outputs != classes:
        raise SpaceError(
            f"network {name!r} has {outputs} outputs, not the {classes} of --classes; give its class an argument `num_classes` "
            "and use it for the last layer"
        )
    if pruning.removes:  # which channels go is decided on trained weights; until then, evenly
        cost: Callable[[Graph], float] = _macs
        if pruning.target == "fps":
            if seconds is None:
                raise SpaceError(f"{name!r} is pruned by a board's time, and no board is given here; use target = 'macs'")
            cost = seconds
        graph = pruned_estimate(graph, pruning.ratio, granularity=pruning.granularity or target.channel_parallel, cost=cost)
    return graph, model


def _macs(graph: Graph) -> float:
    return graph.macs


def _refuse(name: str, options: Mapping[str, object]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise SpaceError(f"{' and '.join(given)} cannot be used with {name!r}, which says so itself; change the file instead")
