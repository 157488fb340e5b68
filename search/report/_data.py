"""What the report draws, as plain numbers: computed here so that the page itself only has to draw."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgesearch.objectives import STAGE_KINDS
from edgesearch.search.report._published import Published, published
from edgesearch.search.study import RATIO_SCALE, Record, StudyView, knee, pareto_front, progress

#: An axis whose values span more than this factor is logarithmic.
_LOG_FACTOR = 5.0
#: Bars along the trials in the picture of where time went.
_BARS = 48
_TITLES = {
    "accuracy": "accuracy on validation images",
    "fps": "frames per second",
    "latency_ms": "latency, ms",
    "latency_fps": "frames per second, one image at a time",
    "size_bytes": "size of the weights, bytes",
    "joules": "energy per image, J",
    "macs": "multiply-accumulates per image",
}
#: Metrics that may be an axis besides the objectives, the preferred one first.
_METRICS = {"fps": True, "accuracy": True, "latency_ms": False}
#: How a trial is drawn.
DOMINATED, ON_FRONT, INFEASIBLE, NOT_DEPLOYABLE = range(4)


@dataclass(frozen=True)
class Axis:
    """One axis of the picture of the front."""

    name: str
    title: str
    maximise: bool
    log: bool
    limit: float | None = None  # the constraint on this metric

    @property
    def is_share(self) -> bool:
        """Whether values are shown as percentages."""
        return self.name.endswith("accuracy")


@dataclass(frozen=True)
class FrontPicture:
    """The trials that can be drawn, the front among them, and the corners of the step line through it.

    `published` are networks of others and of this program's own studies for the same data, where the axes are accuracy and
    frames per second.
    """

    x: Axis
    y: Axis
    records: tuple[Record, ...]
    front: tuple[Record, ...]
    knee: Record | None
    steps: tuple[tuple[float, float], ...] = field(default=())
    published: tuple[Published, ...] = ()

    def kind(self, record: Record, on_front: frozenset[int]) -> int:
        """DOMINATED, ON_FRONT, INFEASIBLE or NOT_DEPLOYABLE."""
        if record.number in on_front:
            return ON_FRONT
        if record.violations:
            return INFEASIBLE
        return DOMINATED if record.deployable else NOT_DEPLOYABLE

    @property
    def architectures(self) -> list[str]:
        """The names that get a colour, the most frequent first."""
        counts: dict[str, int] = defaultdict(int)
        for record in self.records:
            counts[record.architecture] += 1
        return sorted(counts, key=lambda name: (-counts[name], name))


def front_picture(view: StudyView) -> FrontPicture:
    """How to draw the study's front: accuracy upwards where there is one, speed to the right."""
    y_name, x_name = _axis_names(view)
    records = tuple(r for r in view.records if r.is_complete and r.figure(x_name) is not None and r.figure(y_name) is not None)
    front = tuple(pareto_front(view))
    others = published(view.data, study=view.name) if records and (x_name, y_name) == ("fps", "accuracy") else ()
    x, y = _axis(view, x_name, records, [other.fps for other in others]), _axis(view, y_name, records)
    steps: tuple[tuple[float, float], ...] = ()
    if {o.name for o in view.objectives} == {x_name, y_name} and front:
        steps = _steps(front, records, x, y)
    return FrontPicture(x, y, records, front, knee(front), steps, others)


def _axis_names(view: StudyView) -> tuple[str, str]:
    names = [o.name for o in view.objectives]
    y = "accuracy" if "accuracy" in names else names[0]
    x = next(name for name in ("fps", *names, *_METRICS) if name != y and (name in names or len(names) == 1))
    return y, x


def _axis(view: StudyView, name: str, records: Sequence[Record], more: Sequence[float] = ()) -> Axis:
    maximise = next((o.maximise for o in view.objectives if o.name == name), _METRICS.get(name, True))
    values = [record.figure(name) or 0.0 for record in records] + list(more)
    log = name in RATIO_SCALE and bool(values) and min(values) > 0 and max(values) > _LOG_FACTOR * min(values)
    limit = view.constraints.get(f"{'min' if maximise else 'max'}_{name}")
    return Axis(name, _TITLES.get(name, name), maximise, log, limit)


def _steps(front: Sequence[Record], records: Sequence[Record], x: Axis, y: Axis) -> tuple[tuple[float, float], ...]:
    """Corners of the border of what the front dominates, from edge to edge of the trials."""
    points = sorted((_value(r, x), _value(r, y)) for r in front)
    if x.maximise:  # walk from the best x, where y is worst, to the worst x
        points.reverse()
    xs, ys = [_value(r, x) for r in records], [_value(r, y) for r in records]
    worst_x, worst_y = (min if x.maximise else max)(xs), (min if y.maximise else max)(ys)
    corners = [(points[0][0], worst_y)]
    for (px, py), (qx, _) in zip(points, [*points[1:], (worst_x, 0.0)], strict=True):
        corners += [(px, py), (qx, py)]
    return tuple(corners)


