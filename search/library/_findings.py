"""What is known to cost accuracy or speed in a study, said before it starts."""

from __future__ import annotations

from edgesearch.board_eval import DEFAULT_TARGET, Target, duplicate_images, lower, preflight
from edgesearch.errors import EdgesearchError
from edgesearch.objectives import DataSet, likely_normalisation_warning, load_data, normalisation_warning, prepare
from edgesearch.search.library._without_effect import without_effect
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Student, build

#: Calibration images that are looked at.
_IMAGES = 64


def study_findings(settings: StudyFile, data: DataSet, *, target: Target = DEFAULT_TARGET) -> list[str]:
    """Sentences, warnings first, each said once: of the data and its splits, and of every student at its narrowest.

    Students that the DPU cannot run are passed over; what is wrong with them is said elsewhere.
    """
    # Noise is another one in each split, and hides that an image lies in two of them.
    clean = load_data(settings.data.model_copy(update={"noise": 0.0}), folder=settings.folder) if settings.data.noise else data
    severities = {f"note: {note}": "note" for note in data.notes} | dict.fromkeys(_duplicates(clean), "warning")
    severities |= {f"note: {note}": "note" for note in without_effect(settings)}
    teacher = [settings.teacher] if settings.teacher is not None else []
    for student in (*teacher, *_named(settings)):
        for warning in normalisation_findings(student, settings, data):
            severities.setdefault(warning, "warning")
    for student in _students(settings):
        try:
            model = build(student, channels=data.channels, classes=len(data.classes), folder=settings.folder)
            graph = lower(model, (data.channels, student.input_size, student.input_size), target=target)
        except EdgesearchError:
            continue
        images = prepare(data.calibration.images[:_IMAGES], student.input_size, data.normalisation)
        for finding in preflight(graph, calibration=images, model=model, target=target):
            of_input = finding.layer == graph.input.name  # the same for all students
            if of_input and finding.severity == "note":
                continue  # for whoever writes the host's program, when a network is deployed
            where = "" if of_input else f"{student.family}: "
            severities.setdefault(f"{finding.severity}: {where}{finding.message}", finding.severity)
    return sorted(severities, key=lambda sentence: severities[sentence] != "warning")


def normalisation_findings(student: Student, settings: StudyFile, data: DataSet) -> list[str]:
    """Sentences where a student starts from weights that know pixels on another scale than it is shown them."""
    warnings = [normalisation_warning(student, data.normalisation, data.channels)]
    if settings.data.normalisation is None:
        warnings += _likely(student, data)
    return [f"warning: {warning}" for warning in filter(None, warnings)]


def _duplicates(data: DataSet) -> list[str]:
    """Images that the search or a training sees, and that an accuracy is measured on."""
    splits = {"training": data.train, "validation": data.validation, "calibration": data.calibration, "test": data.test}
    pairs = [("training", "test"), ("validation", "test"), ("calibration", "test"), ("training", "validation")]
    found = []
    for kinds in pairs:
        one, other = (splits[kind] for kind in kinds)
        found += duplicate_images(one.images, other.images, kinds=kinds, names=(one.names, other.names))
    return [f"{finding.severity}: {finding.message}" for finding in found]


def _likely(student: Student, data: DataSet) -> list[str]:
    try:
        return [likely_normalisation_warning(student, data.normalisation, channels=data.channels, classes=len(data.classes))]
    except EdgesearchError:
        return []  # it is said elsewhere what is wrong with the file


def _students(settings: StudyFile) -> list[Student]:
    """One of each architecture that the study names: the narrowest, which is quickly built, with the largest input."""
    chosen: dict[str, Student] = {}
    for student in sorted(_named(settings), key=lambda s: (s.width, -s.input_size)):
        chosen.setdefault(student.architecture, student)
    return list(chosen.values())


def _named(settings: StudyFile) -> list[Student]:
    """The candidates' students, and the space's at their narrowest."""
    smallest = settings.space.smallest_students() if settings.space is not None else ()
    return [*(candidate.student for candidate in settings.candidates), *smallest]
