"""The code of a compiled file in the machine: images in, results out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from edgesearch.board_eval.graph import Array, quantize_images
from edgesearch.board_eval.isa import Instruction
from edgesearch.board_eval.machine import Machine
from edgesearch.board_eval.targets import Dpu
from edgesearch.board_eval.xmodel import CompiledModel, CompiledTensor
from edgesearch.errors import QuantizationError, XmodelError

__all__ = ["execute_code", "integers_for"]

Int8 = npt.NDArray[np.int8]


def execute_code(
    model: CompiledModel, program: Sequence[Instruction], dpu: Dpu, images: npt.NDArray[np.generic]
) -> dict[str, Array]:
    """See `CompiledXmodel.execute_all`. Images run one after the other through one core, as on a board."""
    source = model.inputs[0]
    integers = integers_for(source, images)
    registers = {
        number: np.frombuffer(register.parameters, np.int8).copy() if register.parameters else np.zeros(register.size, np.int8)
        for number, register in model.registers.items()
    }
    machine = Machine(dpu, registers)
    image = _view(registers, source)
    results = [(result, _view(registers, result)) for result in model.outputs]
    out = {result.name: np.zeros((len(integers), *result.shape), np.float32) for result in model.outputs}
    for number, one in enumerate(integers):
        image[...] = one
        machine.run(program)
        for result, values in results:
            out[result.name][number] = np.ldexp(values.astype(np.float32), -result.fix)
    return out


def integers_for(source: CompiledTensor, images: npt.NDArray[np.generic]) -> Int8:
    """See `CompiledXmodel.integers`."""
    expected = ", ".join(map(str, source.shape))
    if not isinstance(images, np.ndarray):
        raise QuantizationError(f"images are of type {type(images).__name__}, expected a numpy array, (N, {expected})")
    if images.ndim != len(source.shape) + 1 or images.shape[1:] != source.shape or len(images) == 0:
        raise QuantizationError(f"images have shape {images.shape}, expected (N, {expected}) with N >= 1")
    if images.dtype == np.int8:
        return images.astype(np.int8)
    if images.dtype != np.float32:
        raise QuantizationError(f"images are {images.dtype}, expected float32 (already normalised) or int8 (already quantized)")
    if not np.isfinite(images).all():
        raise QuantizationError("images have NaN or infinite values; normalise real pixel values")
    return quantize_images(images.astype(np.float32, copy=False), source.fix)


def _view(registers: dict[int, Int8], tensor: CompiledTensor) -> Int8:
    """The tensor in the memory of its register."""
    memory = registers[tensor.register]
    if tensor.on_chip or tensor.end > memory.size:
        raise XmodelError(f"the tensor {tensor.name[:200]!r} lies outside of the memory that an application sees")
    view: Int8 = as_strided(memory[tensor.address :], tensor.shape, tensor.steps)
    return view
