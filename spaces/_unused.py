"""Choices of a space that none of its candidates has, since what they belong to is not among the others."""

from __future__ import annotations

from edgesearch.spaces._candidate import DISTILLATION_SETTINGS, QAT_ALGORITHMS
from edgesearch.spaces._choices import Range
from edgesearch.spaces._space import Space

__all__ = ["unused_choices"]

#: Ways to prune that are not done in several steps; a pruner of the user's own may be.
_AT_ONCE = {"none", "one_step", "unstructured", "n_m"}


def unused_choices(space: Space) -> list[str]:
    """A sentence for each choice that decides which others count, naming those that were given and do not."""
    taught = {name for kind in space.distillation for name in DISTILLATION_SETTINGS[kind]}
    has = {
        "distillation": {name: name in taught for settings in DISTILLATION_SETTINGS.values() for name in settings},
        "pruning": {
            **dict.fromkeys(("ratio", "pruning_target", "pruning_backend"), set(space.pruning) != {"none"}),
            "steps": not _AT_ONCE.issuperset(space.pruning),
            "pattern": "n_m" in space.pruning,
        },
        "quantization": {"qat_start": "qat" in space.quantization},
        "quantization_backend": {"fast_finetune": "nndct" in space.quantization_backend},
    }
    sentences = []
    for by, settings in has.items():
        given = [name for name, counts in settings.items() if not counts and _is_given(space, name)]
        if given:
            names = ", ".join(f"`{name}`" for name in given)
            sentences.append(
                f"{names} in [space] decides nothing, since no choice of `{by}` = {list(getattr(space, by))} has it"
            )
    only = [name for name in space.algorithm if name not in QAT_ALGORITHMS]
    if only and "ptq" not in space.quantization:
        sentences.append(f"`algorithm` {only[0]!r} of [space] calibrates only: its candidates are quantized by ptq, not by qat")
    for name, choices in space:
        if isinstance(choices, Range) and choices.low < choices.high and choices.size == 1:
            sentences.append(
                f"`{name}` in [space] has a step of {choices.step:g} from {choices.low:g} to {choices.high:g}, so that "
                f"{choices.low:g} is all that it is"
            )
    return sentences


def _is_given(space: Space, name: str) -> bool:
    return bool(getattr(space, name) != Space.model_fields[name].default)
