"""`edgesearch optimize`: from a study file to a front, its report and its test scores."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edgesearch.search.commands._next import given, hint, options
from edgesearch.search.commands._show import make_console, print_front
from edgesearch.search.engine import Summary, make_progress
from edgesearch.search.library import Front, Resources, Study, describe_cost, preview, why_empty
from edgesearch.search.report import write_report
from edgesearch.search.study import Score

#: Options that the command named next gives in its own way.
_NOT_AGAIN = ("retry_failed", "home", "storage")


# Long for its arguments, and for what is told of them.
def optimize(
    *,
    study: str,
    trials: int | None,
    name: str | None,
    workers: int | None,
    ray_address: str | None,
    gpus_per_stage: float | None,
    memory_per_stage: float,
    threads_per_stage: int,
    seed: int | None,
    retry_failed: bool,
    dry_run: bool,
    board: tuple[str, ...],
    score: Score | None,
    board_wait: float,
    hang_after: float,
    store: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Run or resume a study; returns the exit code: 2 where trials failed and none is complete."""
    opened = Study.open(
        study,
        home,
        storage=storage,
        store=store,
        name=name,
        seed=seed,
        board=board,
        score=score,
        threads=threads_per_stage,
    )
    for sentence in opened.unsupported:
        click.echo(f"left out: {sentence}", err=True)
    for sentence in opened.findings:
        click.echo(sentence, err=True)
    if dry_run:
        Resources(workers, ray_address, gpus_per_stage)  # raises for what does not go together
        click.echo(describe_cost(opened.inputs, opened.home, trials or opened.trials, storage=storage))
        return 0
    console = make_console()
    with make_progress(console) as progress:
        front = opened.optimize(
            trials,
            workers=workers,
            ray_address=ray_address,
            gpus_per_stage=gpus_per_stage,
            memory_per_stage=memory_per_stage * 2**30,
            board_wait_s=60 * board_wait,
            hang_s=60 * hang_after,
            retry_failed=retry_failed,
            progress=progress,
        )
    assert opened.summary is not None
    click.echo(f"study {opened.name}: {_in_words(opened.summary)}")
    if front.view.records:
        print_front(front, console)
    elif front.view.nearest_rejected:
        click.echo(why_empty(front.view.nearest_rejected))
    else:
        click.echo(preview(opened.inputs, trials=1).why_empty())
    page = opened.home.report(opened.name)
    write_report(front.view, page)  # of what was read last: the database may be away by now
    click.echo(f"report: {page}")
    click.echo(_next_commands(opened, front, [study, *given(without=_NOT_AGAIN)], home, storage))
    return 2 if front.view.counts["FAIL"] and not front.view.counts["COMPLETE"] else 0


def _next_commands(study: Study, front: Front, words: list[str], home: Path, storage: str | None) -> str:
    """What to do next; `words` are what the command line said beside where the study is."""
    where = options(study.name, home, storage)
    commands = [f"edgesearch dashboard {where}"]
    if len(front):
        commands.insert(0, f"edgesearch export {where} --knee -o DIR")
    elif front.view.counts["FAIL"]:
        again = shlex.join(["edgesearch", "optimize", *words, "--retry-failed"])
        commands.insert(0, f"{again} {options(None, home, storage)}".rstrip() + ", once what made its trials fail is mended")
    return f"next: {'   or   '.join(commands)}{hint(storage)}"


def _in_words(summary: Summary) -> str:
    words = [f"{_counted(summary.finished, 'trial')} finished now"]
    if summary.stopped:
        words.append(f"{summary.stopped} stopped early")
    if summary.failed:
        words.append(f"{summary.failed} failed")
    if summary.rejected:
        words.append(f"{_counted(summary.rejected, 'candidate')} rejected before training")
    if summary.repeats:
        words.append(f"{_counted(summary.repeats, 'repeat')} answered from the record")
    return ", ".join(words)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
