"""The front as a table for people, as JSON and as CSV for programs."""

from __future__ import annotations

import bisect
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgesearch.search.report._named import named
from edgesearch.search.report._speed_order import alike, speed_interval, speed_note
from edgesearch.search.study import Record, StudyView, is_distinct, teacher_note, uncertainty, wilson_interval

#: What the words of a candidate mean.
LEGEND = (
    "A candidate reads: student, width multiplier (x0.5), input size in pixels (@32); distillation, with temperature T and the "
    "labels' weight a; pruning, the share of multiply-accumulates removed and the step in channels (one_step 60%/16); "
    "quantization, after training (ptq) or in it (qat), and bits."
)
#: Columns that a narrow terminal does without, by their names in files, the first to go first.
_SPARED = (
    *("parameters", "macs", "size_bytes", "latency_error", "throughput_bound", "simulated_fps", "fps_difference"),
    *("float_test_accuracy", "fps_error", "accuracy_uncertainty", "gain_over_control", "joules", "latency_ms"),
    *("measured_by", "test_accuracy"),
)
#: The least width of a candidate's words, which wrap.
_CANDIDATE_WIDTH = 16
#: What stands where a trial has no such figure.
MISSING = "-"


def percent(value: float | None) -> str:
    """An accuracy, 0..1, as a percentage with two decimals; what is not all is never 100 %."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{min(value, 0.9999) if value < 1 else value:.2%}"


def number(value: float | None) -> str:
    """Three or four significant digits, thousands separated."""
    if value is None or not math.isfinite(value):
        return MISSING
    if abs(value) >= 999.95 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def scaled(value: float | None, *, base: int = 1000, unit: str = "") -> str:
    """With a prefix: 1,820,000 is 1.82 M; with base 1024 and the unit B, 65,536 is 64.0 KiB."""
    if value is None or not math.isfinite(value):
        return MISSING
    infix = "i" if base == 1024 and unit else ""
    prefixes = ["", "K" if base == 1024 else "k", "M", "G", "T"]
    power = 0
    while abs(value) >= base * 0.9995 and power < len(prefixes) - 1:
        value, power = value / base, power + 1
    digits = f"{value:.0f}" if power == 0 or abs(value) >= 100 else (f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}")
    return f"{digits} {prefixes[power]}{infix if power else ''}{unit}".rstrip()


def size(value: float | None) -> str:
    """Bytes, in KiB or MiB."""
    return scaled(value, base=1024, unit="B")


@dataclass(frozen=True)
class Column:
    """One column: its heading, its name in files, what a record has there and how that is shown."""

    heading: str
    name: str
    value: Callable[[Record], Any]
    show: Callable[[Any], str]
    is_number: bool = True


def columns(view: StudyView) -> list[Column]:
    """The columns of a front. Test accuracy, energy, and what boards measured beside it, have some only if there are any."""
    found = [
        Column("trial", "trial", lambda r: r.number, str),
        Column("candidate", "candidate", lambda r: r.recipe, str, is_number=False),
        Column("accuracy", "accuracy", lambda r: r.accuracy, percent),
    ]
    if view.validation_images is not None:
        images = view.validation_images
        found.append(Column("±", "accuracy_uncertainty", lambda r: _uncertainty(r, images), _points))
    if view.test_accuracy:
        found.append(Column("test", "test_accuracy", lambda r: view.test_accuracy.get(r.number), percent))
    if view.float_test_accuracy:
        found.append(Column("float test", "float_test_accuracy", lambda r: view.float_test_accuracy.get(r.number), percent))
    if view.controls:
        found.append(Column("gain", "gain_over_control", view.gain_over_control, _signed_points))
    found.append(Column("FPS", "fps", lambda r: r.fps, number))
    if any("fps_error" in record.metrics for record in view.records):
        found.append(Column("±%", "fps_error", lambda r: r.figure("fps_error"), _points))
    if any(record.measured_by for record in view.records):
        found += [
            Column("simulated", "simulated_fps", lambda r: r.figure("simulated_fps"), number),
            Column("off", "fps_difference", lambda r: r.figure("fps_difference"), _signed),
            Column("measured by", "measured_by", _measured_by, _named_board, is_number=False),
        ]
    if any("throughput_bound" in record.conditions for record in view.records):
        found.append(Column("bound by", "throughput_bound", _bound, lambda b: b or MISSING, is_number=False))
    latency_error = (
        [Column("±%", "latency_error", lambda r: r.figure("latency_error"), _points)]
        if any("latency_error" in record.metrics for record in view.records)
        else []
    )
    found += [
        Column("latency ms", "latency_ms", lambda r: r.latency_ms, number),
        *latency_error,
        Column("size", "size_bytes", lambda r: r.size_bytes, size),
        Column("MACs", "macs", lambda r: r.macs, scaled),
        Column("params", "parameters", lambda r: r.parameters, scaled),
    ]
    if any("joules" in record.metrics for record in view.records):
        found.append(
            Column("mJ/image", "joules", lambda r: r.figure("joules"), lambda j: number(None if j is None else 1e3 * j))
        )
    return found


def _uncertainty(record: Record, images: int) -> float | None:
    """Half of the 95 % interval of an accuracy that was counted on so many images, or on those that its board was given."""
    accuracy = record.accuracy
    return None if accuracy is None or not 0 <= accuracy <= 1 else uncertainty(accuracy, _counted_on(record, images))


def _counted_on(record: Record, images: int) -> int:
    """The images that a record's accuracy was counted on: the study's validation images, or those that its board was given."""
    return int(record.figure("board_images") or images) if record.accuracy_of == "board" else images


def _bound(record: Record) -> str | None:
    """What bounds its throughput: compute, memory or host."""
    return record.conditions.get("throughput_bound")


class _Differing(str):
    """The name of a board whose integers were other ones than ours."""


def _measured_by(record: Record) -> str | None:
    """The board that measured it."""
    return _Differing(record.measured_by) if record.accuracy_of == "board" else record.measured_by or None


def _named_board(board: str | None) -> str:
    """As it is shown, with a mark where its integers differ."""
    return f"{board} *" if isinstance(board, _Differing) else board or MISSING


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1%}"


def _points(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _signed_points(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:+.2f}"


def certainty_note(view: StudyView, front: Sequence[Record]) -> str:
    """How sure accuracies and speeds are, whose order is open, what boards and distillation gave; "" where nothing is known."""
    notes = (accuracy_note(view, front), speed_note(front), board_note(front), distillation_note(view))
    return " ".join(note for note in notes if note)


def board_note(front: Sequence[Record]) -> str:
    """What the mark of a measurement means, where a member has one."""
    marked = [record for record in front if record.accuracy_of == "board"]
    if not marked:
        return ""
    images = max(int(record.figure("board_images") or 0) for record in marked)
    return (
        "* behind a board: its logits are not those of this program's integers, so that the simulated accuracy does not hold "
        f"there; the accuracy is the board's own, on {images:,} images at most. Look at the file that it ran, and at the board."
    )


def distillation_note(view: StudyView) -> str:
    """What the gain of distillation is measured against, and whether a teacher is no better than its students."""
    gain = "gain: points of accuracy above the same candidate without distillation." if view.controls else ""
    return " ".join(note for note in (gain, teacher_note(view.records)) if note)


def accuracy_note(view: StudyView, front: Sequence[Record]) -> str:
    """How sure the accuracies of a front are, and whose order may be chance; "" where the number of images is not known."""
    images = view.validation_images
    ordered = _by_accuracy(front)
    if images is None or not ordered:
        return ""
    close = [
        str(record.number)
        for (better, above), (accuracy, record) in pairwise(ordered)
        if not is_distinct(better, accuracy, min(_counted_on(above, images), _counted_on(record, images)))
    ]
    note = f"± is half the 95 % interval of an accuracy counted on {images:,} validation images."
    if not close:
        return note
    return f"{note} No more than chance below the next more accurate of the front: trial {named(close)}."


def _by_accuracy(front: Sequence[Record]) -> list[tuple[float, Record]]:
    """Members that have an accuracy that is a share, the most accurate first."""
    known = [(record.accuracy, record) for record in front if record.accuracy is not None and 0 <= record.accuracy <= 1]
    return sorted(known, key=lambda member: (-member[0], member[1].number))


def front_table(shown: Sequence[Column], front: Sequence[Record]) -> Table:
    """These columns of the front for a terminal; long candidates wrap."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in shown:
        wraps = column.name == "candidate"
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            no_wrap=not wraps,
            min_width=_CANDIDATE_WIDTH if wraps else None,
        )
    for record in front:
        table.add_row(*[Text(column.show(column.value(record))) for column in shown])
    return table


