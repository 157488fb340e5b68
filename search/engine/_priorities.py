"""Which stage starts next when more of them are ready than workers are free."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

__all__ = ["by_length", "by_need"]


def by_need(ready: Sequence[tuple[int, str]], lacks: Mapping[int, Collection[str]]) -> list[str]:
    """The keys of ready stages, each once: what most trials wait for first, then what the oldest trial waits for.

    ready: (trial, key of a stage that could run now), older trials first and each trial's in their order. lacks: every trial
    under way -> keys of all the stages that it lacks, ready or not.

    A trial counts once for itself, and once more for every so many trials that began after it as there are under way. So no
    trial waits for ever, however many newer ones share a stage.
    """
    newest = max(lacks, default=0)
    weights = {trial: len(lacks) + newest - trial for trial in lacks}
    keys = list(dict.fromkeys(key for _, key in ready))
    needs = {key: sum(weights[trial] for trial, missing in lacks.items() if key in missing) for key in keys}
    return sorted(keys, key=lambda key: -needs[key])  # equal ones stay in their order


def by_length(
    ready: Sequence[tuple[int, str]], lacks: Mapping[int, Collection[str]], seconds: Mapping[int, float]
) -> list[str]:
    """The keys of ready stages, each once, where no further trials will begin: those that end a trial, since others are judged
    by it; then what the trial waits for that takes longest to its end, since all wait for that.

    seconds: every trial under way -> those that its stages are expected to take from now on. The rest as for `by_need`.
    """
    keys = list(dict.fromkeys(key for _, key in ready))
    waiting = {key: [trial for trial, missing in lacks.items() if key in missing] for key in keys}
    ends_one = {key: any(len(lacks[trial]) == 1 for trial in waiting[key]) for key in keys}
    longest = {key: max((seconds[trial] for trial in waiting[key]), default=0.0) for key in keys}  # or one that waits by now
    return sorted(keys, key=lambda key: (not ends_one[key], -longest[key]))
