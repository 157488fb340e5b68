from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval import Compiler, board_report, board_timing, isa
from edgesearch.board_eval.graph._graph import Conv, Depthwise, Graph, Input
from edgesearch.board_eval.lowering._widths import with_widths
from edgesearch.board_eval.targets import DPUS, HalfWidths, HostRunner, load_profile
from edgesearch.board_eval.timing._code import code_cycles, run_code
from edgesearch.board_eval.timing._instructions import ENGINE_OF, Engine
from edgesearch.board_eval.timing._layer_report import layer_report
from edgesearch.board_eval.timing._schedule import Program, schedule
from edgesearch.board_eval.timing._timing import instruction_costs, run, time_graph
from edgesearch.errors import GraphError, InstructionError, TargetError

from .._networks import Net, residual_net

PROFILE = load_profile("zcu104")
_WIDTHS = st.tuples(*[st.integers(17, 300)] * 3)


def slow_run(program: Program) -> float:
    """The obvious way: every single instruction, unmerged, starts when its engine and its semaphores allow it."""
    costs = instruction_costs(program, PROFILE.constants)
    engine_free = dict.fromkeys(Engine, 0.0)
    ends: list[float] = []
    for instruction, cost in zip(program.instructions, costs, strict=True):
        engine = ENGINE_OF[instruction.kind]
        for number in range(instruction.repeat):
            ready = max((ends[other] for other in instruction.after), default=0.0) if number == 0 else 0.0
            engine_free[engine] = max(engine_free[engine], ready) + cost / instruction.repeat
        ends.append(engine_free[engine])
    return max(ends)


@given(st.integers(8, 64), _WIDTHS, st.sampled_from(sorted(DPUS)))
@settings(deadline=None, max_examples=25)
def test_merged_instructions_take_the_time_of_single_ones(size: int, widths: tuple[int, int, int], target: str) -> None:
    program = schedule(residual_net(size, widths), DPUS[target])
    ends, bounds = run(program, instruction_costs(program, PROFILE.constants))
    assert max(ends) == pytest.approx(slow_run(program))
    assert all(bound < at for at, bound in enumerate(bounds))


@given(st.integers(8, 64), _WIDTHS)
@settings(deadline=None, max_examples=25)
def test_the_layers_add_up_to_the_whole_and_no_engine_is_faster_than_its_work(size: int, widths: tuple[int, int, int]) -> None:
    graph = residual_net(size, widths)
    timing = time_graph(graph, PROFILE)
    assert sum(layer.seconds for layer in timing.layers) == pytest.approx(timing.dpu_s)
    program = schedule(graph, PROFILE.dpu)
    costs = instruction_costs(program, PROFILE.constants)
    for engine in Engine:
        work = sum(cost for cost, kind in zip(costs, program.tape.kind, strict=True) if ENGINE_OF[kind] is engine)
        assert timing.dpu_s >= work * 1e-6 / PROFILE.clock_mhz * (1 - 1e-9)
    assert timing.bytes_moved == sum(layer.loaded_bytes + layer.saved_bytes for layer in timing.layers)


