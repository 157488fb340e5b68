"""Results in documents: what studies found, as tables and single figures between two marks of a Markdown page.

A table stands between `<!-- results: NAME STYLE -->` and `<!-- end -->`. STYLE is `front`, the members of the front; `trials`,
all that were tried; or `beside`, what others published of the same networks, and what was found here. Behind STYLE a runner of
the board's profile may be named: `front` then shows FPS of one image at a time as it would feed them, too, `beside` only those.
One figure within a sentence stands between `<!-- result: NAME TRIAL FIGURE -->` and `<!-- end -->`; how long the stages took,
behind `<!-- result: NAME seconds -->`, those of one kind behind `<!-- result: NAME KIND seconds -->`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesearch.board_eval import DEFAULT_BOARD, load_profile
from edgesearch.errors import StudyError
from edgesearch.files import parse_json
from edgesearch.search.report._results import read_results
from edgesearch.search.study import duration
from edgesearch.spaces import parse_candidate

_MARK = re.compile(
    r"(?P<mark><!-- results: (?P<name>\w+) (?P<style>front|trials|beside)(?: (?P<runner>\w+))? -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL,
)
_FIGURE_MARK = re.compile(
    r"(?P<mark><!-- result: (?P<name>\w+) (?:(?P<trial>\d+) (?P<figure>\w+)|(?:(?P<kind>[a-z]\w*) )?seconds) -->)"
    r".*?(?P<end><!-- end -->)"
)
_HEADS = {
    "front": ("network", "int8 test", "float test", "FPS", "FPS, one image at a time", "DPU and host, ms"),
    "trials": ("network", "test, quantized", "test, float", "KiB"),
    "beside": (
        "network",
        "here",
        "int8 there",
        "int8 here",
        "float there",
        "float here",
        "FPS there",
        "FPS here",
        "why they differ",
    ),
}


def refresh(document: Path, folder: Path, *, write: bool = True) -> bool:
    """Put the tables and figures that a document asks for into it, from `folder`/NAME/results.json; whether that changes it.

    `beside` reads `folder`/NAME/published.json too: a list of what others published (`network`, shares of images `int8` and
    `float`, `fps`, each of them null or left out where it is not known), and `why` the figures differ, each with the `recipe`
    of the trial that it stands beside. Single figures are those of the first run. Without `write` nothing is written. Raises
    StudyError where there are no such results, and what `table` raises.
    """

    def fresh_table(match: re.Match[str]) -> str:
        place = folder / match["name"]
        published = _read_published(place / "published.json") if match["style"] == "beside" else ()
        fresh = table(read_results(place / "results.json"), match["style"], published, runner=match["runner"])
        return match["mark"] + fresh + match["end"]

    def fresh_figure(match: re.Match[str]) -> str:
        runs = read_results(folder / match["name"] / "results.json")
        return match["mark"] + _figure(runs, match["name"], match["trial"], match["figure"], match["kind"]) + match["end"]

    text = document.read_text(encoding="utf-8")
    fresh = _FIGURE_MARK.sub(fresh_figure, _MARK.sub(fresh_table, text))
    if write and fresh != text:
        document.write_text(fresh, encoding="utf-8")
    return fresh != text


def table(
    runs: Sequence[Mapping[str, Any]],
    style: str,
    published: Sequence[Mapping[str, Any]] = (),
    *,
    runner: str | None = None,
) -> str:
    """Markdown of the runs: their `front`, all `trials`, or those `beside` which something was `published`.

    Of several runs (seeds) a row has the mean and the range of a candidate. `runner` is another one of the board's profile.
    Raises StudyError where something was published of a recipe that no candidate has, or more than one, and for a runner in a
    board's place that measured; TargetError for a runner that the profile lacks; SpaceError for a candidate that this version
    cannot read.
    """
    trials: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        for trial in run["trials"]:
            candidate = parse_candidate(trial["settings"], f"trial {trial['trial']}")
            fed = {} if runner is None else {"fed_fps": _fed_fps(trial, run["settings"], runner)}
            trials[candidate.key].append({**trial, **fed, "recipe": str(candidate)})  # the words of today
    if style == "front":  # of a candidate that is on one run's front all runs count
        chosen = [of_one for of_one in trials.values() if any(trial["front"] for trial in of_one)]
        rows = [_front_row(of_one) for of_one in sorted(chosen, key=lambda of_one: -_mean(of_one, "test_accuracy"))]
    elif style == "trials":
        rows = [_trials_row(of_one) for of_one in trials.values()]
    else:
        rows = [_beside_row(_of_recipe(row["recipe"], trials.values()), row) for row in published]
    head = _HEADS[style]
    if runner is not None and style == "front":
        head = (*head, f"the same, fed by `{runner}`")
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    seconds = sum(sum(run["stage_seconds"].values()) for run in runs)
    lines += ["", f"{len(runs)} run{'s' * (len(runs) > 1)}, {duration(seconds)} of stages in all: `{runs[0]['command']}`."]
    return "\n".join(lines) + "\n"


def _figure(runs: Sequence[Mapping[str, Any]], name: str, trial: str | None, figure: str | None, kind: str | None) -> str:
    """A figure of a trial of the first run, in its unit; without a trial, how long all runs' stages took, or a kind's."""
    if trial is None or figure is None:
        seconds = [taken for run in runs for stage, taken in run["stage_seconds"].items() if kind in (None, stage)]
        if not seconds:
            raise StudyError(f"the results of {name} have no stage {kind!r}; name one of theirs, or leave it out")
        return duration(sum(seconds))
    value = {str(one["trial"]): one for one in runs[0]["trials"]}.get(trial, {}).get(figure)
    if not isinstance(value, float | int):
        raise StudyError(
            f"the results of {name} have no number {figure!r} of trial {trial}; name a trial and a figure of theirs"
        )
    if figure.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.2f} ms" if figure.endswith("_ms") else f"{value:,.0f}"


def _of_recipe(recipe: str, candidates: Iterable[Sequence[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    found = [trials for trials in candidates if trials[0]["recipe"] == recipe]
    if len(found) != 1:
        who = f"{len(found)} candidates have" if found else "no trial has"
        raise StudyError(f"{who} the recipe {recipe!r}, of which figures were published; name one candidate's")
    return found[0]


def _front_row(trials: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    first = trials[0]
    doubt = f" ± {100 * first['fps_error']:.0f} %" if first.get("fps_error") else ""
    speed = (f"{first['fps']:,.0f}{doubt}", f"{first['latency_fps']:,.0f}", f"{first['latency_ms']:.2f}")
    fed = (f"{first['fed_fps']:,.0f}",) if "fed_fps" in first else ()
    return (first["recipe"], _shares(trials, "test_accuracy"), _shares(trials, "float_test_accuracy"), *speed, *fed)


def _fed_fps(trial: Mapping[str, Any], settings: Mapping[str, Any], runner: str) -> float:
    """Images per second, one at a time, if this runner fed the simulated board: all else of a latency is the DPU's."""
    if "measured_by" in trial:
        raise StudyError(
            f"trial {trial['trial']} was measured by {trial['measured_by']}, whose runner {runner!r} cannot replace"
        )
    profile, pixels = load_profile(settings.get("board", DEFAULT_BOARD)), int(trial["settings"]["student"]["input_size"]) ** 2
    latency_s = float(trial["latency_ms"]) / 1e3 + profile.runner(runner).of(pixels) - profile.runner().of(pixels)
    return 1 / latency_s


def _trials_row(trials: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    accuracies = (_shares(trials, "test_accuracy"), _shares(trials, "float_test_accuracy"))
    return (trials[0]["recipe"], *accuracies, f"{trials[0]['size_bytes'] / 1024:,.1f}")


def _beside_row(trials: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> tuple[str, ...]:
    """Theirs and ours; frames per second of one image at a time, as most publish them."""
    fps = published.get("fps")
    return (
        published["network"],
        trials[0]["recipe"],
        _shares([published], "int8"),
        _shares(trials, "test_accuracy"),
        _shares([published], "float"),
        _shares(trials, "float_test_accuracy"),
        "-" if fps is None else f"{fps:,.0f}",
        f"{trials[0].get('fed_fps', trials[0]['latency_fps']):,.0f}",
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
