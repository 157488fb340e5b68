"""What a store of artifacts must do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from edgesearch.objectives import ArtifactStore, open_store

_KEY, _OTHER = "ab" * 32, "cd" * 32
#: A process that holds a lease until it is killed.
_HOLDER = """
import sys, time
from edgesearch.objectives import open_store
with open_store(sys.argv[1]).lease(sys.argv[2], waiting=print):
    print("held", flush=True)
    time.sleep(600)
"""
#: Seconds after which the lease of a killed process must be over.
_OVER_S = 120.0


class StoreContract:
    """Subclass it and override `make`, which is called with an empty folder and returns the store.

    A store that keeps nothing in that folder overrides `damage` too.
    """

    def make(self, folder: Path) -> ArtifactStore:
        """A store that keeps all it has in `folder`, or that is empty at first."""
        raise NotImplementedError

    def damage(self, store: ArtifactStore, folder: Path) -> None:
        """Change a byte in the middle of everything that the store keeps."""
        files = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size]
        if not files:
            raise NotImplementedError("override `damage`: the store keeps nothing in the folder that `make` was called with")
        for file in files:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        """The store under test."""
        return self.make(tmp_path)

    @staticmethod
    def _put(store: ArtifactStore, value: float, key: str = _KEY) -> None:
        tensors = {"weights": {"w": torch.full((4, 3), value), "empty": torch.zeros(0)}}
        recipe, made_by = {"kind": "student"}, {"device": "cpu"}
        store.put("student", key, figures={"v": value}, seconds=2.0, recipe=recipe, tensors=tensors, made_by=made_by)

    def test_what_is_put_is_got(self, store: ArtifactStore) -> None:
        """Figures, tensors and what made them come back as they were."""
        assert store.get("student", _KEY) is None
        assert not store.has("student", _KEY)
        self._put(store, 0.5)
        artifact = store.get("student", _KEY)
        assert artifact is not None
        assert (artifact.figures, artifact.seconds, artifact.made_by) == ({"v": 0.5}, 2.0, {"device": "cpu"})
        assert torch.equal(artifact.tensors("weights")["w"], torch.full((4, 3), 0.5))
        assert store.has("student", _KEY)

    def test_the_first_of_two_writers_wins(self, store: ArtifactStore) -> None:
        """A second result under the same key changes nothing."""
        self._put(store, 1.0)
        self._put(store, 2.0)
        artifact = store.get("student", _KEY)
        assert artifact is not None
        assert artifact.figures == {"v": 1.0}

    def test_it_tells_what_it_has(self, store: ArtifactStore) -> None:
        """Iterating gives kind and key of every artifact."""
        self._put(store, 1.0)
        self._put(store, 2.0, _OTHER)
        assert sorted(store) == [("student", _KEY), ("student", _OTHER)]

    def test_what_it_has_tells_of_itself(self, store: ArtifactStore) -> None:
        """Figures, recipe and seconds of every artifact."""
        self._put(store, 1.0)
        self._put(store, 2.0, _OTHER)
        told = {a.key: (a.kind, a.figures["v"], a.recipe["kind"], a.seconds) for a in store.summaries()}
        assert told == {_KEY: ("student", 1.0, "student", 2.0), _OTHER: ("student", 2.0, "student", 2.0)}

    def test_another_process_finds_it_by_its_location(self, store: ArtifactStore) -> None:
        """`open_store(store.location)` is the same store."""
        self._put(store, 1.0)
        artifact = open_store(store.location).get("student", _KEY)
        assert artifact is not None
        assert artifact.figures == {"v": 1.0}

    def test_checkpoints_keep_the_newest_epoch(self, store: ArtifactStore) -> None:
        """The last epoch that was saved comes back, of one the last that was saved of it, until it is cleared."""
        checkpoints = store.checkpoints(_KEY)
        assert checkpoints.latest() is None
        for epoch in (1, 2):
            checkpoints.save(epoch, {"w": torch.full((2,), float(epoch))}, {"loss": 0.5})
        latest = checkpoints.latest()
        assert latest is not None
        assert (latest[0], latest[2], latest[1]["w"].tolist()) == (2, {"loss": 0.5}, [2.0, 2.0])
        checkpoints.save(1, {"w": torch.zeros(2)}, {"loss": 0.9})  # an earlier one replaces none
        latest = checkpoints.latest()
        assert latest is not None
        assert latest[0] == 2
        checkpoints.save(2, {"w": torch.full((2,), 2.5)}, {"loss": 0.4})  # within the epoch behind it
        latest = checkpoints.latest()
        assert latest is not None
        assert (latest[0], latest[2], latest[1]["w"].tolist()) == (2, {"loss": 0.4}, [2.5, 2.5])
        checkpoints.part("round1").save(7, {"w": torch.zeros(2)}, {})
        assert store.checkpoints(_KEY).part("round1").latest() is not None
        checkpoints.clear()
        assert checkpoints.latest() is None
        assert checkpoints.part("round1").latest() is None

    def test_a_lease_has_one_holder(self, store: ArtifactStore) -> None:
        """Whoever waits is told who holds it, and gets it when it is given back."""
        order: list[str] = []
        told = threading.Event()

        def wait(holder: str) -> None:
            order.append(f"waits for {str(os.getpid()) in holder}")
            told.set()

        def other() -> None:
            with open_store(store.location).lease(_KEY, waiting=wait):
                order.append("second")

        with store.lease(_KEY, waiting=lambda holder: pytest.fail(f"{holder} holds it")):
            thread = threading.Thread(target=other)
            thread.start()
            assert told.wait(60)
            order.append("first")
        thread.join(60)
        assert order == ["waits for True", "first", "second"]

    def test_a_lease_ends_with_its_process(self, store: ArtifactStore) -> None:
        """However that ends: whoever needs the key then gets it."""
        command = [sys.executable, "-c", _HOLDER, str(store.location), _KEY]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline().strip() == "held"
            finally:
                holder.kill()
        got = threading.Event()

        def take() -> None:
            with open_store(store.location).lease(_KEY, waiting=lambda _: None):
                got.set()

        threading.Thread(target=take, daemon=True).start()
        assert got.wait(_OVER_S), f"the lease of a process that was killed is held for more than {_OVER_S:g} s"

    def test_a_damaged_artifact_is_set_aside_and_can_be_made_again(self, store: ArtifactStore, tmp_path: Path) -> None:
        """It counts as not there."""
        self._put(store, 1.0)
        self.damage(store, tmp_path)
        assert store.get("student", _KEY) is None
        assert not store.has("student", _KEY)
        self._put(store, 2.0)
        artifact = store.get("student", _KEY)
        assert artifact is not None
        assert artifact.figures == {"v": 2.0}
        assert torch.equal(artifact.tensors("weights")["w"], torch.full((4, 3), 2.0))

    def test_failures_are_kept_until_they_are_forgotten(self, store: ArtifactStore) -> None:
        """A failure is known under its key alone."""
        assert store.failure("student", _KEY) is None
        store.record_failure("student", _KEY, message="NaN", made_by={"device": "cpu"})
        assert store.failure("student", _KEY) == {"message": "NaN", "made_by": {"device": "cpu"}}
        assert store.failure("student", _OTHER) is None
        store.forget_failure("student", _KEY)
        assert store.failure("student", _KEY) is None

    def test_a_lease_can_be_held_again_when_it_was_given_back(self, store: ArtifactStore) -> None:
        """One holder at a time, and none left behind."""
        for _ in range(2):
            with store.lease(_KEY, waiting=lambda holder: pytest.fail(f"{holder} still holds it")):
                pass
