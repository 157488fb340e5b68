"""The command line. It only reads arguments; every command's work is in a module of its own, imported when it runs.

Exit codes: 0 done; 1 a bug (a traceback); 2 what was given is wrong (one sentence); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import click

from edgesearch.errors import EdgesearchError
from edgesearch.files import said_of_path
from edgesearch.search.commands._cli_board import board
from edgesearch.search.commands._cli_networks import NETWORK_COMMANDS
from edgesearch.search.commands._given_path import GivenPath
from edgesearch.search.commands._options import BOARD, HOME, SEED, STORAGE, STORE, STUDY, THREADS

#: Commands that keep what they have done.
_GO_ON = ("optimize", "tune", "evaluate")
#: What to do where there is too little of it.
_LESS_MEMORY = "give fewer or smaller images, end other programs, or take a machine with more"


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    from edgesearch.search.study import watch_interrupts

    with watch_interrupts():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    stdout = sys.stdout
    try:
        result = cli.main(args=list(arguments), prog_name="edgesearch", standalone_mode=False)
    except EdgesearchError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        goes_on = bool(arguments) and arguments[0] in _GO_ON
        click.echo("stopped; the same command goes on from here" if goes_on else "stopped", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        return 0
    except OSError as error:
        said = said_of_path(error)
        if said is None:
            raise
        click.echo(f"error: {said}", err=True)
        return 2
    except MemoryError as error:
        what = f": {str(error).rstrip('.')}" if str(error) else ""
        click.echo(f"error: this machine's memory was not enough{what}{_place(error)}; {_LESS_MEMORY}", err=True)
        return 2
    except SystemExit as ended:
        # The same, with exit code 1: click puts a stream in place that swallows what is left, rich ends where it was told.
        if sys.stdout is not stdout or isinstance(ended.__context__, BrokenPipeError):
            return 0
        click.echo(f"error: code that was called ended the program{_place(ended)}; remove its sys.exit({ended})", err=True)
        return 2
    return int(result or 0)


def _place(error: BaseException) -> str:
    """Where it was raised, in brackets."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f" ({last.filename}, line {last.lineno})"


