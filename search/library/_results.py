"""What a study found, to keep: the figures of its trials, and the time that they took."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgesearch.errors import EdgesearchError
from edgesearch.objectives import ArtifactStore, seconds_taken
from edgesearch.search.report import run_of
from edgesearch.search.study import StudyFile, StudyView, load_study

__all__ = ["results_of"]


def results_of(view: StudyView, settings: StudyFile, store: ArtifactStore, *, file: str) -> dict[str, Any]:
    """JSON values. `file`: the study's file, or the name of a bundled study."""
    places = {place for record in view.records if record.is_complete for place in record.artifacts.items()}
    artifacts = [found for kind, key in sorted(places) if (found := store.get(kind, key)) is not None]
    kept = _totals((artifact.kind, seconds_taken(artifact.figures, artifact.seconds)) for artifact in artifacts)
    spent = _totals(item for record in view.records for item in record.stage_seconds.items())
    # What complete trials stand on may come from another study; what trials took that stopped or failed is in no artifact.
    seconds = {kind: max(kept.get(kind, 0.0), spent.get(kind, 0.0)) for kind in kept | spent}
    made_by, own = [artifact.made_by for artifact in artifacts], _own_settings(settings.folder, file)
    return run_of(view, settings.to_json(), made_by, seconds, file=file, own=own)


def _own_settings(folder: Path, file: str) -> dict[str, Any] | None:
    """The settings that a study's file has by itself; None where it is not there, or not what it was."""
    try:
        return load_study(str(folder / file) if file.endswith(".toml") else file).to_json()
    except EdgesearchError:
        return None


def _totals(items: Iterable[tuple[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for name, value in items:
        totals[name] = totals.get(name, 0.0) + value
    return totals
