from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from _studies import make_study, plain_record
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from edgesearch.search.commands._show import print_front
from edgesearch.search.library import Front
from edgesearch.search.report._speed_order import alike, speed_interval, speed_note
from edgesearch.search.report._table import (
    accuracy_note,
    certainty_note,
    front_csv,
    front_json,
    front_text,
    number,
    percent,
    print_table,
    scaled,
    size,
)
from edgesearch.search.study._front import pareto_front
from edgesearch.search.study._interval import is_distinct, uncertainty
from edgesearch.search.study._record import Record, StudyView, read_study


@pytest.fixture(scope="module")
def view() -> StudyView:
    return read_study(make_study(80, constraints={"min_fps": 250.0}))


@pytest.fixture(scope="module")
def front(view: StudyView) -> list[Record]:
    return pareto_front(view)


def _printed(view: StudyView, front: list[Record], *, terminal: bool, width: int) -> str:
    buffer = io.StringIO()
    print_table(view, front, Console(file=buffer, force_terminal=terminal, width=width, color_system=None))
    return buffer.getvalue()


def test_csv_has_one_line_per_member_with_the_recorded_numbers(view: StudyView, front: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(front_csv(view, front))))
    assert [int(row["trial"]) for row in rows] == [r.number for r in front]
    assert list(rows[0]) == [
        "trial",
        "candidate",
        "accuracy",
        "gain_over_control",
        "fps",
        "latency_ms",
        "size_bytes",
        "macs",
        "parameters",
    ]
    for row, record in zip(rows, front, strict=True):
        assert row["candidate"] == str(record.candidate)
        assert float(row["fps"]) == record.fps
        assert float(row["accuracy"]) == record.accuracy
        assert int(row["size_bytes"]) == record.size_bytes


def test_json_is_complete_and_says_what_was_optimised(view: StudyView, front: list[Record]) -> None:
    content = json.loads(front_json(view, front))
    assert content["study"] == "demo"
    assert content["objectives"][0] == {"name": "accuracy", "direction": "maximize"}
    assert content["constraints"] == {"min_fps": 250.0}
    assert content["trials"]["rejected"] == view.rejected
    assert [member["trial"] for member in content["front"]] == [r.number for r in front]
    first = content["front"][0]
    assert first["settings"] == front[0].candidate.model_dump()
    assert first["metrics"]["estimated_fps"] == front[0].metrics["estimated_fps"]


def test_json_and_csv_have_no_nan() -> None:
    record = plain_record(0, (0.5, math.nan), metrics={"macs": math.inf})
    odd = StudyView("s", record.objectives, {}, (record,))
    member = json.loads(front_json(odd, [record]))["front"][0]
    assert member["fps"] is None
    assert member["macs"] is None
    assert "nan" not in front_csv(odd, [record])


def test_plain_text_is_never_cut_however_narrow_the_console(view: StudyView, front: list[Record]) -> None:
    lines = _printed(view, front, terminal=False, width=20).splitlines()
    assert len(lines) == len(front) + 1
    assert lines[0].split() == ["trial", "candidate", "accuracy", "gain", "FPS", "latency", "ms", "size", "MACs", "params"]
    for line, record in zip(lines[1:], front, strict=True):
        assert str(record.candidate) in line
        assert f"{record.accuracy:.2%}" in line
    assert "\n".join(lines) + "\n" == front_text(view, front)


