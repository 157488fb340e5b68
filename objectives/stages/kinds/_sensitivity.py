"""How a trained student's accuracy falls as it loses channels: the same for every ratio that it is pruned to."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgesearch.objectives.data import DataSet, Split
from edgesearch.objectives.pruning import GUIDED_FROM, measure_sensitivity
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._pipeline import PruneSearch
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import Scorer
from edgesearch.plugins import is_import_path
from edgesearch.settings import Settings
from edgesearch.spaces import Candidate

#: Networks that are scored, at most nine for each group of channels, by the passes that they are worth; for estimates only.
SENSITIVITY_PASSES = 60


class SensitivitySettings(Settings):
    """Steps of how many channels, and how many training images a network is scored on.

    groups_version: of the code that finds which channels of a network of the user's own go together.
    """

    granularity: int
    score_images: int = PruneSearch().score_images
    groups_version: int = 1


def _place(plan: Plan) -> Stage | None:
    pruning = plan.candidate.pruning
    guided = pruning.method == "one_step" and (pruning.ratio >= GUIDED_FROM or pruning.target == "fps")
    if not (guided or pruning.method == "iterative") or pruning.granularity is None or pruning.backend != "edgesearch":
        return None
    settings = SensitivitySettings(
        granularity=pruning.granularity,
        score_images=plan.pipeline.prune.score_images,
        groups_version=groups_version(plan.candidate),
    )
    return plan.make("sensitivity", settings, reads=("train",), network=plan.stage("student"))


def groups_version(candidate: Candidate) -> int:
    """See `SensitivitySettings`."""
    is_own = candidate.pruning.backend == "edgesearch" and is_import_path(candidate.student.architecture)
    # 1: layers that have one parameter in common were pruned apart; 2: and masked apart, and the MACs of layers whose channels
    # are joined and then added were counted by shares of a channel
    return 3 if is_own else 1


def _run(context: Context[SensitivitySettings]) -> Result:
    student, model = context.network("network")
    size = student.input_size
    measured = measure_sensitivity(
        model.eval(),
        (context.data.channels, size, size),
        granularity=context.settings.granularity,
        score=scoring(context.data, size, context.settings.score_images, context.device, context.report),
        seed=context.seed,
    )
    return Result({"accuracy": measured.base, "curves": {name: list(curve) for name, curve in measured.curves.items()}})


def scoring(
    data: DataSet, input_size: int, images: int, device: str, note: Callable[[str], object]
) -> Callable[[nn.Module], float]:
    """The accuracy of a network on the first training images: those of the validation set judge candidates, and only them."""
    scored = Split(data.train.images[:images], data.train.labels[:images])
    return Scorer(scored, input_size=input_size, normalisation=data.normalisation, device=device, note=note)


def _images(settings: SensitivitySettings, data: Parts) -> float:
    return float(SENSITIVITY_PASSES * min(settings.score_images, len(data.train)))


SPEC = StageSpec(
    name="sensitivity", version=5, settings=SensitivitySettings, place=_place, run=_run, images=_images, shared=True
)
