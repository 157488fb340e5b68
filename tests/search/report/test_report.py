from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from _chromium import render
from _studies import crowded_view, make_study, plain_record

from edgesearch.errors import KNOWN_FAILURE, StudyError
from edgesearch.search.report._data import front_picture, page_data, stage_times
from edgesearch.search.report._report import report_html, write_report
from edgesearch.search.report._sections import reason_of
from edgesearch.search.study._front import pareto_front
from edgesearch.search.study._record import Record, StudyView, read_study

_NASTY = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&\"'"


class _Page(HTMLParser):
    """The page as a parser sees it: texts without scripts, elements, and the data script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data = ""
        self._inside = ""
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = ("data" if dict(attrs).get("id") == "data" else tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif not self._inside:
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.elements if attrs.get("id")}  # type: ignore[misc]


def _page(view: StudyView) -> tuple[_Page, Mapping[str, Any]]:
    page = _Page(report_html(view))
    return page, json.loads(page.data)


@pytest.fixture(scope="module")
def view() -> StudyView:
    return read_study(make_study(140, constraints={"min_fps": 400.0, "min_accuracy": 0.8}))


def test_headlines_constraints_and_the_front_are_in_the_page_itself(view: StudyView) -> None:
    page, _ = _page(view)
    front = pareto_front(view)
    counts = view.counts
    assert f"{counts['COMPLETE']} complete, {counts['FAIL']} failed, {counts['RUNNING']} running" in page.text
    assert f"On the front {len(front)}" in page.text
    assert f"Best accuracy {front[0].accuracy:.2%}" in page.text
    assert f"Fastest {front[-1].fps:,.0f} FPS" in page.text
    assert "accuracy at least 80.00%" in page.text
    assert "FPS at least 400" in page.text
    assert f"Rejected {view.rejected}" in page.text
    assert f"{view.rejections['min_fps']} for FPS at least 400" in page.text
    assert f"{view.rejections['unsupported']} that the DPU or edgesearch cannot run" in page.text
    assert "the nearest: cnn_small x2 @8 (FPS at least 400, expected 391)" in page.text
    assert f"Repeats {view.repeats}" in page.text
    assert "board zcu104" in page.text
    for record in front:
        assert str(record.candidate) in page.text
    assert page.count("noscript") == 3


def test_every_trial_is_drawn_and_the_front_is_marked(view: StudyView) -> None:
    _, data = _page(view)
    trials = data["trials"]
    complete = [r for r in view.records if r.is_complete]
    assert trials["number"] == [r.number for r in complete]
    assert trials["x"] == [r.fps for r in complete]
    assert trials["y"] == [r.accuracy for r in complete]
    assert [data["architectures"][c] for c in trials["colour"]] == [r.architecture for r in complete]
    marked = {n for n, kind in zip(trials["number"], trials["kind"], strict=True) if kind == 1}
    assert marked == {r.number for r in pareto_front(view)}
    hollow = {n for n, kind in zip(trials["number"], trials["kind"], strict=True) if kind == 2}
    assert hollow == {r.number for r in complete if r.violations} == {int(n) for n in trials["misses"]}
    assert data["knee"] in marked
    assert data["x"]["log"] is True
    assert data["x"]["limit"] == 400.0
    assert data["y"]["limit"] == 0.8
    assert data["history"]["share"] == sorted(data["history"]["share"])


def test_the_words_of_a_candidate_and_how_sure_an_accuracy_is_are_told(view: StudyView) -> None:
    assert "A candidate reads: student, width multiplier" in _page(view)[0].text
    assert "95 % interval" not in _page(view)[0].text  # not recorded
    assert "± is half the 95 % interval of an accuracy counted on 400" in _page(replace(view, validation_images=400))[0].text


def test_nothing_is_asked_of_the_network(view: StudyView) -> None:
    html = report_html(view)
    page = _Page(html)
    assert not [attrs for _, attrs in page.elements if "src" in attrs or "href" in attrs]
    policy = next(attrs["content"] for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "form-action 'none'" in policy
    assert html.count("plotly.js v") == 1
    assert not re.search(r"@import|url\(", html[: html.index("</style>")])


def test_html_in_names_is_shown_and_never_run() -> None:
    settings = {"student": {"architecture": f"pkg:{_NASTY}", "input_size": 32}}
    good = [plain_record(i, (0.9 - i / 10, 100.0 + i), settings=settings) for i in range(2)]
    failed = Record(2, "FAIL", good[0].objectives, settings=settings, failure=_NASTY)
    nasty = StudyView(
        _NASTY, good[0].objectives, {f"min_{_NASTY}": 1.0}, (*good, failed), rejected=1, rejections={_NASTY: 1},
        description=_NASTY, board=_NASTY,
    )  # fmt: skip
    for view in (nasty, replace(nasty, records=(replace(good[0], violations={_NASTY: 1.0}),))):
        page, data = _page(view)
        assert page.count("script") == 3
        assert page.count("img") == 0
        assert page.text.count(_NASTY) >= 5
        assert data["trials"]["recipe"][0].startswith("</script>")


def test_a_study_without_trials_still_has_a_report() -> None:
    page, data = _page(read_study(make_study(0, running=0)))
    assert "study demo has no finished trial yet" in page.text
    assert "Trials 0" in page.text
    assert data["trials"]["number"] == []
    assert not page.ids() & {"front", "history", "stages"}


def test_a_study_whose_trials_all_failed_says_why() -> None:
    page, _ = _page(read_study(make_study(8, failing=1.0, running=0)))
    assert "8 of 8 trials failed" in page.text
    assert "4 stage student: the loss became NaN in epoch 3; lower the learning rate" in page.text
    assert "1, 3, 5, 7" in page.text
    assert "log logs/" in page.text


def test_one_trial_is_a_front_and_its_knee() -> None:
    view = read_study(make_study(1, failing=0.0, running=0, seed=1))
    page, data = _page(view)
    assert data["knee"] == 0
    assert len(data["steps"]) == 3
    assert "Choices" not in page.text


def test_the_nearest_misses_are_shown_when_nothing_is_feasible() -> None:
    page, data = _page(read_study(make_study(40, constraints={"min_accuracy": 0.99, "max_size_bytes": 2048.0})))
    assert "The front is empty" in page.text
    assert re.search(r"no trial keeps every constraint \(\d+ complete, \d+ failed, 1 running\)", page.text)
    assert re.search(r"accuracy \d+\.\d\d points too low; \S+ KiB too large", page.text)
    assert data["steps"] == []
    assert data["knee"] is None


@pytest.mark.parametrize("objectives", [("accuracy", "latency_ms"), ("accuracy", "fps", "size_bytes"), ("accuracy",)])
def test_other_objectives_are_drawn(objectives: tuple[str, ...]) -> None:
    view = read_study(make_study(60, objectives=objectives))
    _, data = _page(view)
    assert data["y"]["name"] == "accuracy"
    assert data["x"]["name"] == ("latency_ms" if "latency_ms" in objectives else "fps")
    assert bool(data["steps"]) == (len(objectives) == 2)


def test_the_step_line_never_enters_what_the_front_does_not_dominate() -> None:
    for objectives in (("accuracy", "fps"), ("accuracy", "latency_ms")):
        picture = front_picture(read_study(make_study(80, objectives=objectives)))
        sign = 1 if picture.x.maximise else -1
        for x, y in picture.steps:
            assert any(sign * r.figure(picture.x.name) >= sign * x and r.accuracy >= y for r in picture.front)
        assert {(r.figure(picture.x.name), r.accuracy) for r in picture.front} <= set(picture.steps)


def test_time_saved_is_what_the_reused_stage_had_cost() -> None:
    objectives = plain_record(0, (0.5, 1.0)).objectives
    keys = {"student": "a", "quantized": "q0"}
    records = (
        plain_record(0, (0.5, 1.0), stage_seconds={"student": 20.0, "quantized": 2.0}, artifacts=keys),
        plain_record(
            1, (0.6, 1.0), stage_seconds={"quantized": 4.0}, cache_hits=("student",), artifacts=keys | {"quantized": "q1"}
        ),
        Record(2, "FAIL", objectives, cache_hits=("student", "quantized"), stage_seconds={"odd": 1.0}),
    )
    times = {t.kind: t for t in stage_times(StudyView("s", objectives, {}, records))}
    assert list(times) == ["student", "quantized", "odd"]
    assert (times["student"].spent, times["student"].saved, times["student"].hits) == (20.0, 40.0, 2)
    assert (times["quantized"].spent, times["quantized"].saved) == (6.0, 3.0)  # another study's: the median here
    assert times["odd"].spent == 1.0


def test_bars_add_up_to_the_time_spent(view: StudyView) -> None:
    times = stage_times(view)
    data = page_data(view, front_picture(view), times)
    for stage in times:
        assert sum(data["bars"]["seconds"][stage.kind]) == pytest.approx(stage.spent, abs=0.5)
    assert len(data["bars"]["first"]) <= 48
    assert data["bars"]["label"][0] == "0 to 2"


def test_equal_failures_are_grouped_though_their_logs_differ() -> None:
    objectives = plain_record(0, (0.5, 1.0)).objectives
    first, second = (Record(i, "FAIL", objectives, failure=f"stage pruned: no (log: a/{i}.log)") for i in range(2))
    assert reason_of(first) == reason_of(second) == "stage pruned: no"
    assert reason_of(Record(3, "FAIL", objectives, failure="stage pruned: no (log: runs (2)/3.log)")) == "stage pruned: no"
    known = Record(4, "FAIL", objectives, failure=f"stage pruned: no {KNOWN_FAILURE} (log: 4.log)")
    assert reason_of(known) == "stage pruned: no"
    assert reason_of(Record(2, "FAIL", objectives)) == "no reason was recorded"


def test_the_file_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path, view: StudyView) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(view, path)
    path.write_text("old")
    write_report(view, path)
    assert path.read_text(encoding="utf-8") == report_html(view)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path, view: StudyView) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written to"):
        write_report(view, tmp_path / "file" / "report.html")


def test_ten_thousand_trials_stay_small() -> None:
    small = read_study(make_study(100, constraints={"min_fps": 400.0}))
    records = tuple(replace(small.records[i % 100], number=i) for i in range(10_000))
    html = report_html(replace(small, records=records))
    assert len(html) - len(report_html(small)) < 2_500_000


#: Writes what the page asked for, or was refused by its own policy, where the test can read it.
_WATCH = """<script>
const seen = [];
addEventListener("securitypolicyviolation", (e) => seen.push(e.blockedURI));
addEventListener("load", () => {
  seen.push(...performance.getEntriesByType("resource").map((entry) => entry.name));
  document.documentElement.dataset.requests = seen.join(" ");
});
</script>"""


@pytest.mark.slow
def test_a_browser_draws_it_without_a_single_request(tmp_path: Path, view: StudyView) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_html(view).replace("<body>", f"<body>{_WATCH}"), encoding="utf-8")
    page = render(path.as_uri(), tmp_path / "profile")
    assert 'data-drawn="yes"' in page  # the script ran to its end
    assert 'data-requests=""' in page
    plots = re.findall(r'<div class="plot[^>]*js-plotly-plot[^>]*>', page)
    assert [plot for name in ("front", "history", "stages", "bars") for plot in plots if f'id="{name}"' in plot] == plots
    assert len(plots) == 4
    bars = sum(len(data) for data in _page(view)[1]["bars"]["seconds"].values()) + 2 * len(stage_times(view))
    drawn = len(re.findall(r'<(?:path|g) class="point"', page))
    assert drawn >= sum(r.is_complete for r in view.records)
    assert drawn <= sum(r.is_complete for r in view.records) + bars + 10
    titles = set(re.findall(r'data-title="([^"]+)"', page))
    assert not {title for title in titles if "chart" in title}  # no button that shares it


#: Counts the points that the knee's name covers, and those there are, where the test can read them.
_TOUCH = """<script>
addEventListener("load", () => setTimeout(() => {
  const name = [...document.querySelectorAll("#front .annotation-text-g")].find((g) => g.textContent.startsWith("knee"));
  const a = name.getBoundingClientRect();
  const boxes = [...document.querySelectorAll("#front .scatterlayer .point")].map((p) => p.getBoundingClientRect());
  const under = boxes.filter((b) => b.left < a.right && b.right > a.left && b.top < a.bottom && b.bottom > a.top);
  document.documentElement.dataset.touched = `${under.length} of ${boxes.length}`;
}, 1000));
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("study", [crowded_view(), read_study(make_study(140)), read_study(make_study(600, seed=1))])
def test_the_knees_name_covers_no_point(study: StudyView, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_html(study).replace("<body>", f"<body>{_TOUCH}"), encoding="utf-8")
    page = render(path.as_uri(), tmp_path / "profile")
    touched, drawn = re.findall(r'data-touched="(\d+) of (\d+)"', page)[0]
    assert int(drawn) == sum(r.is_complete for r in study.records)
    assert int(touched) == 0


@pytest.mark.slow
def test_a_request_would_be_noticed_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    html = report_html(read_study(make_study(0, running=0)))
    path.write_text(html.replace("<body>", f'<body>{_WATCH}<img src="http://127.0.0.1:9/x.png">'), encoding="utf-8")
    page = render(path.as_uri(), tmp_path / "profile")
    assert 'data-drawn="yes"' in page  # also without trials
    assert "127.0.0.1:9/x.png" in re.findall(r'data-requests="([^"]*)"', page)[0]
