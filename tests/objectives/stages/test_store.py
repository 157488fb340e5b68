from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import stat
from pathlib import Path

import pytest
import torch

from edgesearch.errors import StoreError
from edgesearch.objectives import ArtifactStore, Store, open_store
from edgesearch.objectives.stages import _entries
from edgesearch.testing import StoreContract

KEY = "ab" * 32


def put(store: Store, key: str = KEY, value: float = 1.0) -> None:
    store.put(
        "student",
        key,
        figures={"accuracy": value},
        seconds=2.0,
        recipe={"kind": "student"},
        tensors={"weights": {"w": torch.full((4, 3), value), "empty": torch.zeros(0)}},
    )


class TestStore(StoreContract):
    """The store in a folder."""

    def make(self, folder: Path) -> ArtifactStore:
        return Store(folder)


@pytest.mark.parametrize("file", ["artifact.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_entry_is_set_aside_said_so_and_can_be_made_again(tmp_path: Path, file: str, damage: str) -> None:
    said: list[str] = []
    store = Store(tmp_path, warn=said.append)
    put(store)
    path = tmp_path / "artifacts" / "student" / KEY / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "truncate" else content)
    assert store.get("student", KEY) is None
    assert len(said) == 1
    assert "damaged" in said[0]
    assert len(list((tmp_path / "corrupt").iterdir())) == 1
    put(store)
    assert store.get("student", KEY) is not None


def test_nothing_is_pickled(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    store.checkpoints(KEY).save(1, {"w": torch.zeros(2)}, {"a": 1})
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    json.loads((tmp_path / "artifacts" / "student" / KEY / "artifact.json").read_text())


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path) -> None:
    checkpoints = Store(tmp_path).checkpoints(KEY)
    checkpoints.save(3, {"w": torch.rand(64)}, {})
    path = next((tmp_path / "checkpoints").rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert checkpoints.latest() is None


def _write_for_ever(root: str, ready: object) -> None:
    store = Store(Path(root))
    number = 0
    while True:
        put(store, f"{number:064d}")
        store.checkpoints("c").save(number, {"w": torch.rand(1000)}, {"n": number})
        number += 1
        if number == 3:
            ready.set()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_entries_only(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for attempt in range(3):
        ready = context.Event()
        process = context.Process(target=_write_for_ever, args=(str(tmp_path / str(attempt)), ready))
        process.start()
        assert ready.wait(60)
        process.join(0.013 * (attempt + 1))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        said: list[str] = []
        store = Store(tmp_path / str(attempt), warn=said.append)
        entries = list(store)
        assert len(entries) >= 3
        assert all(store.get(kind, key) is not None for kind, key in entries)
        assert said == []
        latest = store.checkpoints("c").latest()
        assert latest is not None
        assert latest[2] == {"n": latest[0]}


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        put(store)
    monkeypatch.undo()
    assert store.get("student", KEY) is None
    assert list((tmp_path / "tmp").iterdir()) == []
    put(store)
    assert store.get("student", KEY) is not None


@pytest.mark.parametrize("file", ["artifact.json", "weights.safetensors"])
def test_a_damaged_entry_is_no_obstacle_to_a_new_one(tmp_path: Path, file: str) -> None:
    store = Store(tmp_path)
    put(store, value=1.0)
    (tmp_path / "artifacts" / "student" / KEY / file).unlink()
    put(store, value=2.0)  # by a worker that looked before the damage was done
    artifact = store.get("student", KEY)
    assert artifact is not None
    assert artifact.figures["accuracy"] == 2.0


def test_what_was_checked_is_not_hashed_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    whole = _entries.file_checksum

    def counted(path: Path) -> str:
        hashed.append(path)
        return whole(path)

    monkeypatch.setattr(_entries, "file_checksum", counted)
    store = Store(tmp_path)
    put(store)
    hashed.clear()
    for _ in range(3):
        assert store.get("student", KEY) is not None
    assert hashed == []
    path = tmp_path / "artifacts" / "student" / KEY / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert store.get("student", KEY) is None
    assert hashed == [path]


def test_a_store_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    location = Store(Path("store")).location
    put(Store(Path("store")))
    monkeypatch.chdir("/")
    assert open_store(location).get("student", KEY) is not None


def test_a_store_of_the_users_own_is_opened_by_its_import_path(tmp_path: Path) -> None:
    (tmp_path / "own_stores.py").write_text(
        "from pathlib import Path\nfrom edgesearch.objectives import Store\n"
        "class Own(Store):\n    def __init__(self, location, *, warn):\n        super().__init__(Path(location), warn=warn)\n"
    )
    store = open_store(f"own_stores:Own+{tmp_path / 'kept'}", folder=tmp_path)
    assert type(store).__name__ == "Own"
    assert store.location == str(tmp_path / "kept")


@pytest.mark.parametrize(
    ("name", "words"), [("Raises", "failed: ValueError: no bucket"), ("Nothing", "made a Nothing; expected")]
)
def test_a_store_of_the_users_own_that_is_none_is_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "no_stores.py").write_text(
        "class Nothing:\n    def __init__(self, location, *, warn):\n        self.location = location\n"
        "class Raises:\n    def __init__(self, location, *, warn):\n        raise ValueError('no bucket')\n"
    )
    with pytest.raises(StoreError, match=f"store 'no_stores:{name}' {words}"):
        open_store(f"no_stores:{name}+there", folder=tmp_path)


def _hold(root: str, ready: object, release: object) -> None:
    with Store(Path(root)).lease(KEY, waiting=lambda holder: None):
        ready.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_lease_is_waited_for_and_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    process.start()
    assert ready.wait(60)
    said: list[str] = []

    def kill(holder: str) -> None:
        said.append(holder)
        process.kill()

    with Store(tmp_path).lease(KEY, waiting=kill):
        assert said == [f"process {process.pid} on {socket.gethostname()}"]
    process.join()


def test_an_entry_that_the_disk_does_not_let_be_read_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    store = Store(tmp_path)
    store.put("student", "k", figures={"a": 1}, seconds=0.0, recipe={}, tensors={"weights": {"w": torch.ones(3)}})
    fresh = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("edgesearch.objectives.stages._entries.file_checksum", refuse)
        with pytest.raises(StoreError, match=r"store entry .*student/k cannot be read: Stale file handle; check its rights"):
            fresh.get("student", "k")
    assert not (tmp_path / "corrupt").exists()
    assert fresh.get("student", "k") is not None


def test_a_checkpoint_that_the_disk_does_not_let_be_read_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    checkpoints = Store(tmp_path).checkpoints("k")
    checkpoints.save(50, {"w": torch.ones(3)}, {})
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.safe_open", refuse)
        with pytest.raises(StoreError, match=r"the checkpoint .*last.safetensors cannot be read: Permission denied"):
            checkpoints.latest()
        with pytest.raises(StoreError, match="cannot be read: Permission denied"):
            checkpoints.save(1, {"w": torch.zeros(3)}, {})
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 50


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_rights_that_the_user_gives_new_ones(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path)
        store.put("student", "k", figures={}, seconds=0.0, recipe={}, tensors={"weights": {"w": torch.ones(3)}})
        store.checkpoints("k").save(1, {"w": torch.ones(3)}, {})
    finally:
        os.umask(before)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"artifact.json", "weights.safetensors", "last.safetensors"} <= {path.name for path in written}
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o666 & ~umask}
