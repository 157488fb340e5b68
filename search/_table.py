"""A front as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from rich.table import Table

from edgesearch.search._record import Record, StudyView

_METRICS = ("accuracy", "float_accuracy", "fps", "latency_ms", "latency_fps", "size_bytes", "macs", "parameters")


def front_table(view: StudyView, front: Sequence[Record]) -> Table:
    """For a terminal or a file."""
    tested = any(record.number in view.test_accuracy for record in front)
    headings = ["trial", "accuracy", *(["test"] if tested else []), "FPS", "latency ms", "size KiB", "MMACs"]
    table = Table(title=f"Front of study {view.name} ({view.board}, simulated)", box=None, padding=(0, 2), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("candidate", overflow="fold")
    for record in front:
        metrics = record.metrics
        test = view.test_accuracy.get(record.number)
        table.add_row(
            str(record.number),
            f"{metrics['accuracy']:.2%}",
            *([f"{test:.2%}" if test is not None else ""] if tested else []),
            f"{metrics['fps']:,.0f}",
            f"{metrics['latency_ms']:.2f}",
            f"{metrics['size_bytes'] / 1024:,.1f}",
            f"{metrics['macs'] / 1e6:,.2f}",
            str(record.candidate),
        )
    return table


def _row(view: StudyView, record: Record) -> dict[str, object]:
    return {
        "trial": record.number,
        "recipe": str(record.candidate),
        **{name: record.metrics.get(name) for name in _METRICS},
        "test_accuracy": view.test_accuracy.get(record.number),
    }


def front_json(view: StudyView, front: Sequence[Record]) -> str:
    """An array of objects, each with its whole candidate."""
    rows = [{**_row(view, record), "candidate": record.candidate.model_dump()} for record in front]
    return json.dumps(rows, indent=1)


def front_csv(view: StudyView, front: Sequence[Record]) -> str:
    """A heading and a line per member."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["trial", "recipe", *_METRICS, "test_accuracy"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(view, record) for record in front)
    return text.getvalue()
