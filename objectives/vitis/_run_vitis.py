"""One job in Vitis AI's Python: `python _run_vitis.py FOLDER`, for Python 3.8 and torch 1.13 or later.

Stands alone, in one file that another Python is given: it imports torch, numpy and pytorch_nndct, and nothing of the program
that wrote the folder. It reads job.json, model.py, weights.npz and the arrays that its task needs, writes what came of it
beside them, and result.json last. What it refuses it says there in one sentence; whatever else goes wrong ends it with a
traceback.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

FORMAT = 2
#: Where pytorch_nndct writes.
OUTPUT = "quantize_result"
#: Images that a network is shown at a time: where it is scored, and in Vitis AI's layer-wise fine-tuning.
BATCH, FINETUNE_BATCH = 128, 32
#: Share of the training after which batch-norm statistics and fix positions stay as they are.
FREEZE_AFTER = 0.6
#: Scores of a one-step search before those of what it finds: the whole network's, and that of a trial with almost nothing left.
FIRST_SCORES = 2

if TYPE_CHECKING:
    Job = dict[str, Any]


class Refused(Exception):
    """The job cannot be done; one sentence that says why."""


class Missing(Refused):
    """No job can be done here: a package is not there, cannot be imported or is another version's."""


class TimeUp(BaseException):
    """The search has had its time; no handler of errors is to mistake it for one."""


def main(folder: str) -> None:
    """Do the job of a folder."""
    os.chdir(folder)  # the packages leave notes and folders where they run
    job = json.loads(Path("job.json").read_text())
    del sys.argv[1:]  # pytorch_nndct reads them as its own options
    started = time.time()
    result: dict[str, Any] = {"format": FORMAT, "task": job.get("task")}
    try:
        if job.get("format") != FORMAT or job.get("task") not in TASKS:
            raise Refused(f"the job {job.get('task')!r} of format {job.get('format')!r} is none that this runner knows")
        result["versions"] = import_packages(job["task"], job.get("needs", []), job.get("packages", {}))
        set_up(job)
        result.update(TASKS[job["task"]](job))
    except Missing as error:
        print(f"missing: {error}")
        result["missing"] = str(error)
    except Refused as error:
        print(f"refused: {error}")
        result["refused"] = str(error)
    result["seconds"] = round(time.time() - started, 3)
    Path("result.json.tmp").write_text(json.dumps(result))
    os.replace("result.json.tmp", "result.json")


def import_packages(task: str, needs: list[str], expected: dict[str, str]) -> dict[str, str]:
    """Versions of what the job runs on; `needs` are the tasks that a check is for, `expected` versions that it must have."""
    tasks = {task, *needs}
    try:
        import xir  # noqa: F401  (it has to be loaded before pytorch_nndct)
    except Exception as error:
        if tasks & {"ptq", "qat"}:
            raise Missing(f"xir cannot be imported ({error}), and without it pytorch_nndct writes no xmodel") from error
    try:
        import pytorch_nndct
        from pytorch_nndct import version
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise Missing(f"pytorch_nndct cannot be imported with torch {torch.__version__} ({said})") from error
    own, built_for = torch.__version__, str(getattr(version, "Ctorch_version", torch.__version__))
    if own.split("+")[0] not in built_for and own not in str(version.__version__):
        raise Missing(f"pytorch_nndct was built for torch {built_for}, and this Python has {own}; install that one")
    if tasks & {"prune_one_step", "prune_iterative"} and not hasattr(pytorch_nndct, "get_pruning_runner"):
        raise Missing("this pytorch_nndct has no pruner (get_pruning_runner); Vitis AI's optimizer for PyTorch brings it")
    found = {"python": sys.version.split()[0], "torch": own.split("+")[0], "pytorch_nndct": str(version.__version__)}
    for name, wanted in sorted(expected.items()):
        if found.get(name) != wanted:
            raise Missing(
                f"this Python has {name} {found.get(name)}, and the study's run was started with {wanted}; have the same "
                "Vitis AI on every machine"
            )
    return found


def set_up(job: Job) -> None:
    """Folders, random numbers, threads, and no GPU where none is wanted."""
    os.makedirs(OUTPUT, exist_ok=True)
    os.makedirs(".vai", exist_ok=True)  # the pruner's
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    torch.set_num_threads(job["threads"])
    if not torch.cuda.is_available():
        job["device"] = "cpu"
    if job["device"] == "cpu":  # the pruner moves networks to a GPU unasked
        changed: Any = torch
        changed.cuda.is_available = lambda: False
        changed.nn.Module.cuda = lambda self, device=None: self
        changed.Tensor.cuda = lambda self, *args, **kwargs: self
        if not os.environ.get("CUDA_VISIBLE_DEVICES", "0"):
            del os.environ["CUDA_VISIBLE_DEVICES"]  # it reads a number there


