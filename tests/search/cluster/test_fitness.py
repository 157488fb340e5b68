"""What a machine lacks of what a study's jobs need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesearch.search.cluster._fitness import Needs, lacking
from edgesearch.search.cluster._shipping import packed
from edgesearch.search.processes._jobs import Job


def job(folder: Path, architecture: str = "cnn_tiny", **data: Any) -> Job:
    stage = {"parameters": {"student": {"architecture": architecture, "parameters": {"norm": "batch:relu"}}}}
    return Job(stage=stage, data={"name": "digits", **data}, store=str(folder), log="", folder=str(folder), python_path=())


def asked(*jobs: Job) -> dict[str, Any]:
    needs = Needs()
    for one in jobs:
        needs.add(one)
    return needs.to_json()


def test_data_that_is_here_must_be_there_unless_it_is_downloaded(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    needs, downloaded = asked(job(tmp_path, root=str(root))), asked(job(tmp_path, root=str(root), download=True))
    assert lacking(needs, None) == ""
    root.rmdir()
    assert lacking(needs, None).startswith(f"does not have the data set at {root}; put it there")
    assert lacking(downloaded, None) == lacking(asked(job(tmp_path, root=str(root))), None) == ""


def test_code_of_all_jobs_must_be_importable_there_or_be_sent(tmp_path: Path) -> None:
    for name in ("fit_nets", "fit_source"):
        (tmp_path / f"{name}.py").write_text("def make():\n    pass\n")
    needs = asked(job(tmp_path, "fit_nets:make+skip"), job(tmp_path, name="fit_source:make"))
    assert needs["import_paths"] == ["fit_nets:make", "fit_source:make"]  # "batch:relu" is none
    code = packed(tmp_path)
    assert lacking(needs, None) == ""
    (tmp_path / "fit_source.py").unlink()
    said = lacking(needs, None)
    assert said.startswith("cannot run the study's code: code 'fit_source:make' cannot be imported (ModuleNotFoundError")
    assert lacking(needs, code) == ""


def test_nodes_are_asked_anew_only_for_what_no_job_needed_before(tmp_path: Path) -> None:
    (tmp_path / "fit_later.py").write_text("def make():\n    pass\n")
    needs = Needs()
    first = job(tmp_path)
    assert [needs.add(one) for one in (first, replace(first, log="other"), job(tmp_path, "fit_later:make"), first)] == [
        True,
        False,
        True,
        False,
    ]
