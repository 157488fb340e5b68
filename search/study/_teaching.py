"""Whether teachers are better than their students."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgesearch.search.study._record import Record, distillation_of

__all__ = ["is_worse_teacher", "teacher_note", "teacher_sentence"]


def is_worse_teacher(settings: Mapping[str, object], figures: Mapping[str, float]) -> bool:
    """Whether a trial's student came out no worse than the network it learnt from, other than its own earlier training."""
    teacher, student = figures.get("teacher_accuracy"), figures.get("student_accuracy")
    return distillation_of(settings) != "self" and teacher is not None and student is not None and student >= teacher


def teacher_note(records: Iterable[Record]) -> str:
    """A sentence on a teacher that is not better than its students, with both accuracies; "" where every one is."""
    worse = [record for record in records if is_worse_teacher(record.settings, record.metrics)]
    if not worse:
        return ""
    best = max(worse, key=lambda record: (record.metrics["student_accuracy"], -record.number))
    students = len({record.artifacts.get("student", str(record.number)) for record in worse})
    return teacher_sentence(best.number, best.metrics, others=students - 1)


def teacher_sentence(number: int | None, figures: Mapping[str, float], *, others: int = 0) -> str:
    """The sentence for the student of one trial, or of a candidate that is none.

    `others` of the teacher's students are no worse than it either.
    """
    more = f", and so it is with {others} more of its students" if others else ""
    student = "this student" if number is None else f"the student of trial {number}"
    return (
        f"The teacher has {figures['teacher_accuracy']:.2%} on the validation images, {student} "
        f"{figures['student_accuracy']:.2%}, which is no less{more}: a better teacher, larger or trained longer, may help; "
        "distillation = 'none' shows what this one is worth."
    )
