"""From a compiled program to the xmodel that a board's runtime loads, as AMD's compiler 3.5 writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from edgesearch.board_eval.graph import Concat, Input, Reshape
from edgesearch.board_eval.xmodel._attributes import set_attributes
from edgesearch.board_eval.xmodel._compiled_ops import Operations, register_sizes
from edgesearch.board_eval.xmodel._program import CompiledProgram, ProgramLayer
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import XmodelError
from edgesearch.files import write_atomically

__all__ = ["compiled_bytes", "write_compiled"]

#: Registers by number: kind for runtimes before and since 2.5, and where a DPU with memories of its own would hold them.
_KINDS = ("CONST", "DATA", "DATA", "DATA")
_KINDS_V2 = ("CONST", "WORKSPACE", "INTERFACE", "INTERFACE")
_SEGMENTS = ("W0", "D0", "D0", "D0")
_CPU_RUNNER = "libvart-cpu-runner.so"
_DPU_RUNNERS = {"run": "libvart-dpu-runner.so", "ref": _CPU_RUNNER, "sim": "libvart-sim-runner.so"}
_CPU_RUNNERS = {"run": _CPU_RUNNER, "ref": _CPU_RUNNER, "sim": _CPU_RUNNER}


def write_compiled(program: CompiledProgram, path: str | Path) -> None:
    """Write the compiled xmodel of `program`. The file appears whole or not at all.

    `read_compiled` gives its code, registers and tensors again, `read_compiled_graph` its network. Raises what `compiled_bytes`
    does, and XmodelError when the file cannot be written.
    """
    path = Path(path)
    data = compiled_bytes(program)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise XmodelError(f"{path} cannot be written: {error.strerror or error}") from error


def compiled_bytes(program: CompiledProgram) -> bytes:
    """The bytes of the compiled xmodel of `program`: the same for the same program.

    Raises QuantizationError when the network is not quantized, and XmodelError for a program that contradicts itself: a node
    without a place or a layer, a place outside its register, an input or output with gaps.
    """
    data: bytes = _Writer(program).run().SerializeToString(deterministic=True)
    return data


class _Writer:
    """The operations, then the subgraphs that say who does them: the user, the DPU, the CPU."""

    def __init__(self, program: CompiledProgram) -> None:
        _check(program)
        self.program = program
        self.message = graph_message()(graph_name=program.graph.name)
        self.operations = Operations(program, self.message.op_node)

    def run(self) -> Any:
        self.operations.write()
        libraries = {"edgesearch": metadata.version("edgesearch")}
        set_attributes(self.message.graph_attr, files_md5sum=self.program.sources, libs_info=libraries)
        root = self.message.subg_root
        root.subgraph_name = "root"
        operations = self.operations
        user = _subgraph(root, [operations.data], (0, 0))
        set_attributes(user.subg_attr, device="USER")
        work = self._dpu(root)
        cpu = _subgraph(root, [operations.result], (0, 0))
        set_attributes(cpu.subg_attr, device="CPU", runner=_CPU_RUNNERS)
        # The compiler's settings, which no runtime reads.
        set_attributes(
            root.subg_attr,
            workload=work[0],
            workload_on_arch=work[1],
            prefetch=self.program.prefetch,
            preassign=True,
            fusion=True,
            hd_opt=False,
            inspector=False,
            profile=False,
            concat_skip_code_gen=True,
            reserve_const_data=False,
            enable_mt_fusion=False,
            aie_tile_fusion_type=[],
        )
        return self.message

    def _dpu(self, root: Any) -> tuple[int, int]:
        """The subgraph of the DPU, with one child a layer; its workload, alone and on the DPU."""
        program, operations = self.program, self.operations
        dpu = root.subg_child.add()
        total = (0, 0)
        _skipped(_subgraph(dpu, [operations.upload], (0, 0)))
        last = ""
        for layer in self._layers():
            names = [name for node in layer.nodes for name in operations.of_node[node]]
            if names:
                work = self._workload(names)
                child = _subgraph(dpu, names, work, named=operations.values[layer.nodes[0]])
                total = (total[0] + work[0], total[1] + work[1])
                last = child.subgraph_name
                if not layer.has_code:
                    _skipped(child)
        for name in operations.moves:
            _skipped(_subgraph(dpu, [name], (0, 0)))
        inner = [child.subgraph_name for child in dpu.subg_child[1:]]
        _subgraph(dpu, [operations.download], (0, 0))
        dpu.subgraph_name = last
        set_attributes(
            dpu.subg_attr,
            device="DPU",
            dpu_name=program.target.dpu_name,
            dpu_fingerprint=program.target.fingerprint,
            mc_code=program.code,
            mc_code_preload=b"",
            runner=_DPU_RUNNERS,
            children_topological_sort=inner,
            workload=total[0],
            workload_on_arch=total[1],
            if_prefetch=program.prefetch,
            debug_mode="null",
            **self._registers(),
        )
        return total

    def _registers(self) -> dict[str, dict[str, Any]]:
        def by_name(values: Sequence[Any]) -> dict[str, Any]:
            return {f"REG_{number}": value for number, value in enumerate(values)}

        sizes = register_sizes(self.program)
        return {
            "reg_id_to_context_type": by_name(_KINDS),
            "reg_id_to_context_type_v2": by_name(_KINDS_V2),
            "reg_id_to_hw_segment": by_name(_SEGMENTS),
            "reg_id_to_size": {f"REG_{number}": size for number, size in sizes.items()},
            "reg_id_to_parameter_value": {"REG_0": self.program.parameters},
        }

    def _workload(self, names: list[str]) -> tuple[int, int]:
        found = [self.operations.workloads[name] for name in names if name in self.operations.workloads]
        return sum(alone for alone, _ in found), sum(on_dpu for _, on_dpu in found)

    def _layers(self) -> Iterator[ProgramLayer]:
        """The program's layers, and behind them the concats and reshapes that are in none, as soon as their inputs are made."""
        graph = self.program.graph
        listed = {name for layer in self.program.layers for name in layer.nodes}
        waiting = [node for node in graph if node.name not in listed and not isinstance(node, Input)]
        made = {graph.input.name}

        def ready() -> Iterator[ProgramLayer]:
            for node in list(waiting):
                if made.issuperset(node.inputs):
                    waiting.remove(node)
                    made.add(node.name)
                    yield ProgramLayer(nodes=(node.name,), has_code=False)

        yield from ready()
        for layer in self.program.layers:
            for name in layer.nodes:
                early = set(graph.by_name[name].inputs) - made
                if early:
                    raise XmodelError(f"node {name!r} is in a layer before {min(early)!r}, which it reads; order the layers")
                made.add(name)
            yield layer
            yield from ready()


