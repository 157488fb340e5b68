"""Where a network's time on the DPU goes, layer by layer, and what would help."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgesearch.board_eval.graph import Conv, Graph, Linear
from edgesearch.board_eval.targets import BoardProfile, Target, check_profile
from edgesearch.board_eval.timing._allocation import tensor_words
from edgesearch.board_eval.timing._fusion import Layer
from edgesearch.board_eval.timing._schedule import schedule
from edgesearch.board_eval.timing._timing import LayerTime, Timing, input_pixels, time_program

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Channels above a multiple of the DPU's parallelism that are worth a hint: up to a quarter of a group.
FEW_CHANNELS = 0.25
#: Share of the network's CONV cycles that a layer must lose to unused rows to be worth a hint.
LOST_SHARE = 0.01


@dataclass(frozen=True)
class Advice:
    """One thing that would make a network faster."""

    kind: Literal["channels", "rows", "spill"]
    layer: str
    text: str
    #: Most the change can save, in seconds of engine time; what other engines do meanwhile may hide it.
    seconds: float


@dataclass(frozen=True)
class LayerReport:
    """A network's timing and the advice drawn from it, largest possible saving first."""

    timing: Timing
    advice: tuple[Advice, ...]

    def to_json(self) -> str:
        """Timing, layers and advice as JSON."""
        timing = dataclasses.asdict(self.timing)
        for layer, row in zip(self.timing.layers, timing["layers"], strict=True):
            row["bound_by"] = layer.bound_by
        timing["latency_fps"] = self.timing.latency_fps
        timing["bytes_moved"] = self.timing.bytes_moved
        timing["latency_fps_interval"] = self.timing.latency_fps_interval
        timing["throughput_fps_interval"] = self.timing.throughput_fps_interval
        return json.dumps({**timing, "advice": [dataclasses.asdict(advice) for advice in self.advice]}, indent=2)

    def summary(self) -> str:
        """What is to say of the whole network, for a terminal."""
        t = self.timing
        lines = [
            f"{t.network} on {t.board}: {t.dpu_s * 1e3:.3f} ms on the DPU, {t.latency_fps:.1f} fps with one thread"
            f" ({t.runner} runner, {_host(t)}; bound by {t.latency_bound}), {t.throughput_fps:.1f} fps"
            f" with all cores (bound by {t.throughput_bound})",
            *_intervals(t),
            *([] if t.size_measured or not t.throughput_error else [NOT_COVERED]),
            f"{t.bytes_moved / 1e6:.2f} MB moved, {t.spilled_bytes / 1e6:.2f} MB of them spilled feature maps read back",
        ]
        return "\n".join(lines)

    def to_text(self) -> str:
        """The summary and a table of the layers, for a terminal."""
        t = self.timing
        lines = [
            self.summary(),
            f"{'layer':40s} {'kind':16s} {'output':>14s} {'ms':>8s} {'share':>6s} {'bound by':>8s} {'cycles':>11s} {'kB':>9s}",
        ]
        lines += [self._line(layer) for layer in t.layers]
        lines += [f"hint: {advice.text}" for advice in self.advice]
        return "\n".join(lines)

    def _line(self, layer: LayerTime) -> str:
        share = layer.seconds / self.timing.dpu_s if self.timing.dpu_s else 0.0
        shape = "x".join(map(str, layer.out_shape))
        kilobytes = (layer.loaded_bytes + layer.saved_bytes) / 1e3
        return (
            f"{layer.name[-40:]:40s} {layer.kind:16s} {shape:>14s} {layer.seconds * 1e3:8.3f} {100 * share:5.1f}%"
            f" {layer.bound_by:>8s} {layer.conv_cycles:11d} {kilobytes:9.1f}"
        )


#: Behind the intervals of sizes other than B4096.
NOT_COVERED = (
    "this size of the DPU is not covered by measurements: its figures follow from the laws and costs of a B4096, and the"
    " intervals are as wide as eight networks of a B1600 ask for (docs/timing.md)"
)


def _host(t: Timing) -> str:
    processing = f", {t.processing_s * 1e3:.2f} ms of it pre- and post-processing" if t.processing_s else ""
    return f"{t.host_s * 1e3:.2f} ms of host{processing}"


def _intervals(timing: Timing) -> list[str]:
    if not timing.latency_error and not timing.throughput_error:
        return [f"how sure that is is not known: the profile gives {timing.runner} no latency_error and no throughput_error"]
    one, all_cores = timing.latency_fps_interval, timing.throughput_fps_interval
    return [
        f"90 % of measurements are expected between {one[0]:.1f} and {one[1]:.1f} fps with one thread, {all_cores[0]:.1f} and"
        f" {all_cores[1]:.1f} fps with all cores"
    ]


