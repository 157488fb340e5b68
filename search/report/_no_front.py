"""What happened in a study whose front is empty."""

from __future__ import annotations

from edgesearch.search.report._sections import describe_rejected
from edgesearch.search.study import StudyView, nearest_misses

__all__ = ["why_no_front"]

_STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}


def why_no_front(view: StudyView) -> str:
    """One sentence, and the rejected candidate that is nearest where it is none of the trials."""
    counts = view.counts
    so_far = ", ".join(f"{counts[state]} {words}" for state, words in _STATES.items() if counts[state])
    misses = nearest_misses(view.records, view.constraints)
    if not any(counts[state] for state in _STATES if state != "RUNNING"):
        said = f"study {view.name} has no finished trial yet"
    elif misses and any(record.is_complete and not record.violations for record in view.records):
        said = f"no trial that the DPU runs keeps every constraint ({so_far})"
    elif misses:
        said = f"no trial keeps every constraint ({so_far})"
    elif counts["COMPLETE"]:
        said = f"no complete trial can be on the front, which takes networks that the DPU runs ({so_far})"
    else:
        said = f"study {view.name} has no complete trial ({so_far})"
    if not view.nearest_rejected or view.nearest_rejected["candidate"] in {miss.record.recipe for miss in misses}:
        return said
    return f"{said}; the nearest candidate that was rejected is {describe_rejected(view.nearest_rejected)}"
