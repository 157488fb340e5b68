"""Tables of results in documents: what studies found, as Markdown between two marks of a page.

A table stands between `<!-- results: NAME STYLE -->` and `<!-- end -->`. STYLE is `front`, the members of the front; `trials`,
all that were tried; or `beside`, what others published of the same networks, and what was found here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesearch.errors import StudyError
from edgesearch.files import parse_json
from edgesearch.search.report._results import read_results
from edgesearch.search.study import duration
from edgesearch.spaces import parse_candidate

_MARK = re.compile(
    r"(?P<mark><!-- results: (?P<name>\w+) (?P<style>front|trials|beside) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)
_HEADS = {
    "front": ("network", "int8 test", "float test", "FPS", "FPS, one image at a time", "DPU and host, ms"),
    "trials": ("network", "test, quantized", "test, float", "KiB"),
    "beside": ("network", "int8 there", "int8 here", "float there", "float here", "FPS there", "FPS here", "why they differ"),
}


def refresh(document: Path, folder: Path, *, write: bool = True) -> bool:
    """Put the tables that a document asks for into it, from `folder`/NAME/results.json; whether that changes it.

    `beside` reads `folder`/NAME/published.json too: a list of what others published (`network`, shares of images `int8` and
    `float`, `fps`, each of them null or left out where it is not known), and `why` the figures differ, each with the `recipe`
    of the trial that it stands beside. Without `write` nothing is written. Raises StudyError where there are no such results.
    """

    def fresh_table(match: re.Match[str]) -> str:
        place = folder / match["name"]
        published = _read_published(place / "published.json") if match["style"] == "beside" else ()
        return match["mark"] + table(read_results(place / "results.json"), match["style"], published) + match["end"]

    text = document.read_text(encoding="utf-8")
    fresh = _MARK.sub(fresh_table, text)
    if write and fresh != text:
        document.write_text(fresh, encoding="utf-8")
    return fresh != text


def table(runs: Sequence[Mapping[str, Any]], style: str, published: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown of the runs: their `front`, all `trials`, or those `beside` which something was `published`.

    Of several runs (seeds) a row has the mean and the range of a candidate. Raises StudyError where something was published of
    a recipe that no candidate has, or more than one; SpaceError for a candidate that this version cannot read.
    """
    trials: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        for trial in run["trials"]:
            if style != "front" or trial["front"]:
                candidate = parse_candidate(trial["settings"], f"trial {trial['trial']}")
                trials[candidate.key].append({**trial, "recipe": str(candidate)})  # the words of today
    if style == "front":
        rows = [_front_row(of_one) for of_one in sorted(trials.values(), key=lambda of_one: -_mean(of_one, "test_accuracy"))]
    elif style == "trials":
        rows = [_trials_row(of_one) for of_one in trials.values()]
    else:
        rows = [_beside_row(_of_recipe(row["recipe"], trials.values()), row) for row in published]
    head = _HEADS[style]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    seconds = sum(sum(run["stage_seconds"].values()) for run in runs)
    lines += ["", f"{len(runs)} run{'s' * (len(runs) > 1)}, {duration(seconds)} of stages in all: `{runs[0]['command']}`."]
    return "\n".join(lines) + "\n"


def _of_recipe(recipe: str, candidates: Iterable[Sequence[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    found = [trials for trials in candidates if trials[0]["recipe"] == recipe]
    if len(found) != 1:
        who = f"{len(found)} candidates have" if found else "no trial has"
        raise StudyError(f"{who} the recipe {recipe!r}, of which figures were published; name one candidate's")
    return found[0]


def _front_row(trials: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    first = trials[0]
    speed = (f"{first['fps']:,.0f}", f"{first['latency_fps']:,.0f}", f"{first['latency_ms']:.2f}")
    return (first["recipe"], _shares(trials, "test_accuracy"), _shares(trials, "float_test_accuracy"), *speed)


def _trials_row(trials: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    accuracies = (_shares(trials, "test_accuracy"), _shares(trials, "float_test_accuracy"))
    return (trials[0]["recipe"], *accuracies, f"{trials[0]['size_bytes'] / 1024:,.1f}")


def _beside_row(trials: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> tuple[str, ...]:
    """Theirs and ours; frames per second of one image at a time, as most publish them."""
    fps = published.get("fps")
    return (
        published["network"],
        _shares([published], "int8"),
        _shares(trials, "test_accuracy"),
        _shares([published], "float"),
        _shares(trials, "float_test_accuracy"),
        "-" if fps is None else f"{fps:,.0f}",
        f"{trials[0]['latency_fps']:,.0f}",
        published.get("why", ""),
    )


def _read_published(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is no list of published figures ({error})") from error
    return rows


def _mean(trials: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(trial.get(name) or 0.0 for trial in trials) / len(trials)


def _shares(trials: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [100 * trial[name] for trial in trials if trial.get(name) is not None]
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.2f} %"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"
