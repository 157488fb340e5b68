"""Results: what finished studies found, as one small JSON file that can be kept beside the code and shown again.

A file has one run for each study: its settings, the machine and the versions that made it, the seconds of its stages, and every
complete trial with its figures.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgesearch.errors import SpaceError, StudyError
from edgesearch.files import parse_json, write_atomically
from edgesearch.objectives import STAGE_KINDS
from edgesearch.objectives.data import can_download
from edgesearch.search.study import Record, StudyFile, StudyView, pareto_front
from edgesearch.settings import explain

FORMAT = 1
#: What the command line may say in a study file's place, and what a file means that does not.
_DEFAULTS = {name: StudyFile.model_fields[name].default for name in ("seed", "board", "boards", "score")}
#: Figures of a trial that are kept, in this order, where it has them.
_FIGURES = (
    "accuracy",
    "float_accuracy",
    "fps",
    "fps_error",
    "latency_fps",
    "latency_ms",
    "latency_error",
    "size_bytes",
    "macs",
    "parameters",
    # of a board that measured
    "simulated_fps",
    "power_w",
    "joules",
    "net_joules",
)


def run_of(
    view: StudyView,
    settings: Mapping[str, Any],
    made_by: Iterable[Mapping[str, Any]],
    seconds: Mapping[str, float],
    *,
    file: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One study as a run of a results file, as JSON values.

    `settings` are the study's as they are stored; where its files and its store lie is left out. `made_by` is what the store
    says of the machines that made its artifacts, `seconds` how long they took, by kind of stage. `file` is the study file's
    name, or that of a bundled study; None: the study's. `own` are the settings that the file itself has, None where it is not
    there any more: the command says in full what the command line may have changed of them.
    """
    made_by = list(made_by)
    threads = _all_of(made_by, "threads")
    members = {record.number for record in pareto_front(view)}
    complete = [record for record in view.records if record.is_complete]
    return {
        "study": view.name,
        "command": _command(view, settings, threads, file or view.name, own),
        "settings": _without_places(settings),
        "validation_images": view.validation_images,
        "machine": {"processors": _all_of(made_by, "processor"), "device": _all_of(made_by, "device"), "threads": threads},
        "versions": {
            name: sorted({made["versions"][name] for made in made_by if name in made.get("versions", {})})
            for name in sorted({name for made in made_by for name in made.get("versions", {})})
        },
        "stage_seconds": {kind: round(seconds[kind], 1) for kind in sorted(seconds, key=_order)},
        "trials": [_trial(view, record, record.number in members) for record in complete],
    }


def study_of(run: Mapping[str, Any]) -> StudyFile:
    """The study that a run of a results file is of, whatever the file that its command names says today.

    Its data are downloaded where they can be; others, and weights, have no place but their names. Raises SpaceError for
    settings that this version does not know.
    """
    try:
        study = StudyFile.model_validate(run["settings"])
    except ValidationError as error:
        raise SpaceError(f"the settings of study {run['study']!r}: {explain(error)}") from error
    if not can_download(study.data.name):
        return study
    return study.model_copy(update={"data": study.data.model_copy(update={"download": True})})


def write_results(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write a results file; raises StudyError when that is not possible, or would take the place of another kind of file."""
    content = json.dumps({"format": FORMAT, "runs": list(runs)}, indent=1, allow_nan=False, ensure_ascii=False)
    try:
        if path.exists() and not _is_results(path):
            raise StudyError(f"{path} is no results file, which would take its place; name another folder, or remove it first")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (content + "\n").encode())
    except OSError as error:
        raise StudyError(f"the results cannot be written to {path} ({error.strerror or error}); name another file") from error


def _is_results(path: Path) -> bool:
    """Whether the file is one of results, of this version or another one."""
    try:
        return {"format", "runs"} <= set(parse_json(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return False


def read_results(path: Path) -> list[dict[str, Any]]:
    """The runs of a results file; raises StudyError for what is none."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        runs: list[dict[str, Any]] = content["runs"] if content["format"] == FORMAT else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is no results file ({error}); `edgesearch results` writes one") from error
    if not runs:
        raise StudyError(f"{path} is a results file of another version, or has no run; make it anew with `edgesearch results`")
    return runs


def _command(
    view: StudyView, settings: Mapping[str, Any], threads: Sequence[int], file: str, own: Mapping[str, Any] | None
) -> str:
    def differs(*names: str) -> bool:
        return own is None or any(_setting(settings, name) != _setting(own, name) for name in names)

    words = ["edgesearch optimize", shlex.quote(file)]
    words += ["--name", shlex.quote(view.name)] if own is None or own.get("name") != view.name else []
    ended = sum(record.state != "RUNNING" for record in view.records)
    is_open = settings.get("space") or ended < len(settings.get("candidates") or ())
    words += ["--trials", str(ended)] if ended and is_open else []
    for name in (_setting(settings, "board"), *_setting(settings, "boards")) if differs("board", "boards") else ():
        words += ["--board", shlex.quote(_placeless(name))]
    words += ["--score", _setting(settings, "score")] if differs("score") else []
    words += ["--seed", str(_setting(settings, "seed"))] if differs("seed") else []
    return " ".join(words + (["--threads-per-stage", str(threads[0])] if len(threads) == 1 and threads[0] != 1 else []))


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    value = settings.get(name, _DEFAULTS[name])
    return tuple(value) if isinstance(value, list) else value


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in ("vitis", "store")}
    data = {name: value for name, value in settings.get("data", {}).items() if name not in ("root", "download")}
    return {name: _placeless(value) for name, value in (kept | {"data": data}).items()}


def _placeless(value: Any) -> Any:
    """A setting whose whole paths (of weights, of a board's profile) are the names of their files."""
    if isinstance(value, Mapping):
        return {name: _placeless(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_placeless(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _all_of(made_by: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return sorted({made[name] for made in made_by if name in made})


def _order(kind: str) -> tuple[int, str]:
    return (STAGE_KINDS.index(kind) if kind in STAGE_KINDS else len(STAGE_KINDS)), kind


def _trial(view: StudyView, record: Record, on_front: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {name: record.figure(name) for name in _FIGURES if record.figure(name) is not None}
    figures = {name: float(f"{value:.6g}") for name, value in figures.items()}
    tests = {"test_accuracy": view.test_accuracy, "float_test_accuracy": view.float_test_accuracy}
    return {
        "trial": record.number,
        "recipe": record.recipe,
        "settings": _placeless(record.settings),
        "deployable": record.deployable,
        "front": on_front,
        **figures,
        **({"measured_by": record.measured_by, "accuracy_of": record.accuracy_of} if record.measured_by else {}),
        **{name: values[record.number] for name, values in tests.items() if record.number in values},
    }
