"""What the store holds of a trial."""

from __future__ import annotations

from edgesearch.errors import StudyError
from edgesearch.objectives import Artifact, ArtifactStore
from edgesearch.search.study import Record

#: The stages whose weights are the float network that was quantized, the later one first.
FLOAT_STAGES = ("pruned", "student")


def stored_artifact(store: ArtifactStore, record: Record, kind: str) -> Artifact:
    """The artifact of one of the trial's stages.

    Raises StudyError for a trial that is not COMPLETE, and when the store no longer has the artifact.
    """
    if not record.is_complete:
        raise StudyError(f"trial {record.number} is {record.state}, only COMPLETE ones can be exported")
    artifact = store.get(kind, record.artifacts[kind]) if kind in record.artifacts else None
    if artifact is None:
        raise StudyError(
            f"the {kind} network of trial {record.number} is no longer in the store; "
            "`edgesearch evaluate CANDIDATE.toml --study STUDY`, with its candidate and the --seed and --threads-per-stage "
            "of the study, makes it again"
        )
    return artifact


def float_artifact(store: ArtifactStore, record: Record) -> Artifact | None:
    """The float network that was quantized; None for QAT from scratch, which has none."""
    kind = next((kind for kind in FLOAT_STAGES if kind in record.artifacts), None)
    if kind is None or record.candidate.quantization.from_scratch:  # of which "student" is its teacher, or what it learns from
        return None
    return stored_artifact(store, record, kind)