def front_text(view: StudyView, front: Sequence[Record]) -> str:
    """The front as lines of plain text of any width, for pipes and logs. Columns are two blanks apart."""
    shown = columns(view)
    rows = [[column.heading for column in shown]]
    rows += [[_one_line(column.show(column.value(record))) for column in shown] for record in front]
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(shown))]
    lines = []
    for row in rows:
        padded = []
        for text, width, column in zip(row, widths, shown, strict=True):
            blanks = " " * (width - cell_len(text))
            padded.append(blanks + text if column.is_number else text + blanks)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def print_table(view: StudyView, front: Sequence[Record], console: Console) -> None:
    """The front, as `front_table` on a terminal and as `front_text` elsewhere, where nothing must be cut off.

    A terminal that is too narrow for all columns has those that are whole in it, and is told which it has not.
    """
    if not console.is_terminal:
        console.print(Text(front_text(view, front)), soft_wrap=True, end="")
        return
    every = columns(view)
    shown, spared = every, [name for name in _SPARED if any(column.name == name for column in every)]
    while spared and _least_width(shown, front) > console.width:
        gone = spared.pop(0)
        shown = [column for column in shown if column.name != gone]
    console.print(front_table(shown, front))
    if len(shown) < len(every):
        left_out = ", ".join(column.name for column in every if column not in shown)
        console.print(Text(f"For want of width without {left_out}; --format csv has all."))


