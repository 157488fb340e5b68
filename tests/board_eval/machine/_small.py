"""A small program without faults: a 1 x 1 convolution and a rescaling of two rows, by way of external memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Conv, ConvInit, Elew, ElewInit, End, Engine, Instruction, Load, Save
from edgesearch.board_eval.targets import DPUS

TARGET = DPUS["B512"]
CONSTANT, WORKSPACE, INPUT, OUTPUT = range(4)
#: Biases of 8 channels and 8 x 8 weights; two rows of three pixels of 8 channels each.
SIZES = {CONSTANT: 72, WORKSPACE: 48, INPUT: 48, OUTPUT: 48}

_WEIGHTS, _BIASES = 8, 17
_ROW = 24


def bits(engine: Engine, takes: str = "", gives: str = "") -> dict[str, int]:
    """Own bits, and those of engines by their first letters."""
    mask = {name: 1 << Engine[full] for name, full in zip("LSCM", ("LOAD", "SAVE", "CONV", "MISC"), strict=True)}
    own = 1 << engine
    return {"dpdon": own | sum(mask[name] for name in takes), "dpdby": own | sum(mask[name] for name in gives)}


def small_program() -> tuple[Instruction, ...]:
    row: dict[str, Any] = {"length": 3, "channel": 8}
    loads = [Load(**bits(Engine.LOAD), bank_id=_BIASES, channel=8, jump_read=8)]
    loads += [
        Load(**bits(Engine.LOAD), bank_id=_WEIGHTS + lane, channel=8, jump_read=8, ddr_addr=8 * lane + 8) for lane in range(8)
    ]
    loads += [
        Load(**bits(Engine.LOAD, gives="C" * r), bank_id=r, jump_read=8, reg_id=INPUT, ddr_addr=_ROW * r, **row) for r in (0, 1)
    ]
    convolution = [
        ConvInit(**bits(Engine.CONV), valid_pixel_parallel=2, shift_cut=6, shift_bias=3),
        Conv(**bits(Engine.CONV, "L", "M"), bank_id_out=4, length=3, pad_right=15, pad_bottom=15),
    ]
    rescaling = [
        ElewInit(**bits(Engine.MISC), bank_id_in=4, jump_read=1),
        Elew(**bits(Engine.MISC, "C", "S"), length=3, valid_pixel_parallel=2, bank_id_out=0, bank_addr_out=9, shift_write=17),
    ]
    there = [
        Save(**bits(Engine.SAVE, "M"), bank_id=0, bank_addr=9, jump_write=8, reg_id=WORKSPACE, **row),
        Save(**bits(Engine.SAVE, gives="L"), bank_id=1, bank_addr=9, jump_write=8, reg_id=WORKSPACE, ddr_addr=_ROW, **row),
    ]
    there = [*pair(*there)]
    back = [
        Load(**bits(Engine.LOAD, "S"), bank_id=4, jump_read=8, reg_id=WORKSPACE, **row),
        Load(**bits(Engine.LOAD, gives="S"), bank_id=5, jump_read=8, reg_id=WORKSPACE, ddr_addr=_ROW, **row),
    ]
    out = [
        Save(**bits(Engine.SAVE, "L"), bank_id=4, jump_write=8, reg_id=OUTPUT, **row),
        Save(**bits(Engine.SAVE), bank_id=5, jump_write=8, reg_id=OUTPUT, ddr_addr=_ROW, **row),
    ]
    return (*loads, *convolution, *rescaling, *there, *back, *out, End(**bits(Engine.SAVE)))


def pair(first: Save, second: Save) -> tuple[Save, Save]:
    """Two SAVEs side by side: the first takes tokens, the second gives them."""
    fields = [{spec.name: getattr(save, spec.name) for spec in save.fields()} for save in (first, second)]
    return Save(**{**fields[0], "dpdby": 0}), Save(**{**fields[1], "dpdon": 0, "hp_id": 1})


def small_registers(seed: int = 0) -> dict[int, npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return {number: rng.integers(0, 256, size, dtype=np.uint8) for number, size in SIZES.items()}


def small_result(registers: dict[int, npt.NDArray[np.uint8]]) -> npt.NDArray[np.int8]:
    """What the program makes of its input: (48,)."""
    parameters = registers[CONSTANT].view(np.int8).astype(int)
    image = registers[INPUT].view(np.int8).reshape(-1, 8).astype(int)
    sums = image @ parameters[8:].reshape(8, 8).T
    values = np.clip(np.floor((2 * sums + parameters[:8] * 8) / 128 + 0.5), -128, 127)
    return np.clip(np.floor(values / 2 + 0.5), -128, 127).astype(np.int8).reshape(-1)
