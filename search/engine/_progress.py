"""What a person sees while a study runs: one live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgesearch.search.study import duration
from edgesearch.spaces import Candidate


class Progress(Protocol):
    """Told of everything the engine does."""

    def note(self, message: str) -> None:
        """Something a person should know."""

    def update(self, done: int, wanted: int, running: Mapping[int, str]) -> None:
        """Trials finished, trials wanted, and trial number -> its current stage."""

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        """A trial ended."""


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Accuracy, frames per second, latency and size, in words; and what pytorch_nndct made otherwise than this program."""
    words = (
        f"{metrics['accuracy']:.2%}  {metrics['fps']:,.0f} FPS  {metrics['latency_ms']:.2f} ms  "
        f"{metrics['size_bytes'] / 1024:,.1f} KiB"
    )
    if "vitis_accuracy" not in metrics:
        return words
    differ = ", ".join(f"{metrics[f'{name}_differ']:,.0f} {name}" for name in ("positions", "integers", "answers"))
    return f"{words}  (vitis here {metrics['vitis_accuracy']:.2%}; {differ} differ)"


class PlainProgress:
    """One line per event that matters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._wanted = 0

    def note(self, message: str) -> None:
        """Print the message."""
        self._console.print(Text(message), soft_wrap=True)

    def update(self, done: int, wanted: int, running: Mapping[int, str]) -> None:
        """Remember the counts for the next line."""
        self._done, self._wanted = done, wanted

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        """Print the trial's result; the counts were told before."""
        result = describe_metrics(metrics) if failure is None else f"failed: {failure}"
        self.note(f"[{self._done}/{self._wanted}] trial {number}  {candidate}  {result}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return


class LiveProgress:
    """A panel that is redrawn: trials done, time left, best so far, what runs now."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._console = console
        self._started = time.monotonic()
        self._first_done: int | None = None
        self._done = self._wanted = 0
        self._running: Mapping[int, str] = {}
        self._best: list[tuple[float, float, int, Candidate]] = []

    def note(self, message: str) -> None:
        """Print above the panel."""
        self._live.console.print(Text(message))

    def update(self, done: int, wanted: int, running: Mapping[int, str]) -> None:
        """Redraw the panel."""
        if self._first_done is None:
            self._first_done = done
        self._done, self._wanted, self._running = done, wanted, dict(running)
        self._live.update(self._panel())

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        """Take the trial into the front shown, or print why it failed."""
        if failure is not None:
            self.note(f"trial {number}  {candidate}  failed: {failure}")
            return
        if metrics.get("violations") or not candidate.deployable:
            return  # never on the front
        point = (float(metrics["accuracy"]), float(metrics["fps"]), number, candidate)
        if not any(a >= point[0] and f >= point[1] for a, f, _, _ in self._best):
            self._best = [b for b in self._best if not (point[0] >= b[0] and point[1] >= b[1])] + [point]

    def _panel(self) -> Group:
        elapsed = time.monotonic() - self._started
        fresh = self._done - (self._first_done or 0)
        left = f", about {duration(elapsed / fresh * (self._wanted - self._done))} left" if fresh else ""
        table = Table(box=None, padding=(0, 2), show_header=True, header_style="bold")
        for heading in ("accuracy", "FPS", "trial", "candidate"):
            table.add_column(heading, justify="left" if heading == "candidate" else "right")
        for accuracy, fps, number, candidate in sorted(self._best, key=lambda b: -b[0])[:12]:
            table.add_row(f"{accuracy:.2%}", f"{fps:,.0f}", str(number), Text(str(candidate)))
        bar_width = 30
        filled = round(bar_width * self._done / max(self._wanted, 1))
        lines: list[Any] = [
            Text(f"{'━' * filled}{'╌' * (bar_width - filled)}  {self._done}/{self._wanted} trials, {duration(elapsed)}{left}")
        ]
        lines += [Text(f"  trial {number}: {stage}", style="dim") for number, stage in sorted(self._running.items())]
        return Group(*lines, table) if self._best else Group(*lines)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)


def make_progress(console: Console) -> PlainProgress | LiveProgress:
    """A panel when the console is a terminal, lines otherwise."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
