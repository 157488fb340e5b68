"""How a board measured, in words for a reader."""

from __future__ import annotations

from edgesearch.board_eval.boards._board import Board
from edgesearch.board_eval.remote import BoardFacts, BoardRun, Latency, Throughput
from edgesearch.board_eval.targets import BoardProfile

__all__ = ["conditions"]

#: Seconds between two clocks that are worth a word.
_SKEW_S = 60.0


def conditions(run: BoardRun, board: Board) -> dict[str, str]:
    """What of a measurement by a board decides how far it holds: DPU, runner, spread, power, temperature."""
    report = run.report
    facts, latency, throughput = report.board, report.latency, report.throughput
    told = {
        "board": board.name,
        "dpu": _dpu(facts, board),
        "measured": "on the board",
        "runner": f"{report.runner} {report.runner_version}" + (f" ({run.note})" if run.note else ""),
        "vart": facts.vart or "not told by the board",
        "fingerprint": facts.fingerprint or "not told by the board",
        "xmodel": report.xmodel.sha256,
        "latency": f"one thread, median of {latency.runs:,} runs; {_repeats(latency)}",
        "throughput": f"{throughput.threads} threads, {throughput.images:,} images; {_repeats(throughput)}",
        "power": report.power_note or "not available",
        "temperature": "not available",
    }
    if report.power is not None:
        power = report.power
        told["power"] = f"{power.busy_w:g} W busy, {power.idle_w:g} W idle, the difference {power.busy_w - power.idle_w:.3g} W"
        told["power"] += f" ({power.sensor})"
    if report.temperature_c is not None:
        told["temperature"] = f"{report.temperature_c.start:g} to {report.temperature_c.end:g} degrees Celsius"
    if run.clock_skew_s is None or abs(run.clock_skew_s) > _SKEW_S:
        told["clock"] = _clock(run.clock_skew_s)
    return told


def _dpu(facts: BoardFacts, board: Board) -> str:
    """As the board tells it, else as its profile has it, where it has one."""
    profile = getattr(board, "profile", None)
    known = profile if isinstance(profile, BoardProfile) else None
    cores = facts.dpu_cores or (known.cores if known else None)
    mhz = facts.dpu_mhz or (known.clock_mhz if known else None)
    return f"{f'{cores} x ' if cores else ''}{board.target.name}{f' at {mhz:g} MHz' if mhz else ''}"


def _repeats(figure: Latency | Throughput) -> str:
    count = len(figure.repeats_ms if isinstance(figure, Latency) else figure.repeats_fps)
    steady = "" if figure.settled else ", not settled: do not compare it with others within that spread"
    return f"{count} repeats within {figure.spread:.1%}{steady}"


def _clock(skew_s: float | None) -> str:
    if skew_s is None:
        return "the board does not tell its time; the date is this machine's"
    way = "ahead of" if skew_s > 0 else "behind"
    return f"the board's clock is {abs(skew_s):,.0f} s {way} this machine's, whose date is taken"
