"""The report of a study: one HTML file that needs no network."""

from __future__ import annotations

import html
import os
from collections import Counter
from pathlib import Path
from typing import Any

from edgesearch.search._figures import front_figure, history_figure, time_figure
from edgesearch.search._front import knee, pareto_front
from edgesearch.search._record import Record, StudyView

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #59636e; --paper: #ffffff; --card: #f6f8fa; --line: #d1d9e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --paper: #0d1117; --card: #161b22; --line: #30363d; } }
body { margin: 0 auto; max-width: 1100px; padding: 1.5rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.2rem 0 .4rem; font-size: 1.2rem; } p { margin: .3rem 0; color: var(--dim); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; } .card span { color: var(--dim); font-size: .85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } td:last-child, th:last-child { text-align: left; white-space: normal; }
.plot { background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: .3rem; }
"""


def write_report(view: StudyView, path: Path) -> None:
    """Write the report of a study as it stands; an older one is replaced whole. Raises OSError when that is not possible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(render_report(view), encoding="utf-8")
    os.replace(temporary, path)


def render_report(view: StudyView) -> str:
    """The report as HTML. Everything that a user named is escaped."""
    front = pareto_front(view)
    name = html.escape(view.name)
    sections = [
        f"<h1>{name}</h1><p>{html.escape(view.description)}</p>",
        _cards(view, front),
        _constraints(view),
        _plot(
            "The front", front_figure(view, front), "Every trial; the line joins those that no other beats. Hover for recipes."
        ),
        "<h2>The front's members</h2>" + _front_table(view, front),
        _plot(
            "How the front grew", history_figure(view), "Hypervolume: the share of the box of all results that is dominated."
        ),
        _plot(
            "Where the time went", time_figure(view), "Seconds spent per stage in each trial; stages from the store cost none."
        ),
        _failures(view),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} - edgesearch</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style><script>{_plotly()}</script></head><body>{''.join(sections)}</body></html>"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _plot(title: str, figure: Any, caption: str) -> str:
    if figure is None:
        return f"<h2>{title}</h2><p>Nothing to show yet.</p>"
    body = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    return f'<h2>{title}</h2><p>{caption}</p><div class="plot">{body}</div>'


def _cards(view: StudyView, front: list[Record]) -> str:
    hits = Counter(kind for record in view.records for kind in record.cache_hits)
    trained = sum("student" in record.stage_seconds for record in view.records)
    cards = [
        (f"{view.count('COMPLETE')}", "trials finished"),
        (f"{len(front)}", "on the front"),
        (f"{trained}", "trained a student anew"),
        (f"{sum(hits.values())}", "stages from the store"),
        (f"{view.rejected}", "rejected before training"),
        (f"{view.count('FAIL')}", "failed"),
    ]
    if front:
        chosen = knee(front, view.objectives)
        cards[2:2] = [
            (f"{max(r.metrics['accuracy'] for r in front):.2%}", "best accuracy (validation)"),
            (f"{max(r.metrics['fps'] for r in front):,.0f}", "most FPS (throughput)"),
        ]
        if chosen is not None:
            cards.insert(2, (f"trial {chosen.number}", "the knee"))
    return '<div class="cards">' + "".join(f'<div class="card"><b>{b}</b><span>{s}</span></div>' for b, s in cards) + "</div>"


def _constraints(view: StudyView) -> str:
    words = ", ".join(f"{html.escape(name)} = {limit:g}" for name, limit in view.constraints.items())
    board = f"Board: {html.escape(view.board)}, simulated. Accuracy: integers of the quantized network."
    return f"<p>{board}</p>" + (f"<p>Constraints: {words}.</p>" if words else "")


def _front_table(view: StudyView, front: list[Record]) -> str:
    if not front:
        return "<p>No feasible trial yet.</p>"
    heads = ["trial", "accuracy", "test", "FPS", "one image, ms", "KiB", "MMACs", "candidate"]
    rows = []
    for record in front:
        metrics, test = record.metrics, view.test_accuracy.get(record.number)
        cells = [
            str(record.number),
            f"{metrics['accuracy']:.2%}",
            "" if test is None else f"{test:.2%}",
            f"{metrics['fps']:,.0f}",
            f"{metrics['latency_ms']:.2f}",
            f"{metrics['size_bytes'] / 1024:,.1f}",
            f"{metrics['macs'] / 1e6:,.2f}",
            html.escape(str(record.candidate)),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{h}</th>" for h in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _failures(view: StudyView) -> str:
    parts = []
    if view.rejections:
        reasons = ", ".join(f"{html.escape(reason)}: {count}" for reason, count in sorted(view.rejections.items()))
        parts.append(f"<h2>Rejected before training</h2><p>{reasons}</p>")
    failed = [record for record in view.records if record.failure]
    if failed:
        rows = "".join(
            f"<tr><td>{r.number}</td><td>{html.escape(str(r.candidate))}: {html.escape(r.failure or '')}</td></tr>"
            for r in failed
        )
        parts.append(
            f"<h2>Failed trials</h2><div class='scroll'><table><tr><th>trial</th><th>why</th></tr>{rows}</table></div>"
        )
    return "".join(parts)
