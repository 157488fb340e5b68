"""What is known to cost accuracy or speed in a study, said before it starts."""

from __future__ import annotations

from edgesearch.board_eval import DEFAULT_TARGET, Target, duplicate_images, lower, preflight
from edgesearch.errors import EdgesearchError
from edgesearch.objectives import DataSet, prepare
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Student, build

#: Calibration images that are looked at.
_IMAGES = 64


def study_findings(settings: StudyFile, data: DataSet, *, target: Target = DEFAULT_TARGET) -> list[str]:
    """Sentences, warnings first, each said once: of the data's splits, and of every student at its narrowest.

    Students that the DPU cannot run are passed over; what is wrong with them is said elsewhere.
    """
    found = {f"{f.severity}: {f.message}": f.severity for f in duplicate_images(data.calibration.images, data.test.images)}
    for student in _students(settings):
        try:
            model = build(student, channels=data.channels, classes=len(data.classes))
            graph = lower(model, (data.channels, student.input_size, student.input_size), target=target)
        except EdgesearchError:
            continue
        images = prepare(data.calibration.images[:_IMAGES], student.input_size, data.normalisation)
        for finding in preflight(graph, calibration=images, model=model, target=target):
            of_input = finding.layer == graph.input.name  # the same for all students
            if of_input and finding.severity == "note":
                continue  # for whoever writes the host's program, when a network is deployed
            where = "" if of_input else f"{student.architecture.rpartition(':')[2]}: "
            found.setdefault(f"{finding.severity}: {where}{finding.message}", finding.severity)
    return sorted(found, key=lambda sentence: found[sentence] != "warning")


def _students(settings: StudyFile) -> list[Student]:
    """One of each architecture that the study names: the narrowest, which is quickly built, with the largest input."""
    named = [candidate.student for candidate in settings.candidates]
    space = settings.space
    if space is not None:
        for name in space.students:
            own = space.student.get(name)
            sizes = own.input_size if own is not None and own.input_size else space.input_size
            widths = own.width if own is not None and own.width else space.width
            stems = own.stem if own is not None and own.stem else space.stem
            width = min(widths) if isinstance(widths, tuple) else widths.low
            named += [Student(architecture=name, width=width, input_size=max(sizes), stem=stems[0])]
    chosen: dict[str, Student] = {}
    for student in sorted(named, key=lambda s: (s.width, -s.input_size)):
        chosen.setdefault(student.architecture, student)
    return list(chosen.values())
