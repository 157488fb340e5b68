"""The front of a study, and its records: chosen from, made a table of, exported, and rebuilt as torch networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

from edgesearch.errors import StudyError
from edgesearch.files import expanded, parse_json
from edgesearch.search.library._undrawn import undrawn
from edgesearch.search.study import Objective, Record, StudyView, choose, hypervolume, knee

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from edgesearch.board_eval import Compiler
    from edgesearch.search.library._study import Study

#: A minimised objective's reference for the hypervolume lies this factor beyond the worst value of the study.
_BEYOND_WORST = 1.1


@dataclass(frozen=True, repr=False)
class StudyRecord(Record):
    """A trial of a study, with its candidate, its figures and its files."""

    study: Study = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, record: Record, study: Study) -> StudyRecord:
        """The record of a trial of `study`."""
        return cls(**{f.name: getattr(record, f.name) for f in fields(Record)}, study=study)

    def __repr__(self) -> str:
        figures = _in_words(self) if self.is_complete else self.state
        return f"<trial {self.number}: {self.recipe or 'no candidate'}, {figures}>"

    def export(
        self,
        output: str | Path,
        *,
        compiler: Compiler | None = None,
        note: Callable[[str], object] | None = None,
    ) -> Path:
        """Write xmodels, ONNX, float weights, golden images, a runner for the board and the manifest; returns their folder.

        The folder is `output`/trial-NUMBER, whole or not at all; an earlier export of the trial is replaced. With `compiler`
        "edgesearch" (None: the study's) it holds the compiled xmodel that the board runs; with "vai" the one that Vitis AI's
        compiler makes, where that is on this machine, beside what edgesearch would make, and the manifest has the line that
        makes it elsewhere: `note` is told what is missing. A candidate that is not deployable has no xmodel. Raises StudyError
        when the trial is not COMPLETE, when the store no longer has its networks, when the study was started with other
        settings, images or another profile of its board than there are now, and when the folder cannot be written; DataError
        when the study's images cannot be read; CompileError when the network cannot be compiled.
        """
        return self.study._export(self, expanded(output, "output", StudyError), compiler, note)

    def manifest(self) -> dict[str, Any]:
        """What the manifest of an export says of the trial, as JSON values: its network, how it was made and checked, and the
        checksums of its files. Raises what `export` does.
        """
        from edgesearch.search.export import MANIFEST

        with TemporaryDirectory(prefix="edgesearch-") as folder:
            content: dict[str, Any] = parse_json((self.export(folder) / MANIFEST).read_text(encoding="utf-8"))
        return content

    @undrawn()
    def network(self) -> nn.Module:
        """The trained, perhaps pruned float network that was quantized, in evaluation mode: (N, C, S, S) to (N, classes).

        Raises StudyError when the store no longer has it, and for QAT from scratch, which has none.
        """
        return self.study._network(self)


class Front(Sequence[StudyRecord]):
    """The trials that no other beats in every objective, the best in the first objective first."""

    def __init__(self, records: Sequence[StudyRecord], view: StudyView) -> None:
        self._records = tuple(records)
        self._view = view

    @property
    def view(self) -> StudyView:
        """All that was stored of the study when its front was read."""
        return self._view

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> StudyRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Front: ...
    def __getitem__(self, index: int | slice) -> StudyRecord | Front:
        """The record at a place, or the front of a stretch."""
        return Front(self._records[index], self._view) if isinstance(index, slice) else self._records[index]

    def __repr__(self) -> str:
        return f"<front of study {self._view.name!r}: {len(self)} of {len(self._view.records)} trials>"

    def members(self) -> tuple[StudyRecord, ...]:
        """The records; raises StudyError when there is none."""
        if not self._records:
            raise StudyError(
                f"study {self._view.name!r} has no feasible, deployable trial yet; run more trials or loosen its constraints"
            )
        return self._records

    def knee(self) -> StudyRecord:
        """The member that gives most for what it costs; raises StudyError when the front is empty."""
        record = knee(self.members())
        assert isinstance(record, StudyRecord)
        return record

    def best(self, *, min_accuracy: float | None = None, min_fps: float | None = None) -> StudyRecord:
        """The member that suits a demand.

        With `min_accuracy` (0..1) alone: the fastest that is accurate enough. With `min_fps` (images per second), alone or with
        `min_accuracy`: the most accurate that is fast enough. Raises StudyError when no member keeps these limits, and for
        limits that are no numbers or no share.
        """
        for name, limit in (("min_accuracy", min_accuracy), ("min_fps", min_fps)):
            if limit is not None:
                _check_number(name, limit)
        if min_accuracy is not None and not 0 <= min_accuracy <= 1:
            raise StudyError(f"min_accuracy is {min_accuracy!r}, expected a share from 0 to 1, as 0.9 for 90 %")
        record = choose(self.members(), min_accuracy=min_accuracy, min_fps=min_fps)
        if record is None:
            reach = ", ".join(_in_words(member) for member in self)
            raise StudyError(f"no member of the front keeps these limits; the front is {reach}")
        assert isinstance(record, StudyRecord)
        return record

    def hypervolume(self, reference: Sequence[float] | None = None) -> float:
        """How much of the space of objectives the front dominates, up to `reference`, one value per objective in its own unit.

        Without a reference: 0 for what is maximised, and the worst value of the study plus a tenth for what is minimised. Only
        volumes with the same reference compare.
        """
        objectives = self._view.objectives
        if reference is not None and not isinstance(reference, Sequence):
            raise StudyError(f"the reference is {reference!r}, expected a sequence of numbers, one for each objective")
        if reference is not None and len(reference) != len(objectives):
            names = ", ".join(objective.name for objective in objectives)
            raise StudyError(f"reference has {len(reference)} values, expected one for each of {names}")
        for value in reference or ():
            _check_number("a value of the reference", value)
        return hypervolume(self._records, [self._reference(o) for o in objectives] if reference is None else reference)

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row for each member: its number, its recipe, its figures and its settings, the latter by dotted names.

        Raises StudyError when pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise StudyError("to_pandas needs pandas, which is not installed; pip install 'edgesearch[pandas]'") from error
        rows = [self._row(record) for record in self]
        return pandas.DataFrame(rows, columns=list(dict.fromkeys(name for row in rows for name in row)) or None)

    def _row(self, record: StudyRecord) -> dict[str, Any]:
        settings = {
            f"{group}.{name}": value
            for group, values in record.candidate.model_dump().items()
            for name, value in values.items()
        }
        test = {
            "test_accuracy": self._view.test_accuracy.get(record.number),
            "float_test_accuracy": self._view.float_test_accuracy.get(record.number),
        }
        return {"trial": record.number, "recipe": record.recipe, **record.metrics, **test, **settings}

    def _reference(self, objective: Objective) -> float:
        if objective.maximise:
            return 0.0
        values = [value for record in self._view.records if (value := record.figure(objective.name)) is not None]
        return max(values, default=0.0) * _BEYOND_WORST


def _in_words(record: Record) -> str:
    """What was found of it, as far as it is known."""
    accuracy = "" if record.accuracy is None else f"{record.accuracy:.2%}"
    speed = "" if record.fps is None else f"{record.fps:,.0f} FPS"
    return " at ".join(part for part in (accuracy, speed) if part) or "no figures"


def _check_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise StudyError(f"{what} is {value!r}, expected a number")
