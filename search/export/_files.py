"""A trial as files that can be deployed: xmodels, ONNX, float weights, golden images, a runner, and the manifest."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from edgesearch.board_eval import Board, Compiler, Dpu, Fingerprint, Graph, find_board, write_onnx, write_xmodel
from edgesearch.board_eval.runner import CPP_NAME, PYTHON_NAME, runner_cpp_source, runner_source
from edgesearch.errors import StudyError, ToolchainError
from edgesearch.files import parse_json
from edgesearch.objectives import Artifact, ArtifactStore, DataSet, Stage, load_graph
from edgesearch.search.export._artifacts import float_artifact, stored_artifact
from edgesearch.search.export._compiled import CompiledFile, CompileJob, no_file, write_compiled, write_vitis_compiled
from edgesearch.search.export._golden import write_golden
from edgesearch.search.export._manifest import (
    LABELS,
    OWN_ARCH_JSON,
    arch_json,
    checksums,
    compile_line,
    make_manifest,
    model_name,
)
from edgesearch.search.export._readme import README, make_readme
from edgesearch.search.study import Record, StudyFile

MANIFEST = "manifest.json"


def export_trial(
    record: Record,
    settings: StudyFile,
    data: DataSet,
    store: ArtifactStore,
    output: Path,
    *,
    compiler: Compiler = "edgesearch",
    compiled: Callable[[Artifact], Stage | None] | None = None,
    test_accuracy: float | None = None,
    note: Callable[[str], object] | None = None,
) -> Path:
    """All files of one trial in `output`/trial-N, whole or not at all; an earlier export of the trial is replaced.

    Nothing else is: a folder there that is another study's, or has files that no export wrote, is refused with StudyError.

    `compiled` says of the quantized network's artifact which stage makes its file for the board, if one does. `note` is told
    where there is no file for a board: of a candidate for analysis, and where Vitis AI is to compile and cannot. Returns the
    folder. Raises StudyError when the trial is not COMPLETE, when the store no longer has its networks, and when the folder
    cannot be written; CompileError when the network cannot be compiled.
    """
    network = stored_artifact(store, record, "quantized")
    graph = load_graph(network)
    board = find_board(settings.board, folder=settings.folder, compiler=compiler, allow=settings.allow)
    target = output / f"trial-{record.number:04d}"
    temporary = output / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        _check_replaceable(target, settings.name, record)
        temporary.mkdir(parents=True)
        _write_network(temporary, graph, record, store)
        file: CompiledFile | None = None
        if not isinstance(board.target, Dpu):
            compiler = "vai"  # this program has no compiler for a target of the user's own
        if record.candidate.deployable:
            _write_arch_json(temporary, board)
            write_golden(graph, data, temporary)
            stage = None if compiled is None else compiled(network)
            job = CompileJob(temporary, model_name(record), graph, board, data, store, stage, network.key)
            try:
                file = _write_compiled(job, compiler, settings)
            except ToolchainError as error:
                (note or _silent)(no_file(error, target, compile_line(job.name, board)))
            _write_programs(temporary, data)
        manifest = make_manifest(
            record, settings, graph, data, board, compiler=compiler, compiled=file, test_accuracy=test_accuracy
        )
        if record.candidate.deployable:
            shape = data.calibration.images.shape
            (temporary / README).write_text(make_readme(manifest, target.name, model_name(record), shape), encoding="utf-8")
        manifest["sha256"] = checksums(temporary)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _put_in_place(temporary, target)
        if not record.candidate.deployable:
            (note or _silent)(f"trial {record.number} has no file for a board: {record.candidate.hindrance}")
    except OSError as error:
        why = error.strerror or error  # numpy's own errors have no number
        raise StudyError(f"trial {record.number} cannot be written to {target}: {why}; give another -o") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write_compiled(job: CompileJob, compiler: Compiler, settings: StudyFile) -> CompiledFile | None:
    """The file for the board; None for a target of the user's own.

    Raises ToolchainError where Vitis AI is to compile and cannot.
    """
    if compiler == "edgesearch":
        return write_compiled(job)
    return write_vitis_compiled(job, settings.vitis) if isinstance(job.board.target, Dpu) else None


def _write_arch_json(folder: Path, board: Board) -> None:
    """The board's arch.json, for Vitis AI's compiler, unless its container has it."""
    if arch_json(board) == OWN_ARCH_JSON and board.target.fingerprint:
        content = {"fingerprint": str(Fingerprint(board.target.fingerprint))}
        (folder / OWN_ARCH_JSON).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _check_replaceable(target: Path, study: str, record: Record) -> None:
    """Raise StudyError unless nothing is lost where the trial's folder is made anew."""
    if target.is_symlink():
        raise StudyError(f"{target} is a link; give another -o, or take it away")
    if not target.exists():
        return
    try:
        manifest = parse_json((target / MANIFEST).read_text(encoding="utf-8"))
        whose, written = manifest["study"], {MANIFEST, *manifest["sha256"]}
        network = manifest.get("artifacts", record.artifacts).get("quantized")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise StudyError(f"{target} is there already and is no export; give another -o") from None
    if whose != study:
        raise StudyError(f"{target} is there already and is of the study {whose!r}; give another -o")
    if network != record.artifacts.get("quantized"):
        raise StudyError(
            f"{target} is there already and has another network, of a study of the same name; give another -o, or remove it"
        )
    others = sorted({path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()} - written)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise StudyError(f"{target} has files that no export wrote ({others[0]}{more}); move them, or give another -o")


def _put_in_place(temporary: Path, target: Path) -> None:
    """Give the folder its name; what had it is deleted only then."""
    if not target.exists():
        os.rename(temporary, target)
        return
    aside = temporary.with_name(f"{temporary.name}-old")
    try:
        os.rename(target, aside)
        os.rename(temporary, target)
    except BaseException:  # stopped in between: the earlier export stays
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _silent(line: str) -> None:
    """Nobody asked."""


def _write_programs(folder: Path, data: DataSet) -> None:
    """What runs on the board, and what the classes are called."""
    (folder / PYTHON_NAME).write_bytes(runner_source())
    (folder / CPP_NAME).write_bytes(runner_cpp_source())
    (folder / LABELS).write_text("".join(" ".join(name.split()) + "\n" for name in data.classes), encoding="utf-8")


def _write_network(folder: Path, graph: Graph, record: Record, store: ArtifactStore) -> None:
    name = model_name(record)
    if record.candidate.deployable:
        write_xmodel(graph, folder / f"{name}_int.xmodel")
        write_onnx(graph, folder / f"{name}_int.onnx")
    weights = float_artifact(store, record)
    if weights is not None:
        shutil.copyfile(weights.file("weights"), folder / f"{name}_float.safetensors")
