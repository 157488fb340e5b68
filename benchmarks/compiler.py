"""Compiled code: are its integers those of the network, is it free of races, how fast is it beside AMD's code?

Run: python benchmarks/compiler.py [--quick]. With the reference data (EDGESEARCH_REFERENCE_DATA) golden networks are among
those compared, and the code that AMD's compiler wrote for three networks is timed beside ours, both by the model's constants.
Every network runs on one image in a simulator whose banks and memories hold random bytes; the result and every other tensor in
external memory are compared with the executor. About ten minutes; --quick takes one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from _comparison import differing, faults, random_images, register_sizes, run
from _extreme_networks import KINDS, extreme_network
from _random_integers import with_random_integers
from _random_networks import random_network
from _report import REFERENCE_DATA, finish

from edgesearch.board_eval.compiler import Compiled, Options, compile_graph, most_tokens
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.isa import Instruction, Load, Save, decode
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.machine import Fault, FaultKind, check, mutations
from edgesearch.board_eval.targets import DEFAULT_TARGET, DPUS, Dpu, load_profile
from edgesearch.board_eval.timing import code_cycles, run_code
from edgesearch.board_eval.xmodel import read_compiled, read_compiled_graph, read_xmodel
from edgesearch.errors import EdgesearchError, GraphError, InstructionError
from edgesearch.spaces import PRESETS, STUDENTS, Student, build

PROFILE = load_profile("zcu104")
#: Random networks have every activation there is.
EVERYTHING = Options(allow=frozenset({"leaky_relu", "relu6"}))
GOLDEN = ("squeezenet/SqueezeNet_int.xmodel", "resnet20/ResNet20_int.xmodel", "tiny/tiny.xmodel")
AMD = ("SqueezeNet_ptq_zcu104", "MobileNetV2_ptq_zcu104", "ResNet50_095_zcu104")
#: Input size -> what its stem is like.
STEMS = {32: "small", 224: "imagenet"}
#: Students whose code is damaged, beside random networks.
MUTATED_STUDENTS = ("cnn_small", "resnet20", "squeezenet1_1")
#: Schedules tried for the gain of a search over them.
TRIES = 16


@dataclass(frozen=True)
class Amount:
    """How much is done."""

    random: int = 200
    random_per_size: int = 20
    extreme: int = 88
    student_sizes: tuple[int, ...] = (32, 224)
    mutations: int = 1000


QUICK = Amount(random=20, random_per_size=2, extreme=11, student_sizes=(32,), mutations=100)


@dataclass
class Found:
    """What the comparisons came to."""

    networks: int = 0
    differing: int = 0
    hazards: int = 0
    refused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def compare(self, name: str, graph: Graph, target: Dpu, seed: int = 0) -> Compiled | None:
        """Compile a network and count what is wrong; None where it is refused."""
        started = time.perf_counter()
        try:
            compiled = compile_graph(graph, target, EVERYTHING)
        except GraphError as error:
            self.refused += 1
            print(f"{name} on {target.name} is refused: {error}")
            return None
        self.seconds[name] = time.perf_counter() - started
        hazards = faults(compiled)
        wrong = differing(compiled, random_images(graph, 1, seed), seed)
        self.networks += 1
        self.differing += wrong
        self.hazards += len(hazards)
        if hazards or wrong:
            print(
                f"{name} on {target.name}: {wrong} integers differ, {len(hazards)} faults: {'. '.join(map(str, hazards[:3]))}"
            )
        return compiled


def students(sizes: Sequence[int]) -> Iterator[tuple[str, Graph]]:
    """Every network of the space, ten classes, with random integers; those that a DPU does not take are left out aloud."""
    for size in sizes:
        for architecture in STUDENTS:
            if architecture in PRESETS and STEMS[size] != "small":  # their stems are for small images
                continue
            name = f"{architecture} {size}"
            student = Student(architecture=architecture, input_size=size, stem=STEMS[size])
            try:
                yield (
                    name,
                    with_random_integers(lower(build(student, channels=3, classes=10), (3, size, size), name=architecture)),
                )
            except EdgesearchError as error:
                print(f"{name} is no network for the DPU: {str(error).splitlines()[-1].strip()}")


def compare_networks(amount: Amount) -> Found:
    """Golden networks, students, random networks and those of extreme shapes."""
    found = Found()
    for file in GOLDEN:
        if (path := REFERENCE_DATA / "golden" / file).exists():
            found.compare(file, read_xmodel(path), DEFAULT_TARGET)
    for name, graph in students(amount.student_sizes):
        found.compare(name, graph, DEFAULT_TARGET)
        print(f"{name}: compiled in {found.seconds.get(name, 0.0):.2f} s")
    for seed in range(amount.random):
        found.compare(f"random network {seed}", random_network(seed), DEFAULT_TARGET, seed)
    for number, target in enumerate(DPUS.values()):
        for i in range(amount.random_per_size):
            seed = 1000 + 100 * number + i
            found.compare(f"random network {seed}", random_network(seed), target, seed)
    sizes = list(DPUS.values())
    for seed in range(amount.extreme):
        found.compare(f"{list(KINDS)[seed % len(KINDS)]} {seed}", extreme_network(seed), sizes[seed % len(sizes)], seed)
    return found


# -- mutations


def mutated() -> Iterator[Graph]:
    """Networks whose code is damaged: random ones and students, ten in all."""
    yield from (random_network(seed, largest=24) for seed in range(10 - len(MUTATED_STUDENTS)))
    yield from (graph for name, graph in students([32]) if name.split()[0] in MUTATED_STUDENTS)


def found_mutations(amount: Amount) -> tuple[int, int]:
    """Mutations of the code of ten networks: how many, and how many the checker or the simulator finds."""
    made, seen = 0, 0
    missed: Counter[str] = Counter()
    for seed, graph in enumerate(mutated()):
        compiled = compile_graph(graph, DPUS[list(DPUS)[seed % len(DPUS)]], EVERYTHING)
        images = random_images(graph, 3, seed)
        expected = [run(compiled, image, number) for number, image in enumerate(images)]
        whole = Counter(fault.kind for fault in _told(compiled, compiled.program))
        for mutation in islice(mutations(compiled.program, compiled.target, seed), amount.mutations // 10):
            made += 1
            if _seen(compiled, mutation.program, whole, images, expected):
                seen += 1
            else:
                missed[mutation.kind] += 1
                print(f"missed in {graph.name}: {mutation.kind}, {mutation.sentence}")
    print(f"{seen} of {made} mutations are found; missed: {dict(missed)}")
    return made, seen


def _told(compiled: Compiled, program: tuple[Instruction, ...]) -> tuple[Fault, ...]:
    """What the checker says, words that nobody reads included: code may have some, and a mutation more."""
    return check(program, compiled.target, register_sizes(compiled), constants=[0], inputs=[2], unused=True)


def _seen(
    compiled: Compiled,
    program: tuple[Instruction, ...],
    whole: Counter[FaultKind],
    images: np.ndarray,
    expected: list[dict[int, np.ndarray]],
) -> bool:
    """Whether the checker finds more of any kind than in the whole program, or a result is another one."""
    if Counter(fault.kind for fault in _told(compiled, program)) - whole:
        return True
    for number, image in enumerate(images):
        try:
            registers = run(compiled, image, number, program=program)
        except InstructionError:
            return True
        if any(not np.array_equal(registers[register], expected[number][register]) for register in register_sizes(compiled)):
            return True
    return False


# -- speed


def cycles(program: Sequence[Instruction], depth: int = 64) -> float:
    """When the last instruction ends, by the constants of a ZCU104, with queues of `depth` instructions."""
    return max(run_code(program, code_cycles(program, PROFILE.constants, PROFILE.dpu), depth=depth)[0])


def moved(program: Sequence[Instruction]) -> int:
    """Bytes that are loaded and saved."""
    return sum(one.length * one.channel for one in program if isinstance(one, Load | Save))


def beside_amd() -> dict[str, float]:
    """Our code over AMD's for the same networks: cycles, and bytes moved."""
    time_ratios, byte_ratios = [], []
    for name in AMD:
        path = REFERENCE_DATA / "compiled" / f"{name}.xmodel"
        if path.exists():
            ours, theirs = compile_graph(read_compiled_graph(path), PROFILE.dpu).program, decode(read_compiled(path).code)
            time_ratios.append(cycles(ours) / cycles(theirs))
            byte_ratios.append(moved(ours) / moved(theirs))
            print(f"{name}: {time_ratios[-1]:.3f} of the cycles of AMD's code, {byte_ratios[-1]:.3f} of its bytes")
            for whose, program in (("ours", ours), ("AMD's", theirs)):
                short, tokens = cycles(program, depth=4) / cycles(program) - 1, most_tokens(program)
                print(f"  {whose}: {100 * short:+.2f} % with queues of 4 instructions, up to {tokens} tokens wait")
    if not time_ratios:
        return {}
    return {
        "cycles_vs_amd_mean": round(statistics.geometric_mean(time_ratios), 4),
        "cycles_vs_amd_max": round(max(time_ratios), 4),
        "bytes_vs_amd_max": round(max(byte_ratios), 4),
    }


