"""The report's pictures, as Plotly figures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from edgesearch.search._front import hypervolume_history, knee
from edgesearch.search._record import STAGE_KINDS, Record, StudyView

#: Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#B8A800")
_TITLES = {"accuracy": "accuracy on validation", "fps": "frames per second", "latency_ms": "latency, ms", "size_bytes": "bytes"}
#: An axis whose values span more than this factor is logarithmic.
_LOG_SPAN = 5.0


def _layout(figure: Any, height: int, **more: Any) -> Any:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 55},
        legend={"orientation": "h", "y": 1.08},
        **more,
    )
    return figure


def front_figure(view: StudyView, front: Sequence[Record]) -> Any | None:
    """All complete trials over the first two objectives, the front as a line; None without trials."""
    import plotly.graph_objects as go

    names = list(view.objectives)[:2]
    complete = [r for r in view.records if r.complete and all(name in r.metrics for name in names)]
    if not complete or len(names) < 2:
        return None
    y_name, x_name = names
    figure = go.Figure()
    members = sorted(front, key=lambda r: r.metrics[x_name])
    figure.add_scatter(
        x=[r.metrics[x_name] for r in members],
        y=[r.metrics[y_name] for r in members],
        mode="lines",
        line={"color": "#59636e", "width": 1.5, "shape": "hv" if view.objectives[x_name] == "minimize" else "vh"},
        name="front",
        hoverinfo="skip",
    )
    numbers = {r.number for r in front}
    architectures = sorted({r.candidate.student.architecture for r in complete})
    for colour, architecture in enumerate(architectures):
        group = [r for r in complete if r.candidate.student.architecture == architecture]
        figure.add_scatter(
            x=[r.metrics[x_name] for r in group],
            y=[r.metrics[y_name] for r in group],
            mode="markers",
            name=html.escape(architecture.rpartition(":")[2]),
            text=[_hover(view, r) for r in group],
            hovertemplate="%{text}<extra></extra>",
            marker={
                "color": _COLOURS[colour % len(_COLOURS)],
                "size": [11 if r.number in numbers else 7 for r in group],
                "opacity": [1.0 if r.number in numbers else 0.45 for r in group],
                "symbol": ["circle" if r.feasible and r.deployable else "x-thin-open" for r in group],
            },
        )
    chosen = knee(front, view.objectives)
    if chosen is not None:
        figure.add_annotation(**_pointer(chosen, x_name, y_name, complete))
    _axis(figure.update_xaxes, x_name, complete)
    _axis(figure.update_yaxes, y_name, complete)
    return _layout(figure, 520)


def _is_log(name: str, records: Sequence[Record]) -> bool:
    values = [r.metrics[name] for r in records]
    return name != "accuracy" and min(values) > 0 and max(values) / min(values) > _LOG_SPAN


def _axis(update: Any, name: str, records: Sequence[Record]) -> None:
    update(title=_TITLES.get(name, name), type="log" if _is_log(name, records) else "linear")
    if name == "accuracy":
        update(tickformat=".0%")


def _pointer(record: Record, x_name: str, y_name: str, records: Sequence[Record]) -> dict[str, Any]:
    import math

    x, y = record.metrics[x_name], record.metrics[y_name]
    return {
        "x": math.log10(x) if _is_log(x_name, records) else x,
        "y": math.log10(y) if _is_log(y_name, records) else y,
        "text": f"knee: trial {record.number}",
        "ax": 45,
        "ay": -35,
        "arrowcolor": "#59636e",
    }


def _hover(view: StudyView, record: Record) -> str:
    metrics = record.metrics
    lines = [
        f"<b>trial {record.number}</b>  {html.escape(str(record.candidate))}",
        f"{metrics['accuracy']:.2%} on validation"
        + (f", {metrics['float_accuracy']:.2%} before quantization" if "float_accuracy" in metrics else ""),
        f"{metrics['fps']:,.0f} FPS, one image in {metrics['latency_ms']:.2f} ms",
        f"{metrics['size_bytes'] / 1024:,.1f} KiB, {metrics['macs'] / 1e6:,.2f} MMACs",
    ]
    if not record.deployable:
        lines.append("not deployable: the DPU runs 8 bits only")
    lines += [f"{html.escape(name)} missed by {amount:g}" for name, amount in record.violations.items()]
    if record.number in view.test_accuracy:
        lines.append(f"{view.test_accuracy[record.number]:.2%} on test")
    return "<br>".join(lines)


def history_figure(view: StudyView) -> Any | None:
    """Hypervolume after each trial; None without trials."""
    import plotly.graph_objects as go

    history = hypervolume_history(view)
    if not history:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[number for number, _ in history],
        y=[area for _, area in history],
        mode="lines",
        line={"shape": "hv", "color": _COLOURS[0]},
    )
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title="hypervolume", rangemode="tozero")
    return _layout(figure, 300, showlegend=False)


def time_figure(view: StudyView) -> Any | None:
    """Seconds by stage and trial, stacked; None when nothing was run."""
    import plotly.graph_objects as go

    timed = [r for r in view.records if r.stage_seconds]
    if not timed:
        return None
    figure = go.Figure()
    for colour, kind in enumerate(STAGE_KINDS):
        seconds = [r.stage_seconds.get(kind, 0.0) for r in timed]
        if any(seconds):
            name = f"{kind} ({sum(seconds):,.0f} s)"
            figure.add_bar(x=[r.number for r in timed], y=seconds, name=name, marker={"color": _COLOURS[colour]})
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title="seconds")
    return _layout(figure, 340, barmode="stack", bargap=0.1)
