from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from edgesearch.errors import StoreError
from edgesearch.objectives import ArtifactStore, open_store
from edgesearch.objectives.stages import _object_leases
from edgesearch.objectives.stages._local_copies import LocalCopies
from edgesearch.objectives.stages._object_store import ObjectStore
from edgesearch.objectives.stages._objects import Objects
from edgesearch.testing import StoreContract

KEY = "ab" * 32
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def _copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESEARCH_CACHE", str(tmp_path / "copies"))


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest) -> str:
    """An empty place."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/prefix"
    return f"{request.getfixturevalue('bucket')}/prefix"


class TestMemory(StoreContract):
    """fsspec's memory."""

    def make(self, folder: Path) -> ArtifactStore:
        return open_store(f"memory://{uuid.uuid4().hex}")

    def damage(self, store: ArtifactStore, folder: Path) -> None:
        damage_all(store)


class TestFile(StoreContract):
    """A folder by its URL."""

    def make(self, folder: Path) -> ArtifactStore:
        store = open_store(f"file://{folder}")
        assert store.location == str(folder)
        return store


@pytest.mark.slow
class TestS3(StoreContract):
    """An S3 server."""

    @pytest.fixture(autouse=True)
    def _place(self, bucket: str) -> None:
        self.bucket = bucket

    def make(self, folder: Path) -> ArtifactStore:
        return open_store(f"{self.bucket}/prefix")

    def damage(self, store: ArtifactStore, folder: Path) -> None:
        damage_all(store)


def put(store: ArtifactStore, key: str = KEY, value: float = 1.0) -> Any:
    tensors = {"weights": {"w": torch.full((40, 3), value)}}
    return store.put("student", key, figures={"v": value}, seconds=2.0, recipe={"kind": "student"}, tensors=tensors)


def objects_of(store: ArtifactStore) -> Objects:
    return Objects(store.location)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_all(store: ArtifactStore) -> None:
    objects = objects_of(store)
    for name in objects.names("artifacts"):
        objects.replace(name, flipped(objects.read(name) or b""))


# --- damage


