"""The file that the board runs, beside the exported network, and what the manifest says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesearch.board_eval import (
    Board,
    CompiledXmodel,
    Compiler,
    Dpu,
    Feature,
    Graph,
    Options,
    SimulatedBoard,
    VitisSettings,
    compare_compilers,
    compile_xmodel,
)
from edgesearch.errors import CompileError, QuantizationError, ToolchainError
from edgesearch.objectives import Artifact, ArtifactStore, DataSet, Stage, compiled_content, golden_images, vitis_file
from edgesearch.search.export._golden import INPUT

#: Folder of the compiled file, where vai_c_xir is told to write it, too.
FOLDER = "compiled"

_VERIFIED = (
    "its instructions were checked (their order, tokens and limits), and executed in a simulation of the DPU they gave the "
    f"integers of the network on every image of {INPUT}"
)
_SILICON = (
    "what the instructions mean was confirmed with published results of AMD's own programs on boards; programs of this "
    "compiler are verified in simulation, and this project has not yet run one on silicon"
)
_VITIS_CHECKED = (
    "one DPU subgraph with every layer of the network, for this fingerprint; its logits in a simulation are compared"
)


@dataclass(frozen=True)
class CompiledFile:
    """The compiled file of an export. `figures` is what is in it; `comparison` stands beside the other compiler's, if any."""

    xmodel: CompiledXmodel
    compiler: Compiler
    figures: Mapping[str, Any]
    comparison: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CompileJob:
    """A network of an export that is to be compiled into `folder`/compiled/`name`.xmodel.

    `stage` is the one that made its file when the study ended, if any did; `quantized` is the key of the network's stage, which
    an earlier version of this program may have made.
    """

    folder: Path
    name: str
    graph: Graph
    board: Board
    data: DataSet
    store: ArtifactStore
    stage: Stage | None
    quantized: str

    def stored(self, compiler: Compiler) -> Artifact | None:
        """What the store has of this compiler's file of this network."""
        if self.stage is None or self.stage.inputs["network"].key != self.quantized:
            return None
        if self.stage.parameters.get("compiler", "edgesearch") != compiler:
            return None
        return self.store.get(self.stage.kind, self.stage.key)

    def own(self) -> CompiledXmodel:
        """What this program's compiler makes of it."""
        options = Options(allow=frozenset(allowed_features(self.board)))
        return compile_xmodel(self.graph, self.board.target, options, images=golden_images(self.graph, self.data))

    def write(self, content: bytes) -> CompiledXmodel:
        """Write the file, and read it again."""
        path = self.folder / FOLDER / f"{self.name}.xmodel"
        path.parent.mkdir()
        path.write_bytes(content)
        return CompiledXmodel.read(path)


def write_compiled(job: CompileJob) -> CompiledFile:
    """Write the file of this program's compiler: the store's, else compiled now.

    Raises CompileError for a network that cannot be compiled, with what else can be done.
    """
    artifact = job.stored("edgesearch")
    try:
        content = job.own().content if artifact is None else compiled_content(artifact)
    except (CompileError, QuantizationError) as error:
        raise CompileError(f"{error}; --compiler vai exports what Vitis AI's compiler takes") from error
    xmodel = job.write(content)
    return CompiledFile(xmodel, "edgesearch", xmodel.facts())


def write_vitis_compiled(job: CompileJob, vitis: VitisSettings) -> CompiledFile:
    """Write the file of AMD's compiler: the store's, else compiled now; this program's is compared with it.

    Raises CompileError for a network of which the CPU would have to do a layer, ToolchainError where there is no compiler, or
    where it fails without a reason.
    """
    assert isinstance(job.board.target, Dpu)
    artifact = job.stored("vai")
    if artifact is not None:
        content, figures = compiled_content(artifact), dict(artifact.figures)
    else:
        made = vitis_file(job.graph, job.board.target, vitis)
        content, figures = made.xmodel.content, made.facts()
    xmodel = job.write(content)
    return CompiledFile(xmodel, "vai", figures, _comparison(job, xmodel))


def _comparison(job: CompileJob, xmodel: CompiledXmodel) -> dict[str, Any] | None:
    """AMD's file beside this program's, on the golden images; None for a board that is no profile to time code on."""
    if not isinstance(job.board, SimulatedBoard):
        return None
    try:
        files = {"vai": xmodel, "edgesearch": job.own()}
    except (CompileError, QuantizationError) as error:
        return {"problem": f"edgesearch does not compile it: {error}"}
    images = golden_images(job.graph, job.data)
    return compare_compilers(files, images, job.board.profile, runner=job.board.runner).to_json()


def no_file(error: ToolchainError, folder: Path, line: str) -> str:
    """What to tell of an export that Vitis AI's compiler could not compile: what is missing, and the command."""
    return f"not compiled for the board: {error}; then, in {folder}: {line}"


def allowed_features(board: Board) -> tuple[Feature, ...]:
    """What the code may use beyond what measured files have."""
    return board.allow if isinstance(board, SimulatedBoard) else ()


def describe_compiled(file: CompiledFile, name: str, board: Board) -> dict[str, Any]:
    """The manifest's words on the compiled file."""
    path = f"{FOLDER}/{name}.xmodel"
    own = file.compiler == "edgesearch"
    return {
        "file": path,
        **file.figures,
        "predicted": _predicted(file.xmodel, board),
        **({"verified": _VERIFIED, "silicon": _SILICON} if own else {"verified": _VITIS_CHECKED}),
        **({} if file.comparison is None else {"compared": dict(file.comparison)}),
        "confirm": f"python3 run_on_board.py {path}",
    }


def _predicted(xmodel: CompiledXmodel, board: Board) -> dict[str, Any] | None:
    """The time of its code; None for a board that measures."""
    if not isinstance(board, SimulatedBoard):
        return None
    return xmodel.time(board.profile, runner=board.runner).figures()
