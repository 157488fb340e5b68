from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _studies import make_study, plain_record

from edgesearch.board_eval import load_profile
from edgesearch.errors import StudyError
from edgesearch.search.report import read_results, refresh, run_of, study_of, write_results
from edgesearch.search.report._data import front_picture
from edgesearch.search.report._picture import front_svg
from edgesearch.search.report._published import published
from edgesearch.search.study import StudyFile, duration
from edgesearch.search.study._front import pareto_front
from edgesearch.search.study._record import StudyView, read_study

ROOT = Path(__file__).parents[3]
MADE_BY = [
    {"versions": {"torch": "2.13.0", "edgesearch": "1.0"}, "processor": "x86_64", "device": "cpu", "threads": 2},
    {"versions": {"torch": "2.13.0", "edgesearch": "1.1"}, "processor": "x86_64", "device": "cpu", "threads": 2},
]
SECONDS = {"quantized": 2.04, "student": 61.25, "rung": 1.0}


def _run(count: int = 40, **settings: Any) -> tuple[StudyView, dict[str, Any]]:
    view = read_study(make_study(count))
    tests = {record.number: 0.5 + record.number / 1000 for record in pareto_front(view)}
    view = replace(view, test_accuracy=tests, float_test_accuracy={n: a + 0.01 for n, a in tests.items()})
    settings = {"name": "s", "seed": 3, "data": {"name": "digits", "root": "/secret"}, **settings}
    return view, run_of(view, settings, MADE_BY, SECONDS, own={"name": view.name})


def test_a_run_keeps_every_complete_trial_and_says_how_it_was_made(tmp_path: Path) -> None:
    view, run = _run(space={"students": ["mlp"]})
    write_results(tmp_path / "deep" / "results.json", [run])
    (kept,) = read_results(tmp_path / "deep" / "results.json")
    complete = {record.number: record for record in view.records if record.is_complete}
    assert {trial["trial"] for trial in kept["trials"]} == set(complete)
    assert {trial["trial"] for trial in kept["trials"] if trial["front"]} == {record.number for record in pareto_front(view)}
    for trial in kept["trials"]:
        assert trial["fps"] == pytest.approx(complete[trial["trial"]].fps, rel=1e-5)
        assert trial.get("test_accuracy") == view.test_accuracy.get(trial["trial"])
    ended = sum(record.state != "RUNNING" for record in view.records)
    assert kept["command"] == f"edgesearch optimize {view.name} --trials {ended} --seed 3 --threads-per-stage 2"
    assert kept["versions"] == {"torch": ["2.13.0"], "edgesearch": ["1.0", "1.1"]}
    assert list(kept["stage_seconds"].items()) == [("rung", 1.0), ("student", 61.2), ("quantized", 2.0)]
    assert "/secret" not in json.dumps(kept)


def test_seeds_are_one_row_with_their_mean_and_range(tmp_path: Path) -> None:
    _, run = _run()
    first = next(trial for trial in run["trials"] if trial["front"])
    other = run | {"trials": [first | {"test_accuracy": first["test_accuracy"] + 0.02}]}
    write_results(tmp_path / "both" / "results.json", [run, other])
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- results: both front -->\nstale\n<!-- end -->\nafter\n")
    assert refresh(document, tmp_path, write=False)
    assert "stale" in document.read_text()
    assert refresh(document, tmp_path)
    assert not refresh(document, tmp_path)
    text = document.read_text()
    low, high = 100 * first["test_accuracy"], 100 * first["test_accuracy"] + 2
    assert f"| {first['recipe']} | {(low + high) / 2:.2f} % ({low:.2f} to {high:.2f})" in text
    assert text.startswith("before\n<!-- results: both front -->\n| network")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "stale" not in text


def test_candidates_of_the_same_words_are_rows_of_their_own(tmp_path: Path) -> None:
    _, run = _run()
    first = next(trial for trial in run["trials"] if trial["front"])
    other = json.loads(json.dumps(first))
    other["settings"]["student"]["source_sha256"] = "ab" * 32
    write_results(tmp_path / "both" / "results.json", [run | {"trials": [first, other]}])
    document = tmp_path / "page.md"
    document.write_text("<!-- results: both trials -->\n<!-- end -->\n")
    assert refresh(document, tmp_path)
    assert document.read_text().count(f"| {first['recipe']} |") == 2
    document = _beside(tmp_path, run | {"trials": [first, other]}, [{"recipe": first["recipe"], "network": "theirs"}])
    with pytest.raises(StudyError, match="2 candidates have the recipe"):
        refresh(document, tmp_path)


