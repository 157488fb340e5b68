"""Settings as a database keeps them, beside those that a study is given now."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from edgesearch.board_eval import load_profile
from edgesearch.errors import SpaceError, StudyError
from edgesearch.search.report import front_json
from edgesearch.search.study._file import StudyFile, parse_study
from edgesearch.search.study._quiet import quiet_optuna
from edgesearch.search.study._record import read_study
from edgesearch.search.study._settings import refuse_changes, store_places, store_settings, stored_settings

TABLES = {"name": "a", "space": {"students": ["cnn_tiny"], "input_size": [8]}}


@pytest.fixture
def study() -> optuna.Study:
    with quiet_optuna():
        return optuna.create_study(study_name="a", directions=["maximize", "maximize"])


def test_what_is_stored_is_read_with_its_folder(study: optuna.Study, tmp_path: Path) -> None:
    settings = StudyFile.parse(TABLES, folder=tmp_path)
    store_settings(study, settings)
    assert stored_settings(study) == settings
    assert stored_settings(study).folder == tmp_path
    refuse_changes(study, settings)


def test_a_copy_that_optuna_made_is_the_study_of_its_own_name(study: optuna.Study, tmp_path: Path) -> None:
    store_settings(study, StudyFile.parse(TABLES))
    storage = f"sqlite:///{tmp_path / 'copies.db'}"
    with quiet_optuna():
        optuna.copy_study(from_study_name="a", from_storage=study._storage, to_storage=storage, to_study_name="b")
        copy = optuna.load_study(study_name="b", storage=storage)
    assert stored_settings(copy) == StudyFile.parse(TABLES | {"name": "b"})
    assert read_study(copy).name == "b"
    refuse_changes(copy, StudyFile.parse(TABLES | {"name": "b"}))


@pytest.mark.parametrize(
    ("table", "changes", "told"),
    [
        ({"epochs": 1}, {"epochs": 2}, r"\(train\.epochs: was 1, is 2\)"),
        ({"epochs": 1}, {"epochs": 40}, r"\(train\.epochs: was 1, is 40\)"),
        ({}, {"optimizer": "sgd"}, r"\(train\.optimizer: was \"adamw\", is \"sgd\"\)"),
        ({"epochs": 1}, {"epochs": 2, "warmup_epochs": 0.1}, r"epochs: was 1, is 2; train\.warmup_epochs: was 0\.25, is 0\.1"),
    ],
)
def test_what_follows_from_a_change_is_not_told_as_one(
    study: optuna.Study, table: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    store_settings(study, StudyFile.parse(TABLES | {"train": table}))
    with pytest.raises(StudyError, match=told):
        refuse_changes(study, StudyFile.parse(TABLES | {"train": table | changes}))


def test_a_setting_that_nobody_set_is_no_difference(study: optuna.Study) -> None:
    settings = StudyFile.parse(TABLES)
    store_settings(study, settings)
    content = settings.model_dump(mode="json", exclude_defaults=True)
    assert "search" not in content
    study.set_user_attr("study", content)  # as if every other setting had come later
    refuse_changes(study, settings)
    with pytest.raises(StudyError, match=r"search\.sampler: was \"tpe\", is \"random\""):
        refuse_changes(study, StudyFile.parse(TABLES | {"search": {"sampler": "random"}}))
    refuse_changes(study, StudyFile.parse(TABLES | {"search": {"trials": 7}, "description": "more"}))


def test_data_settings_that_were_passed_over_do_not_keep_a_stored_study_from_going_on(study: optuna.Study) -> None:
    settings = StudyFile.parse(TABLES)
    store_settings(study, settings)
    content = settings.to_json()
    study.set_user_attr("study", content | {"data": content["data"] | {"root": "flowers", "download": True}})
    assert stored_settings(study) == settings
    refuse_changes(study, settings)


def test_what_no_student_has_does_not_keep_a_stored_study_from_going_on(study: optuna.Study) -> None:
    tables = TABLES | {
        "teacher": {"architecture": "cnn_small"},
        "space": {"students": ["cnn_tiny"], "student": {"cnn_tiny": {"width": [0.5]}}},
        "candidates": [{"student": {"architecture": "cnn_tiny"}}],
    }
    settings = StudyFile.parse(tables)
    content = settings.to_json()
    content["teacher"] |= {"head": 64, "stem": "imagenet"}
    content["space"]["student"]["cnn_tiny"] |= {"head": 64, "stem": ["small", "imagenet"]}
    content["candidates"][0]["student"] |= {"head": 64, "stem": "imagenet"}
    store_settings(study, settings)
    study.set_user_attr("study", content)
    stored = stored_settings(study)
    assert stored.teacher is not None
    assert stored.teacher.head == 64  # which the keys of its stages hold
    refuse_changes(study, settings)
    refuse_changes(study, stored.with_changes(seed=settings.seed))
    with pytest.raises(StudyError, match=r"teacher\.width: was 1\.0, is 0\.5"):
        refuse_changes(study, StudyFile.parse(tables | {"teacher": {"architecture": "cnn_small", "width": 0.5}}))


def test_tools_may_move_between_runs_and_the_last_place_is_stored(study: optuna.Study, tmp_path: Path) -> None:
    store_settings(study, StudyFile.parse(TABLES, folder=tmp_path))
    moved = stored_settings(study).with_changes(vitis={"python": "/opt/vitis/bin/python", "engine": "podman"})
    refuse_changes(study, moved)
    store_places(study, moved)
    assert stored_settings(study).vitis == moved.vitis
    assert stored_settings(study).to_json() == moved.to_json()
    with pytest.raises(StudyError, match="seed: was"):
        refuse_changes(study, moved.with_changes(seed=99))


def test_a_store_may_move_between_runs_and_one_that_is_not_named_stays(study: optuna.Study, tmp_path: Path) -> None:
    given = StudyFile.parse(TABLES | {"store": "artifacts"}, folder=tmp_path)
    assert given.store == str(tmp_path / "artifacts")
    store_settings(study, given)
    moved = given.with_changes(store="s3://bucket/folder")
    refuse_changes(study, moved)
    store_places(study, moved)
    assert stored_settings(study).store == "s3://bucket/folder"
    store_places(study, given.with_changes(store=""))
    assert stored_settings(study).store == "s3://bucket/folder"


def test_what_may_change_between_runs_is_stored_as_it_was_last(study: optuna.Study) -> None:
    store_settings(study, StudyFile.parse(TABLES))
    search = {"rungs": False, "proposals": "plain", "trials": 3}
    again = StudyFile.parse(TABLES | {"description": "a second look", "search": search})
    refuse_changes(study, again)
    store_places(study, again)
    assert stored_settings(study).to_json() == again.to_json()


def project(folder: Path) -> StudyFile:
    """A study in a folder with all its files."""
    folder.mkdir(exist_ok=True)
    (folder / "board.json").write_text(load_profile("zcu104").to_json())
    for number, name in enumerate(("one.pth", "two.pth", "three.pth")):
        torch.save({"number": torch.tensor(number)}, folder / name)
    tables = {
        "name": "a",
        "board": "board.json",
        "data": {"name": "npz", "root": "images.npz"},
        "teacher": {"architecture": "cnn_small", "weights": "three.pth"},
        "space": {
            "students": ["cnn_tiny", "mlp"],
            "input_size": [8],
            "weights": "one.pth",
            "student": {"mlp": {"weights": "two.pth"}},
        },
        "candidates": [{"student": {"architecture": "cnn_tiny", "weights": "one.pth"}}],
    }
    return StudyFile.parse(tables, folder=folder)


def test_where_its_files_lie_is_no_difference_and_the_last_place_is_stored(study: optuna.Study, tmp_path: Path) -> None:
    store_settings(study, project(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    moved = project(tmp_path / "two")
    refuse_changes(study, moved)
    store_places(study, moved)
    assert stored_settings(study) == moved
    torch.save({"number": torch.tensor(5)}, tmp_path / "two" / "other.pth")
    with pytest.raises(StudyError, match=r"space\.weights: was .*one\.pth.*, is .*other\.pth"):
        refuse_changes(study, moved.with_changes(space=moved.to_json()["space"] | {"weights": str(tmp_path / "two/other.pth")}))
    for shipped in ("zcu102", "KV260"):
        with pytest.raises(StudyError, match="board: was"):
            refuse_changes(study, moved.with_changes(board=shipped.lower()))
    with pytest.raises(StudyError, match=r"data\.name: was"):
        refuse_changes(study, moved.with_changes(data={"name": "folder", "root": str(tmp_path / "two")}))


def test_candidates_that_mean_the_same_are_no_difference(study: optuna.Study) -> None:
    plain = {"student": {"architecture": "cnn_tiny", "input_size": 8}}
    store_settings(study, StudyFile.parse(TABLES | {"candidates": [plain]}))
    refuse_changes(study, StudyFile.parse(TABLES | {"candidates": [plain | {"pruning": {"method": "none", "steps": 5}}]}))
    with pytest.raises(StudyError, match="candidates"):
        refuse_changes(study, StudyFile.parse(TABLES | {"candidates": [plain | {"quantization": {"bits": 5}}]}))


def test_a_study_of_another_program_is_refused(study: optuna.Study) -> None:
    with pytest.raises(StudyError, match="not made by edgesearch"):
        stored_settings(study)


def test_a_byte_order_mark_is_read() -> None:
    text = 'name = "a"\n[space]\nstudents = ["mlp"]\n'
    assert parse_study(b"\xef\xbb\xbf" + text.encode(), where="s", folder=Path()).name == "a"


def test_changes_are_checked_and_the_folder_stays(tmp_path: Path) -> None:
    settings = StudyFile.parse(TABLES, folder=tmp_path)
    changed = settings.with_changes(seed=3, board="mine.json")
    assert (changed.seed, changed.board, changed.folder) == (3, "mine.json", tmp_path)
    with pytest.raises(SpaceError, match="study a: seed = -3"):
        settings.with_changes(seed=-3)


def test_optunas_verbosity_is_afterwards_what_it_was() -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        with quiet_optuna():
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(SpaceError, match="the study is of type str, expected the tables of a study file as a mapping"):
        StudyFile.parse("quickstart")  # type: ignore[arg-type]


OWN_NETWORK = "from torch import nn\n\n\ndef net(num_classes, in_channels):\n    return nn.Flatten()\n"


@pytest.mark.parametrize("where", ["teacher", "candidates", "pruning"])
def test_an_edit_of_ones_own_code_is_no_other_setting(study: optuna.Study, tmp_path: Path, where: str) -> None:
    own = {"architecture": "own_settings_net:net", "input_size": 8}
    pruned = {
        "student": {"architecture": "mlp", "input_size": 8},
        "pruning": {"method": "own_settings_net:prune", "ratio": 0.5},
    }
    tables: dict[str, Any] = {
        "teacher": {"teacher": own},
        "candidates": {"candidates": [{"student": own}]},
        "pruning": {"candidates": [pruned]},
    }[where]

    def settings(code: str, **more: Any) -> StudyFile:
        (tmp_path / "own_settings_net.py").write_text(code)
        return StudyFile.parse(TABLES | tables | more, folder=tmp_path)

    before = settings(OWN_NETWORK)
    store_settings(study, before)
    after = settings(OWN_NETWORK + "# edited\n")
    assert after != before
    refuse_changes(study, after)
    store_places(study, after)
    assert stored_settings(study) == after
    if where == "teacher":
        with pytest.raises(StudyError, match=r"teacher\.architecture: was") as caught:
            refuse_changes(study, settings(OWN_NETWORK, teacher={"architecture": "cnn_small"}))
        assert "sha256" not in str(caught.value)


def test_infinite_limits_of_earlier_versions_are_none_and_may_be_taken_out() -> None:
    study = optuna.create_study(study_name="a", directions=["maximize", "maximize"])
    settings = StudyFile.parse(TABLES | {"constraints": {"min_accuracy": 0.5}})
    store_settings(study, settings)
    content = settings.to_json()
    content["constraints"]["max_latency_ms"] = math.inf
    study.set_user_attr("study", content)
    assert stored_settings(study) == settings
    refuse_changes(study, settings)
    view = read_study(study)
    assert view.constraints == {"min_accuracy": 0.5}
    assert json.loads(front_json(view, []))["constraints"] == {"min_accuracy": 0.5}
