"""`edgesearch board ...` as the command line reads it; the work is in `_board`."""

from __future__ import annotations

from typing import Any

import click

from edgesearch.search.commands._given_path import GivenPath

__all__ = ["board"]

_BOARDS = click.option(
    "--boards",
    type=GivenPath(dir_okay=False),
    envvar="EDGESEARCH_BOARDS",
    show_envvar=True,
    help="The boards file; default: ~/.config/edgesearch/boards.toml.",
)


@click.group()
def board() -> None:
    """Boards in reach of SSH: the file that names them, whether they serve, what is left on them."""


@board.command(name="add")
@click.argument("name")
@click.option("--host", required=True, help="Its name or address.")
@click.option("--port", type=int, help="Default: 22.")
@click.option("--user", help="Default: root.")
@click.option("--key", required=True, help="File of the private key that opens it; only you may read it.")
@click.option("--known-hosts", help="File of known host keys; default: ~/.ssh/known_hosts.")
@click.option("--target", help="Its DPU: zcu104 (the default), zcu102, kv260, ultra96 or a board profile (JSON).")
@click.option("--runner", type=click.Choice(["auto", "python", "cpp"]), help="Default: auto, C++ where it builds there.")
@click.option("--python", help="Its Python; default: python3.")
@click.option("--folder", help="Folder on the board to work in, the same for every driver; default: /tmp.")
@click.option("--power-cycle", help="Command, run here, that switches it off and on again.")
@click.option("--timeout-s", type=float, help="Most seconds of one step; default: 300.")
@click.option("--seconds", type=float, help="How long each figure is measured; default: 2.")
@click.option("--repeats", type=int, help="How often; default: 5.")
@click.option("--threads", type=int, help="Threads of the throughput; default: two for each core.")
@click.option("--cache-mib", type=int, help="Most MiB of files kept on the board; default: 512.")
@click.option("--accept-host-key", "accept", is_flag=True, help="Keep the key that it shows now, which is printed.")
@_BOARDS
def board_add(**options: Any) -> int:
    """Add the board NAME to the boards file."""
    from edgesearch.search.commands._board import add as work

    return work(**options)


@board.command(name="list")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_BOARDS
def board_list(**options: Any) -> int:
    """List the boards of the boards file."""
    from edgesearch.search.commands._board import show as work

    return work(**options)


@board.command(name="test")
@click.argument("names", nargs=-1)
@_BOARDS
def board_test(**options: Any) -> int:
    """Enter the boards NAMES (default: all) and say whether they serve: key, fingerprint, VART, cores, space, sensors."""
    from edgesearch.search.commands._board import test as work

    return work(**options)


@board.command(name="release")
@click.argument("name")
@click.option("--force", is_flag=True, help="End the jobs of living drivers too.")
@_BOARDS
def board_release(**options: Any) -> int:
    """Remove what dead drivers left on the board NAME, and end their programs, which frees its lock."""
    from edgesearch.search.commands._board import release as work

    return work(**options)
