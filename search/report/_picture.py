"""The front as one small SVG picture, for a README or a slide: no script, no font, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from pathlib import Path

from edgesearch.errors import StudyError
from edgesearch.files import write_atomically
from edgesearch.search.report._data import ON_FRONT, Axis, FrontPicture, front_picture
from edgesearch.search.report._replaced import check_replaceable
from edgesearch.search.report._table import number
from edgesearch.search.study import Record, StudyView

_WIDTH, _HEIGHT = 920, 500
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 26, 92, 62
#: Pixels: a letter of the knee's label, what rises above its base line, and what a ring needs around its middle.
_LETTER, _ASCENT, _RING = 7.4, 11, 8
#: Pixels of a letter of the legend.
_SIGN = 7.3
#: Light and dark; the report uses the same eight and the same grey for whatever comes after them.
_LIGHT = ("#2a78d6", "#eb6834", "#1baf7a", "#c98a00", "#d6599a", "#4a3aa7", "#008300", "#e34948", "#8b8a83")
_DARK = ("#4b95ee", "#e8703f", "#22a97a", "#d39a17", "#dd6ca3", "#9a8ff0", "#3d9e3d", "#ea6b6b", "#85847c")
#: How far an axis of shares may reach beyond 0 and 1, as in the report.
_BEYOND = 0.005
#: Stand for the number of a colour in the legend where a cross is drawn, upright or not.
_CROSS, _PLUS = -1, -2
_INK = {"page": "#fdfdfc", "edge": "#e3e2dd", "grid": "#ebeae5", "ink": "#14140f", "soft": "#5c5b54"}
_INK_DARK = {"page": "#1a1a18", "edge": "#32312d", "grid": "#2b2a27", "ink": "#f6f5f0", "soft": "#b5b4ab"}


@dataclass(frozen=True)
class _Scale:
    """Values of an axis to pixels."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, axis: Axis, values: list[float], start: float, end: float) -> _Scale:
        """With a twentieth of room on both sides."""
        flat = [math.log10(v) for v in values] if axis.log else values
        room = 0.05 * (max(flat) - min(flat)) or abs(flat[0]) * 0.05 or 1.0
        low, high = min(flat) - room, max(flat) + room
        if axis.is_share:
            low, high = max(low, -_BEYOND), min(high, 1 + _BEYOND)
        return cls(axis, low, high, start, end)

    def __call__(self, value: float) -> float:
        flat = math.log10(value) if self.axis.log else value
        return round(self.start + (flat - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> Iterator[float]:
        """Round values within the axis: 1, 2, 5 and their powers of ten where it is logarithmic."""
        if self.axis.log:
            for power in range(math.floor(self.low) - 1, math.ceil(self.high) + 1):
                yield from (d * 10.0**power for d in (1, 2, 5) if self.low <= math.log10(d * 10.0**power) <= self.high)
            return
        raw = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
        for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield i * step

    def label(self, value: float) -> str:
        """The value as it stands beside its tick."""
        return f"{100 * value:.4g} %" if self.axis.is_share else f"{float(f'{value:.6g}'):,.10g}"


def write_front_svg(view: StudyView, path: Path, *, tested: bool = False) -> None:
    """Draw the study's front into an SVG file; raises StudyError when there is nothing to draw or it cannot be written.

    tested: by accuracies on the test images, as others publish theirs, where all that is drawn has them.
    """
    picture = front_picture(view)
    if tested and picture.y.name == "accuracy" and {record.number for record in picture.records} <= view.test_accuracy.keys():
        view = _on_test_images(view)
        picture = front_picture(view)
        picture = replace(picture, y=replace(picture.y, title="accuracy on test images"))
    if not picture.records:
        raise StudyError(f"study {view.name!r} has no complete trial to draw; run more trials")
    check_replaceable(path, "SVG")
    if path.suffix.lower() != ".svg":
        raise StudyError(f"the picture {str(path)!r} does not end in .svg; it is SVG: give it that ending")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, front_svg(view, picture).encode())
    except OSError as error:
        raise StudyError(f"the picture cannot be written to {path} ({error.strerror or error}); name another file") from error


def _on_test_images(view: StudyView) -> StudyView:
    def moved(record: Record) -> Record:
        found = view.test_accuracy.get(record.number)
        return record if found is None else replace(record, metrics={**record.metrics, "accuracy": found})

    return replace(view, records=tuple(map(moved, view.records)))


def front_svg(view: StudyView, picture: FrontPicture) -> str:
    """The picture as SVG, light or dark as the reader's system asks for."""
    xs = [_get(r, picture.x) for r in picture.records] + [other.fps for other in picture.published]
    ys = [_get(r, picture.y) for r in picture.records] + [other.accuracy for other in picture.published]
    x = _Scale.over(picture.x, xs, _LEFT, _WIDTH - _RIGHT)
    y = _Scale.over(picture.y, ys, _HEIGHT - _BOTTOM, _TOP)
    tried = f"{len(picture.records):,} network{'' if len(picture.records) == 1 else 's'} tried"
    title = f"{tried}, {len(picture.front):,} worth putting on the board"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="t">',
            f'<title id="t">{escape(view.name)}: {title}</title>',
            f"<style>{_style()}</style>",
            f'<rect class="page" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="10"/>',
            f'<text class="head" x="24" y="34">{title}</text>',
            *_legend(picture),
            *_axes(x, y),
            *_others(picture, x, y),
            *_dots(picture, x, y),
            *_line(picture, x, y),
            *_members(picture, x, y),
            "</svg>",
            "",
        ]
    )