def test_a_terminal_keeps_every_number_and_wraps_the_candidate(view: StudyView, front: list[Record]) -> None:
    text = _printed(view, front, terminal=True, width=90)
    assert max(map(len, text.splitlines())) <= 90
    for record in front:
        assert f"{record.accuracy:.2%}" in text
        assert number(record.fps) in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_a_narrow_terminal_has_whole_columns_and_is_told_which_it_has_not(width: int) -> None:
    figures = {"fps_error": 0.18, "latency_error": 0.2, "latency_ms": 0.6132, "size_bytes": 123456, "macs": 12.3e6}
    records = tuple(
        plain_record(n, (0.9123 - n / 100, 1234.5 * (n + 1)), metrics=figures | {"parameters": 123456}) for n in range(3)
    )
    view = StudyView("s", records[0].objectives, {}, records, test_accuracy=dict.fromkeys(range(3), 0.9), validation_images=500)
    text = _printed(view, list(records), terminal=True, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = set(text.replace(",", "").split())
    for record in records:
        assert {str(record.number), f"{record.accuracy:.2%}", number(record.fps).replace(",", "")} <= words
    everything = {"fps_error", "latency_error", "size_bytes", "macs", "parameters", "accuracy_uncertainty", "test_accuracy"}
    left_out = everything & set(text.replace(",", "").replace(";", "").split())
    assert ("For want of width" in text) == bool(left_out) == (width < 160)
    assert "parameters" in left_out or width == 160


def test_markup_in_a_name_is_shown_not_obeyed() -> None:
    settings = {"student": {"architecture": "pkg:[red]Net[/red]", "input_size": 32}}
    record = plain_record(0, (0.5, 10.0), settings=settings)
    odd = StudyView("s", record.objectives, {}, (record,))
    for terminal in (True, False):
        assert "[red]Net[/red]" in _printed(odd, [record], terminal=terminal, width=120)


def test_missing_figures_are_a_dash() -> None:
    record = plain_record(3, (0.5, 10.0))
    line = front_text(StudyView("s", record.objectives, {}, (record,)), [record]).splitlines()[1]
    assert line.split() == ["3", "50.00%", "10.0", "-", "-", "-", "-"]


def test_test_accuracy_and_energy_get_a_column_when_there_are_any() -> None:
    record = plain_record(3, (0.5, 10.0), metrics={"joules": 0.0123})
    view = StudyView("s", record.objectives, {}, (record,), test_accuracy={3: 0.4875})
    heading, line = front_text(view, [record]).splitlines()
    assert "test" in heading
    assert "mJ/image" in heading
    assert "48.75%" in line
    assert line.endswith("12.3")


def test_what_a_board_measured_stands_beside_what_was_simulated() -> None:
    figures = {"fps": 80.0, "simulated_fps": 100.0, "fps_difference": -0.2, "board_images": 60.0}
    plain, fault = plain_record(1, (0.5, 80.0), metrics=figures), {"board": "b", "reason": "r", "at": "t"}
    known = [
        replace(plain, measured_by="lab", accuracy_of="integers"),
        replace(
            plain, number=2, measured_by="lab", accuracy_of="board", board_faults=(fault,), conditions={"integers": "differ"}
        ),
        replace(plain, number=3, metrics={"fps": 80.0}),
    ]
    view = StudyView("s", plain.objectives, {}, tuple(known), validation_images=10_000)
    heading, ours, theirs, simulated = front_text(view, known).splitlines()
    assert heading.split()[5:9] == ["simulated", "off", "measured", "by"]
    assert {"100.0", "-20.0%", "lab"} <= set(ours.split())
    assert "lab *" in theirs
    assert "lab" not in simulated
    assert "the simulated accuracy does not hold there" in certainty_note(view, known)
    assert "on 60 images" in certainty_note(view, known)
    assert certainty_note(view, known[:1]).count("*") == 0
    members = json.loads(front_json(view, known))["front"]
    assert [member.get("accuracy_of") for member in members] == ["integers", "board", None]
    assert [member.get("measured_by") for member in members] == ["lab", "lab", None]  # the mark is for people
    assert [row["measured_by"] for row in csv.DictReader(front_csv(view, known).splitlines())] == ["lab", "lab", ""]
    assert members[1]["board_faults"][0]["board"] == "b"
    assert members[1]["conditions"] == {"integers": "differ"}
    assert members[1]["accuracy_uncertainty"] > 5 * members[0]["accuracy_uncertainty"]  # 60 images, and not 10,000
    low, high = members[1]["accuracy_interval"]
    assert high - low == pytest.approx(2 * members[1]["accuracy_uncertainty"], rel=0.05)


def test_accuracies_are_told_apart_by_the_fewer_images_of_two() -> None:
    of_10_000 = [plain_record(number, (accuracy, 80.0)) for number, accuracy in ((1, 0.90), (3, 0.86), (4, 0.70))]
    of_60 = replace(plain_record(2, (0.88, 80.0), metrics={"board_images": 60.0}), measured_by="lab", accuracy_of="board")
    known = [*of_10_000, of_60]
    view = StudyView("s", of_60.objectives, {}, tuple(known), validation_images=10_000)
    like = {row["trial"]: set(row["accuracy_like"]) for row in json.loads(front_json(view, known))["front"]}
    assert not is_distinct(0.88, 0.86, 60)
    assert is_distinct(0.88, 0.70, 60)
    assert like == {1: {2}, 2: {1, 3}, 3: {2}, 4: set()}
    assert "next more accurate of the front: trial 2, 3." in certainty_note(view, known)


def test_what_a_boards_mark_means_is_told_where_the_table_is_piped_too(capsys: pytest.CaptureFixture[str]) -> None:
    ours = replace(plain_record(1, (0.5, 80.0), metrics={"board_images": 60.0}), measured_by="lab", accuracy_of="integers")
    theirs = replace(ours, number=2, accuracy_of="board")
    for known, expected in (([ours], False), ([ours, theirs], True)):
        front = Front(known, StudyView("s", known[0].objectives, {}, tuple(known)))  # type: ignore[arg-type]
        print_front(front, Console(file=io.StringIO(), width=150))
        assert ("does not hold there; the accuracy is the board's own, on 60 images" in capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567.0, "1,234,567"),
        (999.94, "999.9"),
        (999.96, "1,000"),
        (99.96, "100.0"),
        (-99.97, "-100.0"),
        (83.52, "83.5"),
        (7.0, "7.00"),
        (0.0123, "0.0123"),
        (None, "-"),
    ],
)
def test_numbers_have_three_or_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_sizes_and_counts_have_prefixes() -> None:
    assert [size(v) for v in (512, 65536, 999_999, 23_500_000)] == ["512 B", "64.0 KiB", "977 KiB", "22.4 MiB"]
    assert [scaled(v) for v in (0, 999, 999_900, 1_820_000, 41_000_000)] == ["0", "999", "1.00 M", "1.82 M", "41.0 M"]


