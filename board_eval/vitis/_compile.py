"""From a quantized xmodel to a file for the board, by AMD's compiler; what it made is read and checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from edgesearch.board_eval.deployment import CompiledXmodel
from edgesearch.board_eval.targets import Dpu, Fingerprint
from edgesearch.board_eval.vitis._engine import Container, find_container
from edgesearch.board_eval.vitis._log import Given, given_to_cpu, unsupported
from edgesearch.board_eval.vitis._native import Native
from edgesearch.board_eval.vitis._process import Finished, last_lines, run_command
from edgesearch.board_eval.vitis._settings import VitisSettings
from edgesearch.board_eval.xmodel import Subgraph, cpu_operations, describe_subgraphs, is_compiled, read_subgraphs
from edgesearch.errors import CompileError, ToolchainError, ToolchainMissing, XmodelError
from edgesearch.files import parse_json, temporary_folder

__all__ = ["COMPILER", "CompilerPlace", "VitisCompiled", "compile_with_vitis", "find_compiler"]

CompilerPlace: TypeAlias = Native | Container

COMPILER = "vai_c_xir"
#: Files of a job. They have the same names for every network: nothing in a command line comes from a study.
_INPUT, _ARCH, _NAME, _OUTPUT = "network_int.xmodel", "arch.json", "network", "compiled"
#: Runs of a compiler that fails without saying why: users saw it succeed at the second.
_TRIES = 2


@dataclass(frozen=True)
class VitisCompiled:
    """A file of AMD's compiler for one DPU, with one DPU subgraph and no layer left to the CPU."""

    xmodel: CompiledXmodel
    subgraphs: tuple[Subgraph, ...]
    #: What ran the compiler, in words; what decides what it makes; what it printed.
    how: str
    toolchain: str
    log: str = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """What is in the file, as JSON values, and who made it."""
        model = self.xmodel.model
        return {
            **self.xmodel.facts(),
            "workload": model.workload,
            "workload_on_arch": model.workload_on_arch,
            "subgraphs": [{"device": one.device, "operations": len(one.operations)} for one in self.subgraphs],
            "compiler": {"name": COMPILER, "toolchain": self.toolchain, "how": self.how},
        }


def find_compiler(settings: VitisSettings) -> CompilerPlace:
    """vai_c_xir: the one on PATH, the one beside [vitis] python, or the container's.

    Raises ToolchainMissing, one sentence that says what is missing and gives the command that gets it.
    """
    python = shutil.which(settings.python) if settings.python else None
    beside = shutil.which(COMPILER, path=os.path.dirname(os.path.abspath(python))) if python else None
    native = shutil.which(COMPILER) or beside
    if native is not None:
        return Native(Path(os.path.abspath(native)))
    try:
        return find_container(settings, COMPILER)
    except ToolchainError as error:
        raise ToolchainMissing(f"{COMPILER} is not on PATH, and {error}") from error


def compile_with_vitis(
    xmodel: Path, target: Dpu, settings: VitisSettings, *, arch_json: Path | None = None, log: Path | None = None
) -> VitisCompiled:
    """Compile a quantized xmodel for a DPU with vai_c_xir, and check what it made.

    The compiler is told the DPU by its fingerprint, or by the file `arch_json`. A failure that it does not explain is tried
    again once. What it printed is kept in `log`; where None, in a file of the temporary folder if it fails. Raises CompileError
    for a network of which the CPU would have to do a layer, naming the layer, for a file for another DPU, and for a DPU whose
    fingerprint is not known; ToolchainMissing where there is no compiler; ToolchainError where it fails without a reason, and
    for an `arch_json` that is none; TargetError for a fingerprint in it that is none; XmodelError for a file that is no
    quantized xmodel.
    """
    place = find_compiler(settings)
    if is_compiled(xmodel):
        raise XmodelError(f"{xmodel} is compiled already, expected a quantized xmodel")
    with temporary_folder("edgesearch-vitis-") as folder:
        own_log = folder / "log.txt"
        try:
            _fill(folder, xmodel, _arch_content(target, arch_json))
            compiled = _compile(place, folder, target, settings, own_log, xmodel.name)
        except (CompileError, ToolchainError) as error:
            kept = _keep(own_log, log)
            raise type(error)(f"{error}; its log is {kept}" if kept else str(error)) from error
        if log is not None:
            _keep(own_log, log)
        return compiled


def _fill(folder: Path, xmodel: Path, arch: str) -> None:
    try:
        shutil.copyfile(xmodel, folder / _INPUT)
        (folder / _ARCH).write_text(arch)
    except OSError as error:
        raise XmodelError(f"{xmodel} cannot be read: {error.strerror or error}") from error


