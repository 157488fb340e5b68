"""What a store of artifacts must do."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from edgesearch.objectives import ArtifactStore, open_store

_KEY, _OTHER = "ab" * 32, "cd" * 32


class StoreContract:
    """Subclass it and override `make`, which is called with an empty folder and returns the store."""

    def make(self, folder: Path) -> ArtifactStore:
        """A store that keeps all it has in `folder`, or that is empty at first."""
        raise NotImplementedError

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
