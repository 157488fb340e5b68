"""How a machine's cores and GPUs are shared out."""

from __future__ import annotations

import pytest

from edgesearch.search.processes import _machine
from edgesearch.search.processes._machine import MachineShare, share_machine


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [
        (0, (None, None), (16, 0.0)),
        (1, (None, None), (2, 0.5)),
        (4, (None, None), (8, 0.5)),
        (1, (None, 0.5), (2, 0.5)),
        (1, (None, 0.3), (3, 0.3)),
        (4, (None, 2.0), (2, 2.0)),
        (1, (None, 2.0), (1, 2.0)),
        (1, (None, 0.01), (16, 0.01)),
        (1, (None, 0.0), (16, 0.0)),
        (1, (5, 0.5), (5, 0.5)),
    ],
)
def test_no_more_workers_than_the_gpus_are_enough_for_unless_they_are_asked_for(
    gpus: int, given: tuple[int | None, float | None], expected: tuple[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_machine, "local_gpus", lambda: gpus)
    monkeypatch.setattr(_machine, "local_workers", lambda threads: 16)
    assert share_machine(1, *given) == MachineShare(*expected, gpus)