@given(st.integers(8, 96), _WIDTHS, st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_removing_sixteen_channels_never_makes_a_network_slower(size: int, widths: tuple[int, int, int], which: int) -> None:
    graph = residual_net(size, widths)
    convs = [node for node in graph.nodes if isinstance(node, Conv)]
    chosen = convs[which]
    tied = (
        [n for n in convs if n.name in (convs[2].name, convs[3].name)] if which in (2, 3) else [chosen]
    )  # summed: equal widths
    assume(chosen.shape[-1] > 16)
    smaller = with_widths(graph, {node.name: node.shape[-1] - 16 for node in tied})
    assert time_graph(smaller, PROFILE, layers=False).dpu_s <= 1.01 * time_graph(graph, PROFILE, layers=False).dpu_s


@given(st.integers(8, 120), st.integers(1, 40), _WIDTHS)
@settings(deadline=None, max_examples=60)
def test_a_smaller_input_is_never_slower(size: int, more: int, widths: tuple[int, int, int]) -> None:
    small, large = (time_graph(residual_net(s, widths), PROFILE, layers=False).dpu_s for s in (size, size + more))
    assert small <= 1.01 * large


def test_latency_names_its_parts() -> None:
    timing = time_graph(residual_net(32, (16, 32, 32)), PROFILE)
    assert timing.runner == PROFILE.default_runner == "vart_python"
    assert timing.host_s == PROFILE.runner().of(32 * 32)
    assert timing.latency_s == pytest.approx(timing.dpu_s + PROFILE.job_seconds + timing.host_s)
    cpp = time_graph(residual_net(32, (16, 32, 32)), PROFILE, runner="cpp")
    assert cpp.dpu_s == timing.dpu_s
    host = PROFILE.runner("cpp")
    assert cpp.host_s == pytest.approx(host.seconds + 32 * 32 * host.seconds_per_pixel)
    with pytest.raises(TargetError, match="zcu104 has no runner 'java'; it has cpp, thesis_script, vart_python"):
        time_graph(residual_net(32, (16, 32, 32)), PROFILE, runner="java")


def test_more_cores_give_more_throughput_and_the_same_latency() -> None:
    graph = residual_net(96, (64, 64, 256))
    two, one = time_graph(graph, PROFILE), time_graph(graph, PROFILE.model_copy(update={"cores": 1}))
    assert two.latency_s == one.latency_s
    alone = one.dpu_s + PROFILE.job_seconds
    loaded, saved = one.loaded_bytes / one.dpu_s / 1e9, one.saved_bytes / one.dpu_s / 1e9
    shared = PROFILE.runner().contention
    each = shared.fixed + shared.per_loaded_gb_s * loaded + shared.per_saved_gb_s * saved
    both = one.dpu_s * (1 + each) + PROFILE.job_seconds
    assert both > alone
    assert two.throughput_fps == pytest.approx(2 / both)
    assert one.throughput_fps == pytest.approx(1 / alone)


@pytest.mark.parametrize(
    ("host", "fps"),
    [
        (HostRunner(seconds=1e-3, threads=1), None),
        (HostRunner(seconds=1e-4, serial_seconds=2e-3, threads=9), 500.0),
        (HostRunner(seconds=1e-4, preprocess_seconds=5e-3, postprocess_seconds=2.9e-3, threads=64), 4 / 8e-3),
        (HostRunner(seconds=0.0, preprocess_seconds_per_pixel=1e-4, threads=64), 4 / (256 * 1e-4)),
    ],
)
def test_a_host_that_is_too_slow_bounds_the_throughput(host: HostRunner, fps: float | None) -> None:
    profile = PROFILE.model_copy(update={"runners": {"mine": host}, "default_runner": "mine"})
    timing = time_graph(residual_net(16, (16, 16, 16)), profile)
    assert timing.throughput_bound == "host"
    assert timing.throughput_fps == pytest.approx(fps or timing.latency_fps)
    assert timing.latency_bound == "host"
    of_eight = time_graph(residual_net(16, (16, 16, 16)), profile.model_copy(update={"host_processors": 8}))
    by_processors = host.threads == 64
    assert of_eight.throughput_fps == pytest.approx(timing.throughput_fps * (2 if by_processors else 1))


def test_pre_and_post_processing_that_is_known_apart_is_told_apart() -> None:
    plain = PROFILE.runner()
    camera = plain.model_copy(
        update={"preprocess_seconds": 1e-3, "preprocess_seconds_per_pixel": 1e-6, "postprocess_seconds": 2e-4}
    )
    profile = PROFILE.model_copy(update={"runners": {"vart_python": camera}})
    graph = residual_net(32, (16, 32, 32))
    without, timing = time_graph(graph, PROFILE), time_graph(graph, profile)
    assert without.processing_s == 0
    assert timing.processing_s == pytest.approx(1.2e-3 + 32 * 32 * 1e-6)
    assert timing.latency_s == pytest.approx(without.latency_s + timing.processing_s)
    assert "2.38 ms of host, 2.22 ms of it pre- and post-processing;" in layer_report(graph, profile).summary()
    assert "of it pre- and post-processing" not in layer_report(graph, PROFILE).summary()


def test_that_nothing_is_known_of_an_interval_is_told() -> None:
    mine = PROFILE.model_copy(update={"runners": {"mine": HostRunner(seconds=1e-3)}, "default_runner": "mine"})
    for dpu in ("B4096", "B1600"):
        said = layer_report(residual_net(16, (16, 16, 16)), mine.model_copy(update={"dpu": DPUS[dpu]})).summary()
        assert "the profile gives mine no latency_error and no throughput_error" in said
        assert "90 %" not in said
    assert "90 % of measurements" in layer_report(residual_net(16, (16, 16, 16)), PROFILE).summary()


def test_what_bounds_a_network_is_told() -> None:
    compute = time_graph(residual_net(96, (64, 64, 256)), PROFILE)
    assert compute.latency_bound == compute.throughput_bound == "compute"
    heavy = Net(8, 8, 256)
    heavy.linear(heavy.flatten("image"), 2000)
    assert time_graph(heavy.graph(), PROFILE).throughput_bound == "memory"


def test_intervals_hold_the_figure_and_are_wider_for_sizes_that_nobody_measured() -> None:
    timing = time_graph(residual_net(96, (64, 64, 256)), PROFILE)
    low, high = timing.latency_fps_interval
    assert low < timing.latency_fps < high
    assert (1 / low - 1 / high) * timing.latency_fps == pytest.approx(2 * timing.latency_error)
    assert PROFILE.runner().widths("depthwise").latency < timing.latency_error < 0.1
    tiny = time_graph(residual_net(8, (16, 16, 16)), PROFILE)
    assert tiny.latency_error > 2 * timing.latency_error  # the host's time is what is least known
    assert tiny.throughput_bound == "host"
    assert tiny.throughput_error > 0.25
    slow = HostRunner(seconds=1.2e-3, throughput_error=0.02, threads=8)
    crowded = time_graph(
        residual_net(96, (64, 64, 256)), PROFILE.model_copy(update={"runners": {"mine": slow}, "default_runner": "mine"})
    )
    assert crowded.throughput_bound != "host"
    assert crowded.throughput_fps * crowded.host_s > 1.2  # more than one thread of the host must be busy for it
    assert crowded.throughput_error > 2 * slow.throughput_error
    small = time_graph(residual_net(96, (64, 64, 256)), PROFILE.model_copy(update={"dpu": DPUS["B1600"]}))
    assert timing.size_measured
    assert not small.size_measured
    assert small.latency_error >= 0.4
    unknown = PROFILE.model_copy(update={"runners": {"mine": HostRunner(seconds=0)}, "default_runner": "mine"})
    assert time_graph(residual_net(16, (16, 16, 16)), unknown).latency_error == 0.0


def test_kinds_of_networks_have_intervals_of_their_own() -> None:
    narrow, wide = HalfWidths(latency=0.01, throughput=0.02), HalfWidths(latency=0.11, throughput=0.12)
    host = HostRunner(seconds=0, latency_error=0.2, throughput_error=0.3, errors_by_kind={"depthwise": wide})
    both = host.model_copy(update={"errors_by_kind": {"dense": narrow, "depthwise": wide}})
    net = Net(64, 64, 16)
    net.conv("image", 32)
    dense, deep = net.graph(), residual_net(64, (64, 64, 64))

    def errors(graph: Graph, runner: HostRunner) -> tuple[float, float]:
        board = PROFILE.model_copy(update={"runners": {"mine": runner}, "default_runner": "mine", "cores": 1})
        timing = time_graph(graph, board)
        return timing.latency_error, timing.throughput_error

    assert errors(dense, both) == pytest.approx((0.01, 0.02))
    assert errors(deep, both) == errors(deep, host) == pytest.approx((0.11, 0.12))
    assert errors(dense, host) == pytest.approx((0.2, 0.3))  # a kind that was not measured


def test_a_batch_norm_that_stands_alone_widens_the_interval() -> None:
    timing = {}
    for scale in (False, True):
        net = Net(32, 32, 64)
        x = net.conv("image", 64)
        bn = Depthwise(name="bn", inputs=(x,), shape=net.shapes[x], kernel=(1, 1), scale=True)
        net.add(net.conv(net.put(bn) if scale else x, 64), x)
        timing[scale] = time_graph(net.graph(), PROFILE)
    assert timing[True].kind == "dense"
    assert timing[True].latency_error > timing[False].latency_error


def test_half_the_clock_is_twice_the_time() -> None:
    graph = residual_net(32, (16, 32, 32))
    slow = time_graph(graph, PROFILE.model_copy(update={"clock_mhz": PROFILE.clock_mhz / 2}))
    assert slow.dpu_s == pytest.approx(2 * time_graph(graph, PROFILE).dpu_s)


def test_channels_just_above_a_multiple_cost_a_whole_group() -> None:
    def time(channels: int) -> float:
        net = Net(56, 56, 64)
        return time_graph(net.head(net.conv("image", channels)), PROFILE).dpu_s

    assert time(65) > 1.15 * time(64)
    assert time(80) < 1.05 * time(65)


def networks() -> list[Graph]:
    mlp = Net(28, 28, 1)
    mlp.linear(mlp.linear(mlp.flatten("image"), 64), 10)
    alone = Net(8, 8, 1)
    x = alone.conv("image", 5, 3)
    alone.add(alone.relu(x), x)
    pooled = Net(32, 32, 3)
    pooled.pool(pooled.depthwise("image", 3), "avg", 4, 4)
    return [mlp.graph(), alone.graph(), pooled.graph(), residual_net(8, (1, 2, 3), channels=1)]


@pytest.mark.parametrize("graph", networks())
def test_unusual_networks_have_a_time(graph: Graph) -> None:
    timing = time_graph(graph, PROFILE)
    assert math.isfinite(timing.latency_s)
    assert timing.latency_s > 0
    assert timing.throughput_fps > 0


@pytest.mark.parametrize("time", [time_graph, board_timing, board_report, layer_report])
def test_a_name_is_no_profile(time: Callable[..., object]) -> None:
    with pytest.raises(TargetError, match="of type str, expected the BoardProfile of `load_profile`"):
        time(residual_net(8, (16, 16, 16)), "zcu104")


def test_code_that_waits_for_ever_is_refused_in_a_sentence() -> None:
    program = [isa.Conv(dpdon=1 << isa.Engine.LOAD), isa.End()]
    with pytest.raises(InstructionError, match=r"instruction 0 \(Conv on CONV\) waits for a token of LOAD that no instruction"):
        run_code(program, code_cycles(program, PROFILE.constants, PROFILE.dpu))


@pytest.mark.parametrize("compiler", ["edgesearch", "vai"])
def test_a_network_without_layers_has_no_time(compiler: Compiler) -> None:
    graph = Graph("idle", (Input(name="image", inputs=(), shape=(4, 4, 3)),))
    for timed in (board_timing, board_report):
        with pytest.raises(GraphError, match=r"network 'idle' has no layers: .*; nothing is left for the DPU$"):
            timed(graph, PROFILE, compiler=compiler)
