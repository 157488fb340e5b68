"""Training: one loop for teachers, students, networks that were pruned, and those that are trained as the DPU computes them.

The whole data set is one tensor of bytes. Images are chosen, moved and normalised many batches at a time, so that a network
that takes a millisecond for a step does not wait for its data. Every random number comes from the seed and the epoch: a
training that goes on from a checkpoint gives the weights, bit for bit, of one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgesearch.errors import NotFinite, OutOfMemory
from edgesearch.objectives.data import DataSet, blank_images, seed_from, settle_layout
from edgesearch.objectives.training._average import Average
from edgesearch.objectives.training._batches import Batches
from edgesearch.objectives.training._checkpoints import Checkpoints, Saver, State, misfit, pack, unpack, until
from edgesearch.objectives.training._device import choose_device, out_of_memory, use_bfloat16
from edgesearch.objectives.training._distillation import Batch, Loss, Supervision
from edgesearch.objectives.training._evaluation import evaluate
from edgesearch.objectives.training._initial import begin_as_identity, whiten
from edgesearch.objectives.training._kernels import safe_kernels, same_every_time
from edgesearch.objectives.training._memory import DataShape, predict_memory
from edgesearch.objectives.training._optimizers import learning_rate, make_optimizer, set_rate
from edgesearch.objectives.training._pieces import Pieces
from edgesearch.objectives.training._process import PeakMemory, free_memory, give_back
from edgesearch.objectives.training._random import seed_plain_numbers
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._recorded import Recorded
from edgesearch.objectives.training._rules import Rules
from edgesearch.objectives.training._small_epochs import check_small_epochs
from edgesearch.objectives.training._under_way import UnderWay

__all__ = ["STEP_PASSES", "Epoch", "Training", "train"]

#: A training step costs about three forward passes: one forward, two backward.
STEP_PASSES = 3
#: A stream of random numbers within one epoch, beside those of `_batches.py`.
_DROPOUT = 3


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images: mean loss, validation accuracy if it was measured, seconds."""

    loss: float
    accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Training:
    """What a training did. The network itself was changed in place, and is on the CPU in eval mode."""

    history: tuple[Epoch, ...]
    epochs_done: int  # of the recipe's schedule, earlier runs included
    accuracy: float  # on the validation images, with the weights that were kept
    kept_epoch: int  # 1-based: the last, or with select="best" the most accurate one
    parameters: int
    frozen_parameters: int  # of a whitened first layer; QAT's positions once they stay
    device: str
    precision: Literal["float32", "bfloat16"]
    seconds: float  # of this run, with its validation
    earlier_seconds: float = 0.0  # of runs that were interrupted, up to the checkpoint where this one went on
    pieces: int = 1  # that each batch was computed in; 2, 4, ... where memory did not suffice for a whole one
    predicted_bytes: int = 0  # of memory at its peak, told before it began for these pieces
    peak_bytes: int | None = None  # of the process, or that torch took on a GPU; None where the system does not tell