def test_what_a_board_measured_is_said_to_be_measured() -> None:
    view, run = _run()
    first = next(record for record in view.records if record.is_complete)
    records = [
        replace(record, measured_by="lab", accuracy_of="integers") if record == first else record for record in view.records
    ]
    measured = run_of(replace(view, records=tuple(records)), {"name": "s"}, MADE_BY, SECONDS)["trials"]
    assert [trial["trial"] for trial in measured if trial.get("measured_by") == "lab"] == [first.number]
    assert [trial["accuracy_of"] for trial in measured if "accuracy_of" in trial] == ["integers"]
    assert all("measured_by" not in trial for trial in run["trials"])


def test_the_command_names_the_file_of_a_study() -> None:
    view, _ = _run()
    other = f"'my own.toml' --name {view.name}"
    for file, name, words in ((None, view.name, view.name), ("a.toml", view.name, "a.toml"), ("my own.toml", "own", other)):
        run = run_of(view, {"name": view.name}, [], {}, file=file, own={"name": name})
        assert run["command"] == f"edgesearch optimize {words}"


def test_the_command_says_what_its_file_says_otherwise() -> None:
    own = {"name": "demo", "seed": 7, "board": "kv260", "score": "board", "boards": ["lab"]}
    assert _command(own, own) == "edgesearch optimize demo"
    assert _command({**own, "seed": 0}, own) == "edgesearch optimize demo --seed 0"
    assert _command({**own, "score": "simulated"}, own) == "edgesearch optimize demo --score simulated"
    assert _command({**own, "board": "zcu104", "boards": []}, own) == "edgesearch optimize demo --board zcu104"
    assert _command({**own, "boards": ["b"]}, own) == "edgesearch optimize demo --board kv260 --board b"


def test_the_command_says_everything_where_its_file_is_gone() -> None:
    expected = "edgesearch optimize demo --name demo --board zcu104 --score simulated --seed 0"
    assert _command({"name": "demo"}, None) == expected


def _command(settings: dict[str, Any], own: dict[str, Any] | None) -> str:
    command: str = run_of(read_study(make_study(2)), settings, [], {}, own=own)["command"]
    return command


def test_the_command_says_on_which_boards_and_by_what_is_scored() -> None:
    commands = {
        "": {"board": "zcu104", "score": "simulated"},
        " --board zcu102": {"board": "zcu102"},
        " --board 'my board.json' --board lab --board lab2 --score board-front": {
            "board": "/home/me/my board.json",
            "boards": ["lab", "lab2"],
            "score": "board-front",
        },
    }
    for words, settings in commands.items():
        assert _run(**settings)[1]["command"] == f"edgesearch optimize demo{words} --seed 3 --threads-per-stage 2"


def test_the_command_of_a_study_without_trials_is_one_that_is_taken() -> None:
    view = StudyView("s", read_study(make_study(1)).objectives, {}, ())
    assert run_of(view, {"space": {"students": ["mlp"]}}, [], {}, own={"name": "s"})["command"] == "edgesearch optimize s"


def test_no_place_on_this_machine_is_kept() -> None:
    view = read_study(make_study(2))
    first = view.records[0]
    own = {"student": {**first.settings["student"], "weights": "/home/me/w.npz"}}
    view = replace(view, records=(replace(first, settings={**first.settings, **own}), *view.records[1:]))
    places = {
        "store": "/mnt/store",
        "board": "/home/me/mine.json",
        "teacher": {"weights": "/home/me/t.npz"},
        "candidates": [own],
        "vitis": {"python": "/opt/python"},
    }
    run = run_of(view, {"name": "s", **places}, [], {})
    assert "/home" not in json.dumps(run)
    assert run["settings"] == {
        "name": "s",
        "board": "mine.json",
        "teacher": {"weights": "t.npz"},
        "candidates": [{"student": {**own["student"], "weights": "w.npz"}}],
        "data": {},
    }
    assert run["trials"][0]["settings"]["student"]["weights"] == "w.npz"


