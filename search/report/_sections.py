"""What the report's sections say: plain facts, which the template turns into HTML and escapes."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesearch.errors import KNOWN_FAILURE
from edgesearch.search.report._data import FrontPicture, StageTime
from edgesearch.search.report._named import NAMED, named
from edgesearch.search.report._table import columns, number, percent, size
from edgesearch.search.study import Miss, Record, StudyView, duration, family_of, nearest_misses

_CONSTRAINTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "min_accuracy": ("accuracy at least", percent),
    "min_fps": ("FPS at least", lambda v: f"{v:,g}"),
    "max_latency_ms": ("latency at most", lambda v: f"{v:g} ms"),
    "max_size_bytes": ("size at most", size),
}
_MISSES: Mapping[str, Callable[[float], str]] = {
    "min_accuracy": lambda v: f"accuracy {100 * v:.2f} points too low",
    "min_fps": lambda v: f"{number(v)} FPS too slow",
    "max_latency_ms": lambda v: f"{number(v)} ms too late",
    "max_size_bytes": lambda v: f"{size(v)} too large",
}
_OBJECTIVES = {
    "accuracy": "accuracy",
    "fps": "FPS",
    "latency_ms": "latency",
    "size_bytes": "size",
    "joules": "energy per image",
}


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    title: str
    value: str
    note: str
    unit: str = ""
    wide: bool = False


def goals(view: StudyView) -> list[str]:
    """The objectives in words."""
    return [f"{'max' if o.maximise else 'min'} {_OBJECTIVES.get(o.name, o.name)}" for o in view.objectives]


def limits(view: StudyView) -> list[str]:
    """The constraints in words."""
    return [describe_limit(name, limit) for name, limit in view.constraints.items()]


def period(view: StudyView) -> str:
    """When the study ran."""
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


def cards(view: StudyView, picture: FrontPicture) -> list[Card]:
    """The headline figures."""
    counts = view.counts
    pieces = [f"{counts['COMPLETE']} complete"]
    pieces += [f"{counts['PRUNED']} stopped early"] if counts["PRUNED"] else []
    pieces += [f"{counts['FAIL']} failed"] if counts["FAIL"] else []
    pieces += [f"{counts['RUNNING']} running"] if counts["RUNNING"] else []
    feasible = sum(r.is_feasible and r.deployable for r in view.records)
    reasons = [
        f"{count} {_rejection(view, reason)}" for reason, count in Counter(dict(view.rejections)).most_common(3) if count
    ]
    nearest = [f"the nearest: {describe_rejected(view.nearest_rejected)}"] if view.nearest_rejected else []
    return [
        Card("Trials", f"{len(view.records):,}", ", ".join(pieces)),
        Card("On the front", f"{len(picture.front):,}", f"of {feasible:,} feasible and deployable"),
        *_winners(picture),
        Card("Rejected", f"{view.rejected:,}", "; ".join([*reasons, *nearest]) or "before any training"),
        Card("Repeats", f"{view.repeats:,}", "answered from the record"),
        *_boards(view),
    ]


def describe_rejected(nearest: Mapping[str, Any]) -> str:
    """A view's `nearest_rejected` in words: the candidate, each limit that it misses, and what was expected of it."""
    missed = [
        f"{describe_limit(name, miss['limit'])}, expected {_CONSTRAINTS.get(name, ('', number))[1](miss['expected'])}"
        for name, miss in nearest["misses"].items()
    ]
    return f"{nearest['candidate']} ({'; '.join(missed)})"


def _boards(view: StudyView) -> list[Card]:
    """What boards did in the last run, and which are out, and why."""
    if not view.boards:
        return []
    measured = sum(bool(record.measured_by) for record in view.records)
    notes = [
        f"{name} {known.get('state')}, {known.get('served', 0)} served, {known.get('lost', 0)} lost"
        + (f" ({known['reason']})" if known.get("reason") else "")
        for name, known in view.boards.items()
    ]
    return [Card("Measured", f"{measured:,}", "; ".join(notes), "trials", wide=True)]