def _arch_content(target: Dpu, arch_json: Path | None) -> str:
    """The arch.json: one for the DPU's fingerprint, or the given one unless it says that it is for another."""
    if not target.fingerprint:
        raise CompileError(f"the fingerprint of {target.name!r} is not known, and a board checks it; give the DPU one")
    if arch_json is None:
        return target.arch_content
    try:
        text = arch_json.read_text(encoding="utf-8")
        content = parse_json(text)
    except (OSError, ValueError) as error:
        raise ToolchainError(f"{arch_json} cannot be read as an arch.json: {error}") from error
    if not isinstance(content, dict) or not {"fingerprint", "target"} & set(content):
        raise ToolchainError(f'{arch_json} is no arch.json, expected {{"fingerprint": "0x..."}}')
    if "fingerprint" in content and Fingerprint.parse(str(content["fingerprint"])).value != target.fingerprint:
        raise CompileError(
            f"{arch_json} is for a DPU with fingerprint {content['fingerprint']}, and the board's is "
            f"{Fingerprint(target.fingerprint)}"
        )
    return text


def _compile(place: CompilerPlace, folder: Path, target: Dpu, settings: VitisSettings, log: Path, shown: str) -> VitisCompiled:
    arguments = ["--xmodel", _INPUT, "--arch", _ARCH, "--net_name", _NAME, "--output_dir", _OUTPUT]
    result = folder / _OUTPUT / f"{_NAME}.xmodel"
    problem = ""
    for _ in range(_TRIES):
        shutil.rmtree(folder / _OUTPUT, ignore_errors=True)
        finished = run_command(place.command(arguments, folder), log=log, timeout_s=settings.compile_timeout_s)
        if finished.code == 0 and result.is_file():
            try:
                subgraphs = read_subgraphs(result)
                _check(subgraphs, target, finished, shown)
                return VitisCompiled(CompiledXmodel.read(result), subgraphs, place.description, place.identity, finished.output)
            except XmodelError as error:
                problem = f"wrote a file that is not understood ({str(error).replace(str(result), result.name)})"
        else:
            _explain(finished, shown)
            ending = f"signal {-finished.code}" if finished.code < 0 else f"exit code {finished.code}"
            problem = f"wrote no file ({ending}: {last_lines(finished.output) or 'it printed nothing'})"
    kind = ToolchainMissing if place.never_started(finished) else ToolchainError
    raise kind(f"{COMPILER} ({place.description}) {problem}, at its second try too, for {shown}")


def _explain(finished: Finished, shown: str) -> None:
    """Raise CompileError where the log of a failed run says which operation the DPU cannot run."""
    given = given_to_cpu(finished.output)
    reason = str(given[0]) if given else unsupported(finished.output)
    if reason:
        raise CompileError(f"{COMPILER} cannot compile {shown} for the DPU: {reason}; replace that operation")


def _check(subgraphs: Sequence[Subgraph], target: Dpu, finished: Finished, shown: str) -> None:
    """Raise CompileError unless one DPU, the target, does all layers."""
    ours = [one for one in subgraphs if one.device == "DPU"]
    layers = cpu_operations(subgraphs)
    if len(ours) != 1 or layers:
        cause = _cause(ours, layers, given_to_cpu(finished.output))
        raise CompileError(
            f"{shown} does not run on the DPU alone: {COMPILER} made {describe_subgraphs(subgraphs)}{cause}; replace that "
            "operation"
        )
    if ours[0].fingerprint != target.fingerprint:
        found = str(Fingerprint(ours[0].fingerprint)) if ours[0].fingerprint else "none"
        raise CompileError(
            f"{COMPILER} compiled {shown} for a DPU with fingerprint {found} ({ours[0].dpu_name or 'no name'}), and the "
            f"board's is {Fingerprint(target.fingerprint)}; give the arch.json of the board's DPU"
        )


def _cause(ours: Sequence[Subgraph], layers: Sequence[tuple[str, str]], given: Sequence[Given]) -> str:
    """The operation that breaks the network apart, in the words of the log where it has some."""
    names = {name for name, _ in layers}
    said = [one for one in given if one.name in names] or list(given)
    if said:
        return f", since the CPU was given {said[0]}"
    if layers:
        return ""  # the description has named them
    if len(ours) > 1 and ours[1].layers:
        name, kind = ours[1].layers[0]
        return f", and the second begins with {name[:200]!r} ({kind[:50]})"
    return ""


def _keep(own_log: Path, log: Path | None) -> Path | None:
    """Copy the log to where it stays; None where there is none, or no room for it."""
    if not own_log.is_file():
        return None
    try:
        if log is None:
            handle, name = tempfile.mkstemp(prefix=f"edgesearch-{COMPILER}-", suffix=".log")
            os.close(handle)
            log = Path(name)
        shutil.copyfile(own_log, log)
    except OSError:
        return None
    return log
