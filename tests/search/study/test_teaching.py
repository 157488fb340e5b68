"""What a study says of its teacher, and what distillation gained over the same candidate without it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgesearch.search.report import certainty_note, front_csv, front_json
from edgesearch.search.study import Objective, Record, StudyView, is_worse_teacher, teacher_note
from edgesearch.spaces import Candidate, Student

OBJECTIVES = (Objective("accuracy"), Objective("fps"))


def record(number: int, accuracy: float, *, kind: str = "none", width: float = 1.0, **metrics: float) -> Record:
    candidate = Candidate.model_validate(
        {"student": Student(architecture="cnn_tiny", width=width), "distillation": {"kind": kind}}
    ).canonical()
    return Record(
        number=number,
        state="COMPLETE",
        objectives=OBJECTIVES,
        values=(accuracy, 100.0),
        settings=candidate.model_dump(mode="json"),
        metrics={"accuracy": accuracy, "fps": 100.0, **metrics},
        deployable=True,
        artifacts={"student": f"{kind} {width}"},
    )


def view(*records: Record) -> StudyView:
    return StudyView("study", OBJECTIVES, {}, records)


def taught(number: int, teacher: float, student: float, **more: Any) -> Record:
    return record(number, student - 0.01, **{"kind": "logit"} | more, teacher_accuracy=teacher, student_accuracy=student)


def test_a_teacher_no_better_than_its_students_is_told_with_both_numbers() -> None:
    worse = [taught(1, 0.8258, 0.9065), taught(2, 0.8258, 0.8258, width=2.0), taught(3, 0.8258, 0.7, width=3.0)]
    note = teacher_note(worse)
    assert "82.58%" in note
    assert "trial 1 90.65%" in note
    assert "and so it is with 1 more of its students" in note
    assert note.count(".") - note.count("%") <= 1  # one sentence
    pruned = replace(worse[0], number=4)  # the same student behind another pruning
    assert "more of its students" not in teacher_note([worse[0], pruned])


@pytest.mark.parametrize(
    ("kind", "teacher", "student", "expected"),
    [("logit", 0.9, 0.8999, False), ("logit", 0.9, 0.9, True), ("nkd", 0.8, 0.9, True), ("self", 0.8, 0.9, False)],
)
def test_who_counts_as_worse(kind: str, teacher: float, student: float, expected: bool) -> None:
    one = taught(1, teacher, student, kind=kind)
    assert is_worse_teacher(one.settings, one.metrics) == expected
    assert bool(teacher_note([one])) == expected


def test_trials_of_earlier_versions_say_nothing() -> None:
    assert teacher_note([record(1, 0.9, kind="logit"), record(2, 0.9)]) == ""


def test_the_note_stands_in_the_json_and_under_the_table() -> None:
    trials = view(taught(1, 0.8, 0.9))
    assert json.loads(front_json(trials, trials.records))["notes"] == [teacher_note(trials.records)]
    assert teacher_note(trials.records) in certainty_note(trials, trials.records)
    good = view(taught(1, 0.95, 0.9))
    assert json.loads(front_json(good, good.records))["notes"] == []


def test_a_control_differs_in_distillation_alone() -> None:
    trials = view(
        record(0, 0.80),
        record(1, 0.83, kind="logit"),
        record(2, 0.79, kind="nkd"),
        record(3, 0.90, kind="logit", width=2.0),  # nobody made this one without
        replace(record(4, 0.7, width=3.0), state="FAIL", values=None),
        record(5, 0.8, kind="logit", width=3.0),
    )
    assert {number: control.number for number, control in trials.controls.items()} == {1: 0, 2: 0}
    gains = [trials.gain_over_control(each) for each in trials.records]
    assert gains == [None, pytest.approx(0.03), pytest.approx(-0.01), None, None, None]
    heading, *rows = front_csv(trials, trials.records[:3]).splitlines()
    place = heading.split(",").index("gain_over_control")
    assert rows[0].split(",")[place] == ""
    assert float(rows[1].split(",")[place]) == pytest.approx(0.03)
    content = json.loads(front_json(trials, trials.records[:3]))["front"]
    assert [member.get("control") for member in content] == [None, 0, 0]


def test_a_study_without_pairs_has_no_such_column() -> None:
    trials = view(record(0, 0.8), record(1, 0.9, kind="logit", width=2.0))
    assert "gain" not in front_csv(trials, trials.records)
