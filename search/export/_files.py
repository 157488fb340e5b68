"""A trial as files that can be deployed: xmodels, ONNX, float weights, golden images, a runner, and the manifest."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

from edgesearch.board_eval import Board, CompiledXmodel, Compiler, Dpu, Fingerprint, Graph, find_board, write_onnx, write_xmodel
from edgesearch.board_eval.runner import CPP_NAME, PYTHON_NAME, runner_cpp_source, runner_source
from edgesearch.errors import StudyError
from edgesearch.objectives import DataSet, Stage, Store, load_graph
from edgesearch.search.export._artifacts import float_artifact, stored_artifact
from edgesearch.search.export._compiled import write_compiled
from edgesearch.search.export._golden import write_golden
from edgesearch.search.export._manifest import LABELS, OWN_ARCH_JSON, arch_json, checksums, make_manifest, model_name
from edgesearch.search.export._readme import README, make_readme
from edgesearch.search.study import Record, StudyFile

MANIFEST = "manifest.json"


def export_trial(
    record: Record,
    settings: StudyFile,
    data: DataSet,
    store: Store,
    output: Path,
    *,
    compiler: Compiler = "edgesearch",
    compiled: Stage | None = None,
    test_accuracy: float | None = None,
) -> Path:
    """All files of one trial in `output`/trial-N, whole or not at all; an earlier export of the trial is replaced.

    `compiled` is the stage that makes its file for the board, where there is one. Returns the folder. Raises StudyError when
    the trial is not COMPLETE, when the store no longer has its networks, and when the folder cannot be written; CompileError
    when the network cannot be compiled.
    """
    graph = load_graph(stored_artifact(store, record, "quantized"))
    board = find_board(settings.board, folder=settings.folder, compiler=compiler, allow=settings.allow)
    target = output / f"trial-{record.number:04d}"
    temporary = output / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        _write_network(temporary, graph, record, store)
        xmodel: CompiledXmodel | None = None
        if record.candidate.deployable:
            write_golden(graph, data, temporary)
            if _compiles(compiler, board):
                key = record.artifacts["quantized"]
                xmodel = write_compiled(temporary, model_name(record), graph, board, data, store, compiled, key)
            elif arch_json(board.target) == OWN_ARCH_JSON:
                content = {"fingerprint": str(Fingerprint(board.target.fingerprint))}
                (temporary / OWN_ARCH_JSON).write_text(json.dumps(content) + "\n")
            (temporary / PYTHON_NAME).write_bytes(runner_source())
            (temporary / CPP_NAME).write_bytes(runner_cpp_source())
            (temporary / LABELS).write_text("".join(" ".join(name.split()) + "\n" for name in data.classes))
        manifest = make_manifest(record, settings, graph, data, board, xmodel=xmodel, test_accuracy=test_accuracy)
        if record.candidate.deployable:
            shape = data.calibration.images.shape
            (temporary / README).write_text(make_readme(manifest, target.name, model_name(record), shape))
        manifest["sha256"] = checksums(temporary)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
    except OSError as error:
        raise StudyError(f"trial {record.number} cannot be written to {target}: {error.strerror}; give another -o") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _compiles(compiler: Compiler, board: Board) -> bool:
    """Whether this program makes the file for the board; it has no compiler for a target of the user's own."""
    return compiler == "edgesearch" and isinstance(board.target, Dpu)


def _write_network(folder: Path, graph: Graph, record: Record, store: Store) -> None:
    name = model_name(record)
    if record.candidate.deployable:
        write_xmodel(graph, folder / f"{name}_int.xmodel")
        write_onnx(graph, folder / f"{name}_int.onnx")
    weights = float_artifact(store, record)
    if weights is not None:
        shutil.copyfile(weights.path / "weights.safetensors", folder / f"{name}_float.safetensors")