def _least_width(shown: Sequence[Column], front: Sequence[Record]) -> int:
    """Of a terminal that shows these columns whole, with two blanks between them."""

    def width(column: Column) -> int:
        texts = (column.heading, *(_one_line(column.show(column.value(record))) for record in front))
        return _CANDIDATE_WIDTH if column.name == "candidate" else max(map(cell_len, texts))

    return sum(map(width, shown)) + 2 * (len(shown) - 1)


def front_csv(view: StudyView, front: Sequence[Record]) -> str:
    """One line per member under a heading, numbers as they were recorded; a figure that is missing is an empty cell.

    Where speeds are predicted, the last column names the members that a trial's interval does not tell it from.
    """
    shown = columns(view)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    near = alike(front) if any(speed_interval(record) for record in front) else None
    writer.writerow([*(column.name for column in shown), *(["fps_like"] if near is not None else [])])
    for record in front:
        like = [] if near is None else [" ".join(map(str, near.get(record.number, ())))]
        writer.writerow([*(_finite(column.value(record)) for column in shown), *like])
    return buffer.getvalue()


def front_json(view: StudyView, front: Sequence[Record]) -> str:
    """The front with the study's objectives and constraints; figures that are missing or not finite are null."""
    shown, certainty, speeds = columns(view), _certainty(view, front), _speeds(front)
    content = {
        "study": view.name,
        "objectives": [{"name": o.name, "direction": "maximize" if o.maximise else "minimize"} for o in view.objectives],
        "constraints": dict(view.constraints),
        "trials": dict(view.counts) | {"rejected": view.rejected, "repeats": view.repeats},
        "validation_images": view.validation_images,
        "notes": [note] if (note := teacher_note(view.records)) else [],
        "front": [
            _as_json(view, record, shown) | certainty.get(record.number, {}) | speeds.get(record.number, {}) for record in front
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _as_json(view: StudyView, record: Record, shown: Sequence[Column]) -> dict[str, Any]:
    values = {column.name: _finite(column.value(record)) for column in shown}
    control = view.controls.get(record.number)
    return (
        values
        | ({} if control is None else {"control": control.number})
        | {
            "candidate_key": record.candidate_key,
            "deployable": record.deployable,
            "violations": dict(record.violations),
            "metrics": {name: _finite(value) for name, value in record.metrics.items()},
            "settings": dict(record.settings),
        }
        | _measured(record)
    )


def _measured(record: Record) -> dict[str, Any]:
    """Of a trial that a board measured: whose accuracy it has, how it was measured, and the boards that lost it before."""
    if not record.measured_by:
        return {}
    return {
        "accuracy_of": record.accuracy_of,
        "conditions": dict(record.conditions),
        "board_faults": [dict(fault) for fault in record.board_faults],
    }


def _certainty(view: StudyView, front: Sequence[Record]) -> dict[int, dict[str, Any]]:
    """Trial -> the 95 % interval of its accuracy, and the members whose accuracies differ from it by no more than chance."""
    images = view.validation_images
    if images is None:
        return {}
    ordered = _by_accuracy(front)
    like: dict[int, list[int]] = {record.number: [] for _, record in ordered}
    for record, other in _like_pairs(ordered, images):
        like[record.number].append(other.number)
        like[other.number].append(record.number)
    return {
        record.number: {
            "accuracy_interval": list(wilson_interval(accuracy, _counted_on(record, images))),
            "accuracy_like": like[record.number],
        }
        for accuracy, record in ordered
    }


def _like_pairs(ordered: Sequence[tuple[float, Record]], images: int) -> Iterator[tuple[Record, Record]]:
    """Those whose accuracies differ by no more than chance, the more accurate of each two first."""
    accuracies = [accuracy for accuracy, _ in ordered]
    counts = [_counted_on(record, images) for _, record in ordered]
    fewest = min(counts, default=images)
    for place, (accuracy, record) in enumerate(ordered):
        # Those that are alike stand together: the less accurate another is, the surer is the difference, and the more images.
        end = bisect.bisect_left(accuracies, True, lo=place + 1, key=lambda other: is_distinct(accuracy, other, fewest))
        for other in range(place + 1, end):
            if not is_distinct(accuracy, accuracies[other], min(counts[place], counts[other])):
                yield record, ordered[other][1]


def _speeds(front: Sequence[Record]) -> dict[int, dict[str, Any]]:
    """Trial -> the 90 % interval of its predicted speed, and the members that it does not tell it from."""
    near = alike(front)
    intervals = {record.number: speed_interval(record) for record in front}
    return {
        number: {"fps_interval": list(interval), "fps_like": near[number]}
        for number, interval in intervals.items()
        if interval is not None
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())
