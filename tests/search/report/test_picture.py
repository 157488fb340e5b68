from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from _studies import crowded_view, make_study, plain_record

from edgesearch.errors import StudyError
from edgesearch.search.report._data import Axis
from edgesearch.search.report._picture import _Scale, write_front_svg
from edgesearch.search.study._front import knee, pareto_front
from edgesearch.search.study._record import StudyView, read_study

_SVG = "{http://www.w3.org/2000/svg}"


def _draw(view: StudyView, folder: Path) -> ElementTree.Element:
    path = folder / "front.svg"
    write_front_svg(view, path)
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def _members(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [c for c in root.iter(f"{_SVG}circle") if c.get("class", "").startswith("m ")]


@pytest.mark.parametrize("objectives", [("accuracy", "fps"), ("accuracy", "latency_ms"), ("accuracy", "fps", "size_bytes")])
def test_the_front_is_ringed_and_ordered(objectives: tuple[str, ...], tmp_path: Path) -> None:
    view = read_study(make_study(90, objectives=objectives, constraints={"min_fps": 400.0}))
    front = pareto_front(view)
    root = _draw(view, tmp_path)
    ringed = _members(root)
    assert len(ringed) == len(front)
    heights = [float(c.get("cy", "nan")) for c in ringed]
    assert heights == sorted(heights)  # the most accurate first, and highest
    lines = [p for p in root.iter(f"{_SVG}path") if p.get("class") == "front"]
    assert len(lines) == (len(objectives) == 2)
    texts = ["".join(t.itertext()) for t in root.iter(f"{_SVG}text")]
    chosen = knee(front)
    assert chosen is not None
    assert any(text.startswith(f"{chosen.accuracy:.1%}".replace("%", " %")) for text in texts)
    assert any("log scale" in text for text in texts)


def test_everything_is_inside_the_picture(tmp_path: Path) -> None:
    root = _draw(read_study(make_study(90)), tmp_path)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for circle in root.iter(f"{_SVG}circle"):
        assert 0 < float(circle.get("cx", "nan")) < width
        assert 0 < float(circle.get("cy", "nan")) < height


def test_a_legend_of_many_students_takes_a_second_row(tmp_path: Path) -> None:
    names = [f"WideResidualNetwork{number}" for number in range(8)]
    records = tuple(
        plain_record(number, (0.9 - 0.01 * number, 100.0 + number), settings={"student": {"architecture": f"nets:{name}"}})
        for number, name in enumerate(names)
    )
    root = _draw(StudyView("s", records[0].objectives, {}, records), tmp_path)
    _, _, width, _ = map(float, root.get("viewBox", "").split())
    ends: dict[str, float] = {}
    for text in root.iter(f"{_SVG}text"):
        said, row = "".join(text.itertext()), text.get("y", "")
        if said in names:
            assert float(text.get("x", "nan")) - 16 >= ends.get(row, 0.0)
            ends[row] = float(text.get("x", "nan")) + 7.3 * len(said)
    assert len(ends) == 2
    assert max(ends.values()) <= width


def test_names_in_a_legend_that_would_take_more_than_two_rows_are_cut(tmp_path: Path) -> None:
    names = [f"nets:AVeryWideAndVeryDeepResidualNetwork{number}" for number in range(8)]
    records = tuple(
        plain_record(number, (0.9 - 0.01 * number, 100.0 + number), settings={"student": {"architecture": name}})
        for number, name in enumerate(names)
    )
    root = _draw(StudyView("s", records[0].objectives, {}, records), tmp_path)
    rows: dict[str, list[tuple[float, str]]] = {}
    for text in root.iter(f"{_SVG}text"):
        if "".join(text.itertext()).endswith("…"):
            rows.setdefault(text.get("y", ""), []).append((float(text.get("x", "nan")), "".join(text.itertext())))
    assert [len(row) for row in rows.values()] == [4, 4]
    for row in rows.values():
        starts = [start for start, _ in row]
        ends = [start + 7.3 * len(said) for start, said in row]
        assert all(start - 16 >= end for start, end in zip(starts[1:], ends[:-1], strict=True))


def test_an_axis_of_shares_ends_with_all_of_them(tmp_path: Path) -> None:
    record = plain_record(0, (0.98, 100.0))
    texts = [
        "".join(t.itertext()) for t in _draw(StudyView("s", record.objectives, {}, (record,)), tmp_path).iter(f"{_SVG}text")
    ]
    shares = [float(text.removesuffix(" %")) for text in texts if re.fullmatch(r"[\d.]+ %", text)]
    assert shares
    assert max(shares) <= 100


def test_a_picture_for_results_shows_test_images_where_all_trials_were_measured_on_them(tmp_path: Path) -> None:
    records = tuple(plain_record(number, (0.9 - 0.1 * number, 100.0 + number)) for number in range(3))
    view = StudyView("s", records[0].objectives, {}, records)

    def said(tests: dict[int, float]) -> list[str]:
        write_front_svg(replace(view, test_accuracy=tests), tmp_path / "front.svg", tested=True)
        root = ElementTree.fromstring((tmp_path / "front.svg").read_text(encoding="utf-8"))
        return ["".join(t.itertext()) for t in root.iter() if t.tag in (f"{_SVG}text", f"{_SVG}title")]

    tested = said({0: 0.85, 1: 0.75, 2: 0.65})
    assert any("accuracy on test images" in text for text in tested)
    assert any("85" in text for text in tested)
    assert any("accuracy on validation images" in text for text in said({0: 0.85}))


def test_names_are_escaped_and_one_trial_is_enough(tmp_path: Path) -> None:
    record = plain_record(0, (0.9, 100.0), settings={"student": {"architecture": "pkg:<b>&Net"}})
    root = _draw(StudyView("<s>", record.objectives, {}, (record,)), tmp_path)
    texts = ["".join(t.itertext()) for t in root.iter(f"{_SVG}text")]
    assert "<b>&Net" in texts
    assert "1 network tried, 1 worth putting on the board" in texts


def test_trials_that_cover_each_other_are_drawn_once(tmp_path: Path) -> None:
    view = read_study(make_study(60))
    crowd = replace(view, records=tuple(replace(r, number=r.number + 1000 * i) for i in range(5) for r in view.records))
    copies_of_members = len(pareto_front(view))  # the copy that is not on the front is a dot below its ring
    assert len(list(_draw(crowd, tmp_path).iter())) <= len(list(_draw(view, tmp_path).iter())) + copies_of_members


def test_nothing_to_draw_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no complete trial to draw"):
        write_front_svg(read_study(make_study(0)), tmp_path / "front.svg")
    with pytest.raises(StudyError, match=r"front.png' does not end in .svg; it is SVG: give it that ending"):
        write_front_svg(read_study(make_study(20)), tmp_path / "front.png")


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        write_front_svg(read_study(make_study(20)), tmp_path / "file" / "front.svg")


def _touched_by_the_label(root: ElementTree.Element) -> int:
    """How many circles the knee's label covers."""
    (label,) = (t for t in root.iter(f"{_SVG}text") if "point" in t.get("class", ""))
    left, base = float(label.get("x", "nan")), float(label.get("y", "nan"))
    right = left + float(label.get("textLength", "nan"))
    assert 0 < left < right < float(root.get("viewBox", "").split()[2])
    circles = [[float(c.get(name, "nan")) for name in ("cx", "cy", "r")] for c in root.iter(f"{_SVG}circle")]
    return sum(left - r < x < right + r and base - 11 - r < y < base + 3 + r for x, y, r in circles)


@pytest.mark.parametrize("objectives", [("accuracy", "fps"), ("accuracy", "latency_ms")])
@pytest.mark.parametrize("seed", range(6))
def test_the_knees_label_touches_no_point(seed: int, objectives: tuple[str, ...], tmp_path: Path) -> None:
    assert _touched_by_the_label(_draw(read_study(make_study(60, seed=seed, objectives=objectives)), tmp_path)) == 0


def test_the_knees_label_keeps_away_from_trials_beside_it(tmp_path: Path) -> None:
    view = crowded_view()
    chosen = knee(pareto_front(view))
    assert chosen is not None
    assert chosen.number == 1
    assert _touched_by_the_label(_draw(view, tmp_path)) == 0


def test_ticks_of_millions_are_written_out() -> None:
    axis = Axis("size_bytes", "size", maximise=False, log=True)
    scale = _Scale.over(axis, [4e5, 2.3e7], 0.0, 1.0)
    labels = {500_000.0: "500,000", 1e6: "1,000,000", 2e7: "20,000,000", 0.5: "0.5", 0.1 + 0.2: "0.3"}
    assert {value: scale.label(value) for value in labels} == labels
