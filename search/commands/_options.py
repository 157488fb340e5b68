"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

from edgesearch.errors import StudyError
from edgesearch.search.commands._given_path import GivenPath


def _not_empty(_: click.Context, option: click.Parameter, given: str | None) -> str | None:
    """What was given: an empty text, as of a shell's variable that is not set, would silently mean the default."""
    if given == "":
        raise StudyError(f'{option.opts[-1]}: "" names nothing; give a name, or leave it out')
    return given


HOME = click.option(
    "--home",
    type=GivenPath(file_okay=False),
    default=Path("runs"),
    envvar="EDGESEARCH_HOME",
    show_default=True,
    show_envvar=True,
    help="Folder of studies, artifacts, logs and reports.",
)
STORAGE = click.option(
    "--storage",
    envvar="EDGESEARCH_STORAGE",
    callback=_not_empty,
    show_envvar=True,
    help="Database URL of the studies; default: SQLite in --home.",
)
STORE = click.option(
    "--store",
    envvar="EDGESEARCH_STORE",
    callback=_not_empty,
    show_envvar=True,
    help="Where artifacts are kept: a folder, or a URL as s3://bucket/folder; default: the study's, else store in --home.",
)
SEED = click.option("--seed", type=click.IntRange(min=0), help="Instead of the study's seed.")
THREADS = click.option(
    "--threads-per-stage",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Results are bit-equal for any --workers, not for another number of threads.",
)
STUDY = click.option("--study", "study_name", callback=_not_empty, help="Name of the study; default: the one run last.")
BOARD = click.option(
    "--board", help="zcu104, zcu102, kv260, ultra96 or a board profile (JSON); default: the study's, else zcu104."
)
COMPILER = click.option(
    "--compiler",
    type=click.Choice(["edgesearch", "vai"]),
    default="edgesearch",
    show_default=True,
    help="Whose code is timed: this program's, or vai_c_xir's of Vitis AI, as a model foretells it.",
)
ALLOW = click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["relu6", "leaky_relu", "save_pairs"]),
    help="Let this program's code use this feature of the DPU, which no measured file has in this form; may be given again.",
)