def _get(record: Record, axis: Axis) -> float:
    return record.figure(axis.name) or 0.0


def _style() -> str:
    def rules(inks: dict[str, str], colours: tuple[str, ...]) -> str:
        fixed = (
            f".page{{fill:{inks['page']};stroke:{inks['edge']}}}.grid{{stroke:{inks['grid']}}}.front{{stroke:{inks['ink']};fill:none}}"
            f"text{{fill:{inks['soft']}}}.head,.point{{fill:{inks['ink']}}}.halo{{stroke:{inks['page']}}}.m{{stroke:{inks['ink']}}}"
            f".other{{stroke:{inks['soft']}}}"
        )
        return fixed + "".join(f".c{i}{{fill:{c}}}.h{i}{{stroke:{c}}}" for i, c in enumerate(colours))

    return (
        "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif}"
        ".head{font-size:17px;font-weight:600}.point{font-weight:600}.halo{stroke-width:4;paint-order:stroke;stroke-linejoin:round}"
        ".other{fill:none;stroke-width:1.5}.d{fill-opacity:.45}.hollow{fill:none;stroke-opacity:.5}.front{stroke-width:1.6}.m{stroke-width:1.5}"
        f"{rules(_INK, _LIGHT)}@media(prefers-color-scheme:dark){{{rules(_INK_DARK, _DARK)}}}"
    )


def _colours(picture: FrontPicture) -> dict[str, int]:
    return {name: min(i, len(_LIGHT) - 1) for i, name in enumerate(picture.architectures)}


def _legend(picture: FrontPicture) -> Iterator[str]:
    """In one row, or where that would leave the picture in two, with names cut to what fits there."""
    shown = list(_colours(picture).items())[: len(_LIGHT)]
    entries = [(colour, (name or "unknown") if colour < len(_LIGHT) - 1 else "others") for name, colour in shown]
    if any(not other.own for other in picture.published):
        entries.append((_CROSS, "published by others"))
    if any(other.own for other in picture.published):
        entries.append((_PLUS, "studies of edgesearch"))
    rows = _rows([text for _, text in entries])
    if rows > 2:
        longest = int(((_WIDTH - 24) / math.ceil(len(entries) / 2) - 34) / _SIGN)
        entries = [(colour, text if len(text) <= longest else f"{text[: longest - 1]}…") for colour, text in entries]
    widths = [34 + _SIGN * len(text) for _, text in entries]
    left, row, next_row = (24.0, 58, 58) if rows == 1 else (24.0, 54, 74)
    for (colour, text), width in zip(entries, widths, strict=True):
        if left + width > _WIDTH:
            left, row = 24.0, next_row
        if colour in (_CROSS, _PLUS):
            yield f'<path class="other" d="{_cross(left + 5, row, is_plus=colour == _PLUS)}"/>'
        else:
            yield f'<circle class="c{colour}" cx="{left + 5:.0f}" cy="{row}" r="5"/>'
        yield f'<text x="{left + 16:.0f}" y="{row + 4}">{escape(text)}</text>'
        left += width


def _rows(texts: Sequence[str]) -> int:
    """How many rows a legend of these entries takes."""
    rows, left = 1, 24.0
    for width in (34 + _SIGN * len(text) for text in texts):
        if left + width > _WIDTH:
            rows, left = rows + 1, 24.0
        left += width
    return rows


def _axes(x: _Scale, y: _Scale) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in x.ticks():
        yield f'<path class="grid" d="M{x(tick)} {_TOP}V{bottom}"/>'
        yield f'<text x="{x(tick)}" y="{bottom + 20}" text-anchor="middle">{x.label(tick)}</text>'
    for tick in y.ticks():
        yield f'<path class="grid" d="M{_LEFT} {y(tick)}H{right}"/>'
        yield f'<text x="{_LEFT - 10}" y="{y(tick) + 4.5:.1f}" text-anchor="end">{y.label(tick)}</text>'
    scale = ", log scale" if x.axis.log else ""
    yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 18}" text-anchor="middle">{escape(x.axis.title)}{scale}</text>'
    middle = (_TOP + bottom) / 2
    yield f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{escape(y.axis.title)}</text>'