@pytest.mark.parametrize("change", [flipped, lambda content: content[: len(content) // 2]], ids=["flip", "truncate"])
def test_a_damaged_manifest_is_set_aside_and_made_again(url: str, change: Callable[[bytes], bytes]) -> None:
    said: list[str] = []
    store = ObjectStore(url, warn=said.append)
    put(store)
    [name] = [name for name in objects_of(store).names("artifacts") if name.endswith("artifact.json")]
    objects_of(store).replace(name, change(objects_of(store).read(name) or b""))
    assert store.get("student", KEY) is None
    assert not store.has("student", KEY)
    assert len(said) == 1
    assert "damaged" in said[0]
    assert len(objects_of(store).names("corrupt")) == 2
    assert objects_of(store).names("artifacts") == []
    assert put(store).figures == {"v": 1.0}


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_tensors_are_noticed_when_they_are_read(
    url: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ObjectStore(url))
    monkeypatch.setenv("EDGESEARCH_CACHE", str(tmp_path / "another machine"))
    said: list[str] = []
    store = ObjectStore(url, warn=said.append)
    [name] = [name for name in objects_of(store).names("artifacts") if name.endswith("safetensors")]
    content = objects_of(store).read(name) or b""
    if damage == "remove":
        objects_of(store).remove(name)
    else:
        objects_of(store).replace(name, flipped(content) if damage == "flip" else content[:-7])
    artifact = store.get("student", KEY)
    assert artifact is not None
    assert artifact.figures == {"v": 1.0}
    with pytest.raises(StoreError, match=r"damaged .*the same command makes it again"):
        artifact.tensors("weights")
    assert store.get("student", KEY) is None
    assert len(said) == 1
    assert torch.equal(put(store, value=2.0).tensors("weights")["w"], torch.full((40, 3), 2.0))


def test_an_entry_without_its_manifest_is_not_there_and_in_nobodys_way(url: str) -> None:
    store = ObjectStore(url)
    put(store, value=1.0)
    [manifest] = [name for name in objects_of(store).names("artifacts") if name.endswith("artifact.json")]
    objects_of(store).remove(manifest)  # its writer was killed before it came to it
    assert ObjectStore(url).get("student", KEY) is None
    assert list(ObjectStore(url)) == []
    assert put(store, value=2.0).figures == {"v": 2.0}
    assert len(objects_of(store).names("artifacts")) == 2  # what the first left is gone


def test_who_sets_a_damaged_entry_aside_late_leaves_the_new_one(url: str) -> None:
    store = ObjectStore(url)
    put(store, value=1.0)
    name = f"artifacts/student/{KEY}/artifact.json"
    damaged = flipped(objects_of(store).read(name) or b"")
    objects_of(store).replace(name, damaged)
    assert ObjectStore(url).get("student", KEY) is None
    put(ObjectStore(url), value=2.0)
    store._set_aside("student", KEY, damaged, "it was slow")
    artifact = store.get("student", KEY)
    assert artifact is not None
    assert artifact.tensors("weights")["w"][0, 0] == 2.0


def test_who_finds_a_damaged_manifest_in_the_way_writes_an_entry_that_is_whole(url: str) -> None:
    store = ObjectStore(url)
    put(store, value=1.0)
    name = f"artifacts/student/{KEY}/artifact.json"
    objects_of(store).replace(name, flipped(objects_of(store).read(name) or b""))
    assert put(ObjectStore(url), value=2.0).figures == {"v": 2.0}
    assert len(objects_of(store).names("artifacts")) == 2
    LocalCopies(store.location).forget("student", KEY)  # as another machine reads it
    artifact = ObjectStore(url).get("student", KEY)
    assert artifact is not None
    assert artifact.tensors("weights")["w"][0, 0] == 2.0


def test_a_damaged_checkpoint_counts_as_none(url: str) -> None:
    store = ObjectStore(url)
    store.checkpoints(KEY).save(3, {"w": torch.rand(64)}, {})
    [name] = objects_of(store).names("checkpoints")
    objects_of(store).replace(name, flipped(objects_of(store).read(name) or b""))
    assert store.checkpoints(KEY).latest() is None
    store.checkpoints(KEY).save(1, {"w": torch.zeros(64)}, {})
    assert store.checkpoints(KEY).latest() is not None


# --- copies


def test_what_was_fetched_is_not_fetched_again_and_a_damaged_copy_is(url: str, tmp_path: Path) -> None:
    artifact = put(ObjectStore(url))
    copy = artifact.file("weights")
    assert copy.is_relative_to(tmp_path / "copies")
    copy.write_bytes(flipped(copy.read_bytes()))
    again = ObjectStore(url).get("student", KEY)
    assert again is not None
    assert torch.equal(again.tensors("weights")["w"], torch.full((40, 3), 1.0))
    [name] = [name for name in Objects(url).names("artifacts") if name.endswith("safetensors")]
    Objects(url).remove(name)
    assert torch.equal(again.tensors("weights")["w"], torch.full((40, 3), 1.0))


# --- two writers


def _write(url: str, value: float, together: Any, answers: Any) -> None:
    store = open_store(url)
    together.wait(60)
    answers.put({number: put(store, f"{number:064d}", value).figures["v"] for number in range(12)})


@pytest.mark.slow
def test_of_two_writers_at_once_one_wins_and_both_are_told_who(bucket: str) -> None:
    url = f"{bucket}/prefix"
    together, answers = SPAWN.Barrier(2), SPAWN.Queue()
    writers = [SPAWN.Process(target=_write, args=(url, value, together, answers)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    first, second = answers.get(timeout=120), answers.get(timeout=120)
    for writer in writers:
        writer.join()
    assert first == second
    store = open_store(url)
    for number, value in first.items():
        artifact = store.get("student", f"{number:064d}")
        assert artifact is not None
        assert artifact.tensors("weights")["w"][0, 0] == value
    assert len(Objects(url).names("artifacts")) == 2 * len(first)  # and the loser's files are gone


def _write_for_ever(url: str, ready: Any) -> None:
    store = open_store(url)
    number = 0
    while True:
        put(store, f"{number:064d}")
        store.checkpoints("c").save(number, {"w": torch.rand(1000)}, {"n": number})
        number += 1
        if number == 3:
            ready.set()


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_entries_only(bucket: str) -> None:
    for attempt in range(3):
        url, ready = f"{bucket}/{attempt}", SPAWN.Event()
        process = SPAWN.Process(target=_write_for_ever, args=(url, ready))
        process.start()
        assert ready.wait(120)
        process.join(0.017 * (attempt + 1))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        said: list[str] = []
        store = ObjectStore(url, warn=said.append)
        entries = list(store)
        assert len(entries) >= 3
        for kind, key in entries:
            artifact = store.get(kind, key)
            assert artifact is not None
            assert artifact.tensors("weights")["w"].shape == (40, 3)
        latest = store.checkpoints("c").latest()
        assert latest is not None
        assert latest[2] == {"n": latest[0]}
        assert said == []


# --- leases


def _hold(url: str, ready: Any) -> None:
    with ObjectStore(url).lease(KEY, waiting=lambda holder: None):
        ready.set()
        time.sleep(600)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["this", "another"])
def test_a_lease_ends_with_its_process(bucket: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = SPAWN.Event()
    process = SPAWN.Process(target=_hold, args=(bucket + "/x", ready))
    process.start()
    assert ready.wait(120)
    if machine == "another":
        monkeypatch.setattr(_object_leases, "_machine", lambda: ["elsewhere", ""])
    process.kill()
    process.join()
    started = time.monotonic()
    with ObjectStore(bucket + "/x", lease_s=3.0).lease(KEY, waiting=lambda holder: None):
        waited = time.monotonic() - started
    assert waited < 2.0 if machine == "this" else waited > 3.0
    assert Objects(bucket + "/x").names("leases") == []


def test_a_holder_that_lives_keeps_its_lease(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_object_leases, "_machine", lambda: [uuid.uuid4().hex, ""])
    objects, taken = Objects(url), threading.Event()

    def lease() -> AbstractContextManager[None]:
        return _object_leases.object_lease(objects, f"leases/{KEY}", waiting=lambda who: None, expires_s=1.0)

    def wait() -> None:
        with lease():
            taken.set()

    with lease():
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not taken.wait(3.0)
    assert taken.wait(30)
    waiter.join()


def test_a_frozen_holder_loses_its_lease_and_does_not_take_it_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, name = Objects(url), f"leases/{KEY}"
    content = {"holder": "process 1 on nowhere", "process": ["elsewhere", "", 1, 0.0], "id": "frozen"}
    objects.create(f"{name}/{1:012d}", json.dumps(content).encode())
    with _object_leases.object_lease(objects, name, waiting=lambda who: None, expires_s=0.5):
        assert objects.names(name) == [f"{name}/{2:012d}"]
        assert not _object_leases._is_mine(objects, f"{name}/{1:012d}", content)  # what it asks before it renews


# --- bad input


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nosuch://x/y", "cannot be opened: Protocol not known: nosuch"),
        ("s3://key:secret@bucket/x", "has a user in its URL"),
        ("memory://", "names no place"),
        ("file://relative/x", "is no whole path"),
        ("simplecache::s3://x", "is no URL that can be used"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(location: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as error:
        open_store(location)
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_sentence(bucket: str) -> None:
    with pytest.raises(StoreError, match="make its bucket first"):
        open_store("s3://nobody-made-this/x")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    S3FileSystem.clear_instance_cache()  # which knows the other server
    try:
        with pytest.raises(StoreError, match=r"does not serve: .*check its address"):
            open_store(f"{bucket}/x")
    finally:
        S3FileSystem.clear_instance_cache()


def test_a_network_that_fails_for_a_moment_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(f"memory://{uuid.uuid4().hex}")
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    fails = [OSError("reset"), TimeoutError("late")]

    def cat(path: str) -> bytes:
        if fails:
            raise fails.pop()
        return b"1"

    monkeypatch.setattr(objects._fs, "cat_file", cat)
    assert objects.read("a") == b"1"
    assert len(waited) == 2
    monkeypatch.setattr(objects._fs, "cat_file", lambda path: (_ for _ in ()).throw(PermissionError("denied")))
    with pytest.raises(StoreError, match="denied"):
        objects.read("a")
    assert len(waited) == 2


def test_a_file_system_that_cannot_create_exclusively_says_so() -> None:
    objects = Objects(f"memory://{uuid.uuid4().hex}")
    objects._protocol = "sftp"
    assert "cannot create a file only where there is none" in objects.shortcoming()
    objects._protocol = "memory"
    assert objects.shortcoming() == ""