class _Commands(click.Group):
    """Lists commands in the order they are used, not alphabetically."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(metadata.version("edgesearch"))
def cli() -> None:
    """Find the networks worth putting on an FPGA: accuracy of integers against frames per second on the board."""


@cli.command()
@click.argument("study", default="quickstart")
@click.option("--trials", type=click.IntRange(min=1), help="Trials the study is to have in all; default: as the study says.")
@click.option("--name", help="Another name for the study, to keep it apart from one of the same file.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Stages side by side; default: cores / --threads-per-stage, two for each GPU, or what the cluster takes. 0: no Ray.",
)
@click.option("--ray-address", help="Use a running Ray cluster, for example auto or ray://head:10001.")
@click.option(
    "--gpus-per-stage",
    type=click.FloatRange(min=0),
    help="Share of a GPU that each stage is given; default: this machine's are shared evenly, a cluster's are not used.",
)
@click.option(
    "--memory-per-stage", type=click.FloatRange(min=0), default=0.0, help="GiB of a node that each stage is given; 0: no say."
)
@THREADS
@SEED
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Try the candidates of failed trials again first, whatever --trials, then what failed of the front: tests, files.",
)
@click.option("--dry-run", is_flag=True, help="List what would be trained and the expected cost; train nothing.")
@click.option(
    "--board",
    multiple=True,
    help="A simulated board, as for other commands; or a board or pool of the boards file, which measures where --score says "
    "so, and may be given again.",
)
@click.option(
    "--score",
    type=click.Choice(["simulated", "board", "board-front"]),
    help="Score by the simulated board, by boards, or by boards those that would be on the front; default: the study's.",
)
@click.option(
    "--board-wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Minutes to wait for a board when all are in quarantine.",
)
@click.option(
    "--hang-after",
    type=click.FloatRange(min=1),
    default=15.0,
    show_default=True,
    help="Minutes without a sign of life after which a worker is stopped, and its stage tried again.",
)
@STORE
@STORAGE
@HOME
def optimize(**options: Any) -> int:
    """Run STUDY (a bundled study's name or a .toml file) until it has enough trials; resume it if it was begun."""
    from edgesearch.search.commands._optimize import optimize as work

    return work(**options)


@cli.command()
@click.argument("target", metavar="teacher|STUDENT")
@click.argument("study", default="quickstart")
@click.option("--samples", type=click.IntRange(min=1), default=30, show_default=True, help="Recipes to try.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Longest time for trying them; default: none.")
@click.option(
    "--confirm", type=click.IntRange(min=0), default=2, help="Further seeds for the best and the own recipe; default: 2."
)
@click.option("--distillation", help="How the student is taught, one of the study's; default: the first that is not none.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Recipes that are tried side by side; default: cores / --threads-per-stage."
)
@click.option("--gpus-per-stage", type=click.FloatRange(min=0), help="Share of a GPU that each training is given; as optimize.")
@click.option("--threads-per-stage", type=click.IntRange(min=1), default=1, show_default=True, help="As for optimize.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the study's seed.")
@click.option("-o", "--output", type=GivenPath(is_written=True), help="The copy; default: STUDY_tuned.toml beside STUDY.")
@click.option("--overwrite", is_flag=True, help="Write it where a file is already.")
@STORE
@STORAGE
@HOME
def tune(**options: Any) -> int:
    """Find a better recipe for the teacher or a student of STUDY, and write a copy of the study with it.

    Learning rate, weight decay, augmentation and, where it is distilled, temperature and alpha are tried with Ray Tune.
    """
    from edgesearch.search.commands._tune import tune as work

    return work(**options)


@cli.command()
@click.argument("candidate", type=GivenPath())
@click.option(
    "--study",
    "study",
    default="quickstart",
    show_default=True,
    help="Study whose data, teacher and recipes are used: a bundled one or a .toml file.",
)
@click.option("--test/--no-test", default=False, help="Also measure on the test images.")
@click.option("--retry-failed", is_flag=True, help="Run stages that are known to fail again.")
@THREADS
@SEED
@BOARD
@STORE
@STORAGE
@HOME
def evaluate(**options: Any) -> int:
    """Take one candidate (a .toml file) through the whole pipeline and print its scores."""
    from edgesearch.search.commands._evaluate import evaluate as work

    return work(**options)


@cli.command()
@click.option("--format", "style", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option("--picture", type=GivenPath(is_written=True, dir_okay=False), help="Draw the trials and the front (SVG), too.")
@STUDY
@STORAGE
@HOME
def pareto(**options: Any) -> int:
    """Print the front: the candidates that no other beats in every objective."""
    from edgesearch.search.commands._show import pareto as work

    return work(**options)


@cli.command()
@click.option("-o", "--output", type=GivenPath(is_written=True, dir_okay=False), help="Default: reports/STUDY.html in --home.")
@STUDY
@STORAGE
@HOME
def report(**options: Any) -> int:
    """Write the study's report: one HTML file that opens without a network."""
    from edgesearch.search.commands._show import report as work

    return work(**options)


@cli.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@click.option("-o", "--output", type=GivenPath(is_written=True, file_okay=False), required=True, help="Folder of the files.")
@click.option("--manifests", is_flag=True, help="The manifests of each front's exports, too, as manifests/STUDY-TRIAL.json.")
@STORAGE
@HOME
def results(**options: Any) -> int:
    """Write what studies found (default: the one run last), to keep: settings, machine, versions, seconds and figures.

    results.json has the runs side by side; study.toml is the study of the first, and front.svg its front.
    """
    from edgesearch.search.commands._show import results as work

    return work(**options)


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@STUDY
@STORAGE
@HOME
def dashboard(**options: Any) -> int:
    """Serve optuna-dashboard on this study, to this machine only."""
    from edgesearch.search.commands._show import dashboard as work

    return work(**options)


@cli.command()
@click.option("--trial", type=click.IntRange(min=0), help="This trial.")
@click.option("--knee", is_flag=True, help="The front's knee: where more speed starts to cost much accuracy.")
@click.option(
    "--min-accuracy", type=click.FloatRange(0, 1), help="The fastest of the front with at least this accuracy (0..1)."
)
@click.option("--min-fps", type=click.FloatRange(min=0), help="The most accurate of the front with at least these FPS.")
@click.option("--front", is_flag=True, help="Every member of the front.")
@click.option("-o", "--output", type=GivenPath(is_written=True, file_okay=False), required=True, help="Folder to write to.")
@click.option(
    "--compiler",
    type=click.Choice(["edgesearch", "vai"]),
    help="What makes the file that the board runs: this program, or vai_c_xir of Vitis AI; default: the study's.",
)
@STUDY
@STORAGE
@HOME
def export(**options: Any) -> int:
    """Write the file that the board runs, xmodel, ONNX, float weights and a manifest of one trial or of the whole front."""
    from edgesearch.search.commands._export import export as work

    return work(**options)


@cli.command()
@click.argument("trial", type=click.IntRange(min=0), required=False)
@click.option("--knee", is_flag=True, help="The front's knee, in the place of TRIAL.")
@click.option("--board", required=True, help="A board of the boards file, or a pool there: its first free board.")
@click.option(
    "--compiler",
    type=click.Choice(["edgesearch", "vai"]),
    help="What makes the file: this program, or vai_c_xir of Vitis AI; default: the study's.",
)
@click.option("--images", type=click.IntRange(min=1), default=1000, show_default=True, help="Validation images to run.")
@click.option("--csv", type=GivenPath(is_written=True), help="Append the figures to this file, for `edgesearch calibrate`.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "-o",
    "--output",
    type=GivenPath(is_written=True, file_okay=False),
    help="Folder for the exported trial and the record; default: deployments/STUDY in --home.",
)
@STUDY
@STORAGE
@HOME
def deploy(**options: Any) -> int:
    """Compile trial TRIAL, run it on a board, and compare its integers, accuracy and speed with what was predicted."""
    from edgesearch.search.commands._deploy import deploy as work

    return work(**options)


for _command in NETWORK_COMMANDS:
    cli.add_command(_command)


@cli.command()
@click.option("--measurements", type=GivenPath(), help="CSV of your board's measurements.")
@click.option("--study", "study_name", help="Instead of it: a study whose candidates boards measured (--score).")
@click.option("--name", default="my-board", show_default=True, help="The new profile's name.")
@click.option(
    "-o", "--output", type=GivenPath(is_written=True, dir_okay=False), required=True, help="The profile (JSON) to write."
)
@click.option("--keep-unexplained", is_flag=True, help="Write the profile even if it is far from some of the measurements.")
@BOARD
@STORAGE
@HOME
def calibrate(**options: Any) -> int:
    """Fit the timing model's constants to measurements and write a board profile for --board."""
    from edgesearch.search.commands._bench import calibrate as work

    return work(**options)


cli.add_command(board)


@cli.command()
@click.option("--study", help="A bundled study or a .toml file, for its board, its store and its [vitis] table.")
@click.option("--board", help="A simulated board; or a board or pool of the boards file, which must then serve.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, once all is checked.")
@STORAGE
@STORE
@HOME
def doctor(**options: Any) -> int:
    """Check this installation: packages, memory, Ray, the database, the store, Vitis AI, boards."""
    from edgesearch.search.commands._doctor import doctor as work

    return work(**options)