def _cross(x: float, y: float, *, is_plus: bool) -> str:
    return f"M{x - 5:.1f} {y:.1f}h10m-5-5v10" if is_plus else f"M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8"


def _others(picture: FrontPicture, x: _Scale, y: _Scale) -> Iterator[str]:
    for other in picture.published:
        title = f"{other.name}: {100 * other.accuracy:.4g} % at {number(other.fps)} FPS; {other.board} ({other.source})"
        mark = _cross(x(other.fps), y(other.accuracy), is_plus=other.own)
        yield f'<path class="other" d="{mark}"><title>{escape(title)}</title></path>'


def _dots(picture: FrontPicture, x: _Scale, y: _Scale) -> Iterator[str]:
    """Trials off the front; those that would cover each other within a pixel or two are drawn once."""
    on_front, colours = frozenset(r.number for r in picture.front), _colours(picture)
    drawn = set()
    for record in picture.records:
        if picture.kind(record, on_front) == ON_FRONT:
            continue
        hollow = bool(record.violations) or not record.deployable
        px, py, colour = x(_get(record, picture.x)), y(_get(record, picture.y)), colours[record.architecture]
        spot = (round(px / 2), round(py / 2), colour, hollow)
        if spot not in drawn:
            drawn.add(spot)
            yield f'<circle class="{f"hollow h{colour}" if hollow else f"d c{colour}"}" cx="{px}" cy="{py}" r="3.5"/>'


def _line(picture: FrontPicture, x: _Scale, y: _Scale) -> Iterator[str]:
    if picture.steps:
        yield f'<path class="front" d="M{"L".join(f"{x(px)} {y(py)}" for px, py in picture.steps)}"/>'


def _members(picture: FrontPicture, x: _Scale, y: _Scale) -> Iterator[str]:
    colours = _colours(picture)
    for record in picture.front:
        px, py = x(_get(record, picture.x)), y(_get(record, picture.y))
        yield f'<circle class="m c{colours[record.architecture]}" cx="{px}" cy="{py}" r="6"/>'
    knee = picture.knee
    if knee is None:
        return
    px, py = x(_get(knee, picture.x)), y(_get(knee, picture.y))
    text = f"{_in_words(knee, picture.y)} at {_in_words(knee, picture.x)}"
    points = [(x(_get(r, picture.x)), y(_get(r, picture.y))) for r in picture.records if r is not knee]
    left, base = _label_place(picture, (px, py), len(text) * _LETTER, points, [(x(cx), y(cy)) for cx, cy in picture.steps])
    yield f'<text class="point halo" x="{left:.1f}" y="{base:.1f}" textLength="{len(text) * _LETTER:.0f}">{text}</text>'


def _label_place(
    picture: FrontPicture,
    at: tuple[float, float],
    width: float,
    points: Sequence[tuple[float, float]],
    corners: Sequence[tuple[float, float]],
) -> tuple[float, float]:
    """Left end and base line of a label of `width` pixels that touches least: the nearest place without a point under it.

    Places away from what the point dominates come first, and one that leaves the picture comes last.
    """
    outwards, upwards = (1 if picture.x.maximise else -1), (-1 if picture.y.maximise else 1)

    def cost(place: tuple[float, float]) -> int:
        low, high, top, bottom = place[0], place[0] + width, place[1] - _ASCENT, place[1] + 4
        outside = low < _LEFT or high > _WIDTH - 4 or top < _TOP - _ASCENT or bottom > _HEIGHT - _BOTTOM
        touched = sum(low - _RING < px < high + _RING and top - _RING < py < bottom + _RING for px, py in points)
        crossed = sum(
            max(ax, bx) > low and min(ax, bx) < high and max(ay, by) > top and min(ay, by) < bottom
            for (ax, ay), (bx, by) in pairwise(corners)
        )
        return 1000 * outside + touched + crossed

    places = []
    for far in (12, 26, 44, 66):
        for side, rise in (
            (outwards, upwards),
            (0, upwards),
            (-outwards, upwards),
            (outwards, -upwards),
            (-outwards, -upwards),
        ):
            left = at[0] + side * 12 - (width if side < 0 else width / 2 if side == 0 else 0)
            places.append((left, at[1] + rise * far + (_ASCENT if rise > 0 else 0)))
    return min(places, key=cost)


def _in_words(record: Record, axis: Axis) -> str:
    value = _get(record, axis)
    units = {"fps": "FPS", "latency_ms": "ms", "size_bytes": "bytes", "joules": "J"}
    return f"{100 * value:.1f} %" if axis.is_share else f"{number(value)} {units.get(axis.name, axis.name)}"