def _rejection(view: StudyView, reason: str) -> str:
    """Why candidates were rejected, in words."""
    limit = view.constraints.get(reason)
    if limit is not None:
        return f"for {describe_limit(reason, limit)}"
    return "that the DPU or edgesearch cannot run" if reason == "unsupported" else reason


def _winners(picture: FrontPicture) -> list[Card]:
    accurate = max((r for r in picture.front if r.accuracy is not None), key=lambda r: r.accuracy or 0.0, default=None)
    fastest = max((r for r in picture.front if r.fps is not None), key=lambda r: r.fps or 0.0, default=None)
    knee = picture.knee
    return [
        Card("Best accuracy", percent(accurate.accuracy if accurate else None), _who(accurate)),
        Card("Fastest", number(fastest.fps) if fastest else "-", _who(fastest), "FPS" if fastest else ""),
        Card("Knee", percent(knee.accuracy), _who(knee), f"at {number(knee.fps)} FPS", wide=True)
        if knee is not None
        else Card("Knee", "-", "", wide=True),
    ]


def _who(record: Record | None) -> str:
    return "" if record is None else f"trial {record.number}, {record.recipe or record.architecture}"


def misses(view: StudyView) -> list[tuple[int, str, str]]:
    """(trial, candidate, what it misses) of the trials that miss the constraints by least."""
    return [
        (
            miss.record.number,
            miss.record.recipe,
            missed(miss),
        )
        for miss in nearest_misses(view.records, view.constraints, limit=8)
    ]


def missed(miss: Miss) -> str:
    """By how much a trial misses each constraint that it breaks."""
    amounts = "; ".join(_MISSES.get(n, lambda v, n=n: f"{n} missed by {v:g}")(v) for n, v in miss.amounts.items())
    return amounts + (", as was expected when it was stopped" if miss.is_expected else "")


def front_caption(picture: FrontPicture) -> str:
    """What the picture of the front shows."""
    line = " The line borders what the front dominates." if picture.steps else ""
    hollow = " Hollow: breaks a constraint." if any(r.violations for r in picture.records) else ""
    diamonds = " Diamonds: for analysis, the DPU cannot run them." if any(not r.deployable for r in picture.records) else ""
    marks = ""
    if any(not other.own for other in picture.published):
        marks += " Crosses: networks of others, measured on boards and on the test images as they published it."
    if any(other.own for other in picture.published):
        marks += (
            " Pluses: fronts of studies that come with edgesearch, on the test images, by the board's profile of their day."
        )
    return f"Every complete trial, coloured by its student; members of the front are ringed.{line}{hollow}{diamonds}{marks}"


@dataclass(frozen=True)
class Cell:
    """One cell of the front's table: what is shown, what it is sorted by, and whether it is a number."""

    text: str
    key: Any
    is_number: bool
    is_knee: bool = False


def front_rows(view: StudyView, picture: FrontPicture) -> list[list[Cell]]:
    """The front's members, cell by cell."""
    rows, shown = [], columns(view)
    for record in picture.front:
        row = []
        for column in shown:
            value = column.value(record)
            key = value if column.is_number and value is not None else ""
            at_knee = column.name == "candidate" and record is picture.knee
            row.append(Cell(column.show(value), key, column.is_number, at_knee))
        rows.append(row)
    return rows


def time_facts(view: StudyView, times: Sequence[StageTime]) -> str:
    """Where time went, in a sentence."""
    spent, saved = sum(t.spent for t in times), sum(t.saved for t in times)
    runs, hits = sum(t.runs for t in times), sum(t.hits for t in times)
    facts = [f"{duration(spent)} in {runs:,} stages"]
    if hits:
        factor = f", {(spent + saved) / spent:.1f} times less than without reuse" if spent else ""
        facts.append(f"{duration(saved)} saved by {hits:,} stages found in the store{factor}")
    asks = [r.ask_seconds for r in view.records if r.ask_seconds]
    if asks:
        facts.append(f"a proposal took {duration(statistics.median(asks))} (median)")
    return "; ".join(facts)


