"""`edgesearch deploy`: a trial on a board, and what came of it beside what was predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from edgesearch.board_eval import Compiler
from edgesearch.errors import BoardError
from edgesearch.search.commands._outputs import check_output
from edgesearch.search.library import Deployment, Study

#: What to look at when a board gives other integers, the likeliest first.
_LOOK_AT = (
    "run it again: if other images differ then, the board is at fault, as by its power supply, clock or cooling",
    "--compiler vai, where Vitis AI is: if AMD's file gives equal logits, edgesearch's compiler made a wrong file; report it "
    "with the record and the file that it names, which is kept",
    "a VART or DPU of another Vitis AI than 3.5 may compute otherwise; preparing pictures is not the cause, the board was "
    "given integers",
)
#: Conditions that the table has, or that go before it.
_SHOWN_ELSEWHERE = ("board", "measured", "power", "integers")


def deploy(
    *,
    trial: int | None,
    knee: bool,
    board: str,
    compiler: Compiler | None,
    images: int,
    csv: Path | None,
    as_json: bool,
    output: Path | None,
    study_name: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Deploy, and print what came of it. Raises BoardError, once that is printed and kept, where integers differ."""
    if (trial is None) != knee:
        raise click.UsageError("say which trial in one way: its number, or --knee")
    if csv is not None:
        check_output(csv, "--csv", {}, appends=True)
    study = Study.load(study_name, home, storage=storage)
    number = study.front().knee().number if trial is None else trial
    done = study.deploy(
        number, board, compiler=compiler, images=images, output=output, csv=csv, note=lambda line: click.echo(line, err=True)
    )
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=1))
    else:
        for line in _lines(done):
            click.echo(line)
        if csv is not None and done.logits.equal:
            click.echo(f"rows for calibrate: {csv}")
    if not done.logits.equal:
        raise BoardError(_difference(done, csv))
    return 0


def _lines(done: Deployment) -> Iterator[str]:
    file = done.file
    yield f"trial {done.trial} of {done.study}: {done.candidate}"
    yield f"board {done.board}: {file.path} (compiled by {file.compiler}, {file.fingerprint})"
    yield f"logits: {done.logits}"
    yield ""
    for row in _table(done):
        yield "  {:<24}{:>16}{:>20}{:>14}".format(*row).rstrip()
    yield f"  predicted by {done.predicted_by}, from the time of this file's own code; ± holds 90 % of boards' figures"
    if done.study_accuracy is not None:
        yield f"  the study has an accuracy of {done.study_accuracy:.2%} on all its validation images"
    yield ""
    for name, words in done.conditions.items():
        if name not in _SHOWN_ELSEWHERE:
            yield f"  {name}: {words}"
    yield f"record: {done.record}"


def _table(done: Deployment) -> Iterator[tuple[str, str, str, str]]:
    measured, predicted, by = done.measured, done.predicted, done.differences
    yield "", "board", "predicted", "difference"
    points = 100 * (measured.accuracy - predicted.accuracy)
    name = f"accuracy, {done.logits.images:,} images"
    yield name, f"{measured.accuracy:.2%}", f"{predicted.accuracy:.2%}", f"{points:+.2f} points"
    told = f"{predicted.fps:,.1f}{_interval(predicted.fps_error)}"
    yield "FPS", f"{measured.fps:,.1f}", told, f"{by['fps']:+.1%}"
    told = f"{predicted.latency_ms:.3f} ms{_interval(predicted.latency_error)}"
    yield "latency", f"{measured.latency_ms:.3f} ms", told, f"{by['latency_ms']:+.1%}"
    yield "power", _power(measured.power_w), "not predicted", ""
    if measured.power_w is not None and measured.idle_w is not None:
        yield "  of it, idle", _power(measured.idle_w), "", ""
        yield "  the network's", _power(measured.power_w - measured.idle_w), "", ""


def _interval(error: float | None) -> str:
    return "" if error is None else f" ±{error:.0%}"


def _power(watts: float | None) -> str:
    return "not available" if watts is None else f"{watts:.2f} W"


def _difference(done: Deployment, csv: Path | None) -> str:
    """What is wrong, by how much, and what to look at, in one sentence."""
    kept = "" if csv is None else f"; nothing was written to {csv}"
    return (
        f"the logits of board {done.board!r} {done.logits}: the accuracy that was predicted does not hold there{kept}; "
        f"what to look at: {'; '.join(f'({number}) {what}' for number, what in enumerate(_LOOK_AT, 1))}"
    )