def layer_report(graph: Graph, profile: BoardProfile, *, runner: str | None = None) -> LayerReport:
    """Time `graph` on a board by layer and say what would help; raises GraphError when the DPU cannot hold it."""
    check_profile(profile)
    program = schedule(graph, profile.dpu)
    timing = time_program(program, profile, pixels=input_pixels(graph), runner=runner)
    return report_on(graph, timing, program.layers, program.allocation.spilled, profile)


def report_on(
    graph: Graph, timing: Timing, layers: Sequence[Layer], spilled: Collection[str], profile: BoardProfile
) -> LayerReport:
    """A timing with the advice drawn from it.

    `layers` are the timed ones, `graph` the network that they were made of, `spilled` the feature maps that left the chip.
    """
    advice = (*_channels(graph, timing, profile), *_rows(timing, profile), *_spills(layers, spilled, timing, profile))
    return LayerReport(timing, tuple(sorted(advice, key=lambda a: -a.seconds)))


def figure(report: LayerReport) -> go.Figure:
    """Stacked bars: milliseconds per layer by what the time is spent on. Needs Plotly, a dependency of this program."""
    import plotly.graph_objects as go

    layers = report.timing.layers
    names = [layer.name for layer in layers]
    hover = [
        f"{layer.kind}, {'x'.join(map(str, layer.out_shape))}<br>{layer.conv_cycles} conv cycles,"
        f" {(layer.loaded_bytes + layer.saved_bytes) / 1e3:.1f} kB"
        for layer in layers
    ]
    bars = [
        go.Bar(name=label, x=names, y=[1e3 * getattr(layer, column) for layer in layers], customdata=hover,
               hovertemplate="%{x}<br>%{y:.4f} ms<br>%{customdata}")
        for label, column in (("compute (conv)", "conv_s"), ("compute (pool, depthwise, add)", "misc_s"),
                              ("load", "load_s"), ("save", "save_s"))
    ]  # fmt: skip
    title = f"{report.timing.network} on {report.timing.board}: {report.timing.dpu_s * 1e3:.3f} ms on the DPU"
    return go.Figure(bars, layout={"barmode": "stack", "title": title, "yaxis": {"title": {"text": "ms"}}})


def _cycle(profile: BoardProfile) -> float:
    return 1e-6 / profile.clock_mhz


def _channels(graph: Graph, timing: Timing, profile: BoardProfile) -> list[Advice]:
    """Layers whose last group of output channels is nearly empty."""
    parallel = profile.dpu.output_parallel
    out = []
    for layer in timing.layers:
        node = graph.by_name.get(layer.nodes[0])
        if not isinstance(node, Conv | Linear):
            continue
        channels = node.shape[-1]
        over = channels % parallel
        if channels > parallel and 0 < over <= FEW_CHANNELS * parallel:
            saved = layer.conv_cycles / -(-channels // parallel) * _cycle(profile)
            text = (
                f"{layer.name} has {channels} output channels, {over} more than {channels - over}: the last group of"
                f" {parallel} is computed for {over}; {channels - over} channels save up to {saved * 1e6:.1f} us here"
            )
            out.append(Advice("channels", layer.name, text, saved))
    return out


def _rows(timing: Timing, profile: BoardProfile) -> list[Advice]:
    """Layers whose height is far from a multiple of the rows the DPU computes together."""
    rows = profile.dpu.pixel_parallel
    total = sum(layer.conv_cycles for layer in timing.layers)
    out = []
    for layer in timing.layers:
        height = layer.mid_shape[0]
        computed = -(-height // rows) * rows
        lost = layer.conv_cycles * (1 - height / computed)
        if height > 1 and total and lost / total > LOST_SHARE:
            seconds = lost * _cycle(profile)
            text = (
                f"{layer.name} is {height} rows high and computed as {computed}: {100 * (1 - height / computed):.0f} % of its"
                f" compute, up to {seconds * 1e6:.1f} us, goes to empty rows; another input size would use them"
            )
            out.append(Advice("rows", layer.name, text, seconds))
    return out


def _spills(layers: Sequence[Layer], spilled: Collection[str], timing: Timing, profile: BoardProfile) -> list[Advice]:
    """Feature maps that found no room on the chip."""
    out = []
    dpu: Target = profile.dpu
    times = {layer.name: layer for layer in timing.layers}
    for layer in layers:
        if layer.output not in spilled:
            continue
        words = tensor_words(layer.out_shape, dpu)
        size = layer.out_shape[0] * layer.out_shape[1] * layer.out_shape[2]
        readers = [times[r.name] for r in layers if layer.output in (r.source, r.skip)]
        seconds = times[layer.name].save_s + sum(reader.load_s for reader in readers)
        text = (
            f"the output of {layer.name} needs {words} words of a feature-map memory of {dpu.bank_words} and found no room:"
            f" {size / 1e3:.0f} kB go to external memory and back"
        )
        out.append(Advice("spill", layer.name, text, seconds))
    return out
