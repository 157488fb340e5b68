"""Running one stage: its inputs from the store, its result into the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from edgesearch.board_eval import BoardProfile, Graph, execute, graph_from_json, graph_to_json, run_float
from edgesearch.errors import DataError, StoreError
from edgesearch.objectives.data import DataSet, DataSettings, Split, load_data, prepare
from edgesearch.objectives.pruning import Sensitivity, resize_to
from edgesearch.objectives.stages._metrics import describe
from edgesearch.objectives.stages._pruned import prune, sensitivity_of
from edgesearch.objectives.stages._stage import Stage, StageKind
from edgesearch.objectives.stages._store import Artifact, Store
from edgesearch.objectives.training import Distillation, Recipe, Training, evaluate, teacher_logits, train
from edgesearch.spaces import Pruning, Quantization, Student, build, load_weights

#: Views of the training images that a teacher's logits are stored for.
_LOGIT_VIEWS = 4


@dataclass(frozen=True)
class Context:
    """What every stage runs with."""

    stage: Stage
    store: Store
    data: DataSet
    device: str
    report: Callable[[str], None]

    def input(self, role: str) -> Artifact:
        """The artifact of an input; raises StoreError when it is not there or damaged."""
        stage = self.stage.inputs[role]
        artifact = self.store.get(stage.kind, stage.key)
        if artifact is None:
            raise StoreError(
                f"input {stage.kind}/{stage.key[:12]} of stage {self.stage.kind} is not in the store; run it again"
            )
        return artifact

    def network(self, role: str) -> tuple[Student, nn.Module]:
        """A trained network among the inputs, and the student settings it was built from."""
        student = student_of(self.stage.inputs[role])
        model = build(student, channels=self.data.channels, classes=len(self.data.classes))
        return student, resize_to(model, self.input(role).tensors("weights"))

    def distillation(self) -> Distillation | None:
        """The distillation that the stage's parameters ask for, with the stored logits or the teacher itself."""
        settings = self.stage.parameters.get("distillation")
        if not settings or settings["kind"] == "none":
            return None
        stored = self.input("logits").tensors("logits")["logits"].numpy() if "logits" in self.stage.inputs else None
        teacher: nn.Module | None = None
        size: int | None = None
        kind = settings["kind"]
        if "teacher" in self.stage.inputs:
            student, teacher = self.network("teacher")
            size = student.input_size
        elif kind == "intermediate":
            kind = "logit"  # fine-tuning a pruned network: its features no longer match, its logits do
        return Distillation(
            kind=kind,
            temperature=settings["temperature"],
            alpha=settings["alpha"],
            beta=settings["beta"],
            teacher=teacher,
            stored_logits=stored,
            teacher_input_size=size,
        )


def student_of(stage: Stage) -> Student:
    """The student settings behind a stage that has a network."""
    if "student" in stage.parameters:
        return Student.model_validate(stage.parameters["student"])
    return student_of(stage.inputs["network"])


def run_stage(stage: Stage, store: Store, *, data_settings: Mapping[str, Any], device: str = "auto") -> Artifact:
    """The stage's artifact: from the store, or made now. Its inputs must be in the store."""
    known = store.get(stage.kind, stage.key)
    if known is not None:
        return known
    started = time.perf_counter()
    data = _data(DataSettings.model_validate(data_settings).model_dump_json())
    if data.fingerprint != stage.data:
        raise DataError(
            f"the data set {data.name!r} changed while the study ran (its images are not those it started with); restore them"
        )
    result = _RUNNERS[stage.kind](Context(stage, store, data, device, print))
    artifact = store.put(
        stage.kind,
        stage.key,
        figures=result.figures,
        seconds=time.perf_counter() - started,
        recipe=stage.recipe(),
        tensors=result.tensors,
    )
    store.checkpoints(stage.key).clear()
    return artifact


@lru_cache(maxsize=1)
def _data(settings: str) -> DataSet:
    return load_data(DataSettings.model_validate_json(settings))


@dataclass(frozen=True)
class _Result:
    figures: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]