def _value(record: Record, axis: Axis) -> float:
    value = record.figure(axis.name)
    assert value is not None  # records without were left out
    return value


@dataclass(frozen=True)
class StageTime:
    """Seconds of one kind of stage over the whole study."""

    kind: str
    spent: float
    saved: float  # what the hits would have cost
    runs: int
    hits: int


def stage_times(view: StudyView) -> list[StageTime]:
    """Where time went, and what the store saved.

    A hit is worth what its stage took in the trial that computed it; if another study did, the median of its kind here.
    """
    price: dict[tuple[str, str], float] = {}
    taken: dict[str, list[float]] = defaultdict(list)
    hits: dict[str, list[str]] = defaultdict(list)
    for record in view.records:
        for kind, seconds in record.stage_seconds.items():
            taken[kind].append(seconds)
            price[kind, record.artifacts.get(kind, "")] = seconds
        for kind in record.cache_hits:
            hits[kind].append(record.artifacts.get(kind, ""))
    price = {key: seconds for key, seconds in price.items() if key[1]}
    times = []
    for kind in [*STAGE_KINDS, *sorted((taken.keys() | hits.keys()) - set(STAGE_KINDS))]:
        usual = statistics.median(taken[kind]) if taken[kind] else 0.0
        saved = sum(price.get((kind, key), usual) for key in hits[kind])
        if taken[kind] or hits[kind]:
            times.append(StageTime(kind, sum(taken[kind]), saved, len(taken[kind]), len(hits[kind])))
    return times


def page_data(view: StudyView, picture: FrontPicture, times: Sequence[StageTime]) -> dict[str, Any]:
    """Everything that the page's script needs, small enough for ten thousand trials: columns, and names by number."""
    history = progress(view)
    on_front = frozenset(record.number for record in picture.front)
    colours = {name: i for i, name in enumerate(picture.architectures)}
    figures = ("accuracy", "fps", "latency_ms", "size_bytes", "macs", "parameters")
    return {
        "x": _axis_data(picture.x),
        "y": _axis_data(picture.y),
        "architectures": [name or "unknown" for name in picture.architectures],
        "trials": {
            "number": [r.number for r in picture.records],
            "x": [_value(r, picture.x) for r in picture.records],
            "y": [_value(r, picture.y) for r in picture.records],
            "colour": [colours[r.architecture] for r in picture.records],
            "kind": [picture.kind(r, on_front) for r in picture.records],
            "recipe": [r.recipe for r in picture.records],
            "figures": {name: [_short(r.figure(name)) for r in picture.records] for name in figures},
            "misses": {r.number: {k: _short(v) for k, v in r.violations.items()} for r in picture.records if r.violations},
        },
        "steps": picture.steps,
        "published": [asdict(other) for other in picture.published],
        "knee": picture.knee.number if picture.knee else None,
        "history": {"number": [n for n, _ in history], "share": [round(share, 5) for _, share in history]},
        "stages": [{"kind": t.kind, "spent": round(t.spent, 2), "saved": round(t.saved, 2)} for t in times],
        "bars": _bars(view, [t.kind for t in times]),
    }


def _axis_data(axis: Axis) -> dict[str, Any]:
    data = {"name": axis.name, "title": axis.title, "log": axis.log, "share": axis.is_share, "maximise": axis.maximise}
    return data | {"limit": axis.limit}


def _bars(view: StudyView, kinds: Sequence[str]) -> Mapping[str, Any]:
    """Seconds per stage along the trials, in at most `_BARS` groups of neighbours."""
    numbers = [record.number for record in view.records]
    width = max(1, -(-(max(numbers, default=0) + 1) // _BARS))
    groups = (max(numbers, default=-1)) // width + 1
    seconds = {kind: [0.0] * groups for kind in kinds}
    for record in view.records:
        for kind, taken in record.stage_seconds.items():
            seconds[kind][record.number // width] += taken
    labels = [f"{i * width}" if width == 1 else f"{i * width} to {(i + 1) * width - 1}" for i in range(groups)]
    return {
        "first": [i * width for i in range(groups)],
        "label": labels,
        "width": width,
        "seconds": {kind: [round(value, 2) for value in values] for kind, values in seconds.items()},
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
