"""Starting weights before anything is trained: whether they fit, and that they are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product

from edgesearch.errors import SpaceError
from edgesearch.objectives import check_start
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate, Range, Student, fetch_imagenet

__all__ = ["check_starts", "fetch_weights"]


def check_starts(inputs: Inputs) -> None:
    """Raise SpaceError where starting weights do not fit: the teacher, a candidate, or every form of a student of the space."""
    data, settings = inputs.data, inputs.settings

    def check(student: Student, *, trained: bool = False) -> None:
        check_start(student, channels=data.channels, classes=len(data.classes), trained=trained, folder=settings.folder)

    teacher = settings.pipeline.teacher
    if teacher is not None:
        check(teacher.student, trained=teacher.trained)
    for candidate in settings.candidates:
        check(candidate.student)
    for forms in _students_of_the_space(settings):
        errors: list[SpaceError] = []
        for student in forms:
            try:
                check(student)
                break
            except SpaceError as error:
                errors.append(error)
        else:
            raise errors[-1]


def _students_of_the_space(settings: StudyFile) -> Iterator[list[Student]]:
    """Of each student of the space that starts from weights its widths, stems and input sizes.

    Those with other settings are left out.
    """
    space = settings.space
    for smallest in space.smallest_students() if space is not None else ():
        if not smallest.weights or smallest.staged is not None or smallest.parameters:
            continue
        assert space is not None
        widths = space.choices(smallest.architecture, "width")
        known = _values(widths) if isinstance(widths, Range) else widths
        others = (space.choices(smallest.architecture, name) for name in ("stem", "input_size"))
        forms = product(sorted(known), *others)
        yield [smallest.model_copy(update=dict(zip(("width", "stem", "input_size"), form, strict=True))) for form in forms]


def _values(widths: Range) -> list[float]:
    """Those of a range with steps; of any other its ends, and the whole network."""
    if widths.step is None:
        return sorted({widths.low, widths.high} | ({1.0} if widths.low <= 1.0 <= widths.high else set()))
    return [round(widths.low + place * widths.step, 9) for place in range(int(widths.size))]


def fetch_weights(settings: StudyFile, note: Callable[[str], object], candidates: Iterable[Candidate] | None = None) -> None:
    """Download ImageNet weights that the study, or else these candidates with its teacher, start from.

    Raises SpaceError where they do not come.
    """
    students = [candidate.student for candidate in (settings.candidates if candidates is None else candidates)]
    students += [settings.teacher] if settings.teacher is not None else []
    students += settings.space.smallest_students() if settings.space is not None and candidates is None else []
    for architecture in sorted({student.architecture for student in students if student.weights == "imagenet"}):
        fetch_imagenet(architecture, note)
