"""Compiled code against the integers of its network: every tensor in external memory, from random banks on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.compiler import Compiled
from edgesearch.board_eval.execution import execute, execute_all
from edgesearch.board_eval.graph import Graph, Input, Reshape, fix_names
from edgesearch.board_eval.isa import Instruction
from edgesearch.board_eval.machine import Fault, Machine, check

CONST, WORKSPACE, INPUT, OUTPUT = 0, 1, 2, 3
Bytes = npt.NDArray[np.uint8]


def register_sizes(compiled: Compiled) -> dict[int, int]:
    """Bytes of every register."""
    plan = compiled.plan
    sizes = (len(compiled.parameters), plan.workspace_bytes, plan.input_bytes, plan.output_bytes)
    return {number: max(1, size) for number, size in enumerate(sizes)}


def run(
    compiled: Compiled, image: npt.NDArray[np.int8], seed: int = 0, *, program: Sequence[Instruction] | None = None
) -> dict[int, Bytes]:
    """The registers after the code, or another `program`, has run on one image (H, W, C).

    Whatever was not given held random bytes before, those of `seed`.
    """
    random = np.random.default_rng(seed)
    registers = {number: random.integers(0, 256, size, dtype=np.uint8) for number, size in register_sizes(compiled).items()}
    registers[CONST] = np.frombuffer(compiled.parameters, np.uint8).copy()
    place = compiled.plan.external[compiled.plan.graph.input.name]
    registers[INPUT][place.address : place.address + image.size] = image.reshape(-1).view(np.uint8)
    machine = Machine(compiled.target, registers)
    machine.memory[:] = random.integers(-128, 128, machine.memory.shape)
    machine.run(compiled.program if program is None else program)
    return machine.registers


def differing(compiled: Compiled, images: npt.NDArray[np.int8], seed: int = 0) -> int:
    """Integers of all tensors in external memory, the result among them, that are not those of the executor."""
    plan, source = compiled.plan, compiled.source
    expected = execute_all(plan.graph, images)
    results = execute(source, images)
    names = fix_names(plan.graph)
    fix = source.fix_of(source.output.name)
    assert fix is not None
    wrong = 0
    for number, image in enumerate(images):
        registers = run(compiled, image, seed + number)
        for node in plan.graph:
            place = plan.external.get(node.name)
            if place is None or isinstance(node, Input | Reshape):
                continue
            memory = registers[place.register].view(np.int8)
            height, width, channels = place.shape
            rows = np.arange(height)[:, None, None] * place.row_pitch
            where = place.address + rows + np.arange(width)[:, None] * place.pixel_pitch + np.arange(channels)
            wrong += int((memory[where].reshape(-1) != expected[names[node.name].output][number].reshape(-1)).sum())
        output = registers[OUTPUT].view(np.int8)[: results[number].size]
        wrong += int((np.ldexp(output.astype(np.float32), -fix) != results[number].reshape(-1)).sum())
    return wrong


def faults(compiled: Compiled) -> tuple[Fault, ...]:
    """What a checker finds: races, tokens, addresses, reads of what nobody wrote."""
    return check(compiled.program, compiled.target, register_sizes(compiled), constants=[CONST], inputs=[INPUT])


def random_images(graph: Graph, count: int = 1, seed: int = 0) -> npt.NDArray[np.int8]:
    """Quantized images (N, H, W, C) over the whole range."""
    return np.random.default_rng(seed).integers(-128, 128, (count, *graph.input.shape)).astype(np.int8)