def _check(program: CompiledProgram) -> None:
    graph = program.graph
    if not program.code or len(program.code) % 4:
        raise XmodelError(f"the program has {len(program.code)} bytes of code, expected instructions of whole words of 4 bytes")
    if not program.parameters:
        raise XmodelError("the program has no parameters, and a runtime takes no register without: give zeros")
    if max(register_sizes(program).values()) >= 1 << 31:
        raise XmodelError(f"the program has registers of {register_sizes(program)} bytes, expected less than 2**31 each")
    listed = [name for layer in program.layers for name in layer.nodes]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    unknown = sorted((set(listed) | set(program.tensors) | set(program.constants) | program.augmented) - set(graph.by_name))
    if unknown or twice:
        raise XmodelError(f"the program names nodes that {graph.name!r} does not have, {unknown}, or names them twice, {twice}")
    lost = [n.name for n in graph if n.name not in listed and not isinstance(n, Input | Concat | Reshape)]
    if lost:
        raise XmodelError(f"nodes {lost[:8]} are in no layer; every node but concats and reshapes needs code")


def _subgraph(parent: Any, names: Sequence[str], work: tuple[int, int], *, named: str = "") -> Any:
    """A child with the operations `names`, called after `named` or the last of them."""
    child = parent.subg_child.add(subgraph_name=f"subgraph_{named or names[-1]}")
    child.op_name.extend(names)
    set_attributes(child.subg_attr, workload=work[0], workload_on_arch=work[1])
    return child


def _skipped(child: Any) -> None:
    set_attributes(child.subg_attr, skip_code_gen=True)