def _weights(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    return {"weights": dict(model.state_dict())}


def _training_figures(training: Training) -> dict[str, Any]:
    figures = asdict(training)
    figures["history"] = [[round(e["loss"], 6), e["accuracy"], round(e["seconds"], 3)] for e in figures["history"]]
    return figures


def _train(context: Context, student: Student, recipe: Recipe, distillation: Distillation | None) -> tuple[nn.Module, Training]:
    torch.manual_seed(context.stage.random_seed)  # the random start of the layers
    model = build(student, channels=context.data.channels, classes=len(context.data.classes))
    fresh = load_weights(model, student)
    if student.weights:
        context.report(f"starting from {student.weights}; random start: {', '.join(fresh) or 'nothing'}")
    training = train(
        model,
        context.data,
        recipe=recipe,
        input_size=student.input_size,
        seed=context.stage.random_seed,
        distillation=distillation,
        checkpoints=context.store.checkpoints(context.stage.key),
        on_epoch=lambda epoch, loss: context.report(f"epoch {epoch}/{recipe.epochs}  loss {loss:.4f}"),
        device=context.device,
    )
    return model, training


def _run_teacher(context: Context) -> _Result:
    parameters = context.stage.parameters
    student = Student.model_validate(parameters["student"])
    if parameters["trained"]:
        model = build(student, channels=context.data.channels, classes=len(context.data.classes))
        load_weights(model, student)
        accuracy = evaluate(
            model.eval(), context.data.validation, input_size=student.input_size, normalisation=context.data.normalisation
        )
        return _Result({"accuracy": accuracy, "trained_here": False}, _weights(model))
    model, training = _train(context, student, Recipe.model_validate(parameters["recipe"]), None)
    return _Result(_training_figures(training), _weights(model))


def _run_logits(context: Context) -> _Result:
    student, teacher = context.network("teacher")
    recipe = Recipe.model_validate(context.stage.parameters["train"])
    logits = teacher_logits(
        teacher.eval(),
        context.data,
        input_size=student.input_size,
        augmentation=recipe.augmentation,
        views=min(_LOGIT_VIEWS, recipe.epochs),
        device=context.device,
    )
    return _Result({"views": len(logits)}, {"logits": {"logits": torch.from_numpy(logits)}})


def _run_student(context: Context) -> _Result:
    parameters = context.stage.parameters
    student, recipe = Student.model_validate(parameters["student"]), Recipe.model_validate(parameters["recipe"])
    model, training = _train(context, student, recipe, context.distillation())
    return _Result(_training_figures(training), _weights(model))


def _run_sensitivity(context: Context) -> _Result:
    student, model = context.network("network")
    found = sensitivity_of(
        model,
        context.data,
        granularity=context.stage.parameters["granularity"],
        score_images=context.stage.parameters["score_images"],
        input_size=student.input_size,
        seed=context.stage.random_seed,
    )
    return _Result({"accuracy": found.base, "curves": {name: list(curve) for name, curve in found.curves.items()}}, {})


def _sensitivity(context: Context) -> Sensitivity | None:
    if "sensitivity" not in context.stage.inputs:
        return None
    figures = context.input("sensitivity").figures
    curves = {name: tuple((int(kept), float(score)) for kept, score in curve) for name, curve in figures["curves"].items()}
    return Sensitivity(figures["accuracy"], curves)


def _run_pruned(context: Context) -> _Result:
    student, model = context.network("network")
    parameters = context.stage.parameters
    model, figures = prune(
        model,
        context.data,
        pruning=Pruning.model_validate(parameters["pruning"]),
        search=parameters["search"],
        recipe=Recipe.model_validate(parameters["recipe"]),
        input_size=student.input_size,
        seed=context.stage.random_seed,
        distillation=context.distillation(),
        sensitivity=_sensitivity(context),
        checkpoints=context.store.checkpoints(context.stage.key),
        report=context.report,
        device=context.device,
    )
    return _Result(figures, _weights(model))


def _run_quantized(context: Context) -> _Result:
    from edgesearch.objectives.stages._quantized import quantize_network

    parameters = context.stage.parameters
    quantization = Quantization.model_validate(parameters["quantization"])
    if "network" in context.stage.inputs:
        student, model = context.network("network")
    else:  # QAT from scratch: the student as it starts
        student = Student.model_validate(parameters["student"])
        torch.manual_seed(context.stage.random_seed)
        model = build(student, channels=context.data.channels, classes=len(context.data.classes))
        load_weights(model, student)
    graph, figures = quantize_network(
        model,
        context.data,
        quantization=quantization,
        recipe=parameters.get("recipe"),
        scratch_epochs=parameters["train"]["epochs"] if quantization.start == "scratch" else None,
        input_size=student.input_size,
        seed=context.stage.random_seed,
        distillation=context.distillation(),
        checkpoints=context.store.checkpoints(context.stage.key),
        report=context.report,
        device=context.device,
    )
    return _Result(figures | {"network": graph_to_json(graph)[0]}, {"weights": _graph_tensors(graph)})


def _graph_tensors(graph: Graph) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in graph_to_json(graph)[1].items()}


def load_graph(artifact: Artifact) -> Graph:
    """The quantized network of a "quantized" artifact."""
    arrays = {name: tensor.numpy() for name, tensor in artifact.tensors("weights").items()}
    return graph_from_json(artifact.figures["network"], arrays)


def accuracy_of(graph: Graph, split: Split, data: DataSet, *, batch: int = 512) -> float:
    """Top-1 of a quantized network, computed in the DPU's integers; a float16 network (16 bits) in floating point."""
    right = 0
    size = graph.input.shape[0]
    for start in range(0, len(split), batch):
        images = prepare(split.images[start : start + batch], size, data.normalisation)
        logits = execute(graph, images) if graph.quantized else run_float(graph, images)
        right += int((logits.argmax(axis=1) == split.labels[start : start + batch]).sum())
    return right / len(split)


def _run_measured(context: Context) -> _Result:
    quantized = context.input("network")
    graph = load_graph(quantized)
    bits = Quantization.model_validate(context.stage.inputs["network"].parameters["quantization"]).bits
    board = BoardProfile.model_validate(context.stage.parameters["board"])
    figures: dict[str, Any] = {
        "accuracy": accuracy_of(graph, context.data.validation, context.data),
        "float_accuracy": quantized.figures.get("float_accuracy"),
        **describe(graph, board, bits),
    }
    return _Result(figures, {})


def _run_tested(context: Context) -> _Result:
    graph = load_graph(context.input("network"))
    return _Result({"test_accuracy": accuracy_of(graph, context.data.test, context.data)}, {})


_RUNNERS: dict[StageKind, Callable[[Context], _Result]] = {
    "teacher": _run_teacher,
    "logits": _run_logits,
    "student": _run_student,
    "sensitivity": _run_sensitivity,
    "pruned": _run_pruned,
    "quantized": _run_quantized,
    "measured": _run_measured,
    "tested": _run_tested,
}
