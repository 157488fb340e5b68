"""Recorded stages are found by what they are, and a table is read as it was written."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from _replay_tables import small_study, small_table

from edgesearch.errors import StudyError
from edgesearch.objectives import Stage, plan
from edgesearch.spaces import Candidate
from edgesearch.testing import Table, what_is


def candidate_of(method: str, kind: str = "logit") -> Candidate:
    wanted = (c for c in small_table().candidates.values() if c.pruning.method == method and c.distillation.kind == kind)
    return next(wanted)


def stages_of(candidate: Candidate) -> list[Stage]:
    return list(plan(candidate, small_study().pipeline, small_table().conditions).walk())


def test_a_stage_is_the_same_in_another_version_and_on_other_data() -> None:
    for stage in stages_of(candidate_of("one_step")):
        other = replace(
            stage,
            version=stage.version + 7,
            seed=5,
            data=dict.fromkeys(stage.data, "other"),
            inputs={role: replace(upstream, version=99) for role, upstream in stage.inputs.items()},
        )
        assert other.key != stage.key
        assert what_is(other) == what_is(stage)


def test_stages_of_other_candidates_are_others() -> None:
    names = {what_is(stage) for candidate in small_table().candidates.values() for stage in stages_of(candidate)}
    # 2 that all share, 8 students, 8 sensitivities, 24 ways to prune them, 64 candidates that are quantized and measured
    assert len(names) == 2 + 8 + 8 + 24 + 64 + 64


def test_a_chain_is_the_candidates_stages_in_their_order() -> None:
    kinds = [entry.kind for entry in small_table().chain(candidate_of("one_step"))]
    assert kinds == [stage.kind for stage in stages_of(candidate_of("one_step"))]
    assert kinds[-1] == "measured"


def test_a_chain_ends_where_a_stage_failed() -> None:
    table, candidate = small_table(), candidate_of("one_step")
    name = next(entry.name for entry in table.chain(candidate) if entry.kind == "pruned")
    entries = tuple(replace(entry, failure="too thin") if entry.name == name else entry for entry in table.entries)
    broken = Table(table.study, entries, table.estimates, table.images)
    assert broken.chain(candidate)[-1].kind == "pruned"
    assert broken.figures(candidate) is None
    assert broken.figures(candidate_of("none")) == table.figures(candidate_of("none"))


def test_what_limits_are_checked_by_is_known_whatever_the_quantization() -> None:
    table = small_table()
    entries = tuple(entry for entry in table.entries if '"quantization":{}' not in entry.name)
    assert len(entries) < len(table.entries)
    pruned = next(stage for stage in stages_of(candidate_of("one_step")) if stage.kind == "pruned")
    found = Table(table.study, entries, table.estimates, table.images).limited(pruned)
    assert found == table.limited(pruned) != {}


def test_a_candidate_outside_is_no_candidate_of_the_table() -> None:
    known = candidate_of("one_step")
    other = known.model_copy(update={"pruning": known.pruning.model_copy(update={"ratio": 0.6})})
    with pytest.raises(LookupError, match=r"has no stage .*0\.6"):
        small_table().chain(other)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    small_table().save(tmp_path / "a.json.gz")
    read = Table.load(tmp_path / "a.json.gz")
    assert read.study == small_table().study
    assert read.images == small_table().images
    assert read.estimates.keys() == small_table().estimates.keys()
    for mine, theirs in zip(small_table().entries, read.entries, strict=True):
        assert theirs.name == mine.name
        assert theirs.seconds == pytest.approx(mine.seconds)
        assert [tuple(e) for e in theirs.epochs] == [pytest.approx(tuple(e), rel=1e-6) for e in mine.epochs]
    read.save(tmp_path / "b.json.gz")
    assert (tmp_path / "b.json.gz").read_bytes() == (tmp_path / "a.json.gz").read_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no gzip", "is no recorded study"),
        (gzip.compress(b"{}"), "is no recorded study"),
        (gzip.compress(json.dumps({"format": 7}).encode()), "format 7, expected 1"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(StudyError, match=sentence):
        Table.load(tmp_path / "table")


def test_a_table_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is no recorded study"):
        Table.load(tmp_path / "none")
