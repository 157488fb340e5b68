"""Stands for VART's Python module: runners, as strict about their arguments as VART's binding is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import xir
from standin_board import CORES, KNOB, fatal, noise


class Runner:
    def __init__(self, subgraph: xir.Subgraph) -> None:
        network = subgraph.network
        assert network is not None
        self._network, self._busy = network, False
        source, result = network.xmodel.input, network.xmodel.outputs[0]
        self._inputs = [xir.Tensor(source.name, source.shape, source.fix)]
        self._outputs = [xir.Tensor(result.name, result.shape, result.fix)]
        self._ends: dict[int, float] = {}

    @staticmethod
    def create_runner(subgraph: xir.Subgraph, mode: str = "") -> Runner:
        assert mode == "run", mode
        assert subgraph.get_attr("device") == "DPU"
        if KNOB["create_fails"]:
            raise RuntimeError("no device of the DPU is open")
        return Runner(subgraph)

    def get_input_tensors(self) -> list[xir.Tensor]:
        return self._inputs

    def get_output_tensors(self) -> list[xir.Tensor]:
        return self._outputs

    def execute_async(self, inputs: list[Any], outputs: list[Any], enable_dynamic_array: bool = False) -> tuple[int, int]:
        for arrays, tensors in ((inputs, self._inputs), (outputs, self._outputs)):
            assert isinstance(arrays, list)
            for array, tensor in zip(arrays, tensors, strict=True):
                assert array.flags["C_CONTIGUOUS"]
                assert array.flags["WRITEABLE"], "VART asks for a writable buffer"
                assert (array.dtype, list(array.shape)) == (np.int8, tensor.dims)
        self._check_fingerprint()
        assert not self._busy, "a runner is one thread's"
        self._busy = True
        try:
            logits = self._network.logits(inputs[0][0])
            time.sleep(self._network.seconds[0] * noise())
            number, status, end = CORES.job(self._network)
            if not KNOB["asynchronous"]:
                time.sleep(max(0.0, end - time.perf_counter()))
            outputs[0][0] = logits
        finally:
            self._busy = False
        self._ends[number] = end
        return (number, status)

    def wait(self, job_id: tuple[int, int]) -> int:
        if not isinstance(job_id, tuple) or len(job_id) != 2:
            raise TypeError("wait(): incompatible function arguments; expected Tuple[int, int]")
        time.sleep(max(0.0, self._ends.pop(job_id[0]) - time.perf_counter()))
        return 0

    def _check_fingerprint(self) -> None:
        mark = self._network.xmodel.model.fingerprint
        if KNOB["fingerprint"] and mark != int(KNOB["fingerprint"], 16):
            fatal(f"fingerprint check failure: the model's is {mark:#x}, the DPU's {KNOB['fingerprint']}")
