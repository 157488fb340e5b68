"""What the keys of stages are made of: what they decide by, the versions of what makes them, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval import TIMING_VERSION, find_board
from edgesearch.objectives import Conditions, DataSettings, Pipeline, Split, Stage, Teacher, load_data, stage_specs
from edgesearch.objectives.training import BFLOAT16_VERSION, FEATURES_VERSION, Recipe
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

from ._plans import ALL_KINDS, CONDITIONS, EVERYTHING, PIPELINE, STUDENT, TEACHER, TIMED, chain


def changed(change: Callable[[Conditions, Pipeline], tuple[Conditions, Pipeline]]) -> set[str]:
    """The kinds of stages of the whole pipeline, test included, whose key a change changes."""
    conditions, pipeline = change(CONDITIONS, PIPELINE)
    before: dict[str, Stage] = {}
    after: dict[str, Stage] = {}
    for last in ("measured", "tested", "compiled"):
        before |= chain(EVERYTHING, last=last)
        after |= chain(EVERYTHING, pipeline, conditions, last=last)
    return {kind for kind, stage in before.items() if stage.key != after[kind].key}


def with_data(part: str) -> Callable[[Conditions, Pipeline], tuple[Conditions, Pipeline]]:
    def change(conditions: Conditions, pipeline: Pipeline) -> tuple[Conditions, Pipeline]:
        return dataclasses.replace(conditions, data={**conditions.data, part: "others"}), pipeline

    return change


def with_conditions(**settings: Any) -> Callable[[Conditions, Pipeline], tuple[Conditions, Pipeline]]:
    def change(conditions: Conditions, pipeline: Pipeline) -> tuple[Conditions, Pipeline]:
        return Conditions(**{**vars(conditions), **settings}), pipeline

    return change


def with_recipe(table: str, **settings: Any) -> Callable[[Conditions, Pipeline], tuple[Conditions, Pipeline]]:
    def change(conditions: Conditions, pipeline: Pipeline) -> tuple[Conditions, Pipeline]:
        recipe = getattr(pipeline, table).model_copy(update=settings)
        return conditions, pipeline.model_copy(update={table: recipe})

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_data("test"), {"tested"}),
        (with_data("calibration"), {"quantized", "measured", "tested", "compiled"}),
        (with_data("validation"), ALL_KINDS),
        (with_data("train"), ALL_KINDS),
        (with_data("meta"), ALL_KINDS),  # classes or normalisation
        (with_conditions(seed=1), ALL_KINDS),
        (with_conditions(threads=2), ALL_KINDS),
        (with_conditions(board={"name": "kv260"}), {"measured"}),
        (with_conditions(board={"name": "zcu104", "compiler": "vai"}), {"measured"}),
        (with_conditions(dpu={"name": "B512"}), {"compiled"}),
        (with_conditions(allow=("relu6",)), {"compiled"}),
        (with_conditions(views="none"), ALL_KINDS),
        (with_conditions(bfloat16=True), ALL_KINDS),
        (with_recipe("train", lr=0.5), ALL_KINDS - {"teacher", "logits"}),
        (with_recipe("finetune", lr=0.5), {"pruned", "quantized", "measured", "tested", "compiled"}),
        (with_recipe("qat", lr=0.5), {"quantized", "measured", "tested", "compiled"}),
        (with_recipe("prune", score_images=99), {"sensitivity", "pruned", "quantized", "measured", "tested", "compiled"}),
        (with_recipe("data", root="/elsewhere"), set()),
        (with_conditions(granularity=8), {"sensitivity", "pruned", "quantized", "measured", "tested", "compiled"}),
    ],
)
def test_a_change_reaches_the_stages_that_it_decides_and_no_other(change: Any, expected: set[str]) -> None:
    assert changed(change) == expected


def test_settings_at_their_defaults_are_in_no_key() -> None:
    for stage in chain(EVERYTHING).values():
        settings = stage_specs().find(stage.kind).settings_of(stage)
        assert stage.parameters == settings.model_dump(mode="json", exclude_defaults=True)
    plain = chain(Candidate(student=Student(architecture="cnn_tiny")), conditions=Conditions(CONDITIONS.data, bfloat16=True))
    expected = {"student": {"architecture": "cnn_tiny"}, "recipe": {"augmentation": "none"}}
    assert plain["student"].parameters == expected | {"bfloat16_version": BFLOAT16_VERSION}
    assert "threads" not in plain["student"].recipe()


def test_the_version_of_an_optimizer_is_in_the_keys_of_what_it_trains() -> None:
    def versions(optimizer: str) -> dict[str, Any]:
        recipe = {"optimizer": optimizer, "lr": 0.01}
        tables = {"train": recipe, "finetune": recipe, "qat": recipe, "teacher": {"student": TEACHER, "recipe": recipe}}
        stages = chain(EVERYTHING, Pipeline.model_validate(tables | {"train": recipe | {"epochs": 7}}))
        return {kind: stage.parameters.get("optimizer_version") for kind, stage in stages.items()}

    assert set(versions("sgd").values()) == {None}
    trained = {kind for kind, version in versions("muon").items() if version == 2}
    assert trained == {"teacher", "student", "pruned", "quantized"}
    weights = TEACHER.model_copy(update={"weights": "a.npz"})
    given = Pipeline(teacher=Teacher(student=weights, trained=True, recipe=Recipe(optimizer="muon")))
    assert chain(EVERYTHING, given)["teacher"].parameters.keys() == {"student", "trained"}


def test_the_version_of_bfloat16_is_in_the_keys_of_what_may_be_trained_in_it() -> None:
    for bfloat16, kinds in ((True, {"teacher", "student", "pruned"}), (False, set())):
        stages = chain(EVERYTHING, conditions=Conditions(CONDITIONS.data, bfloat16=bfloat16))
        assert {kind for kind, stage in stages.items() if stage.parameters.get("bfloat16_version")} == kinds


def test_the_version_of_feature_maps_is_in_the_keys_of_what_is_trained_by_them() -> None:
    def versions(kind: Any, **quantization: Any) -> dict[str, Any]:
        method = Quantization.model_validate({"method": "qat", **quantization})
        candidate = EVERYTHING.model_copy(update={"distillation": Distillation(kind=kind), "quantization": method})
        return {kind: stage.parameters.get("features_version") for kind, stage in chain(candidate).items()}

    for kind in ("none", "logit", "self", "nkd"):
        assert set(versions(kind).values()) == {None}
    taught = dict.fromkeys(("student", "pruned", "quantized"), FEATURES_VERSION)
    assert versions("intermediate") == dict.fromkeys(chain(EVERYTHING)) | taught
    assert versions("intermediate", backend="nndct")["quantized"] is None  # it is given logits alone


def test_the_version_of_clips_at_six_is_in_the_keys_of_qat_of_networks_that_may_have_one() -> None:
    def version(architecture: str, **quantization: Any) -> Any:
        student = Student(architecture=architecture, input_size=16)
        method = Quantization.model_validate({"method": "qat", **quantization})
        return chain(Candidate(student=student, quantization=method))["quantized"].parameters.get("relu6_version")

    assert [version(name) for name in ("mobilenet_v2", "mine:Network", "resnet20", "mobile_small")] == [2, 2, None, None]
    assert version("mobilenet_v2", start="scratch") == 2
    assert version("mobilenet_v2", method="ptq") is None
    assert version("mobilenet_v2", backend="nndct") is None


def test_the_version_of_vitis_is_in_the_keys_of_networks_that_may_have_a_batch_norm_behind_a_linear_layer() -> None:
    def version(architecture: str = "mine:Network", **quantization: Any) -> Any:
        student = Student(architecture=architecture, input_size=16)
        method = Quantization.model_validate({"algorithm": "vitis", **quantization})
        return chain(Candidate(student=student, quantization=method))["quantized"].parameters.get("vitis_version")

    assert version() == version(bits=5) == 2
    assert [version("mlp"), version("resnet20"), version(algorithm="best")] == [None] * 3
    assert [version(method="qat"), version(bits=16)] == [None] * 2


def test_the_version_of_the_own_compiler_is_in_the_keys_of_what_it_compiles() -> None:
    def version(last: str, **settings: Any) -> Any:
        conditions = dataclasses.replace(CONDITIONS, toolchain="3.5", **settings)
        return chain(Candidate(student=STUDENT), conditions=conditions, last=last)[last].parameters.get("code_version")

    assert version("measured") == version("compiled") == 2
    assert version("compiled", compiler="vai") is None  # AMD's own
    assert version("measured", compiler="vai") == TIMING_VERSION
    assert version("measured", board_import_path="mine:Board") is None  # it measures what somebody else compiled


def test_the_versions_of_what_tells_the_time_are_in_the_keys_of_pruning_by_time() -> None:
    def versions(monkeyed: dict[str, int], target: str) -> tuple[Any, Any]:
        pruning = Pruning(method="one_step", ratio=0.3, target=target)
        conditions = dataclasses.replace(CONDITIONS, timed={"name": "board"})
        with pytest.MonkeyPatch.context() as patch:
            for name, value in monkeyed.items():
                patch.setattr(f"edgesearch.objectives.stages.kinds._pruned.{name}", lambda *_, value=value: value)
            found = chain(Candidate(student=STUDENT, pruning=pruning), conditions=conditions)["pruned"].parameters
        return found.get("code_version"), found.get("model_version")

    assert versions({}, "fps") == (None, TIMING_VERSION)  # pruning by time began with version 2 of the compiler
    assert versions({"code_version": 3}, "fps") == (3, TIMING_VERSION)
    assert versions({"code_version": 3}, "macs") == (None, None)


def test_the_version_of_the_own_quantizer_is_in_the_keys_of_what_it_makes() -> None:
    def version(**quantization: Any) -> Any:
        method = Quantization.model_validate(quantization)
        return chain(Candidate(student=STUDENT, quantization=method))["quantized"].parameters.get("best_version")

    assert version() == version(bits=5) == 5
    assert version(method="qat") == 2
    for other in ({"algorithm": "vitis"}, {"bits": 16}, {"backend": "nndct"}, {"method": "qat", "algorithm": "vitis"}):
        assert version(**other) is None


def test_only_pruning_in_rounds_has_a_version_of_its_own_in_its_key() -> None:
    def version(**pruning: Any) -> Any:
        stages = chain(Candidate(student=STUDENT, pruning=Pruning(ratio=0.3, **pruning)))
        return stages["pruned"].parameters.get("rounds_version")

    assert version(method="iterative") == 3
    assert version(method="one_step") is version(method="iterative", backend="vai") is version(method="unstructured") is None


def test_guessing_counts_where_a_class_is_far_larger_and_scores_are_compared_with_it() -> None:
    uneven = dataclasses.replace(TIMED, guessing=0.95)

    def chance(conditions: Conditions, **pruning: Any) -> Any:
        stages = chain(Candidate(student=STUDENT, pruning=Pruning(**pruning)), conditions=conditions)
        assert "chance" not in stages["student"].parameters
        return stages["pruned"].parameters.get("chance")

    asking: list[dict[str, Any]] = [
        {"method": "iterative", "ratio": 0.3},
        {"method": "one_step", "ratio": 0.5},
        {"method": "one_step", "ratio": 0.3, "target": "fps"},
        {"method": "my_pruner:prune", "ratio": 0.3},
    ]
    for pruning in asking:
        assert (chance(uneven, **pruning), chance(TIMED, **pruning)) == (0.95, None)
    for pruning in ({"method": "one_step"}, {"method": "unstructured"}, {"method": "iterative", "backend": "vai"}):
        assert chance(uneven, ratio=0.3, **pruning) is None


@pytest.mark.parametrize(("smallest", "guessing"), [(100, 0.0), (90, 0.0), (10, 100 / 110), (50, 100 / 150)])
def test_guessing_is_to_answer_the_largest_class(smallest: int, guessing: float) -> None:
    digits = load_data(DataSettings(train_images=200))
    labels = np.array([0] * 100 + [1] * smallest)
    train = Split(np.zeros((len(labels), 8, 8, 1), np.uint8), labels)
    data = dataclasses.replace(digits, classes=("a", "b"), train=train)
    assert Conditions.of(data, PIPELINE, find_board("zcu104")).guessing == pytest.approx(guessing)
    assert Conditions.of(digits, PIPELINE, find_board("zcu104")).guessing == 0.0


def test_a_stage_that_draws_nothing_serves_every_seed() -> None:
    stage = chain(EVERYTHING)["logits"]
    assert stage.seed is None
    assert "seed" not in stage.recipe()


@pytest.mark.parametrize(("side", "version"), [(95, None), (96, 2), (224, 2)])
def test_a_teacher_with_large_inputs_is_shown_few_images_at_a_time(side: int, version: int | None) -> None:
    large = Student(architecture="cnn_small", input_size=side)
    pipeline = PIPELINE.model_copy(update={"teacher": Teacher(student=large, recipe=Recipe(epochs=30))})
    assert chain(EVERYTHING, pipeline)["logits"].parameters.get("batch_version") == version
    own = Candidate(student=large, distillation=Distillation(kind="self"))
    assert chain(own, PIPELINE)["logits"].parameters.get("batch_version") == version


def test_a_weights_file_counts_by_its_content() -> None:
    def key(path: str, checksum: str) -> str:
        student = STUDENT.model_copy(update={"weights": path, "weights_sha256": checksum})
        return chain(Candidate(student=student))["student"].key

    assert key("a.npz", "1" * 64) == key("elsewhere/b.npz", "1" * 64) != key("a.npz", "2" * 64)


def test_what_is_left_to_the_dpu_is_the_same_as_what_is_said() -> None:
    asked = [Candidate(student=STUDENT, pruning=Pruning(method="one_step", ratio=0.5, granularity=g)) for g in (None, 16, 8)]
    keys = [chain(candidate)["pruned"].key for candidate in asked]
    assert keys[0] == keys[1] != keys[2]