def test_the_uncertainty_of_an_accuracy_is_shown_where_its_images_are_known() -> None:
    view = read_study(make_study(30))
    front = pareto_front(view)
    assert "accuracy_uncertainty" not in json.loads(front_json(view, front))["front"][0]
    known = replace(view, validation_images=400)
    shown = json.loads(front_json(known, front))["front"]
    assert [row["accuracy_uncertainty"] for row in shown] == [uncertainty(r.accuracy or 0.0, 400) for r in front]
    assert all(0.004 < row["accuracy_uncertainty"] < 0.05 for row in shown)


def _front_of(*accuracies: float) -> list[Record]:
    return [plain_record(i, (accuracy, 100.0 + i)) for i, accuracy in enumerate(accuracies)]


def test_members_whose_order_may_be_chance_are_named() -> None:
    front = _front_of(0.92, 0.91, 0.80, 0.60)
    view = StudyView("s", front[0].objectives, {}, tuple(front), validation_images=400)
    note = accuracy_note(view, front)
    assert note.startswith("± is half the 95 % interval of an accuracy counted on 400 validation images.")
    assert note.endswith("the next more accurate of the front: trial 1.")
    assert "chance" not in accuracy_note(replace(view, validation_images=100_000), front)
    assert accuracy_note(replace(view, validation_images=None), front) == ""
    assert accuracy_note(view, []) == ""
    rows = json.loads(front_json(view, front))["front"]
    assert [row["accuracy_like"] for row in rows] == [[1], [0], [], []]
    assert all(low < row["accuracy"] < high for row in rows for low, high in [row["accuracy_interval"]])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.sampled_from([20, 60, 400]))
def test_members_that_are_alike_are_those_that_no_pair_tells_apart(counts: list[int], images: int) -> None:
    front = _front_of(*(count / 60 for count in counts))
    view = StudyView("s", front[0].objectives, {}, tuple(front), validation_images=images)
    for row, record in zip(json.loads(front_json(view, front))["front"], front, strict=True):
        like = {o.number for o in front if o is not record and not is_distinct(o.accuracy or 0, record.accuracy or 0, images)}
        assert set(row["accuracy_like"]) == like


def test_many_such_members_are_counted() -> None:
    front = _front_of(*(0.9 - 0.001 * i for i in range(30)))
    view = StudyView("s", front[0].objectives, {}, tuple(front), validation_images=400)
    assert accuracy_note(view, front).endswith("trial 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 17 more.")


