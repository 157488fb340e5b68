"""What a study says and nothing reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from edgesearch.objectives import Recipe
from edgesearch.search.proposals import READ_BY
from edgesearch.search.study import SearchSettings, StudyFile
from edgesearch.spaces import TAUGHT_BY_TEACHER, reach, unused_choices

__all__ = ["without_effect"]


def without_effect(settings: StudyFile) -> list[str]:
    """A sentence for each setting that was given another value than its default, and decides nothing beside the others."""
    found = [] if settings.space is None else unused_choices(settings.space)
    if settings.boards and settings.score == "simulated":
        found.append(
            f"nothing is measured on {', '.join(settings.boards)}, since the score is simulated; score = 'board', or "
            "--score board, has them measure"
        )
    idle = _idle_tables(settings)
    return [*found, *_of_tables(settings, idle), *_of_recipes(settings, idle), *_of_search(settings)]


def _idle_tables(settings: StudyFile) -> dict[str, str]:
    """Tables of what none of the candidates goes through, and what that is."""
    space, candidates = settings.space, settings.candidates
    drawn = {} if space is None else reach(space).had
    pruned = {each.pruning.method for each in candidates} | drawn.get("pruning", set())
    quantized = {each.quantization.method for each in candidates} | drawn.get("quantization", set())
    idle = {} if pruned - {"none"} else {"finetune": "pruned", "prune": "pruned"}
    return idle if "qat" in quantized else idle | {"qat": "quantized by qat"}


def _of_tables(settings: StudyFile, idle: Mapping[str, str]) -> Iterator[str]:
    space, candidates = settings.space, settings.candidates
    taught = {each.distillation.kind for each in candidates} | set(() if space is None else space.distillation)
    if settings.teacher is not None and not taught & TAUGHT_BY_TEACHER:
        kinds = ", ".join(sorted(TAUGHT_BY_TEACHER))
        yield f"[teacher] teaches nobody: no `distillation` of the study is one of {kinds}"
    for table, what in idle.items():
        if getattr(settings, table) != StudyFile.model_fields[table].default:
            yield f"[{table}] decides nothing: no candidate of the study is {what}"


def _of_recipes(settings: StudyFile, idle: Collection[str]) -> Iterator[str]:
    """Of every table that is not `idle`: its recipe as trainings go by it, to which [train] lends its views."""
    train = settings.train
    views = {name: getattr(train, name) for name in ("augmentation", "mix")}
    recipes: dict[str, Recipe] = {"train": train}
    recipes |= {name: getattr(settings, name).model_copy(update=views) for name in ("finetune", "qat") if name not in idle}
    if settings.teacher is not None:
        own = settings.teacher.recipe
        lent = {"augmentation": train.augmentation} if own.augmentation == "auto" else {}
        recipes["teacher.recipe"] = own.model_copy(update=lent)
    for table, recipe in recipes.items():
        for name, why in recipe.unread.items():
            if (value := getattr(recipe, name)) != type(recipe).model_fields[name].default:
                yield f"{table}.{name} is {value}, and {why}"


def _of_search(settings: StudyFile) -> Iterator[str]:
    """What [search] says to a sampler that does not read it, or of a study that searches nothing."""
    search, usual = settings.search, SearchSettings()
    if settings.space is None:
        changed = [name for name in SearchSettings.model_fields if getattr(search, name) != getattr(usual, name)]
        what = ", ".join(f"search.{name}" for name in changed)
        if changed:
            named = f"its {len(settings.candidates)} [[candidates]] are all that the study tries"
            yield f"{what} decides nothing: there is no [space], and {named}"
        return
    for name, readers in READ_BY.items():
        if getattr(search, name) != getattr(usual, name) and search.sampler not in readers:
            yield (
                f"search.{name} is {getattr(search, name)}, which the samplers {' and '.join(readers)} read, "
                f"and {search.sampler!r} does not"
            )
