"""A network so small that it says nothing but whether a board is well: compiled here, its logits known."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.boards._own import probe_of, run_on
from edgesearch.board_eval.boards._physical import PhysicalBoard
from edgesearch.board_eval.deployment import compile_xmodel
from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import Conv, Graph, Input, Linear, Pool, Reshape
from edgesearch.board_eval.targets import Dpu
from edgesearch.errors import BoardBusy, BoardLost, BoardUnfit, EdgesearchError

__all__ = ["BoardProblem", "Canary", "examine"]

_SIDE, _CLASSES, _IMAGES = 8, 10, 4
#: Fix position of the canary's logits.
_FIX = 2


@dataclass(frozen=True)
class BoardProblem:
    """What is wrong with a board, in one sentence.

    `needs_hands`: neither time nor cutting its power mends it. `is_busy`: another program measures there, which cutting its
    power would end.
    """

    reason: str
    needs_hands: bool = False
    is_busy: bool = False

    @classmethod
    def of(cls, error: EdgesearchError) -> BoardProblem:
        """What an error on the way to a known network's result says of the board, which refuses it if it is not lost."""
        needs_hands = isinstance(error, BoardUnfit) or not isinstance(error, BoardLost)
        return cls(str(error), needs_hands, isinstance(error, BoardBusy))

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Canary:
    """A compiled file, images int8 (N, H, W, C), and the logits int8 (N, classes) that every board of the DPU gives."""

    xmodel: bytes
    images: npt.NDArray[np.int8]
    logits: npt.NDArray[np.int8]

    @classmethod
    def of(cls, dpu: Dpu) -> Canary:
        """The canary for a DPU whose fingerprint is known; raises CompileError for one that cannot be compiled for."""
        graph, images = _network(), np.random.default_rng(0).integers(-128, 128, (_IMAGES, _SIDE, _SIDE, 3)).astype(np.int8)
        xmodel = compile_xmodel(graph, dpu, images=images)
        logits = np.ldexp(execute(graph, images).reshape(_IMAGES, -1).astype(np.float64), _FIX)
        return cls(xmodel.content, images, logits.astype(np.int8))

    def run_on(self, board: PhysicalBoard) -> BoardProblem | None:
        """None when the board gives the logits, else what is wrong."""
        with tempfile.TemporaryDirectory(prefix="edgesearch-") as folder:
            path = Path(folder) / "canary.xmodel"
            path.write_bytes(self.xmodel)
            try:
                run = run_on(board, path, self.images)
            except EdgesearchError as error:
                return BoardProblem.of(error)
        different = (run.logits.reshape(_IMAGES, -1) != self.logits).any(axis=1).sum()
        said = f"it gives wrong logits for {different} of {_IMAGES} images of a network that is known"
        return BoardProblem(said) if different else None


def examine(board: PhysicalBoard) -> BoardProblem | None:
    """Whether a board is well: None, or what is wrong.

    It runs a canary where one can be compiled for its DPU; else it is asked what it says of itself.
    """
    dpu = board.target
    canary = _canary(dpu.model_dump_json()) if isinstance(dpu, Dpu) and dpu.fingerprint else None
    if canary is not None:
        return canary.run_on(board)
    try:
        problem = probe_of(board).problem
    except EdgesearchError as error:
        return BoardProblem.of(error)
    return None if problem is None else BoardProblem(problem, needs_hands=True)


@lru_cache(maxsize=8)
def _canary(dpu: str) -> Canary | None:
    try:
        return Canary.of(Dpu.model_validate_json(dpu))
    except EdgesearchError:
        return None


def _network() -> Graph:
    random = np.random.default_rng(1)

    def values(*shape: int) -> npt.NDArray[np.float32]:
        return (random.integers(-64, 64, shape) / 128).astype(np.float32)

    half = _SIDE // 2
    conv = Conv(
        name="conv", inputs=("image",), shape=(_SIDE, _SIDE, 16), kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu",
        weight=values(16, 3, 3, 3), bias=values(16), weight_fix=7, bias_fix=7, fix=4,
    )  # fmt: skip
    size = half * half * 16
    logits = Linear(
        name="logits", inputs=("flat",), shape=(_CLASSES,), weight=values(_CLASSES, size), bias=values(_CLASSES),
        weight_fix=7, bias_fix=7, fix=_FIX,
    )  # fmt: skip
    return Graph(
        "canary",
        (
            Input(name="image", inputs=(), shape=(_SIDE, _SIDE, 3), fix=6),
            conv,
            Pool(name="pool", inputs=("conv",), shape=(half, half, 16), kind="max", kernel=(2, 2), stride=(2, 2), fix=4),
            Reshape(name="flat", inputs=("pool",), shape=(size,)),
            logits,
        ),
    )
