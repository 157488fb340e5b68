"""The manifest: what a network is, what goes in and comes out, how it was made, and how it is brought to a board."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from edgesearch.board_eval import MODELLED, Board, Compiler, Dpu, Fingerprint, Graph
from edgesearch.objectives import DataSet
from edgesearch.search.export._compiled import FOLDER, CompiledFile, allowed_features, describe_compiled
from edgesearch.search.export._golden import INPUT, OUTPUT, PICTURES
from edgesearch.search.export._preprocessing import describe_input
from edgesearch.search.study import Record, StudyFile

#: File of the classes, one a line, in the order of the network's outputs.
LABELS = "labels.txt"
_VERSIONS = ("edgesearch", "torch", "torchvision", "optuna", "numpy", "safetensors", "onnx")
#: Where Vitis AI's container keeps the arch.json of AMD's own designs, and the boards that it has one for.
_ARCH = "/opt/vitis_ai/compiler/arch/DPUCZDX8G"
_AMDS_BOARDS = ("zcu102", "zcu104", "kv260")
#: Another DPU's fingerprint comes along in a file of this name, for the compiler to read.
OWN_ARCH_JSON = "arch.json"
_COMPARE = (
    "`xdputil query` on the board prints its DPU's fingerprint; it must equal the one that the xmodel is compiled for. Where "
    "it does not, compile again with `--fingerprint 0x...`, the board's own, which must begin with 0x101 (instruction set 1; "
    "else take another image for the board); for vai_c_xir write "
    '{"fingerprint": "0x..."} into an arch.json of your own.'
)


def model_name(record: Record) -> str:
    """The name that the files carry: the architecture, in letters, digits and underscores."""
    name = record.candidate.student.family
    return "".join(c if c.isalnum() else "_" for c in name)


def make_manifest(
    record: Record,
    settings: StudyFile,
    graph: Graph,
    data: DataSet,
    board: Board,
    *,
    compiler: Compiler = "edgesearch",
    compiled: CompiledFile | None = None,
    test_accuracy: float | None,
) -> dict[str, Any]:
    """The manifest without its checksums, as JSON values; `compiled` is the file of `compiler`, where one was made."""
    name, deployable = model_name(record), record.candidate.deployable
    content = settings.to_json()
    return {
        "study": settings.name,
        "trial": record.number,
        "candidate": record.candidate.model_dump(),
        "candidate_key": record.candidate.key,
        "deployable": deployable,
        "scores": {
            **{name: value for name, value in record.metrics.items() if not name.startswith("estimated_")},
            "test_accuracy": test_accuracy,
            "board": settings.board,
            "conditions": dict(record.conditions),
            **({"measured_by": record.measured_by, "accuracy_of": record.accuracy_of} if record.measured_by else {}),
        },
        "recipes": {part: content[part] for part in ("train", "finetune", "qat", "prune", "teacher")},
        "data": {
            "settings": content["data"],
            "fingerprint": data.fingerprint,
            "preparation": data.preparation,
            "classes": list(data.classes),
        },
        "input": describe_input(settings, graph, data),
        "output": {
            "classes": graph.output.shape[-1],
            "labels": LABELS if deployable else None,
            "fix_position": graph.output.fix,
            "logits": None if graph.output.fix is None else f"int{graph.bits} * 2**-fix_position",
        },
        "board": _board(board),
        "compiler": compiler if deployable else None,
        "compiled": describe_compiled(compiled, name, board) if compiled else None,
        "compile": (_own_line(name, board) if compiler == "edgesearch" else compile_line(name, board)) if deployable else None,
        "golden": {"pictures": PICTURES, "input": INPUT, "output": OUTPUT} if deployable else None,
        "seed": settings.seed,
        "artifacts": dict(record.artifacts),
        "versions": {package: metadata.version(package) for package in _VERSIONS} | {"python": platform.python_version()},
    }


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in the folder, by its path from there: the manifest's last entry, `sha256`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _board(board: Board) -> dict[str, Any]:
    """The board that the trial was scored for: its DPU, and how to tell that another is of the same kind."""
    target = board.target
    return {
        "name": board.name,
        "content": dict(board.content),
        "dpu": target.name,
        "cores": board.content.get("cores"),
        "fingerprint": str(Fingerprint(target.fingerprint)) if target.fingerprint else None,
        "modelled": MODELLED,
        "arch_json": arch_json(board) if target.fingerprint else None,
        "compare": _COMPARE,
    }


def arch_json(board: Board) -> str:
    """The arch.json that the compiler is given: AMD's for its own boards as AMD ships them, else one that is exported."""
    target = board.target
    is_amds = board.name in _AMDS_BOARDS and isinstance(target, Dpu) and bool(target.arch_json)
    return f"{_ARCH}/{board.name.upper()}/arch.json" if is_amds else OWN_ARCH_JSON


def compile_line(name: str, board: Board) -> str:
    """The line that makes the file for the board in Vitis AI's container."""
    return f"vai_c_xir --xmodel {name}_int.xmodel --arch {arch_json(board)} --net_name {name} --output_dir {FOLDER}"


def _own_line(name: str, board: Board) -> str:
    """The line that makes the file for the board again."""
    mark = Fingerprint(board.target.fingerprint)
    allowed = "".join(f" --allow {feature}" for feature in allowed_features(board))
    return f"edgesearch compile {name}_int.xmodel --fingerprint {mark}{allowed} --output {FOLDER}/{name}.xmodel"