def _beside(tmp_path: Path, run: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    write_results(tmp_path / "both" / "results.json", [run])
    (tmp_path / "both" / "published.json").write_text(json.dumps(rows))
    document = tmp_path / "page.md"
    document.write_text("<!-- results: both beside -->\n<!-- end -->\n")
    return document


def test_figures_of_others_stand_beside_those_of_the_same_network(tmp_path: Path) -> None:
    _, run = _run()
    first, second = [trial for trial in run["trials"] if trial["front"]][:2]
    first["latency_fps"], second["latency_fps"] = 12.4, 1200.0
    rows = [
        {"recipe": second["recipe"], "network": "theirs", "int8": 0.7008, "float": 0.822, "fps": 83.52, "why": "more pixels"},
        {"recipe": first["recipe"], "network": "control", "float": None, "why": "not tried there"},
    ]
    document = _beside(tmp_path, run, rows)
    assert refresh(document, tmp_path)
    cells = [line.strip("| ").split(" | ") for line in document.read_text().splitlines() if line.startswith("| ")]
    here = [[f"{100 * trial[name]:.2f} %" for name in ("test_accuracy", "float_test_accuracy")] for trial in (second, first)]
    assert cells[1:] == [
        ["theirs", second["recipe"], "70.08 %", here[0][0], "82.20 %", here[0][1], "84", "1,200", "more pixels"],
        ["control", first["recipe"], "-", here[1][0], "-", here[1][1], "-", "12", "not tried there"],
    ]


def test_frames_per_second_as_another_runner_feeds_one_image_at_a_time(tmp_path: Path) -> None:
    _, run = _run()
    profile = load_profile("zcu104")
    first = next(trial for trial in run["trials"] if trial["front"])
    pixels = first["settings"]["student"]["input_size"] ** 2
    dpu_s = 1e-3
    first |= {
        "latency_ms": 1e3 * (dpu_s + profile.runner().of(pixels)),
        "latency_fps": 900.0,
        "fps": 1000.0,
        "fps_error": 0.126,
    }
    run["trials"] = [first]
    expected = f"{1 / (dpu_s + profile.runner('thesis_script').of(pixels)):,.0f}"
    document = _beside(tmp_path, run, [{"recipe": first["recipe"], "network": "theirs"}])
    marks = [f"<!-- results: both {style} thesis_script -->\n<!-- end -->\n" for style in ("beside", "front")]
    document.write_text("\n".join(marks))
    assert refresh(document, tmp_path)
    rows = [line.strip("| ").split(" | ") for line in document.read_text().splitlines() if line.startswith("| ")]
    assert rows[1][7] == expected
    assert rows[2][-1] == "the same, fed by `thesis_script`"
    assert rows[3][3:] == ["1,000 ± 13 %", "900", f"{first['latency_ms']:.2f}", expected]
    first["measured_by"] = "lab"
    write_results(tmp_path / "both" / "results.json", [run])
    with pytest.raises(StudyError, match="was measured by lab"):
        refresh(document, tmp_path)


def test_single_figures_stand_within_sentences(tmp_path: Path) -> None:
    _, run = _run()
    first = next(trial for trial in run["trials"] if trial["front"])
    first |= {"fps": 1234.4, "latency_ms": 0.389}
    write_results(tmp_path / "both" / "results.json", [run])
    document = tmp_path / "page.md"
    mark = f"<!-- result: both {first['trial']}"
    text = f"{mark} test_accuracy --><!-- end --> at {mark} fps -->1<!-- end -->, {mark} latency_ms -->2<!-- end -->, "
    document.write_text(text + "<!-- result: both seconds --><!-- end -->")
    assert refresh(document, tmp_path)
    seen = re.sub(r"<!--.*?-->", "", document.read_text())
    assert seen == f"{100 * first['test_accuracy']:.2f} % at 1,234, 0.39 ms, 64.2 s"
    assert not refresh(document, tmp_path)
    for wrong in (f"{mark} speed --><!-- end -->", "<!-- result: both 999 fps --><!-- end -->"):
        document.write_text(wrong)
        with pytest.raises(StudyError, match="name a trial and a figure"):
            refresh(document, tmp_path)


def test_seconds_may_be_those_of_one_kind_of_stage(tmp_path: Path) -> None:
    _, run = _run()
    kind, seconds = next(iter(run["stage_seconds"].items()))
    write_results(tmp_path / "both" / "results.json", [run, run])
    document = tmp_path / "page.md"
    document.write_text(f"<!-- result: both {kind} seconds --><!-- end -->")
    assert refresh(document, tmp_path)
    assert re.sub(r"<!--.*?-->", "", document.read_text()) == duration(2 * seconds)
    document.write_text("<!-- result: both cooked seconds --><!-- end -->")
    with pytest.raises(StudyError, match="the results of both have no stage 'cooked'"):
        refresh(document, tmp_path)


def test_every_run_of_a_candidate_on_one_front_counts(tmp_path: Path) -> None:
    _, run = _run()
    first = next(trial for trial in run["trials"] if trial["front"])
    off = first | {"front": False, "test_accuracy": first["test_accuracy"] - 0.02}
    write_results(tmp_path / "both" / "results.json", [run | {"trials": [first]}, run | {"trials": [off]}])
    document = tmp_path / "page.md"
    document.write_text("<!-- results: both front -->\n<!-- end -->\n")
    assert refresh(document, tmp_path)
    low, high = 100 * off["test_accuracy"], 100 * first["test_accuracy"]
    assert f"({low:.2f} to {high:.2f})" in document.read_text()


def test_figures_of_a_network_that_was_not_tried_stand_beside_nothing(tmp_path: Path) -> None:
    document = _beside(tmp_path, _run()[1], [{"recipe": "another", "network": "theirs"}])
    with pytest.raises(StudyError, match="another"):
        refresh(document, tmp_path)
    (tmp_path / "both" / "published.json").unlink()
    with pytest.raises(StudyError, match=r"published\.json"):
        refresh(document, tmp_path)


def test_the_command_of_named_candidates_says_where_not_all_were_tried() -> None:
    view, _ = _run()
    ended = sum(record.state != "RUNNING" for record in view.records)
    named = [record.settings for record in view.records if record.state != "RUNNING"]
    assert _run(candidates=named)[1]["command"] == f"edgesearch optimize {view.name} --seed 3 --threads-per-stage 2"
    command = _run(candidates=[*named, {}])[1]["command"]
    assert command == f"edgesearch optimize {view.name} --trials {ended} --seed 3 --threads-per-stage 2"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"runs": []}', '{"format": 1, "runs": []}', '{"format": 2, "runs": [{}]}', "[" * 100_000]
)
def test_what_is_no_results_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(StudyError, match="results"):
        read_results(tmp_path / "results.json")


