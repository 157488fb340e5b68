"""The commands on networks and their files, without a study; the work of each is in a module of its own."""

from __future__ import annotations

from typing import Any

import click

from edgesearch.search.commands._given_path import GivenPath
from edgesearch.search.commands._options import ALLOW, BOARD, COMPILER

__all__ = ["NETWORK_COMMANDS"]


@click.command()
@click.argument("model")
@click.option("--width", type=float, help="Factor on the channels of a student; default: 1.")
@click.option(
    "--input-size",
    type=click.IntRange(min=4),
    help="Pixels of a side; default: 224 for torchvision's ImageNet forms and your own classes, else 32.",
)
@click.option("--channels", type=click.IntRange(min=1, max=4096), help="Channels of the image; default: 3.")
@click.option(
    "--classes",
    type=click.IntRange(min=2, max=65_536),
    help="Outputs that the network must have; default: 10, or its own.",
)
@click.option("--stem", type=click.Choice(["imagenet", "small"]), help="How a student begins; default: imagenet.")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--images", type=GivenPath(), help="Calibration images to look at too: float32 NHWC, normalised.")
@click.option("--test-images", type=GivenPath(), help="Test images that --images must not be among.")
@COMPILER
@ALLOW
@BOARD
def inspect(**options: Any) -> int:
    """Say what of MODEL the DPU runs, what it does not, and how fast.

    MODEL is a student's name, my_pkg.models:Net (looked for from here), an .xmodel or a candidate's .toml.
    """
    from edgesearch.search.commands._inspect import inspect as work

    return work(**options)


@click.command()
@click.argument("network")
@click.option("--per-layer", is_flag=True, help="Where the time goes, layer by layer, and what would help.")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--picture", type=GivenPath(is_written=True, dir_okay=False), help="Write a picture (HTML) of cycles and bytes.")
@click.option("--input-size", type=click.IntRange(min=4), help="For a student's name: pixels of a side.")
@click.option(
    "--runner", help="The program that feeds the DPU, one of the board's: vart_python (the default), cpp, thesis_script."
)
@COMPILER
@ALLOW
@BOARD
def bench(**options: Any) -> int:
    """Time NETWORK on the simulated board: an .xmodel, a candidate's .toml, a student's name or my_pkg.models:Net."""
    from edgesearch.search.commands._bench import bench as work

    return work(**options)


@click.command()
@click.argument("xmodel", type=GivenPath())
@click.option(
    "--images",
    type=GivenPath(),
    required=True,
    help="float32 NHWC, normalised; int8, quantized; or uint8 pixels with the export's manifest.json beside XMODEL.",
)
@click.option("--logits", type=GivenPath(is_written=True), help="Where float32 (N, classes) is written.")
@click.option("--labels", type=GivenPath(), help="Whole numbers (N,): print how many images are told right.")
def simulate(**options: Any) -> int:
    """Execute an XMODEL of one input, AMD's own included, in the DPU's integers; a compiled one instruction by
    instruction.
    """
    from edgesearch.search.commands._simulate import simulate as work

    return work(**options)


@click.command(name="compile")
@click.argument("xmodel", type=GivenPath())
@click.option("--fingerprint", help="The board's DPU, as xdputil query prints it (0x...); default: that of --board.")
@click.option(
    "-o", "--output", type=GivenPath(is_written=True, dir_okay=False), help="Default: NAME_compiled.xmodel beside XMODEL."
)
@click.option("--tries", type=click.IntRange(min=0), default=0, help="Other schedules to try, of which the fastest is taken.")
@click.option("--strict", is_flag=True, help="Refuse values of instructions that no measured file of AMD's compiler has.")
@ALLOW
@click.option(
    "--compiler",
    type=click.Choice(["edgesearch", "vai"]),
    default="edgesearch",
    show_default=True,
    help="This program, or vai_c_xir of Vitis AI: the one on PATH, else the one in its container.",
)
@click.option("--compare", is_flag=True, help="Compile with the other one, too: logits in simulation, instructions, time.")
@click.option("--arch", type=GivenPath(), help="arch.json for vai_c_xir; default: one of the board's fingerprint.")
@click.option("--image", help="Vitis AI's container image; default: xilinx/vitis-ai-pytorch-cpu:latest.")
@click.option("--json", "as_json", is_flag=True, help="Say what is in the file as JSON.")
@click.option("--board", help="zcu104 (the default), zcu102, kv260, ultra96 or a board profile (JSON).")
def compile_(**options: Any) -> int:
    """Compile a quantized XMODEL into the file that a board runs, and check it."""
    from edgesearch.search.commands._compile import compile_file as work

    return work(**options)


@click.command()
@click.argument("xmodel", type=GivenPath())
@click.option("--json", "as_json", is_flag=True, help="Every instruction with all its fields, as JSON.")
def disassemble(**options: Any) -> int:
    """Print the instructions of a compiled XMODEL, AMD's own included."""
    from edgesearch.search.commands._compile import disassemble_file as work

    return work(**options)


#: In the order in which they are listed.
NETWORK_COMMANDS = (inspect, bench, simulate, compile_, disassemble)
