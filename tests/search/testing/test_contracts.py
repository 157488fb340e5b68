"""Contracts of seams hold for what keeps them, and fail for what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from _fake_boards import FakeBoard, write_boards

from edgesearch.board_eval import PhysicalBoard
from edgesearch.objectives import ArtifactStore, open_store
from edgesearch.testing import PhysicalBoardContract, StoreContract, _store


class TestOwnBoard(PhysicalBoardContract):
    """A board that a study names by its import path."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self) -> PhysicalBoard:
        return FakeBoard("a", self.folder)


def test_a_board_that_gives_other_integers_breaks_its_contract(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["wrong"]})
    board = TestOwnBoard()
    board.folder = tmp_path
    with pytest.raises(AssertionError, match="Mismatched elements: 1"):
        board.test_a_run_gives_the_integers_of_the_dpu(tmp_path)


#: A store that takes what it finds on its disk for what was put, and whose leases are files that only their holder removes.
CARELESS = """
import time
from contextlib import contextmanager
from pathlib import Path
from edgesearch.objectives import Store

class Careless(Store):
    def __init__(self, root, *, warn):
        super().__init__(Path(root), warn=warn)

    location = property(lambda self: f"careless_store:Careless+{self.root}")

    def get(self, kind, key):
        try:
            return super().get(kind, key) or self.kept
        except AttributeError:
            return None

    def put(self, *given, **more):
        self.kept = super().put(*given, **more)
        return self.kept

    @contextmanager
    def lease(self, key, *, waiting):
        place = Path(self.root) / f"lease-{key}"
        while place.exists():
            time.sleep(0.01)
        place.touch()
        yield
        place.unlink()
"""


class OfCareless(StoreContract):
    def make(self, folder: Path) -> ArtifactStore:
        return open_store(f"careless_store:Careless+{folder}")


def test_a_store_that_is_careless_breaks_its_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, folder, contract = tmp_path / "code", tmp_path / "store", OfCareless()
    for place in (code, folder):
        place.mkdir()
    (code / "careless_store.py").write_text(CARELESS)
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setattr(_store, "_OVER_S", 0.5)
    store = contract.make(folder)
    contract.test_what_is_put_is_got(store)
    with pytest.raises(AssertionError):
        contract.test_a_damaged_artifact_is_set_aside_and_can_be_made_again(contract.make(folder), folder)
    with pytest.raises(AssertionError, match="the lease of a process that was killed is held"):
        contract.test_a_lease_ends_with_its_process(store)
    for lease in folder.glob("lease-*"):
        lease.unlink()  # for whom the contract left waiting
