"""From a candidate to its stages, and what their keys are made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval import TIMING_VERSION, find_board
from edgesearch.errors import SpaceError, StoreError
from edgesearch.objectives import (
    STAGE_KINDS,
    Conditions,
    DataSettings,
    Pipeline,
    Split,
    Stage,
    Teacher,
    load_data,
    plan,
    stage_specs,
)
from edgesearch.objectives.training import BFLOAT16_VERSION, FEATURES_VERSION, Recipe
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

STUDENT = Student(architecture="cnn_tiny", input_size=16)
TEACHER = Student(architecture="cnn_small", input_size=16)
PIPELINE = Pipeline(teacher=Teacher(student=TEACHER, recipe=Recipe(epochs=30)))
PARTS = ("meta", "train", "validation", "calibration", "test")
CONDITIONS = Conditions(
    {part: f"{part} images" for part in PARTS}, views="shift", board={"name": "zcu104"}, dpu={"name": "B4096"}
)
TIMED = dataclasses.replace(CONDITIONS, timed={"name": "zcu104"})
EVERYTHING = Candidate(
    student=STUDENT,
    distillation=Distillation(kind="logit"),
    pruning=Pruning(method="iterative", ratio=0.5),
    quantization=Quantization(method="qat"),
)


def chain(
    candidate: Candidate, pipeline: Pipeline = PIPELINE, conditions: Conditions = CONDITIONS, last: str = "measured"
) -> dict[str, Stage]:
    return {stage.kind: stage for stage in plan(candidate, pipeline, conditions, last=last).walk()}


def test_a_plain_candidate_needs_no_teacher_and_no_pruning() -> None:
    assert list(chain(Candidate(student=STUDENT))) == ["student", "quantized", "measured"]


def test_everything_at_once_runs_in_order() -> None:
    expected = ["teacher", "logits", "student", "sensitivity", "pruned", "quantized"]
    assert sorted(chain(EVERYTHING), key=[*expected, "measured"].index) == [*expected, "measured"]
    order = list(chain(EVERYTHING))
    for stage in chain(EVERYTHING).values():
        assert all(order.index(upstream.kind) < order.index(stage.kind) for upstream in stage.inputs.values())


def test_one_student_serves_every_pruning_and_quantization_below_it() -> None:
    a = chain(Candidate(student=STUDENT, pruning=Pruning(method="one_step", ratio=0.5)))
    b = chain(Candidate(student=STUDENT, quantization=Quantization(method="qat")))
    assert a["student"].key == b["student"].key
    assert a["quantized"].key != b["quantized"].key


def test_one_measurement_of_sensitivity_serves_every_ratio() -> None:
    a, b = (chain(Candidate(student=STUDENT, pruning=Pruning(method="iterative", ratio=r))) for r in (0.3, 0.6))
    assert list(a) == ["student", "sensitivity", "pruned", "quantized", "measured"]
    assert a["sensitivity"].key == b["sensitivity"].key
    assert a["pruned"].key != b["pruned"].key
    finer = chain(Candidate(student=STUDENT, pruning=Pruning(method="iterative", ratio=0.3, granularity=4)))
    assert finer["sensitivity"].key != a["sensitivity"].key


def test_sensitivity_is_measured_where_pruning_follows_it() -> None:
    def has(**pruning: Any) -> bool:
        return "sensitivity" in chain(Candidate(student=STUDENT, pruning=Pruning(**pruning)), conditions=TIMED)

    assert [has(method="one_step", ratio=ratio) for ratio in (0.4, 0.5)] == [False, True]
    assert has(method="one_step", ratio=0.4, target="fps")
    assert not has(method="one_step", ratio=0.8, backend="vai")


def test_only_pruning_by_time_depends_on_the_board() -> None:
    def key(target: Any, conditions: Conditions) -> str:
        pruning = Pruning(method="one_step", ratio=0.3, target=target)
        return chain(Candidate(student=STUDENT, pruning=pruning), conditions=conditions)["pruned"].key

    other = dataclasses.replace(TIMED, timed={"name": "another"})
    assert key("macs", TIMED) == key("macs", other) == key("macs", CONDITIONS)
    assert key("fps", TIMED) != key("fps", other)
    with pytest.raises(SpaceError, match=r"target = 'fps' needs a board whose times are computed; use 'macs'"):
        key("fps", dataclasses.replace(CONDITIONS, timed={}))


def test_one_teacher_serves_every_student() -> None:
    wide = STUDENT.model_copy(update={"width": 2.0})
    a, b = (chain(Candidate(student=s, distillation=Distillation(kind="logit"))) for s in (STUDENT, wide))
    assert a["teacher"].key == b["teacher"].key
    assert a["logits"].key == b["logits"].key
    assert a["student"].key != b["student"].key


def test_self_distillation_starts_from_the_plain_student() -> None:
    candidate = Candidate(student=STUDENT, distillation=Distillation(kind="self"))
    stages = list(plan(candidate, PIPELINE, CONDITIONS).walk())
    assert [stage.kind for stage in stages] == ["student", "logits", "student", "quantized", "measured"]
    assert stages[0].key == chain(Candidate(student=STUDENT))["student"].key


def test_a_teacher_that_is_trained_like_the_students_is_one_of_them() -> None:
    alike = Pipeline(teacher=Teacher(student=TEACHER))
    taught = Candidate(student=STUDENT, distillation=Distillation(kind="logit"), pruning=Pruning(method="one_step", ratio=0.5))
    teacher = next(stage for stage in plan(taught, alike, CONDITIONS).walk())
    assert teacher.key == chain(Candidate(student=TEACHER), alike)["student"].key
    itself = list(plan(taught.model_copy(update={"student": TEACHER}), alike, CONDITIONS, last="student").walk())
    assert [stage.kind for stage in itself] == ["student", "logits", "student"]
    assert itself[0].key == teacher.key != itself[2].key
    weights = {"weights": "a.npz", "weights_sha256": "1" * 64}
    given = Pipeline(teacher=Teacher(student=TEACHER.model_copy(update=weights), trained=True))
    assert chain(taught, given)["teacher"].kind == "teacher"


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"\[teacher\]"):
        chain(Candidate(student=STUDENT, distillation=Distillation(kind="logit")), Pipeline())


def test_a_stage_survives_json() -> None:
    stage = chain(EVERYTHING)["measured"]
    again = Stage.from_json(json.loads(json.dumps(stage.to_json())))
    assert again.key == stage.key
    assert [s.key for s in again.walk()] == [s.key for s in stage.walk()]
    assert 0 <= stage.random_seed < 2**31


# --- what decides a key


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


ALL_KINDS = {"teacher", "logits", "student", "sensitivity", "pruned", "quantized", "measured", "tested", "compiled"}


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

    assert version() == version(bits=5) == 3
    for other in ({"algorithm": "vitis"}, {"bits": 16}, {"backend": "nndct"}, {"method": "qat"}):
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


def test_a_weights_file_counts_by_its_content() -> None:
    def key(path: str, checksum: str) -> str:
        student = STUDENT.model_copy(update={"weights": path, "weights_sha256": checksum})
        return chain(Candidate(student=student))["student"].key

    assert key("a.npz", "1" * 64) == key("elsewhere/b.npz", "1" * 64) != key("a.npz", "2" * 64)


def test_what_is_left_to_the_dpu_is_the_same_as_what_is_said() -> None:
    asked = [Candidate(student=STUDENT, pruning=Pruning(method="one_step", ratio=0.5, granularity=g)) for g in (None, 16, 8)]
    keys = [chain(candidate)["pruned"].key for candidate in asked]
    assert keys[0] == keys[1] != keys[2]


def test_training_images_are_shown_in_one_way() -> None:
    """The teacher's logits, the student, fine-tuning and QAT see the same views; the teacher's own training has its own."""
    own = Teacher(student=STUDENT, recipe=Recipe(augmentation="flip_crop"))
    stages = chain(EVERYTHING, PIPELINE.model_copy(update={"teacher": own}))
    views = {
        kind: stage.parameters.get("augmentation") or stage.parameters.get("recipe", {}).get("augmentation")
        for kind, stage in stages.items()
        if kind not in ("sensitivity", "measured")
    }
    assert views == {"teacher": "flip_crop", "logits": "shift", "student": "shift", "pruned": "shift", "quantized": "shift"}
    stronger = Teacher(student=STUDENT, recipe=Recipe(augmentation_strength=0.5))
    changed = dataclasses.replace(CONDITIONS, views="colour")
    for teacher, strength in ((own, 1.0), (stronger, 0.5)):
        stages = chain(EVERYTHING, PIPELINE.model_copy(update={"teacher": teacher}), changed)
        assert stages["teacher"].parameters["recipe"].get("augmentation_strength", 1.0) == strength
        assert "augmentation_strength" not in stages["student"].parameters["recipe"]
    with pytest.raises(ValueError, match=r"\[train\] alone"):
        Pipeline(train=Recipe(augmentation="none"), finetune=Recipe(augmentation="shift"))


def test_a_stage_of_another_version_is_refused() -> None:
    stage = chain(EVERYTHING)["student"]
    other = dataclasses.replace(stage, version=99)
    assert other.key != stage.key
    with pytest.raises(StoreError, match="same edgesearch"):
        stage_specs().find("student").settings_of(other)


@pytest.mark.parametrize("changes", [{"compiler": "vai"}, {"dpu": {}}])
def test_a_file_for_the_board_is_made_where_this_program_compiles(changes: dict[str, Any]) -> None:
    assert CONDITIONS.compiles(EVERYTHING)
    assert not dataclasses.replace(CONDITIONS, **changes).compiles(EVERYTHING)
    assert not CONDITIONS.compiles(Candidate(student=STUDENT, quantization=Quantization(bits=5)))
    assert not CONDITIONS.compiles(Candidate(student=STUDENT, pruning=Pruning(method="n_m")))
    assert dataclasses.replace(CONDITIONS, **changes, toolchain="xcompiler-3.5.0").compiles(EVERYTHING) == (
        "dpu" not in changes
    )


def test_what_the_board_runs_is_no_part_of_a_measurement() -> None:
    stages = chain(EVERYTHING, last="compiled")
    assert list(stages)[-2:] == ["quantized", "compiled"]
    assert stages["compiled"].seed is None
    assert "compiled" not in chain(EVERYTHING)


def test_every_kind_is_found_by_its_file() -> None:
    assert set(stage_specs()) == ALL_KINDS | {"on_board", "rung"}  # where boards measure; where trainings may be stopped
    assert set(stage_specs()) == set(STAGE_KINDS)