def build(job: Job) -> torch.nn.Module:
    """The network with its weights, in evaluation mode."""
    spec = importlib.util.spec_from_file_location("edgesearch_model", "model.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules["edgesearch_model"] = module
    spec.loader.exec_module(module)
    model: torch.nn.Module = getattr(module, job["model"])()
    with np.load("weights.npz", allow_pickle=False) as weights:
        tensors = {name: torch.from_numpy(weights[name]) for name in weights.files}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    norms = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)}
    odd = [name for name in missing if name.rpartition(".")[0] not in norms] + list(unexpected)
    if odd:
        raise Refused(f"weights.npz and model.py differ in {odd[0]}")
    return model.eval()


def array(name: str) -> Any:
    """An array of the job, read as it is needed."""
    return np.load(f"{name}.npy", mmap_mode="r", allow_pickle=False)


def tensor(values: Any) -> torch.Tensor:
    """A copy of part of an array."""
    return torch.from_numpy(np.array(values))


def accepted(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that this version of a function takes."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}


def save_tensors(name: str, state: dict[str, torch.Tensor]) -> None:
    """Those tensors of a state that the network came with, as arrays by name."""
    with np.load("weights.npz", allow_pickle=False) as weights:
        arrays: Any = {key: state[key].detach().cpu().numpy() for key in weights.files if key in state}
    np.savez(f"{name}.npz", **arrays)


def check(job: Job) -> dict[str, Any]:
    """Nothing: the packages are there."""
    return {}


def ptq(job: Job) -> dict[str, Any]:
    """Calibrate, then export what the calibration found."""
    from pytorch_nndct.apis import torch_quantizer

    images, cpu = array("calibration"), torch.device("cpu")
    for mode in ("calib", "test"):
        # a new network each time: the quantizer changes the one that it is given
        quantizer = torch_quantizer(mode, build(job), (tensor(images[:1]),), output_dir=OUTPUT, device=cpu)
        model = quantizer.quant_model
        if mode == "calib":
            if job["fast_finetune"]:
                quantizer.fast_finetune(show, (model, images, FINETUNE_BATCH))
            show(model, images, 1)
            quantizer.export_quant_config()
        else:
            if job["fast_finetune"]:
                quantizer.load_ft_param()
            show(model, images[:1], 1)
            quantizer.export_xmodel(OUTPUT, deploy_check=False)
    return take_xmodel(job)


def show(model: torch.nn.Module, images: Any, batch: int) -> None:
    """Run the network on images, so many at a time."""
    model.eval()
    with torch.no_grad():
        for start in range(0, len(images), batch):
            model(tensor(images[start : start + batch]))


def take_xmodel(job: Job) -> dict[str, Any]:
    """The xmodel and the positions, under the names that they are looked for."""
    found, name = sorted(Path(OUTPUT).glob("*.xmodel")), f"{job['model']}_int.xmodel"
    names = ", ".join(path.name for path in found) or "none"
    if len(found) != 1:
        raise Refused(f"pytorch_nndct wrote {len(found)} xmodels ({names}), expected one; its messages are in the log")
    shutil.copyfile(str(found[0]), name)
    shutil.copyfile(str(Path(OUTPUT, "quant_info.json")), "quant_info.json")
    return {"xmodel": name}


def qat(job: Job) -> dict[str, Any]:
    """Train with quantization, then export."""
    from pytorch_nndct import QatProcessor

    place, images = torch.device(job["device"]), array("calibration")
    model = build(job).to(place).train()  # it fuses batch-norms of networks in training mode only
    processor = QatProcessor(model, tensor(images[:1]).to(place), bitwidth=8)
    trainable = processor.trainable_model(**accepted(processor.trainable_model, allow_reused_module=True))
    losses = train(job, trainable, place)
    processor.to_deployable(trainable, OUTPUT)
    save_tensors("trained", torch.load(str(Path(OUTPUT, "deployable.pth")), map_location="cpu"))
    show(processor.deployable_model(OUTPUT, used_for_xmodel=True), images[:1], 1)
    processor.export_xmodel(OUTPUT, deploy_check=False)
    return {**take_xmodel(job), "losses": losses}


def train(job: Job, model: Any, place: torch.device) -> list[float]:
    """Train to the end of the recipe; the mean loss of every epoch."""
    recipe, data = job["recipe"], TrainingData(job, place)
    losses: list[float] = []
    thresholds = list(model.quantizer_parameters())
    known = {id(parameter) for parameter in thresholds}
    weights = [p for p in model.parameters() if id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim > 1], "lr": recipe["lr"], "weight_decay": recipe["weight_decay"]},
        {"params": [p for p in weights if p.ndim <= 1], "lr": recipe["lr"], "weight_decay": 0.0},
        {"params": thresholds, "lr": recipe["threshold_lr"], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([{**group, "highest": group["lr"]} for group in groups if group["params"]])
    epochs = recipe["epochs"]
    for epoch in range(epochs):
        model.train()
        if 0 < epoch == min(math.ceil(FREEZE_AFTER * epochs), epochs - 1):
            model.freeze_quant()
            model.freeze_bn_stats()
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        total = 0.0
        for images, labels, logits in data.batches(epoch):
            loss = loss_of(model(images), labels, logits, recipe)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
            optimizer.step()
            total += float(loss.detach()) * len(labels)
        losses.append(total / len(data.labels))
        print(f"epoch {epoch + 1}/{epochs}  loss {losses[-1]:.4f}", flush=True)
        if not math.isfinite(losses[-1]):
            raise Refused(f"the loss of quantization-aware training became {losses[-1]}; use a smaller learning rate")
    return losses


class TrainingData:
    """Batches of an epoch: images (B, C, H, W), labels (B,), the teacher's logits (B, classes) or None.

    pixels_0, pixels_1, ...: bytes (N, H, W, C), one array for each view; logits_0, ... (N, classes) likewise where there is a
    teacher; labels (N,); order (epochs, N). rows (H, H') and columns (W, W'), where images are resized: whole numbers, scaled
    by 2 to the power of "resize_bits".
    """

    def __init__(self, job: Job, place: torch.device) -> None:
        self.place, self.batch = place, job["recipe"]["batch_size"]
        self.pixels = [array(f"pixels_{view}") for view in range(job["views"])]
        self.logits = [array(f"logits_{view}") for view in range(job["views"])] if job["taught"] else []
        self.labels, self.order = array("labels"), array("order")
        self.mean = torch.tensor(job["mean"], device=place).view(1, -1, 1, 1)
        self.std = torch.tensor(job["std"], device=place).view(1, -1, 1, 1)
        self.resize = [tensor(array(name)).to(place) for name in ("rows", "columns")] if job["resize_bits"] else []
        self.scale = float(2 ** job["resize_bits"])

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Those of an epoch, counted from 0; their sizes differ by one at most."""
        view, order = epoch % len(self.pixels), self.order[epoch]
        parts = max(1, min(-(-len(order) // self.batch), len(order) // 2))  # batch-norm has no batch of one image
        for index in np.array_split(order, parts):
            logits = tensor(self.logits[view][index]).to(self.place) if self.logits else None
            yield self.prepare(self.pixels[view][index]), tensor(self.labels[index]).to(self.place), logits

    def prepare(self, pixels: Any) -> torch.Tensor:
        """Bytes (B, H, W, C) as the network takes them."""
        images = tensor(pixels).to(self.place).permute(0, 3, 1, 2)
        if self.resize:
            images = self.to_bytes(torch.matmul(images.double(), self.resize[1]))
            images = self.to_bytes(torch.matmul(self.resize[0].t(), images))
        return (images.float() / 255.0 - self.mean) / self.std

    def to_bytes(self, sums: torch.Tensor) -> torch.Tensor:
        """Scaled sums, rounded to whole levels."""
        return ((sums + self.scale / 2) / self.scale).floor().clamp(0, 255)


def loss_of(outputs: Any, labels: Any, logits: Any, recipe: dict[str, Any]) -> torch.Tensor:
    """The labels' cross-entropy times alpha, and the rest for the divergence from the teacher's logits, times temperature^2.

    "nkd": the cross-entropy, the teacher's share of the label times its own cross-entropy, and gamma * temperature^2 times the
    cross-entropy of all other classes, whose shares sum to one.
    """
    functions, alpha, t = torch.nn.functional, recipe["alpha"], recipe["temperature"]
    hard = functions.cross_entropy(outputs, labels)
    nkd = recipe["loss"] == "nkd"
    if logits is None or (alpha == 1 and not nkd):
        return hard
    if nkd:
        column = labels[:, None]
        share = functions.softmax(logits, 1).gather(1, column)
        hidden = torch.zeros_like(outputs).scatter_(1, column, -1e9)  # leaves nothing for the label
        others = functions.softmax(logits / t + hidden, 1) * functions.log_softmax(outputs / t + hidden, 1)
        others = others.scatter(1, column, 0.0).sum(1).mean()
        own = functions.log_softmax(outputs, 1).gather(1, column)
        return hard - (share * own).mean() - recipe["gamma"] * t * t * others  # type: ignore[no-any-return]
    own, target = functions.log_softmax(outputs / t, 1), functions.log_softmax(logits / t, 1)
    soft = functions.kl_div(own, target, reduction="batchmean", log_target=True)
    return alpha * hard + (1 - alpha) * t * t * soft  # type: ignore[no-any-return]


def prune_one_step(job: Job) -> dict[str, Any]:
    """Search networks of the wanted size, and slim down to the best of them."""
    model, runner = pruning_runner(job, "one_step")
    scores: list[float] = []

    def evaluate(network: torch.nn.Module, images: Any, labels: Any) -> float:
        scores.append(accuracy(network, images, labels))
        return scores[-1]

    options = {
        "gpus": ["0"],
        "calibration_fn": recalibrate,
        "calib_args": (array("recalibration"),),
        "num_subnet": job["draws"],
        "removal_ratio": float(job["ratio"]),
        "eval_fn": evaluate,
        "eval_args": (array("images"), array("labels")),
        "forced": True,
    }
    started = time.monotonic()

    def stop(*_: Any) -> None:
        left = started + job["search_seconds"] - time.monotonic()
        if not scores[FIRST_SCORES:] or left <= 0:
            raise TimeUp
        signal.setitimer(signal.ITIMER_REAL, left)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, job["patience_seconds"])
    try:
        runner.search(**accepted(runner.search, **options))
    except TimeUp:  # what was found by then depends on how fast this machine is: it is no result
        raise Refused(too_late(job, len(scores[FIRST_SCORES:]))) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if not scores[FIRST_SCORES:]:
        raise Refused(too_late(job, 0))
    return {**take_slim(job, model, runner), "scores": scores[FIRST_SCORES:]}


def too_late(job: Job, found: int) -> str:
    """Why a search came to nothing."""
    if not found:
        return (
            f"the pruner found no network within 1 % of the MACs for ratio {job['ratio']:g} in {job['patience_seconds']:g} s; "
            "its layers may have too few channels for it, or none of them is a convolution"
        )
    return (
        f"the pruner found {found} of {job['draws']} networks within 1 % of the MACs for ratio {job['ratio']:g} in "
        f"{job['search_seconds']:g} s, half of [vitis] job_timeout_s; raise that, or ask for fewer with [prune] draws"
    )


def prune_iterative(job: Job) -> dict[str, Any]:
    """One round: measure how sensitive every group of channels is, and prune the least sensitive ones."""
    model, runner = pruning_runner(job, "iterative")
    options = {"eval_fn": accuracy, "args": (array("images"), array("labels")), "forced": True}
    runner.ana(**accepted(runner.ana, **options))
    return {**take_slim(job, model, runner), "scores": []}


def pruning_runner(job: Job, method: str) -> tuple[torch.nn.Module, Any]:
    """The network, and what prunes it."""
    from pytorch_nndct import get_pruning_runner

    model = build(job).to(job["device"])
    return model, get_pruning_runner(model, torch.randn([1, *job["input_shape"]]).to(job["device"]), method)


def take_slim(job: Job, model: torch.nn.Module, runner: Any) -> dict[str, Any]:
    """The tensors of the slim network; never those of the sparse one, which keeps every channel and masks it."""
    options = {"removal_ratio": float(job["ratio"]), "mode": "slim", "channel_divisible": job["granularity"]}
    slim = runner.prune(**accepted(runner.prune, **options))
    before, after = model.state_dict(), slim.state_dict()
    strange = sorted(set(before) ^ set(after))
    if strange:
        raise Refused(f"the pruned network is not slim: unlike the one it was made from it has, or lacks, {strange[0]}")
    if not any(after[name].numel() < before[name].numel() for name in before):
        raise Refused("the pruner removed no channel; ask for a larger ratio, or for a smaller granularity")
    save_tensors("pruned", after)
    return {"frozen_parameters": sum(p.numel() for p in slim.parameters() if not p.requires_grad)}


def accuracy(network: torch.nn.Module, images: Any, labels: Any) -> float:
    """The share of the images that the network tells right."""
    place, right = next(network.parameters()).device, 0
    network.eval()
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            answers = network(tensor(images[start : start + BATCH]).to(place)).argmax(1).cpu()
            right += int((answers == tensor(labels[start : start + BATCH])).sum())
    return right / len(images)


def recalibrate(network: torch.nn.Module, images: Any) -> None:
    """Batch-norm statistics as their mean over the batches; dropout stays off."""
    place = next(network.parameters()).device
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None
    with torch.no_grad():
        for part in np.array_split(np.arange(len(images)), max(1, -(-len(images) // BATCH))):
            network(tensor(images[part]).to(place))
    for index, norm in enumerate(norms):
        norm.momentum = momenta[index]
    network.eval()


TASKS: dict[str, Callable[[Job], dict[str, Any]]] = {
    task.__name__: task for task in (check, ptq, qat, prune_one_step, prune_iterative)
}

if __name__ == "__main__":
    main(sys.argv[1])
