"""How far measurements lie from what a model says that was not fitted to them, and how wide intervals must be for that.

Model zoo (three boards, C++): every family of networks by profiles fitted without it. Accel-NASBench (ZCU102, Python): the
networks between those that its runner was fitted to, by a DPU fitted without any of them. Table I (ZCU104, its script): the
networks that no fit has seen. What cores lose to each other with a runner that was not measured on a board is as sure as
Accel-NASBench by the contention of AMD's programs. Figures that the host bounds are left out: their doubt is its.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from _nasbench import nasbench, nasbench_graph
from _published import FITTED_ROWS, table_one, zoo_fps
from _zoo import ZOO

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile, HalfWidths, HostRunner, NetworkKind
from edgesearch.board_eval.timing import time_graph

What = Literal["latency", "throughput"]
#: What intervals are meant to hold of the measurements.
NOMINAL = 0.9
#: Errors, and families that they are of, that one width is taken from at least; with fewer, boards or kinds are taken together.
ENOUGH, FAMILIES = 9, 3
#: A width that is known, but so small that what is left is the doubt alone.
_KNOWN = 1e-6


@dataclass(frozen=True)
class LeftOut:
    """One measured figure: how much longer it took than predicted, relative to that, and what doubt there was of it."""

    family: str
    kind: NetworkKind
    runner: str
    board: str
    what: What
    error: float
    doubt: float

    @property
    def needed(self) -> float:
        """The width that holds it, beside its doubt."""
        return math.sqrt(max(0.0, self.error**2 - self.doubt**2))


def doubtful(profile: BoardProfile) -> BoardProfile:
    """The profile with intervals that are as wide as the doubt alone."""
    bare = {"latency_error": _KNOWN, "throughput_error": _KNOWN, "errors_by_kind": {}}
    runners: Mapping[str, HostRunner] = {name: host.model_copy(update=bare) for name, host in profile.runners.items()}
    return profile.model_copy(update={"runners": runners})


def compared(
    graph: Graph, profile: BoardProfile, runner: str, family: str, one: float | None, many: float | None
) -> list[LeftOut]:
    """The figures of one network: frames per second with one thread, and with many, as far as they were measured."""
    timing = time_graph(graph, doubtful(profile), runner=runner, layers=False)
    found: list[LeftOut] = []
    own = LeftOut(family, timing.kind, runner, profile.name, "latency", 0.0, timing.latency_error)
    if one is not None:
        found.append(replace(own, error=timing.latency_fps / one - 1))
    if many is not None and timing.throughput_bound != "host":
        error = timing.throughput_fps / many - 1
        found.append(replace(own, what="throughput", error=error, doubt=timing.throughput_error))
    return found


def of_zoo(profiles: Mapping[tuple[str, str], BoardProfile]) -> list[LeftOut]:
    """The model zoo; `profiles` are those of a board, fitted without a family, by the names of both."""
    published = zoo_fps()
    graphs = {name: build(name) for name, (_, build) in ZOO.items()}
    found: list[LeftOut] = []
    for (board, family), profile in profiles.items():
        for name in (name for name, (of, _) in ZOO.items() if of == family):
            found += compared(graphs[name], profile, "cpp", family, *published[name, board.upper()])
    return found


#: The runner of errors that tell how far one runner's contention is from another's.
ANOTHER = "another"


def of_another_runner(zcu102: BoardProfile, every: int) -> list[LeftOut]:
    """Throughputs of Accel-NASBench, predicted as if its runner lost no more to its cores than AMD's programs."""
    python = zcu102.runner("vart_python").model_copy(update={"contention": zcu102.runner("cpp").contention})
    foreign = zcu102.model_copy(update={"runners": {**zcu102.runners, "vart_python": python}})
    return [replace(e, runner=ANOTHER) for e in of_nasbench(foreign, every) if e.what == "throughput"]


def of_nasbench(zcu102: BoardProfile, every: int) -> list[LeftOut]:
    """The networks between those that their runner was fitted to, which are every so many; each is a family of its own."""
    found: list[LeftOut] = []
    for i, row in enumerate(nasbench()):
        if i % every:
            one, many = 1e3 / float(row["latency_ms"]), float(row["throughput_fps"])
            found += compared(nasbench_graph(row), zcu102, "vart_python", row["network"], one, many)
    return found


def of_table_one(zcu104: BoardProfile) -> list[LeftOut]:
    """The rows that no fit has seen; a network and its pruned forms are one family."""
    found: list[LeftOut] = []
    for name, (graph, fps) in table_one().items():
        if name not in FITTED_ROWS and not name.startswith("ResNet-50 QAT"):
            found += compared(graph, zcu104, "thesis_script", name.split()[0], fps, None)
    return found


def width(errors: Iterable[LeftOut]) -> float:
    """What holds the nominal share of them: the order statistic that does so for one more of their kind, or the largest."""
    needed = sorted(error.needed for error in errors)
    rank = math.ceil(NOMINAL * (len(needed) + 1))
    return needed[min(rank, len(needed)) - 1] if needed else 0.0


def chosen(errors: Sequence[LeftOut], board: str, runner: str, kind: NetworkKind, what: What) -> list[LeftOut]:
    """The errors that tell most of an interval and are enough: of its kind on this board, on all boards, of all kinds.

    A runner without enough of its own is taken with the others: what differs between them is in the doubt.
    """
    same = [e for e in errors if e.what == what and e.runner != ANOTHER]
    mine = [e for e in same if e.runner == runner]
    candidates = (
        [e for e in mine if e.kind == kind and e.board == board],
        [e for e in mine if e.kind == kind],
        [e for e in same if e.kind == kind and e.board == board],
        [e for e in same if e.kind == kind],
    )
    return next((found for found in candidates if len(found) >= ENOUGH and len({e.family for e in found}) >= FAMILIES), same)


def known(errors: Sequence[LeftOut], board: str, runner: str, kind: NetworkKind, what: What, *, cores: int = 2) -> float:
    """The width for networks of a kind: of a runner not measured on the board, at least what runners differ."""
    found = width(chosen(errors, board, runner, kind, what))
    measured = any((e.board, e.runner, e.what) == (board, runner, what) for e in errors)
    if what == "latency" or measured or cores == 1:
        return found
    return max(found, width(e for e in errors if e.runner == ANOTHER))


def widths(errors: Sequence[LeftOut], board: BoardProfile, runner: str) -> dict[NetworkKind, HalfWidths]:
    """The table of a runner in the profile of a board."""
    return {
        kind: HalfWidths(
            latency=known(errors, board.name, runner, kind, "latency"),
            throughput=known(errors, board.name, runner, kind, "throughput", cores=board.cores),
        )
        for kind in get_args(NetworkKind)
    }


def coverage(errors: Sequence[LeftOut], of: Iterable[LeftOut]) -> float:
    """Percent of measurements inside intervals whose width was taken from the other families' errors."""
    inside = total = 0
    others: dict[str, list[LeftOut]] = {}
    found: dict[tuple[object, ...], float] = {}
    for one in of:
        key = (one.family, one.board, one.runner, one.kind, one.what)
        if key not in found:
            rest = others.setdefault(one.family, [e for e in errors if e.family != one.family])
            found[key] = known(rest, one.board, one.runner, one.kind, one.what)
        inside += abs(one.error) <= math.hypot(found[key], one.doubt)
        total += 1
    return 100 * inside / total
