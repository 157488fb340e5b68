"""A recorded study: what every stage of every candidate gave and cost, found by what the stage is.

A stage is found by its kind and the parts of the candidate that it depends on, and by no key of a store: a table serves as long
as candidates need the kinds of stages that it has, whatever version they are of.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from edgesearch.board_eval import Board, find_board
from edgesearch.errors import StudyError
from edgesearch.objectives import Conditions, Stage, plan
from edgesearch.search.proposals import Endless, walk
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate, Space, complete_candidate

__all__ = ["Epoch", "Recorded", "Table", "what_is"]

_FORMAT = 1
#: Settings of stages that come from the candidate.
_PARTS = ("student", "distillation", "pruning", "quantization")
#: Kinds of stages, and inputs of stages, that are the same for every candidate.
_COMMON = ("teacher", "logits")


class Epoch(NamedTuple):
    """One epoch of a student's training: validation accuracy with the weights that are kept if it ends here, and so on."""

    accuracy: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class Recorded:
    """One stage: `name` as `what_is` tells it, seconds of one processor core, its figures, or why it failed.

    epochs: of a student's training.
    overhead: seconds of a training beside its epochs: its start, and the validation at its end.
    chosen_seconds: of a pruned stage, those before its fine-tuning, in which its channels were chosen.
    """

    name: str
    seconds: float
    figures: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    epochs: tuple[Epoch, ...] = ()
    overhead: float = 0.0
    chosen_seconds: float = 0.0

    @property
    def kind(self) -> str:
        """Of the stage."""
        return str(json.loads(self.name)[0])

    def to_json(self) -> dict[str, Any]:
        """As JSON, without what is empty, to as many digits as mean something."""
        content = {name: _rounded(value) for name, value in asdict(self).items() if value}
        return content | ({"epochs": [[_rounded(value) for value in epoch] for epoch in self.epochs]} if self.epochs else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recorded:
        """The inverse of `to_json`."""
        epochs = tuple(Epoch(*epoch) for epoch in content.get("epochs", ()))
        return cls(**{"seconds": 0.0, **content, "epochs": epochs})


def what_is(stage: Stage, kind: str = "") -> str:
    """The stage's kind (or that of another of the same candidate) and the candidate's parts that decide it, as JSON."""
    name = kind or stage.kind
    if name == stage.kind == "logits" and (teacher := stage.inputs["teacher"]).kind == "student":  # by itself, perhaps
        return _name(name, _parts(teacher))
    return _name(name, {} if name in _COMMON else _parts(stage))


def _name(kind: str, parts: Mapping[str, Any]) -> str:
    return json.dumps([kind, parts], sort_keys=True, separators=(",", ":"))


def _without_quantization(name: str) -> str:
    """The parts of a stage of that name that decide its network before it is quantized, as JSON."""
    parts = {part: value for part, value in json.loads(name)[1].items() if part != "quantization"}
    return _name("", parts)


def _parts(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role, upstream in stage.inputs.items():
        if role not in _COMMON:
            found |= _parts(upstream)
    return found | {part: stage.parameters[part] for part in _PARTS if part in stage.parameters}


class Table:
    """A recorded study.

    `estimates`: candidate key -> the metrics known before training, or {"unsupported": why the DPU cannot run it}.
    `images`: how many each part of the data set has.
    """

    def __init__(
        self,
        study: StudyFile,
        entries: tuple[Recorded, ...],
        estimates: Mapping[str, Mapping[str, Any]],
        images: Mapping[str, int],
    ) -> None:
        self.study, self.entries, self.estimates, self.images = study, entries, estimates, images
        self._by_name = {entry.name: entry for entry in entries}
        self._chains: dict[str, tuple[Recorded, ...]] = {}

    @cached_property
    def board(self) -> Board:
        """The board of the study."""
        return find_board(self.study.board, folder=self.study.folder, compiler=self.study.compiler, allow=self.study.allow)

    @cached_property
    def conditions(self) -> Conditions:
        """Conditions that a plan may be made with; its keys are those of no store."""
        board = self.board
        return Conditions(
            data=dict.fromkeys(("meta", *self.images), "replayed"),
            board=board.content,
            timed=board.content if board.is_pure else {},
            granularity=board.target.channel_parallel,
            images=self.images,
        )

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """Every candidate by its key."""
        assert self.study.space is not None  # what is recorded is a space
        return {candidate.key: candidate for candidate in candidates_of(self.study.space, self.study.folder)}

    def chain(self, candidate: Candidate) -> tuple[Recorded, ...]:
        """Every stage of a candidate, inputs first, up to one that fails.

        Raises LookupError for a candidate that is not in the table.
        """
        if candidate.key not in self._chains:
            chain: list[Recorded] = []
            for stage in plan(candidate, self.study.pipeline, self.conditions).walk():
                chain.append(self.find(what_is(stage)))
                if chain[-1].failure:
                    break
            self._chains[candidate.key] = tuple(chain)
        return self._chains[candidate.key]

    def figures(self, candidate: Candidate) -> Mapping[str, Any] | None:
        """What the board measured of a candidate in the end; None where one of its stages failed."""
        chain = self.chain(candidate)
        return None if chain[-1].failure else chain[-1].figures

    def limited(self, stage: Stage) -> Mapping[str, Any]:
        """What is known of a pruned network once its channels are chosen: the figures that it has when it is measured."""
        entry = self._measured.get(_without_quantization(what_is(stage)))
        return {} if entry is None else {name: value for name, value in entry.figures.items() if "accuracy" not in name}

    @cached_property
    def _measured(self) -> dict[str, Recorded]:
        """By a network's parts without its quantization, the smallest that was measured of it."""
        found: dict[str, Recorded] = {}
        for entry in sorted(self.entries, key=lambda entry: float(entry.figures.get("size_bytes", math.inf))):
            if entry.kind == "measured" and not entry.failure:
                found.setdefault(_without_quantization(entry.name), entry)
        return found

    def find(self, name: str) -> Recorded:
        """What was recorded under a stage's name; raises LookupError where there is nothing."""
        found = self._by_name.get(name)
        if found is None and json.loads(name)[0] == "logits":  # tables of earlier versions have one for all
            found = self._by_name.get(_name("logits", {}))
        if found is None:
            raise LookupError(f"the table of study {self.study.name!r} has no stage {name}")
        return found

    def save(self, path: Path) -> None:
        """Write it as compressed JSON; equal tables give equal bytes."""
        content = {
            "format": _FORMAT,
            "study": self.study.to_json(),
            "images": dict(self.images),
            "estimates": {key: _rounded(values) for key, values in self.estimates.items()},
            "entries": [entry.to_json() for entry in self.entries],
        }
        path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))

    @classmethod
    def load(cls, path: Path, *, folder: Path | None = None) -> Table:
        """Read it; the study's own code is looked for in `folder` (default: the working directory).

        Raises StudyError for what is no table, or one of another version.
        """
        try:
            content = json.loads(gzip.decompress(path.read_bytes()))
            if content["format"] != _FORMAT:
                raise StudyError(f"{path} is a table of format {content['format']}, expected {_FORMAT}; record it again")
            entries = tuple(Recorded.from_json(entry) for entry in content["entries"])
            study = StudyFile.parse(content["study"], where=str(path), folder=folder)
            return cls(study, entries, content["estimates"], content["images"])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} is no recorded study ({error}); make one with edgesearch.testing.record_study") from error


def candidates_of(space: Space, folder: Path | None) -> Iterator[Candidate]:
    """Every candidate of a space, each once, with the checksums of the user's own code, which is looked for in `folder` first.

    Raises StudyError where it has a range without steps.
    """
    seen = set()
    try:
        for drawn, _ in walk(space):
            candidate = complete_candidate(drawn, folder=folder)
            if candidate.key not in seen:
                seen.add(candidate.key)
                yield candidate
    except Endless as error:
        raise StudyError(
            "the space has a range without steps, and so no last candidate; give it a `step`, or a list of values"
        ) from error


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.7g}") if isinstance(value, float) else value
