"""A training in rungs is the training: the same key, the same bits, whoever did which part of it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgesearch.objectives import Artifact, Stage, Store, run_stage, rungs_of, trained_student
from edgesearch.objectives.stages.kinds._rung import rung_epochs

from ._chains import DATA, stages

JSON = DATA.model_dump(mode="json")
#: Weights that are averaged, dropped-out and moved about: all that a checkpoint must hold.
RECIPE = {"epochs": 5, "average_epochs": 1.5, "augmentation": "shift", "optimizer": "sgd"}
NETWORK = {"architecture": "cnn_tiny", "input_size": 8}


def chain(**candidate: Any) -> list[Stage]:
    return stages({"student": NETWORK} | candidate, last="quantized", train=RECIPE)


def student_of(whole: list[Stage]) -> Stage:
    return next(stage for stage in reversed(whole) if stage.kind == "student")


def run(stage: Stage, store: Store) -> Artifact:
    return run_stage(stage, store, data_settings=JSON, device="cpu")


def run_elsewhere(stage: Stage, folder: Path) -> None:
    """In a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=_run_here, args=(stage.to_json(), folder))
    process.start()
    process.join()
    assert process.exitcode == 0


def _run_here(content: dict[str, Any], folder: Path) -> None:
    run(Stage.from_json(content), Store(folder))


def weights(artifact: Artifact) -> dict[str, Tensor]:
    return artifact.tensors("weights")


def same(one: Artifact, other: Artifact) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, ()), (2, (1,)), (3, (1,)), (4, (1, 2)), (8, (1, 3)), (27, (3, 9)), (100, (12, 34))]
)
def test_rungs_end_after_a_ninth_and_a_third_of_the_epochs(epochs: int, expected: tuple[int, ...]) -> None:
    assert rung_epochs(epochs) == expected


def test_a_rung_speaks_of_the_students_training_and_has_a_key_of_its_own() -> None:
    student = student_of(chain())
    rungs = rungs_of(student)
    assert [rung.parameters["epochs"] for rung in rungs] == [1, 2]
    assert len({student.key, *(rung.key for rung in rungs)}) == 3
    assert all(trained_student(rung) == student for rung in rungs)
    assert all(Stage.from_json(rung.to_json()).key == rung.key for rung in rungs)


@pytest.mark.parametrize("kind", ["none", "self"])
def test_a_student_that_went_through_rungs_is_the_one_that_did_not(tmp_path: Path, kind: str) -> None:
    whole = chain(distillation={"kind": kind})
    straight, climbed = Store(tmp_path / "straight"), Store(tmp_path / "climbed")
    student = student_of(whole)
    for stage in student.walk():
        run(stage, straight)
        for rung in rungs_of(stage) if stage == student else ():
            figures = run(rung, climbed).figures
            assert 0 <= figures["accuracy"] <= 1
            assert figures["epochs"] == rung.parameters["epochs"]
        run(stage, climbed)
    one, other = (store.get("student", student.key) for store in (straight, climbed))
    assert one is not None
    assert other is not None
    assert same(one, other)
    assert [loss for loss, _, _ in one.figures["history"]] == [loss for loss, _, _ in other.figures["history"]]
    assert one.figures["accuracy"] == other.figures["accuracy"]
    assert not list((tmp_path / "climbed" / "checkpoints").iterdir())


def test_rungs_in_several_processes_and_after_a_kill_give_the_same_bits(tmp_path: Path) -> None:
    student = student_of(chain())
    straight = run(student, Store(tmp_path / "straight"))
    store, (first, second) = Store(tmp_path / "climbed"), rungs_of(student)
    run_elsewhere(first, tmp_path / "climbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgesearch.objectives.stages._store.Store.put", _killed)
        with pytest.raises(Killed):  # trained and saved, but the artifact is not written
            run(second, store)
    run_elsewhere(second, tmp_path / "climbed")
    run_elsewhere(student, tmp_path / "climbed")
    climbed = store.get("student", student.key)
    assert climbed is not None
    assert same(straight, climbed)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def _killed(*_: Any, **__: Any) -> None:
    raise Killed


def test_a_rung_goes_on_from_the_one_before(tmp_path: Path) -> None:
    store, student = Store(tmp_path), student_of(chain())
    first, second = rungs_of(student)
    assert run(first, store).figures["epochs"] == 1
    trained = store.checkpoints(student.key).latest()
    assert trained is not None
    assert trained[0] == 1
    reported: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        one_epoch = "edgesearch.objectives.training._train._Run.one_epoch"
        from edgesearch.objectives.training._train import _Run

        original = _Run.one_epoch

        def counted(self: _Run, saver: Any) -> None:
            reported.append(self.epoch + 1)
            original(self, saver)

        patch.setattr(one_epoch, counted)
        run(second, store)
    assert reported == [2]


def test_a_rung_that_is_made_again_loses_nothing_of_what_is_beyond_it(tmp_path: Path) -> None:
    store, student = Store(tmp_path), student_of(chain())
    first, second = rungs_of(student)
    before = run(first, store).figures
    run(second, store)
    (tmp_path / "artifacts" / "rung" / first.key / "artifact.json").unlink()
    assert run(first, store).figures == before
    kept = store.checkpoints(student.key).latest()
    assert kept is not None
    assert kept[0] == 2
    assert same(run(student, store), run(student, Store(tmp_path / "straight")))


def test_a_rung_of_a_student_that_was_trained_meanwhile_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, student = Store(tmp_path), student_of(chain())
    rung = rungs_of(student)[0]
    lease = Store.lease

    def waited(self: Store, key: str, *, waiting: Any) -> Any:
        if key == student.key and not self.has("student", key):  # another study holds it, and finishes its training
            monkeypatch.setattr(Store, "lease", lease)
            run(student, store)
        return lease(self, key, waiting=waiting)

    monkeypatch.setattr(Store, "lease", waited)
    found = run(rung, store)
    assert (found.kind, found.key) == ("student", student.key)
    assert not store.has("rung", rung.key)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_damaged_checkpoint_does_not_stay_in_the_way(tmp_path: Path) -> None:
    checkpoints = Store(tmp_path).checkpoints("key")
    checkpoints.save(20, {"a": torch.zeros(1000)}, {})
    file = next((tmp_path / "checkpoints" / "key").iterdir())
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
    file.write_bytes(content)
    assert checkpoints.latest() is None
    checkpoints.save(1, {"a": torch.ones(3)}, {})
    kept = checkpoints.latest()
    assert kept is not None
    assert kept[0] == 1
