"""The pruned student: channels removed in one step or several, then all of it fine-tuned."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from edgesearch.board_eval import TIMING_VERSION, Board
from edgesearch.errors import PluginError, SpaceError
from edgesearch.objectives.data import prepare_tensor, stored_images
from edgesearch.objectives.pruning import (
    PRUNERS,
    ROUNDS_VERSION,
    Pruned,
    PruningImages,
    PruningTask,
    Sensitivity,
    prune_with_vai,
    quiet,
    re_estimate_batch_norm,
    settle,
    zero_share,
)
from edgesearch.objectives.stages._clock import clock_of
from edgesearch.objectives.stages._context import Context, weights_of
from edgesearch.objectives.stages._limits import board_of
from edgesearch.objectives.stages._pipeline import PruneSearch
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec, TrainedSettings
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._compiled import code_version
from edgesearch.objectives.stages.kinds._sensitivity import SENSITIVITY_PASSES, groups_version, scoring
from edgesearch.objectives.training import STEP_PASSES, Recipe, Supervision, Training, train
from edgesearch.plugins import calling, is_import_path
from edgesearch.spaces import Pruning, Student

#: The compiler's version when pruning went by the time of its code first: it is left out of keys.
_FIRST_TIMED = 2


class PrunedSettings(TrainedSettings):
    """How much goes and how, how hard it is looked for, and the fine-tuning behind it.

    `rounds_version` is that of iterative pruning, which a plan fills in: other methods keep their results when it is raised.
    `chance` is the accuracy of guessing, where that is not even and the method asks for it; 0 where it is.
    `board` is what decides the time of a network, `import_path` where a board of the user's own is found and `source_sha256`
    its code; all are empty where pruning does not go by time. `code_version` is that of the compiler whose code is timed then,
    `model_version` that of the model of AMD's code, which foretells it roughly. `packages` are the versions of Vitis AI's,
    where its optimizer prunes. `groups_version` is that of `SensitivitySettings`.
    """

    pruning: Pruning
    recipe: Recipe
    search: PruneSearch = PruneSearch()
    board: dict[str, Any] = Field(default_factory=dict)
    import_path: str = ""
    source_sha256: str = ""
    rounds_version: int = 1
    groups_version: int = 1
    chance: float = 0.0
    code_version: int = _FIRST_TIMED
    model_version: int = 1
    packages: dict[str, str] = Field(default_factory=dict)

    def find_board(self, context: Context[PrunedSettings]) -> Board:
        """The board whose time counts."""
        return board_of(self.board, self.import_path, context.folder, self.source_sha256)


def _place(plan: Plan) -> Stage | None:
    pruning, conditions = plan.candidate.pruning, plan.conditions
    if pruning.method == "none":
        return None
    timed = pruning.target == "fps"
    if timed and not conditions.timed:
        raise SpaceError("pruning.target = 'fps' needs a board whose times are computed; use 'macs', or a simulated board")
    draws = pruning.removes and (pruning.backend == "edgesearch" or pruning.method == "one_step")
    settings = PrunedSettings(
        pruning=pruning,
        recipe=plan.recipe(plan.pipeline.finetune),
        search=plan.pipeline.prune if draws else PruneSearch(score_images=plan.pipeline.prune.score_images),
        distillation=plan.distillation,
        board=dict(conditions.timed) if timed else {},
        import_path=conditions.board_import_path if timed else "",
        source_sha256=conditions.board_source_sha256 if timed else "",
        code_version=code_version(conditions) if timed and conditions.compiler == "edgesearch" else _FIRST_TIMED,
        model_version=TIMING_VERSION if timed else 1,
        packages=dict(conditions.packages) if pruning.backend == "vai" else {},
        chance=conditions.guessing if _asks_for_chance(plan) else 0.0,
        rounds_version=ROUNDS_VERSION if pruning.method == "iterative" and pruning.backend == "edgesearch" else 1,
        groups_version=groups_version(plan.candidate),
    )
    return plan.make(
        "pruned",
        settings,
        reads=("train", "validation"),
        network=plan.stage("student"),
        logits=plan.stage("logits"),
        teacher=plan.present(),
        sensitivity=plan.stage("sensitivity"),
    )


def _asks_for_chance(plan: Plan) -> bool:
    """Whether scores are compared with that of guessing: where sensitivity is followed, and perhaps by a user's own pruner."""
    return plan.stage("sensitivity") is not None or is_import_path(plan.candidate.pruning.method)