def test_what_bounds_a_speed_is_shown_where_it_is_known() -> None:
    front = _front_of(0.7, 0.8)
    view = StudyView("s", front[0].objectives, {}, tuple(front))
    assert "bound by" not in front_text(view, front)
    known = [replace(front[0], conditions={"throughput_bound": "memory"}), front[1]]
    view = replace(view, records=tuple(known))
    assert "bound by" in front_text(view, known)
    assert [row["throughput_bound"] for row in json.loads(front_json(view, known))["front"]] == ["memory", None]


def test_members_whose_predicted_speeds_leave_their_order_open_are_named() -> None:
    speeds, error = (1000.0, 970.0, 500.0), 0.03
    front = [
        replace(record, metrics={**record.metrics, "fps": fps, "fps_error": error})
        for record, fps in zip(_front_of(0.7, 0.8, 0.9), speeds, strict=True)
    ]
    assert speed_note(front) == (
        "±% behind FPS, and behind the latency, is half the 90 % interval of a predicted time. "
        "Within it of a faster one of the front: trial 1."
    )
    assert "faster" not in speed_note([front[0], front[2]])
    assert speed_note(_front_of(0.7, 0.8)) == ""  # measured, or not known
    view = StudyView("s", front[0].objectives, {}, tuple(front), validation_images=400)
    assert certainty_note(view, front) == f"{accuracy_note(view, front)} {speed_note(front)}"
    rows = json.loads(front_json(view, front))["front"]
    assert [row["fps_error"] for row in rows] == [error] * 3
    assert [row["fps_like"] for row in rows] == [[1], [0], []]
    assert rows[2]["fps_interval"] == pytest.approx([500 / 1.03, 500 / 0.97])
    assert [row["fps_like"] for row in csv.DictReader(io.StringIO(front_csv(view, front)))] == ["1", "0", ""]


def test_a_measured_speed_lies_in_the_interval_of_a_predicted_one_or_not() -> None:
    """Also where the next faster one is told from it and one beyond that is not."""
    speeds = ((1000.0, 0.3), (990.0, None), (850.0, 0.1), (400.0, None))
    front = [
        replace(record, metrics={**record.metrics, "fps": fps} | ({} if error is None else {"fps_error": error}))
        for record, (fps, error) in zip(_front_of(0.6, 0.7, 0.8, 0.9), speeds, strict=True)
    ]
    assert alike(front) == {0: [1, 2], 1: [0], 2: [0], 3: []}
    assert speed_note(front).endswith("Within it of a faster one of the front: trial 1, 2.")


def test_half_the_interval_of_a_latency_stands_behind_it_where_it_is_known() -> None:
    (record,) = _front_of(0.7)
    view = StudyView("s", record.objectives, {}, (record,))
    assert "latency_error" not in front_csv(view, [record])
    known = replace(record, metrics={**record.metrics, "latency_ms": 2.0, "latency_error": 0.125})
    view = replace(view, records=(known,))
    assert "12.5" in front_text(view, [known]).splitlines()[1]
    assert json.loads(front_json(view, [known]))["front"][0]["latency_error"] == 0.125


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from([None, 0.02, 0.1, 0.4])), max_size=12))
def test_who_is_like_whom_is_what_looking_at_every_pair_finds(speeds: list[tuple[int, float | None]]) -> None:
    front = [
        replace(record, metrics={**record.metrics, "fps": float(fps)} | ({} if error is None else {"fps_error": error}))
        for record, (fps, error) in zip(_front_of(*[0.5] * len(speeds)), speeds, strict=True)
    ]
    known = {r.number: speed_interval(r) or (r.figure("fps") or 0.0,) * 2 for r in front}
    pairs = {a: [b for b in known if a != b and known[a][0] <= known[b][1] and known[b][0] <= known[a][1]] for a in known}
    assert alike(front) == pairs
    order = sorted(known, key=lambda number: (-speeds[number][0], number))
    close = [str(number) for place, number in enumerate(order) if set(order[:place]) & set(pairs[number])]
    if any(error is not None for _, error in speeds):
        assert f"of the front: trial {', '.join(close)}." in speed_note(front) if close else "faster" not in speed_note(front)


def test_what_is_not_all_is_never_all_of_it() -> None:
    shares = {1.0: "100.00%", 0.99996: "99.99%", 0.9999: "99.99%", 0.99984: "99.98%", 0.0: "0.00%", math.nan: "-"}
    assert {share: percent(share) for share in shares} == shares
