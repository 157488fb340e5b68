"""`edgesearch export`: a trial as files that can be deployed, with a manifest that ties them together."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import optuna

from edgesearch.board_eval import Graph, write_onnx, write_xmodel
from edgesearch.errors import StudyError
from edgesearch.objectives import Artifact, Store, load_data, load_graph
from edgesearch.search.commands._show import find_study
from edgesearch.search.study import Home, Record, StudyView, choose, pareto_front, read_study, stored_settings
from edgesearch.search.study import knee as find_knee

_VERSIONS = ("edgesearch", "torch", "torchvision", "torch-pruning", "optuna", "numpy", "safetensors", "onnx")
#: The stage whose weights are the float network that was quantized, the later one first.
_FLOAT_STAGES = ("pruned", "student")


def export(
    *,
    trial: int | None,
    knee: bool,
    min_accuracy: float | None,
    min_fps: float | None,
    front: bool,
    output: Path,
    study_name: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Write the chosen trials below `output`; returns the exit code."""
    ways = {"--trial": trial is not None, "--knee": knee, "--front": front, "--min-accuracy or --min-fps": False}
    ways["--min-accuracy or --min-fps"] = min_accuracy is not None or min_fps is not None
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) != 1:
        raise click.UsageError(f"say which trial in one way ({', '.join(ways)}); given: {', '.join(given) or 'none'}")
    study = find_study(study_name, storage, home)
    view = read_study(study)
    records = _select(view, trial=trial, at_knee=knee, min_accuracy=min_accuracy, min_fps=min_fps)
    for record in records:
        folder = write_trial(record, study, Store(Home(home).store, warn=click.echo), output)
        click.echo(f"trial {record.number}  {record.candidate}  ->  {folder}")
    return 0


def _select(
    view: StudyView, *, trial: int | None, at_knee: bool, min_accuracy: float | None, min_fps: float | None
) -> list[Record]:
    if trial is not None:
        found = [record for record in view.records if record.number == trial]
        if not found:
            raise StudyError(f"study {view.name!r} has no trial {trial}; it has {len(view.records)}, numbered from 0")
        if not found[0].is_complete:
            raise StudyError(f"trial {trial} of study {view.name!r} is {found[0].state}, only COMPLETE ones can be exported")
        return found
    front = pareto_front(view)
    if not front:
        raise StudyError(
            f"study {view.name!r} has no feasible, deployable trial yet; run more trials or loosen its constraints"
        )
    if at_knee:
        chosen = find_knee(front)
        return [chosen] if chosen is not None else []
    if min_accuracy is None and min_fps is None:
        return list(front)
    best = choose(front, min_accuracy=min_accuracy, min_fps=min_fps)
    if best is None:
        reach = ", ".join(
            f"{r.accuracy:.2%} at {r.fps:,.0f} FPS" for r in front if r.accuracy is not None and r.fps is not None
        )
        raise StudyError(f"no member of the front keeps these limits; the front is {reach}")
    return [best]


def write_trial(record: Record, study: optuna.Study, store: Store, output: Path) -> Path:
    """All files of one trial in `output`/trial-N, whole or not at all; an earlier export of the trial is replaced."""
    settings = stored_settings(study)
    quantized = _artifact(store, record, "quantized")
    graph = load_graph(quantized)
    target = output / f"trial-{record.number:04d}"
    temporary = output / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, graph, record, store)
        manifest = _manifest(record, study, graph, temporary, settings)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
    except OSError as error:
        raise StudyError(f"trial {record.number} cannot be written to {target}: {error.strerror}; give another -o") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _artifact(store: Store, record: Record, kind: str) -> Artifact:
    artifact = store.get(kind, record.artifacts[kind])
    if artifact is None:
        raise StudyError(
            f"the {kind} network of trial {record.number} is no longer in the store; "
            "`edgesearch evaluate` with its candidate makes it again"
        )
    return artifact


def model_name(record: Record) -> str:
    """The name that the files carry: the architecture, in letters, digits and underscores."""
    name = record.candidate.student.architecture.rpartition(":")[2]
    return "".join(c if c.isalnum() else "_" for c in name)


def _write_files(folder: Path, graph: Graph, record: Record, store: Store) -> None:
    name = model_name(record)
    if record.candidate.deployable:
        write_xmodel(graph, folder / f"{name}_int.xmodel")
        write_onnx(graph, folder / f"{name}_int.onnx")
    kind = next((kind for kind in _FLOAT_STAGES if kind in record.artifacts), None)
    if kind is not None:  # QAT from scratch has no float network
        source = _artifact(store, record, kind).path / "weights.safetensors"
        shutil.copyfile(source, folder / f"{name}_float.safetensors")


def _manifest(record: Record, study: optuna.Study, graph: Graph, folder: Path, settings: Any) -> dict[str, Any]:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    data = load_data(settings.data)
    name = model_name(record)
    xmodel = f"{name}_int.xmodel"
    compile_line = (
        f"vai_c_xir --xmodel {xmodel} --arch /opt/vitis_ai/compiler/arch/DPUCZDX8G/ZCU104/arch.json "
        f"--net_name {name} --output_dir compiled"
    )
    return {
        "study": settings.name,
        "trial": record.number,
        "candidate": record.candidate.model_dump(),
        "candidate_key": record.candidate.key,
        "deployable": record.candidate.deployable,
        "scores": {
            **{name: value for name, value in record.metrics.items() if not name.startswith("estimated_")},
            "test_accuracy": dict(study.user_attrs.get("test_accuracy", {})).get(str(record.number)),
            "board": f"{settings.board}, simulated",
        },
        "recipes": {part: settings.to_json()[part] for part in ("train", "finetune", "qat", "prune", "teacher")},
        "data": {
            "settings": settings.to_json()["data"],
            "fingerprint": data.fingerprint,
            "classes": list(data.classes),
        },
        "input": {
            "shape": list(graph.input.shape),
            "fix_position": graph.input.fix,
            "mean": list(data.normalisation.mean),
            "std": list(data.normalisation.std),
            "quantize": "clamp(floor((u8 / 255 - mean) / std * 2**fix_position + 0.5), -128, 127): saturate, do not wrap",
        },
        "output": {"classes": graph.output.shape[-1], "fix_position": graph.output.fix},
        "seed": settings.seed,
        "artifacts": record.artifacts,
        "versions": {package: metadata.version(package) for package in _VERSIONS} | {"python": platform.python_version()},
        "sha256": files,
        "compile": compile_line if record.candidate.deployable else None,
    }