def _run(context: Context[PrunedSettings]) -> Result:
    settings = context.settings
    student, model = context.network("network")
    supervision = context.supervision(settings.distillation)
    rounds: list[Training] = []
    pruned = _prune(context, student, model, supervision, rounds)
    context.report(_said(pruned))
    if settings.pruning.removes:  # before its fine-tuning is paid for
        context.hold_to_limits(pruned.model, student)
    training, _ = context.train(pruned.model, student, settings.recipe, supervision)
    figures = _figures(pruned, training) | context.taught_by(settings.distillation)
    figures["pieces"] = max(each.pieces for each in (*rounds, training))  # a round's network is wider than the last one
    if settings.pruning.sparse:
        figures["zero_weights"] = zero_share(settle(pruned.model))
    earlier = sum(each.earlier_seconds for each in (*rounds, training))
    return Result(figures, weights_of(pruned.model), earlier_seconds=earlier)


# Long for its arguments, and for what is told of them.
def _prune(
    context: Context[PrunedSettings],
    student: Student,
    model: nn.Module,
    supervision: Supervision | None,
    rounds: list[Training],
) -> Pruned:
    """The network without the channels that go; `model` stays as it is. Trainings between rounds are added to `rounds`."""
    settings, data, size = context.settings, context.data, student.input_size
    pruning = settings.pruning
    pixels = stored_images(data.train.images[-settings.search.recalibration_images :])
    images = prepare_tensor(pixels, size, data.normalisation)

    def fine_tune(network: nn.Module, step: int) -> None:
        recipe, round_name = _shorter(settings.recipe, pruning.steps), f"round {step + 1} of {pruning.steps}"
        training = train(
            network,
            data,
            recipe=recipe,
            input_size=size,
            seed=context.seed + step + 1,
            supervision=supervision,
            checkpoints=context.store.checkpoints(context.stage.key).part(f"round{step + 1}"),
            on_epoch=lambda epoch, loss: context.report(f"{round_name}: epoch {epoch}/{recipe.epochs}  loss {loss:.4f}"),
            device=context.device,
            note=context.report,
            pieces=context.pieces,
        )
        rounds.append(training)
        network.to(context.device)

    shape = (data.channels, size, size)
    clock = clock_of(settings.find_board(context), shape) if pruning.target == "fps" else None
    task = PruningTask(
        model=model.eval(),
        input_shape=shape,
        ratio=pruning.ratio,
        granularity=pruning.granularity or 1,  # a plan fills it in where channels go
        draws=settings.search.draws,
        steps=pruning.steps,
        score=scoring(data, size, settings.search.score_images, context.device, context.report),
        recalibrate=lambda network: re_estimate_batch_norm(network, images),
        finetune=fine_tune,
        seed=context.seed,
        sensitivity=_sensitivity(context),
        chance=settings.chance or 1 / len(data.classes),
        pattern=pruning.n_m,
        time=None if clock is None else clock.exact,
        rough_time=None if clock is None else clock.rough,
    )
    if pruning.backend == "vai":
        return _prune_with_vai(context, task, images)
    pruner = PRUNERS.find(pruning.method, folder=context.folder, expected_sha256=pruning.source_sha256)
    own = is_import_path(pruning.method)
    with calling(f"pruner {pruning.method!r}") if own else nullcontext():
        pruned: object = pruner(task)
    if not isinstance(pruned, Pruned):
        kind = type(pruned).__name__
        raise PluginError(f"pruner {pruning.method!r} gave a {kind}; expected an edgesearch.objectives.pruning.Pruned")
    if own:
        _check_own(pruned, pruning.method, task.input_shape, len(context.data.classes))
    return pruned


def _check_own(pruned: Pruned, method: str, input_shape: tuple[int, int, int], classes: int) -> None:
    """Raise PluginError where a pruner of the user's own gave a network that cannot be trained."""
    model = pruned.model
    if any(not bool(torch.isfinite(one).all()) for one in model.parameters()):
        raise PluginError(f"pruner {method!r} gave a network with weights that are not finite")
    with quiet(model), torch.no_grad(), calling(f"the network of pruner {method!r}"):
        answer: object = model(torch.zeros(2, *input_shape, device=next(model.parameters(), torch.empty(0)).device))
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != (2, classes):
        raise PluginError(f"pruner {method!r} gave a network whose answer to 2 images is {shape}, expected (2, {classes})")


