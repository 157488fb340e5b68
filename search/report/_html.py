"""The report's sections as HTML. Everything that comes from a study passes through `escape`."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from edgesearch.search.report._data import FrontPicture, StageTime
from edgesearch.search.report._table import columns, number, percent, size
from edgesearch.search.study import Miss, Record, StudyView, nearest_misses

#: Trials named beside a reason or a choice before "and N more".
_NAMED = 12
_CONSTRAINTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "min_accuracy": ("accuracy at least", percent),
    "min_fps": ("FPS at least", lambda v: f"{v:,g}"),
    "max_latency_ms": ("latency at most", lambda v: f"{v:g} ms"),
    "max_size_bytes": ("size at most", size),
}
_OBJECTIVES = {
    "accuracy": "accuracy",
    "fps": "FPS",
    "latency_ms": "latency",
    "size_bytes": "size",
    "joules": "energy per image",
}


def header(view: StudyView) -> str:
    """Title, what was asked for, and when it ran."""
    wanted = [f"{'max' if o.maximise else 'min'} {_OBJECTIVES.get(o.name, o.name)}" for o in view.objectives]
    chips = [f'<li class="chip goal">{escape(text)}</li>' for text in wanted]
    chips += [f'<li class="chip">{escape(describe_limit(name, limit))}</li>' for name, limit in view.constraints.items()]
    if not view.constraints:
        chips.append('<li class="chip quiet">no constraints</li>')
    if view.board:
        chips.append(f'<li class="chip quiet">board {escape(view.board)}</li>')
    description = f'<p class="lead">{escape(view.description)}</p>' if view.description else ""
    return (
        f'<header><p class="brand">edgesearch</p><h1>{escape(view.name)}</h1>{description}'
        f'<ul class="chips">{"".join(chips)}</ul><p class="when">{_when(view)}</p></header>'
    )


def _when(view: StudyView) -> str:
    begun = [r.started for r in view.records if r.started is not None]
    ended = [r.finished for r in view.records if r.finished is not None]
    if not begun:
        return ""
    first = f"{min(begun):%Y-%m-%d %H:%M}"
    return f"{first} to {max(ended):%Y-%m-%d %H:%M}" if ended else f"begun {first}"


def describe_limit(name: str, limit: float) -> str:
    """A constraint in words."""
    words, show = _CONSTRAINTS.get(name, (name.replace("_", " "), lambda v: f"{v:g}"))
    return f"{words} {show(limit)}"


def _describe_amount(name: str, amount: float) -> str:
    if name == "min_accuracy":
        return f"accuracy {100 * amount:.2f} points too low"
    show = {"min_fps": lambda v: f"{number(v)} FPS too slow", "max_latency_ms": lambda v: f"{number(v)} ms too late"}
    show["max_size_bytes"] = lambda v: f"{size(v)} too large"
    return show.get(name, lambda v: f"{name} missed by {v:g}")(amount)


def cards(view: StudyView, picture: FrontPicture) -> str:
    """The headline figures."""
    counts = view.counts
    pieces = [f"{counts['COMPLETE']} complete"]
    pieces += [f"{counts['FAIL']} failed"] if counts["FAIL"] else []
    pieces += [f"{counts['RUNNING']} running"] if counts["RUNNING"] else []
    feasible = sum(r.is_feasible and r.deployable for r in view.records)
    found = [
        _card("Trials", f"{len(view.records):,}", ", ".join(pieces)),
        _card("On the front", f"{len(picture.front):,}", f"of {feasible:,} feasible and deployable"),
    ]
    found += _winners(view, picture)
    reasons = ", ".join(f"{count} {reason}" for reason, count in _largest(view.rejections, 3))
    found.append(_card("Rejected", f"{view.rejected:,}", reasons or "before any training"))
    found.append(_card("Repeats", f"{view.repeats:,}", "answered from the record"))
    return f'<section class="cards" aria-label="Headline figures">{"".join(found)}</section>'


def _winners(view: StudyView, picture: FrontPicture) -> list[str]:
    accurate = max((r for r in picture.front if r.accuracy is not None), key=lambda r: r.accuracy or 0.0, default=None)
    fastest = max((r for r in picture.front if r.fps is not None), key=lambda r: r.fps or 0.0, default=None)
    found = [
        _card("Best accuracy", percent(accurate.accuracy if accurate else None), _who(accurate)),
        _card("Fastest", f"{number(fastest.fps)}<small> FPS</small>" if fastest else "-", _who(fastest)),
    ]
    knee, value = picture.knee, "-"
    if knee is not None:
        value = f"{percent(knee.accuracy)}<small> at {number(knee.fps)} FPS</small>"
    return [*found, _card("Knee", value, _who(knee), wide=True)]


def _who(record: Record | None) -> str:
    return "" if record is None else f"trial {record.number}, {record.recipe or record.architecture}"


def _card(title: str, value: str, note: str, *, wide: bool = False) -> str:
    """`value` is HTML made here; `note` is text."""
    kind = "card wide" if wide else "card"
    return f'<div class="{kind}"><h2>{title}</h2><p class="value">{value}</p><p class="note">{escape(note)}</p></div>'


def misses_section(view: StudyView, picture: FrontPicture) -> str:
    """Why the front is empty, when it is."""
    if picture.front:
        return ""
    misses = nearest_misses(view.records, view.constraints, limit=8)
    if not misses:
        text = (
            "No trial is complete yet."
            if not view.counts["COMPLETE"]
            else "No complete trial is deployable: the DPU runs 8 bits."
        )
        return f'<section class="panel notice"><h2>The front is empty</h2><p>{text}</p></section>'
    rows = "".join(_miss_row(miss) for miss in misses)
    return (
        '<section class="panel notice"><h2>No trial keeps every constraint</h2>'
        "<p>The nearest misses, relative to the limits:</p>"
        f'<div class="scroll"><table><thead><tr><th class="n">trial</th><th>candidate</th><th>what it misses</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _miss_row(miss: Miss) -> str:
    amounts = "; ".join(_describe_amount(name, amount) for name, amount in miss.amounts.items())
    return f'<tr><td class="n">{miss.record.number}</td><td>{escape(miss.record.recipe)}</td><td>{escape(amounts)}</td></tr>'


def front_section(view: StudyView, picture: FrontPicture) -> str:
    """The picture of the front, and its table."""
    if not picture.records:
        return ""
    hollow = " Hollow: breaks a constraint." if any(r.violations for r in picture.records) else ""
    diamonds = " Diamonds: for analysis, the DPU cannot run them." if any(not r.deployable for r in picture.records) else ""
    line = " The line borders what the front dominates." if picture.steps else ""
    caption = f"Every complete trial, coloured by its student; members of the front are ringed.{line}{hollow}{diamonds}"
    table = _front_table(view, picture) if picture.front else ""
    return (
        '<section class="panel"><div class="title"><h2>Front</h2><div class="switch" role="group" aria-label="Range shown">'
        '<button type="button" data-range="all" aria-pressed="true">all trials</button>'
        '<button type="button" data-range="front" aria-pressed="false">around the front</button></div></div>'
        f'<p class="caption">{caption}</p><div class="plot tall" id="front">{_NO_SCRIPT}</div>{table}</section>'
    )


_NO_SCRIPT = "<noscript>Drawing needs JavaScript; the tables do not.</noscript>"


def _front_table(view: StudyView, picture: FrontPicture) -> str:
    shown = columns(view)
    heads = "".join(
        f'<th class="{"n" if c.is_number else ""}"><button type="button">{escape(c.heading)}</button></th>' for c in shown
    )
    rows = []
    for record in picture.front:
        cells = []
        for column in shown:
            value = column.value(record)
            tag = ' <span class="tag">knee</span>' if column.name == "candidate" and record is picture.knee else ""
            key = value if column.is_number and value is not None else ""
            cells.append(f'<td class="{"n" if column.is_number else ""}" data-v="{key}">{escape(column.show(value))}{tag}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll front-table"><table class="sortable"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def history_section(view: StudyView) -> str:
    """How the front grew."""
    if not any(r.is_feasible and r.deployable for r in view.records):
        return ""
    return (
        '<section class="panel"><h2>Hypervolume</h2><p class="caption">Share of the space between the worst and the best '
        "values seen that the front has conquered, after each trial. A long flat end says that more trials of this kind will "
        f'bring little.</p><div class="plot" id="history">{_NO_SCRIPT}</div></section>'
    )


def time_section(view: StudyView, times: Sequence[StageTime]) -> str:
    """Where time went."""
    if not times:
        return ""
    spent, saved = sum(t.spent for t in times), sum(t.saved for t in times)
    runs, hits = sum(t.runs for t in times), sum(t.hits for t in times)
    facts = [f"{duration(spent)} in {runs:,} stages"]
    if hits:
        factor = f", {(spent + saved) / spent:.1f} times less than without reuse" if spent else ""
        facts.append(f"{duration(saved)} saved by {hits:,} stages found in the store{factor}")
    asks = [r.ask_seconds for r in view.records if r.ask_seconds]
    if asks:
        facts.append(f"a proposal took {duration(statistics.median(asks))} (median)")
    return (
        f'<section class="panel"><h2>Where time went</h2><p class="caption">{"; ".join(facts)}.</p><div class="pair">'
        f'<div class="plot" id="stages">{_NO_SCRIPT}</div><div class="plot" id="bars"></div></div></section>'
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def choices_section(view: StudyView, picture: FrontPicture) -> str:
    """What each choice in the space led to."""
    complete = [r for r in view.records if r.is_complete and r.settings]
    if len(complete) < 2:
        return ""
    on_front = {r.number for r in picture.front}
    blocks = []
    for title, choose in _CHOICES.items():
        groups: dict[str, list[Record]] = defaultdict(list)
        for record in complete:
            groups[choose(record.settings)].append(record)
        if len(groups) > 1:
            blocks.append(_choice_block(title, groups, on_front))
    if not blocks:
        return ""
    return (
        '<section class="panel"><h2>Choices</h2><p class="caption">Complete trials by what was chosen: how many, how many of '
        f'them reached the front, and the best of each.</p><div class="choices">{"".join(blocks)}</div></section>'
    )


def _get(settings: Mapping[str, Any], table: str, key: str) -> Any:
    found = settings.get(table)
    return found.get(key, "unknown") if isinstance(found, Mapping) else "unknown"


def _quantization(settings: Mapping[str, Any]) -> str:
    bits = {5: "int5", 8: "int8", 16: "fp16"}.get(_get(settings, "quantization", "bits"), "")
    return f"{_get(settings, 'quantization', 'method')} {bits}"


def _pruning(settings: Mapping[str, Any]) -> str:
    method, ratio = _get(settings, "pruning", "method"), _get(settings, "pruning", "ratio")
    if method == "none" or not isinstance(ratio, float):
        return str(method)
    low = min(int(ratio * 4), 3) * 25
    return f"{method} {low} to {low + 25} %"


_CHOICES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "student": lambda s: str(_get(s, "student", "architecture")).rpartition(":")[2],
    "width": lambda s: str(_get(s, "student", "width")),
    "input size": lambda s: f"{_get(s, 'student', 'input_size')} px",
    "distillation": lambda s: str(_get(s, "distillation", "kind")),
    "pruning (MACs removed)": _pruning,
    "quantization": _quantization,
}


def _choice_block(title: str, groups: Mapping[str, Sequence[Record]], on_front: set[int]) -> str:
    most = max(len(records) for records in groups.values())
    rows = []
    for name, records in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:_NAMED]:
        reached = sum(r.number in on_front for r in records)
        width = 100 * len(records) / most
        rows.append(
            f'<tr><td>{escape(name)}</td><td class="n bar"><i style="width:{width:.1f}%"></i><span>{len(records):,}</span></td>'
            f'<td class="n">{reached or "·"}</td><td class="n">{percent(_best(records, "accuracy"))}</td>'
            f'<td class="n">{number(_best(records, "fps"))}</td></tr>'
        )
    left = len(groups) - len(rows)
    more = f'<tr><td colspan="5" class="quiet">and {left} more</td></tr>' if left > 0 else ""
    return (
        f'<table class="choice"><thead><tr><th>{escape(title)}</th><th class="n">trials</th><th class="n">front</th>'
        f'<th class="n">accuracy</th><th class="n">FPS</th></tr></thead><tbody>{"".join(rows)}{more}</tbody></table>'
    )


def _best(records: Iterable[Record], name: str) -> float | None:
    return max((value for r in records if (value := r.figure(name)) is not None), default=None)


def failures_section(view: StudyView) -> str:
    """Trials that failed, by reason, and why asks were rejected."""
    failed = [r for r in view.records if r.state == "FAIL"]
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in failed:
        groups[reason_of(record)].append(record)
    rows = []
    for reason, records in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        named = ", ".join(str(r.number) for r in records[:_NAMED])
        more = f" and {len(records) - _NAMED} more" if len(records) > _NAMED else ""
        log = next((m[1] for r in records if (m := _LOG.search(r.failure))), "")
        example = f'<p class="quiet">{escape(records[0].recipe)}{f"; log {escape(log)}" if log else ""}</p>'
        rows.append(f'<tr><td class="n">{len(records)}</td><td>{escape(reason)}{example}</td><td>{named}{more}</td></tr>')
    table = (
        '<div class="scroll"><table><thead><tr><th class="n">trials</th><th>reason</th><th>numbers</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    title = f'<h2>Failures</h2><p class="caption">{len(failed):,} of {len(view.records):,} trials failed.</p>'
    return f'<section class="panel">{title}{table if rows else ""}</section>' if view.records else ""


_LOG = re.compile(r"\s*\(log: ([^)]*)\)")


def reason_of(record: Record) -> str:
    """Why a trial failed, without the path of its log, so that equal reasons are equal."""
    return _LOG.sub("", record.failure).strip() or "no reason was recorded"


def _largest(counts: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    return [(name, count) for name, count in Counter(dict(counts)).most_common(limit) if count]