def test_results_take_the_place_of_results_alone(tmp_path: Path) -> None:
    _, run = _run(4)
    path = tmp_path / "results.json"
    path.write_text('{"accuracy": 1}')
    with pytest.raises(StudyError, match="is no results file, which would take its place"):
        write_results(path, [run])
    path.write_text('{"format": 0, "runs": []}')  # of an earlier version
    for _ in range(2):
        write_results(path, [run])
    assert len(read_results(path)) == 1


@pytest.mark.parametrize("document", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_tables_in_documents_are_those_of_the_committed_results(document: str) -> None:
    assert not refresh(ROOT / document, ROOT / "studies" / "results", write=False), "run `python benchmarks/results.py`"


def test_committed_manifests_are_of_the_fronts_beside_them() -> None:
    manifests = sorted((ROOT / "studies" / "results").glob("*/manifests/*.json"))
    assert manifests
    for path in manifests:
        manifest, runs = json.loads(path.read_text()), read_results(path.parents[1] / "results.json")
        (run,) = [run for run in runs if run["study"] == manifest["study"]]
        (trial,) = [trial for trial in run["trials"] if trial["trial"] == manifest["trial"]]
        assert trial["front"]
        assert manifest["scores"]["test_accuracy"] == pytest.approx(trial["test_accuracy"], abs=1e-6)
        assert manifest["scores"]["fps"] == pytest.approx(trial["fps"], rel=1e-5)


def test_the_study_of_committed_results_lies_beside_them() -> None:
    """The file that a command names may say something else by now."""
    kept = sorted((ROOT / "studies" / "results").glob("*/results.json"))
    assert kept
    for path in kept:
        study = StudyFile.load(path.with_name("study.toml"))
        for run in read_results(path):
            changes = {"name": study.name, "seed": study.seed, "data": study.data}
            assert study_of(run).with_changes(**changes).to_json() == study.to_json()
            assert study_of(run).data == study.data
            assert study.data.download


def test_rows_of_the_readme_that_tell_results_have_no_figure_of_their_own() -> None:
    rows = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ") and "docs/results.md" in line
    ]
    assert sum("<!-- result:" in row for row in rows) >= 3
    for row in rows:
        assert not re.search(r"\d %|\d FPS|\d min", re.sub(r"<!-- result: .*?<!-- end -->", "", row)), row


def test_networks_of_others_stand_beside_a_study_of_the_same_data() -> None:
    known = published("cifar10")
    assert all(0 < other.accuracy < 1 and other.fps > 0 and other.source for other in known)
    assert {other.own for other in known} == {False, True}
    assert any("study cifar10," in other.source for other in known)
    assert not any("study cifar10," in other.source for other in published("cifar10", study="cifar10"))
    record = plain_record(3, (0.93, 2000.0))
    view = StudyView("s", record.objectives, {}, (record,), data="cifar10")
    picture = front_picture(view)
    assert picture.published == known
    assert front_svg(view, picture).count('class="other"') == len(known) + 2  # and the legend's
    assert "published by others" in front_svg(view, picture)
    assert "studies of edgesearch" in front_svg(view, picture)
    assert front_picture(replace(view, data="digits")).published == ()
    assert published("../published_cifar10") == ()