@dataclass(frozen=True)
class ChoiceRow:
    """One value of a setting: trials, their share of the most frequent value's, front members, the best of each."""

    name: str
    trials: int
    width: float
    on_front: int
    accuracy: str
    fps: str


@dataclass(frozen=True)
class Choice:
    """What the values of one setting led to; `left` values are not shown."""

    title: str
    rows: tuple[ChoiceRow, ...]
    left: int


def choices(view: StudyView, picture: FrontPicture) -> list[Choice]:
    """What each choice in the space led to, for settings with more than one value."""
    complete = [r for r in view.records if r.is_complete and r.settings]
    on_front = {r.number for r in picture.front}
    tables = []
    for title, choose in _CHOICES.items():
        groups: dict[str, list[Record]] = defaultdict(list)
        for record in complete:
            groups[choose(record.settings)].append(record)
        if len(groups) > 1:
            tables.append(_choice(title, groups, on_front))
    return tables


def _choice(title: str, groups: Mapping[str, Sequence[Record]], on_front: set[int]) -> Choice:
    most = max(len(records) for records in groups.values())
    rows = tuple(
        ChoiceRow(
            name=name,
            trials=len(records),
            width=100 * len(records) / most,
            on_front=sum(r.number in on_front for r in records),
            accuracy=percent(_best(records, "accuracy")),
            fps=number(_best(records, "fps")),
        )
        for name, records in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:NAMED]
    )
    return Choice(title, rows, len(groups) - len(rows))


def _get(settings: Mapping[str, Any], table: str, key: str) -> Any:
    content = settings.get(table)
    return content.get(key, "unknown") if isinstance(content, Mapping) else "unknown"


def _quantization(settings: Mapping[str, Any]) -> str:
    bits = {5: "int5", 8: "int8", 16: "fp16"}.get(_get(settings, "quantization", "bits"), "")
    return f"{_get(settings, 'quantization', 'method')} {bits}"


def _pruning(settings: Mapping[str, Any]) -> str:
    method, ratio = _get(settings, "pruning", "method"), _get(settings, "pruning", "ratio")
    if method == "none" or not isinstance(ratio, float):
        return str(method)
    low = min(int(ratio * 4), 3) * 25
    if method == "n_m":
        return f"n_m {_get(settings, 'pruning', 'pattern')}"
    of = " of the time" if _get(settings, "pruning", "target") == "fps" else " zeros" if method == "unstructured" else ""
    return f"{method} {low} to {low + 25} %{of}"


_CHOICES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "student": lambda s: family_of(s.get("student", {}))[0],
    "width": lambda s: str(family_of(s.get("student", {}))[1]),
    "input size": lambda s: f"{_get(s, 'student', 'input_size')} px",
    "distillation": lambda s: str(_get(s, "distillation", "kind")),
    "pruning (MACs removed)": _pruning,
    "quantization": _quantization,
}


def _best(records: Iterable[Record], name: str) -> float | None:
    return max((value for r in records if (value := r.figure(name)) is not None), default=None)


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one reason."""

    reason: str
    trials: int
    named: str
    example: str  # the candidate of one of them
    log: str


def failures(view: StudyView) -> list[Failure]:
    """Why trials failed, the most frequent reason first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in view.records:
        if record.state == "FAIL":
            groups[reason_of(record)].append(record)
    rows = []
    for reason, records in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        trials = named([str(record.number) for record in records])
        log = next((m[1] for r in records if (m := _LOG.search(r.failure))), "")
        rows.append(Failure(reason, len(records), trials, records[0].recipe, log))
    return rows


_LOG = re.compile(r"\s*\(log: (.*?\.log)\)")


def reason_of(record: Record) -> str:
    """Why a trial failed, without its log's path and what is said of earlier attempts, so that equal reasons are equal."""
    return _LOG.sub("", record.failure).replace(KNOWN_FAILURE, "").strip() or "no reason was recorded"