def compile_seconds(architecture: str, size: int) -> float:
    """Of one student, the shortest of three times."""
    graph = dict(students([size]))[f"{architecture} {size}"]
    spent = []
    for _ in range(3):
        started = time.perf_counter()
        compile_graph(graph, DEFAULT_TARGET)
        spent.append(time.perf_counter() - started)
    return min(spent)


def schedule_gain() -> float:
    """Per cent of the cycles of small students that a search over schedules saves, on average."""
    gains = []
    for _, graph in students([32]):
        first, best = (cycles(compile_graph(graph, DEFAULT_TARGET, Options(tries=tries)).program) for tries in (0, TRIES))
        gains.append(100 * (1 - best / first))
    return statistics.fmean(gains)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer networks and mutations, students of 32 pixels only")
    quick = parser.parse_args().quick
    amount = QUICK if quick else Amount()
    found = compare_networks(amount)
    made, seen = found_mutations(amount)
    small = {name: found.seconds[name] for name in found.seconds if name.endswith(" 32") and name.split()[0] in STUDENTS}
    speed: dict[str, float] = {"compile_s_student": round(max(small.values()), 2)}
    if not quick:
        speed["compile_s_resnet50"] = round(compile_seconds("resnet50", 224), 2)
        speed["own_schedule_gain_pct"] = round(schedule_gain(), 2)
    finish(
        {
            "benchmark": "compiler",
            "networks": found.networks,
            "refused": found.refused,
            "differing": found.differing,
            "hazards": found.hazards,
            "mutations": made,
            "mutations_found": seen,
            **beside_amd(),
            **speed,
        }
    )


if __name__ == "__main__":
    main()
