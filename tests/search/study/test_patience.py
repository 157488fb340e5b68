"""A database that goes away in the middle: it is waited for; then the study stops with a sentence, and can go on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import pytest
from _databases import running_postgresql
from optuna.trial import TrialState, create_trial

from edgesearch.errors import StudyError
from edgesearch.search.study import Ledger, hold_lease, open_storage


def a_study(url: str) -> optuna.Study:
    return optuna.create_study(study_name=uuid.uuid4().hex, storage=open_storage(url), directions=["maximize"])


def begin(ledger: Ledger) -> int:
    return ledger.create(create_trial(state=TrialState.RUNNING, user_attrs={"candidate": {"a": 1}}))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another program writes the file, and takes its time."""
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def later(seconds: float, work: object) -> threading.Thread:
    def run() -> None:
        time.sleep(seconds)
        work()  # type: ignore[operator]

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_file_that_is_locked_for_a_while_is_waited_for(tmp_path: Path) -> None:
    study, said = a_study(f"sqlite:///{tmp_path / 'x.db'}?timeout=0.1"), list[str]()
    ledger = Ledger(study, say=said.append, patience=60.0)
    lock = locked(tmp_path / "x.db")
    lock.__enter__()
    thread = later(1.5, lambda: lock.__exit__(None, None, None))
    assert begin(ledger) == 0
    thread.join()
    assert len(said) == 1
    assert "does not answer (database is locked); waiting for it, 60.0 s at most" in said[0]
    assert len(study.get_trials()) == 1


def test_a_file_that_stays_locked_ends_the_study_which_goes_on_later(tmp_path: Path) -> None:
    study = a_study(f"sqlite:///{tmp_path / 'x.db'}?timeout=0.1")
    ledger = Ledger(study, patience=0.5)
    number = begin(ledger)
    with locked(tmp_path / "x.db"), pytest.raises(StudyError, match=r"locked.*same command again") as caught:
        ledger.finish(number, values=[1.0], attributes={})
    assert "\n" not in str(caught.value)
    ledger.finish(number, values=[1.0], attributes={})
    assert study.get_trials()[0].values == [1.0]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_is_not_written_on_for_nobody(tmp_path: Path, replaced: bool) -> None:
    file, aside = tmp_path / "x.db", tmp_path / "aside.db"
    study = a_study(f"sqlite:///{file}")
    ledger = Ledger(study, patience=0.3)
    begin(ledger)
    os.rename(file, aside)
    if replaced:
        file.touch()
    with pytest.raises(StudyError, match="its file was replaced" if replaced else "its file was removed"):
        begin(ledger)
    os.replace(aside, file)
    assert begin(ledger) == 1


def test_a_file_that_comes_back_is_gone_on_with(tmp_path: Path) -> None:
    file, aside, said = tmp_path / "x.db", tmp_path / "aside.db", list[str]()
    study = a_study(f"sqlite:///{file}")
    ledger = Ledger(study, say=said.append, patience=60.0)
    os.rename(file, aside)
    thread = later(1.0, lambda: os.rename(aside, file))
    assert begin(ledger) == 0
    thread.join()
    assert len(said) == 1
    assert len(study.get_trials()) == 1


def test_a_trial_is_read_once_the_file_is_back(tmp_path: Path) -> None:
    file, aside, said = tmp_path / "x.db", tmp_path / "aside.db", list[str]()
    study = a_study(f"sqlite:///{file}")
    ledger = Ledger(study, say=said.append, patience=60.0)
    ledger.note(begin(ledger), {"a": 1})  # what it knew of the trial is no longer so
    os.rename(file, aside)
    thread = later(1.0, lambda: os.rename(aside, file))
    assert ledger.trial(0).user_attrs["a"] == 1
    assert ledger.patiently(lambda: len(study.get_trials())) == 1
    thread.join()
    assert len(said) == 1


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"x" * 4096)


def write_much(ledger: Ledger) -> None:
    for i in range(1000):  # the log of writes may have some room left
        ledger.set_attributes({"a": "b" * 10_000 + str(i)})


def test_a_full_disk_is_one_sentence_at_once_and_the_study_goes_on_with_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        study = a_study(f"sqlite:///{disk / 'x.db'}")
        ledger = Ledger(study, patience=1000.0)
        number = begin(ledger)
        fill(disk / "filler")
        with pytest.raises(StudyError, match=r"full.*same command again") as caught:
            write_much(ledger)
        assert "\n" not in str(caught.value)
        (disk / "filler").unlink()
        ledger.finish(number, values=[1.0], attributes={})
        assert study.get_trials()[0].values == [1.0]
        database = study._storage._backend  # type: ignore[attr-defined]
        database.remove_session()
        database.engine.dispose()


def test_a_server_that_was_killed_and_starts_again_is_waited_for() -> None:
    with running_postgresql() as server:
        storage = open_storage(server.url)
        study = optuna.create_study(study_name="a", storage=storage, directions=["maximize"])
        said: list[str] = []
        with hold_lease(storage, "a") as lease:
            ledger = Ledger(study, lease, say=said.append, patience=120.0)
            begin(ledger)
            server.kill()
            thread = later(1.0, server.start)
            assert begin(ledger) == 1
            thread.join()
            server.kill()
            server.start()  # between two writes: not even noticed
            ledger.finish(1, values=[1.0], attributes={})
            assert len(said) == 1
            ledger.note(0, {"a": 1})  # what it knew of the trial is no longer so
            server.kill()
            thread = later(1.0, server.start)
            assert ledger.trial(0).state == TrialState.RUNNING
            assert ledger.patiently(lambda: len(study.get_trials())) == 2
            thread.join()
        assert len(said) == 2
        assert [trial.state for trial in study.get_trials()] == [TrialState.RUNNING, TrialState.COMPLETE]
        storage.engine.dispose()


def test_a_write_that_was_done_though_nobody_heard_is_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks right after the commit: what was written is recognised."""
    study = a_study(f"sqlite:///{tmp_path / 'x.db'}")
    ledger = Ledger(study, patience=60.0)
    run = ledger._patience.run
    broken: list[bool] = []

    def twice(work):  # type: ignore[no-untyped-def]
        if not broken:
            broken.append(True)
            run(work)
            return run(lambda connection, again: work(connection, True))
        return run(work)

    for write in (lambda: begin(ledger), lambda: ledger.finish(0, values=[2.0], attributes={"b": 1})):
        broken.clear()
        monkeypatch.setattr(ledger._patience, "run", twice)
        write()
    (trial,) = study.get_trials()
    assert (trial.state, trial.values, trial.user_attrs["b"]) == (TrialState.COMPLETE, [2.0], 1)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEARCH_DATABASE_WAIT_S", text)
    with pytest.raises(StudyError, match=rf"EDGESEARCH_DATABASE_WAIT_S = '{text}'"):
        Ledger(a_study(f"sqlite:///{tmp_path / 'x.db'}"))