def _prune_with_vai(context: Context[PrunedSettings], task: PruningTask, recalibration: Tensor) -> Pruned:
    """The same by Vitis AI's optimizer, which is handed the images that networks are scored on."""
    settings, data, size = context.settings, context.data, task.input_shape[1]
    count = settings.search.score_images
    scored = prepare_tensor(stored_images(data.train.images[:count]), size, data.normalisation)
    images = PruningImages(
        scored.contiguous().numpy(), data.train.labels[:count].astype(np.int64), recalibration.contiguous().numpy()
    )
    method: Any = settings.pruning.method
    context.report(f"Vitis AI's optimizer prunes ({method})")
    return prune_with_vai(task, method, images, context.vitis, settings.packages)


def _sensitivity(context: Context[PrunedSettings]) -> Sensitivity | None:
    if "sensitivity" not in context.stage.inputs:
        return None
    figures = context.input("sensitivity").figures
    curves = {name: tuple((int(kept), float(score)) for kept, score in curve) for name, curve in figures["curves"].items()}
    return Sensitivity(figures["accuracy"], curves)


def _shorter(recipe: Recipe, parts: int) -> Recipe:
    """The recipe with its epochs shared between the rounds of iterative pruning, at least one each."""
    epochs = max(1, recipe.epochs // parts)
    share = epochs / recipe.epochs
    shares = {"warmup_epochs": recipe.warmup_epochs * share, "average_epochs": recipe.average_epochs * share}
    return recipe.model_copy(update={"epochs": epochs, "small_epochs": int(recipe.small_epochs * share), **shares})


def _said(pruned: Pruned) -> str:
    if pruned.zero_share is not None:
        return f"set {pruned.zero_share:.1%} of the weights to zero"
    macs = f"{pruned.macs_before:,} -> {pruned.macs_after:,} MACs"
    if pruned.seconds_before is None or pruned.seconds_after is None:
        return f"pruned {pruned.reached_ratio:.1%} of the MACs ({macs})"
    times = f"{1e3 * pruned.seconds_before:.3f} -> {1e3 * pruned.seconds_after:.3f} ms"
    return f"pruned {pruned.reached_ratio:.1%} of the DPU's time ({times}, {macs})"


def _figures(pruned: Pruned, training: Training) -> dict[str, Any]:
    return {
        "asked_ratio": pruned.asked_ratio,
        "reached_ratio": pruned.reached_ratio,
        "macs_before": pruned.macs_before,
        "macs_after": pruned.macs_after,
        "channels": dict(pruned.channels),
        **({} if pruned.seconds_before is None else {"seconds_before": pruned.seconds_before}),
        **({} if pruned.seconds_after is None else {"seconds_after": pruned.seconds_after}),
        **({"versions": dict(pruned.versions)} if pruned.versions else {}),
        "accuracy": training.accuracy,
        "epochs_done": training.epochs_done,
        "frozen_parameters": training.frozen_parameters,
        "pieces": training.pieces,
        "predicted_bytes": training.predicted_bytes,
        "peak_bytes": training.peak_bytes,
    }


def _images(settings: PrunedSettings, data: Parts) -> float:
    pruning, search = settings.pruning, settings.search
    scored, recalibrated = (min(count, len(data.train)) for count in (search.score_images, search.recalibration_images))
    trainings, passes = 1.0, float(search.draws * (scored + recalibrated))
    if pruning.sparse:
        passes = float(scored)
    elif pruning.method == "iterative":  # each round draws, all but the first measure sensitivity, all but the last fine-tune
        passes = pruning.steps * passes + (pruning.steps - 1) * SENSITIVITY_PASSES * scored
        trainings += (pruning.steps - 1) / pruning.steps
    return trainings * STEP_PASSES * settings.recipe.epochs * len(data.train) + passes


SPEC = StageSpec(
    name="pruned",
    version=5,
    settings=PrunedSettings,
    place=_place,
    run=_run,
    images=_images,
    recipe=lambda settings: settings.recipe,  # of the whole network, which is more than what is left of it
)
