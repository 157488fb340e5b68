"""`edgesearch compile` and `edgesearch disassemble`: from a quantized xmodel to the file that a board runs, and its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import (
    DEFAULT_BOARD,
    BoardProfile,
    CompiledXmodel,
    Compiler,
    Fingerprint,
    Timing,
    VitisSettings,
    compare_compilers,
    compile_with_vitis,
    compile_xmodel,
    dpu_of_fingerprint,
    is_compiled,
    load_profile,
    read_xmodel,
)
from edgesearch.board_eval.compiler import Options
from edgesearch.board_eval.isa import decode, disassemble, disassembly_json
from edgesearch.board_eval.xmodel import read_compiled
from edgesearch.errors import SettingsError, XmodelError
from edgesearch.search.commands._outputs import check_output

_CHECKED = {
    "edgesearch": (
        "checked, and executed in simulation with the integers of the network; not yet run on silicon by this project"
    ),
    "vai": "AMD's code: one DPU subgraph with every layer of the network, for this fingerprint",
}
#: Images of random integers that two compilers' code is compared on where no golden ones lie beside the network.
_RANDOM_IMAGES = 4


def compile_file(
    *,
    xmodel: Path,
    board: str | None,
    fingerprint: str | None,
    output: Path | None,
    allow: tuple[str, ...],
    strict: bool,
    tries: int,
    compiler: Compiler,
    compare: bool,
    arch: Path | None,
    image: str | None,
    as_json: bool,
) -> int:
    """Compile a quantized xmodel for a board, check the code, write it and say what is in it; returns the exit code."""
    profile = _profile(board, fingerprint)
    if not xmodel.is_file():
        what = "a folder" if xmodel.is_dir() else "not there"
        raise XmodelError(f"{xmodel} is {what}, expected a quantized xmodel, as NAME_int.xmodel of an export")
    output = output or _beside(xmodel)
    if is_compiled(xmodel):
        raise XmodelError(f"{xmodel} is compiled already, expected a quantized xmodel, as NAME_int.xmodel of an export")
    check_output(output, "--output", {"the network": xmodel})
    uses = {compiler} | ({"edgesearch", "vai"} if compare else set())
    if "vai" not in uses and (arch or image):
        raise click.UsageError("--arch and --image are for vai_c_xir: add --compiler vai or --compare")
    if "edgesearch" not in uses and (allow or strict or tries):
        raise click.UsageError("--allow, --strict and --tries are for this program's compiler: leave out --compiler vai")
    files: dict[str, CompiledXmodel] = {}
    facts: dict[str, Any] = {}
    if "vai" in uses:
        log = output.with_name(f"{output.stem}_vai_c_xir.log")
        made = compile_with_vitis(xmodel, profile.dpu, _vitis(image), arch_json=arch, log=log)
        files["vai"], facts = made.xmodel, made.facts()
    if "edgesearch" in uses:
        options = Options(allow=frozenset(allow), strict=strict, tries=tries)
        files["edgesearch"] = compile_xmodel(read_xmodel(xmodel), profile.dpu, options)
    compared = compare_compilers(files, compared_images(xmodel, files[compiler]), profile) if compare else None
    compiled = files[compiler]
    compiled.write(output)
    timing = compiled.time(profile)
    if as_json:
        content = {"file": str(output), **(facts if compiler == "vai" else compiled.facts()), "predicted": timing.figures()}
        click.echo(json.dumps(content | ({"compared": compared.to_json()} if compared else {}), indent=1))
        return 0
    click.echo(_in_words(output, compiled, timing, _CHECKED[compiler]))
    for line in compared.lines() if compared else ():
        click.echo(f"  {line}")
    return 0


def compared_images(xmodel: Path, compiled: CompiledXmodel) -> npt.NDArray[np.int8]:
    """Images for both compilers' code: the golden ones of an export beside the xmodel, else a few of random integers."""
    from edgesearch.search.export import read_golden_input

    images, shape = read_golden_input(xmodel.parent), compiled.input.shape
    if images is not None and images.shape[1:] == shape:
        return images
    return np.random.default_rng(0).integers(-128, 128, (_RANDOM_IMAGES, *shape)).astype(np.int8)


def _vitis(image: str | None) -> VitisSettings:
    try:
        return VitisSettings() if image is None else VitisSettings(image=image)
    except SettingsError:
        raise click.UsageError(
            f"--image {image!r} is no reference of an image, as xilinx/vitis-ai-pytorch-cpu:latest"
        ) from None


def disassemble_file(*, xmodel: Path, as_json: bool) -> int:
    """Print the instructions of a compiled xmodel; returns the exit code."""
    if not is_compiled(xmodel) and xmodel.is_file():
        read_xmodel(xmodel)  # what is no xmodel at all is told apart from one that has no code
        raise XmodelError(f"{xmodel} is not compiled and has no instructions; `edgesearch compile` makes a file that has")
    model = read_compiled(xmodel)
    try:
        program = decode(model.code)
    except XmodelError as error:
        raise XmodelError(f"{xmodel} cannot be disassembled: {error}") from error
    if as_json:
        click.echo(json.dumps(disassembly_json(program), indent=1))
        return 0
    for line in disassemble(program):
        click.echo(line)
    return 0


def _profile(board: str | None, fingerprint: str | None) -> BoardProfile:
    """The board, with the DPU of the fingerprint where one is given: what the code is made for and timed on."""
    profile = load_profile(board or DEFAULT_BOARD)
    if fingerprint is None:
        return profile
    return profile.model_copy(update={"dpu": dpu_of_fingerprint(Fingerprint.parse(fingerprint))})


def _beside(xmodel: Path) -> Path:
    """NAME_int.xmodel becomes NAME_compiled.xmodel."""
    return xmodel.with_name(f"{xmodel.stem.removesuffix('_int')}_compiled.xmodel")


def _in_words(output: Path, compiled: CompiledXmodel, timing: Timing, checked: str) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in compiled.instructions.items())
    low, high = timing.throughput_fps_interval
    sure = f", 90 % between {low:,.0f} and {high:,.0f}" if low < high else ""
    dpu, mark = compiled.dpu.name, Fingerprint(compiled.model.fingerprint)
    unseen = [f"  in no measured file of AMD's: {', '.join(compiled.unseen)}"] if compiled.unseen else []
    return "\n".join(
        (
            f"{compiled.name}: {output}, for the {dpu} with fingerprint {mark}",
            f"  {len(compiled.program):,} instructions in {len(compiled.model.code):,} bytes: {counts}",
            f"  {compiled.parameter_bytes:,} bytes of parameters; an image loads {compiled.loaded_bytes:,} bytes and saves "
            f"{compiled.saved_bytes:,}",
            f"  predicted on {timing.board}: {timing.dpu_s * 1e6:,.1f} us on the DPU, {timing.throughput_fps:,.0f} FPS with "
            f"all cores ({timing.runner}, bound by {timing.throughput_bound}{sure})",
            *unseen,
            f"  {checked}",
        )
    )
