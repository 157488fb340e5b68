"""The bundled study as it is run where two runs must try the same candidates to the end."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(folder: Path) -> Path:
    """Write a copy of `quickstart` that stops no training and takes the sampler's proposals as they come; returns its file.

    Which trainings are stopped, and which candidates are proposed by gain and cost, depends on recorded seconds.
    """
    text = (resources.files("edgesearch.studies") / "quickstart.toml").read_text(encoding="utf-8")
    head, mark, tail = text.partition("[search]\n")
    assert mark, "the study has a [search] table"
    path = folder / "quickstart.toml"
    path.write_text(f'{head}{mark}rungs = false\nproposals = "plain"\n{tail}', encoding="utf-8")
    return path