# Long for its arguments, and for what is told of them.
def train(
    model: nn.Module,
    data: DataSet,
    *,
    recipe: Recipe,
    input_size: int | None,
    seed: int,
    supervision: Supervision | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 10.0,
    checkpoint_within: float = 45.0,
    stop_after: int | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    device: str = "auto",
    select: Literal["last", "best"] = "last",
    rules: Rules | None = None,
    note: Callable[[str], object] = lambda line: None,
    pieces: int = 1,
) -> Training:
    """Trains `model` in place on `data.train`, all of it but a `whitened` first layer, and measures it on `data.validation`.

    input_size: pixels of a side that the network reads; None for the data set's own.
    checkpoints: where to go on from and to save to, after an epoch if `checkpoint_seconds` have passed since the last time,
    and within an epoch if `checkpoint_within` have.
    stop_after: stop after so many epochs of the recipe's schedule, and save; the rest can follow later. A checkpoint beyond it
    is not used.
    on_epoch: called with the epochs done and the mean loss.
    select: keep the weights of the last epoch, or of the one with the best validation accuracy.
    rules: what this network asks of its training beside the recipe.
    pieces: that each batch is computed in at least; more where memory does not suffice for so large ones.
    note: told where the images it is measured on are shown in smaller batches, since memory did not suffice.

    Raises NotFinite for a loss, or a number of the network's own, that is not finite; OutOfMemory for lack of memory, and
    TrainingError for a device that is not there.
    """
    started = time.perf_counter()
    place = choose_device(device)
    with _explained(0, recipe):
        memory = predict_memory(
            model, DataShape.of(data), recipe=recipe, input_size=input_size, supervision=supervision, device=str(place)
        )
        peak = PeakMemory(place)
        weights = sum(one.nbytes for one in (*model.parameters(), *model.buffers()) if one.device.type != place.type)
        free = free_memory(place) - weights  # before anything of the forecast is there
        run = _Run(model, data, recipe, input_size, seed, supervision, place, select, rules, note)
    run.pieces.count = max(pieces, memory.pieces(run.batches.largest, free))
    last = recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)
    try:
        run.resume(checkpoints, last)
        saver = Saver(checkpoints, run.state, seconds=checkpoint_seconds, within=checkpoint_within, spent=run.spent)
        if run.epoch == last < recipe.epochs:  # another process came so far: what it spent is told here
            saver.after_epoch(last, stopping=True)
        while run.epoch < last:
            with _explained(run.epoch, recipe), safe_kernels(place), same_every_time():
                run.one_epoch(saver)
            if on_epoch is not None:
                on_epoch(run.epoch, run.history[-1].loss)
            saver.after_epoch(run.epoch, stopping=run.epoch == last < recipe.epochs)
        accuracy, kept = run.finish()
    finally:
        run.close()
    parameters = list(model.parameters())
    return Training(
        history=tuple(run.history),
        epochs_done=run.epoch,
        accuracy=accuracy,
        kept_epoch=kept,
        parameters=sum(p.numel() for p in parameters),
        frozen_parameters=sum(p.numel() for p in parameters if not p.requires_grad),
        device=str(run.device),
        precision="bfloat16" if run.bfloat16 else "float32",
        seconds=time.perf_counter() - started,
        earlier_seconds=run.spent,
        pieces=run.pieces.count,
        predicted_bytes=memory.bytes(-(-run.batches.largest // run.pieces.count)),
        peak_bytes=peak.bytes(),
    )


@contextmanager
def _explained(epoch: int, recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory in epoch {epoch + 1} at batch size {recipe.batch_size}; use a smaller batch, input or network"
        ) from error


class _Run:
    """One training under way: what changes from epoch to epoch, and what a checkpoint must hold."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        input_size: int | None,
        seed: int,
        supervision: Supervision | None,
        device: torch.device,
        select: Literal["last", "best"],
        rules: Rules | None,
        note: Callable[[str], object],
    ) -> None:
        self.model, self.data, self.recipe, self.seed, self.device, self.select = model, data, recipe, seed, device, select
        self.size = data.size if input_size is None else (input_size, input_size)
        shape = (data.channels, *self.size)
        if recipe.small_epochs:
            check_small_epochs(model, data.channels, self.size)
        model.requires_grad_(True)
        if recipe.identity:
            begin_as_identity(model)
        if recipe.whitened and not whiten(model, data, self.size):
            note("the network does not begin with a convolution over the image that can be whitened: `whitened` has no effect")
        self.bfloat16 = use_bfloat16(recipe.mixed_precision, model, shape, recipe.batch_size)
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        settle_layout(model, blank_images(1, shape, device))
        self.loss = Loss(
            model,
            supervision,
            data=data,
            input_size=self.size,
            label_smoothing=recipe.label_smoothing,
            device=device,
            seed=seed,
        )
        self.rules, self.note = rules, note
        parts = None if rules is None else rules.parts()
        self.optimizer = make_optimizer(recipe, model, [self.loss.projections], parts)
        self.pieces = Pieces(self.optimizer.zero_grad)
        self.parameters = [p for module in self._modules().values() for p in module.parameters()]
        self.batches = Batches(data, recipe, size=self.size, seed=seed, device=device, stored=self.loss.views)
        self.average = self._new_average()
        self.recorded = Recorded(self._compute, device, note, self.optimizer.zero_grad)
        self.epoch, self.spent = 0, 0.0  # seconds of runs before this one
        self.under_way = UnderWay()
        self.history: list[Epoch] = []
        self.last_loss: Tensor | None = None  # of this run
        self.best: tuple[float, int, dict[str, Tensor]] | None = None  # accuracy, epoch, weights

    # --- epochs ---

    def one_epoch(self, saver: Saver) -> None:
        under_way = self.under_way
        started, done = time.perf_counter() - under_way.seconds, len(under_way.losses)
        with self._dated(self.epoch + 1):
            begins_anew = self.rules is not None and self.rules.begin(self.epoch)
        if begins_anew:
            self.recorded.forget()
        if begins_anew and not done:
            self.average = self._new_average()
        self.model.train()
        with under_way.random_numbers(self.device, seed_from(self.seed, self.epoch, _DROPOUT)):
            for step, batch in enumerate(self.batches(self.epoch, done), done):
                seed_plain_numbers(seed_from(self.seed, self.epoch, _DROPOUT, step))
                under_way.losses.append(self._step(batch, step))
                under_way.seconds = time.perf_counter() - started
                saver.after_step(self.epoch)
        losses, self.under_way = under_way.losses, UnderWay()
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):  # a GPU is asked only here, so that it need not wait after every step
            raise NotFinite(self._not_finite(loss, None))
        self.epoch += 1
        accuracy = self._validate() if self.select == "best" else None
        if accuracy is not None and (self.best is None or accuracy >= self.best[0]):
            with self._kept():
                self.best = (accuracy, self.epoch, {name: v.detach().clone() for name, v in self.model.state_dict().items()})
        self.history.append(Epoch(loss, accuracy, time.perf_counter() - started))

    def _step(self, batch: Batch, step: int) -> Tensor:
        steps = self.batches.steps
        rate = learning_rate(self.recipe, self.epoch * steps + step, steps)
        set_rate(self.optimizer, rate)
        if self.average is not None:
            self.average.count()
        return self.recorded(batch)

    def _compute(self, batch: Batch) -> Tensor:
        loss = self.pieces.gradients(batch, self._gradients)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        return loss

    def _gradients(self, batch: Batch, share: float) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16), self._dated(self.epoch + 1):
            loss = self.loss(batch)
        if self.device.type == "cpu" and not math.isfinite(float(loss.detach())):
            raise NotFinite(self._not_finite(float(loss.detach()), batch))
        self.last_loss = loss.detach()
        (loss if share == 1.0 else share * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _not_finite(self, loss: float, batch: Batch | None) -> str:
        where = "" if batch is None else _first_not_finite(self.model, batch.inputs)
        return f"the loss is {loss}, not a finite number, in epoch {self.epoch + 1}{where}; {self._advice()}"

    def _advice(self) -> str:
        return f"use a lower `lr` (it is {self.recipe.lr}) or a longer warm-up"

    @contextmanager
    def _dated(self, epoch: int) -> Iterator[None]:
        """What the network says of its own numbers is told with the epoch, and with the last loss."""
        try:
            yield
        except NotFinite as error:
            last = None if self.last_loss is None else float(self.last_loss)
            after = "" if last is None else f", behind a loss of {last:.4g}"
            raise NotFinite(f"{error} in epoch {epoch}{after}; {self._advice()}") from error

    def _validate(self) -> float:
        if self.device.type == "cpu":
            give_back()  # what the heap keeps of the last steps goes back: answers need blocks of other sizes
        with self._kept(), self._dated(self.epoch):
            return evaluate(
                self.model,
                self.data.validation,
                input_size=self.size,
                normalisation=self.data.normalisation,
                device=self.device,
                note=self.note,
            )

    def _new_average(self) -> Average | None:
        epochs = self.recipe.average_epochs
        return Average(self.model, epochs * self.batches.steps) if epochs else None

    def _kept(self) -> AbstractContextManager[None]:
        """The model has the weights that would be kept if training ended now."""
        return nullcontext() if self.average is None else self.average.shown()

    # --- state ---

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "projections": self.loss.projections}

    def state(self) -> State:
        tensors = pack(self._modules(), self.optimizer)
        meta: dict[str, Any] = {"history": [asdict(one) for one in self.history], "best": None, "pieces": self.pieces.count}
        if self.best is not None:
            tensors |= {f"best/{name}": value.cpu().contiguous() for name, value in self.best[2].items()}
            meta["best"] = {"accuracy": self.best[0], "epoch": self.best[1]}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.state().items()}
        if self.under_way.losses:
            more, meta["under_way"] = self.under_way.state(self.device)
            tensors |= {f"under_way/{name}": value for name, value in more.items()}
        return tensors, meta

    def resume(self, checkpoints: Checkpoints | None, last: int) -> None:
        latest = until(checkpoints, last)
        if checkpoints is None or latest is None:
            return
        epoch, tensors, meta = latest
        if difference := misfit(tensors, self._modules()):  # another processor or version may choose other channels to prune
            self.note(f"the checkpoint of epoch {epoch} is of another network ({difference}): the training begins anew")
            checkpoints.clear()  # else it would keep earlier epochs from being saved
            return
        own = {k: v for k, v in tensors.items() if not k.startswith(("best/", "average/", "under_way/"))}
        unpack(own, self._modules(), self.optimizer)
        if self.average is not None:
            self.average.load(_part("average/", tensors))
        if "under_way" in meta:
            self.under_way = UnderWay.of(_part("under_way/", tensors), meta["under_way"], self.device)
        self.epoch, self.history = epoch, [Epoch(**each) for each in meta["history"]]
        self.spent = meta.get("spent", 0.0)
        self.pieces.count = max(self.pieces.count, meta.get("pieces", 1))
        if meta["best"] is not None:
            self.best = (meta["best"]["accuracy"], meta["best"]["epoch"], _part("best/", tensors))

    def finish(self) -> tuple[float, int]:
        """Puts the weights to keep into the model: their validation accuracy and epoch."""
        if self.best is None:
            if self.average is not None:
                self.average.keep()
                self.average = None
            self._check_weights()
            return self._validate(), self.epoch
        self.model.load_state_dict(self.best[2])
        self._check_weights()
        return self.best[0], self.best[1]

    def _check_weights(self) -> None:
        """A loss is looked at before its step: what the last one did is seen here alone."""
        with self._dated(self.epoch):
            for name, weight in self.model.named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    raise NotFinite(f"numbers of {name} are not finite")

    def close(self) -> None:
        self.loss.close()
        del self.recorded  # it holds this run, which would hold images and moments until Python looks for circles
        self.model.to(device="cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _first_not_finite(model: nn.Module, inputs: Tensor) -> str:
    """Names the first layer, in order of execution, whose output has NaN or infinity in it."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(name)

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return f" (first in the output of {found[0]})" if found and found[0] else ""
