"""Teacher and student in whole chains: what each is shown, what a network was taught with, and how good both are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgesearch.errors import SpaceError
from edgesearch.objectives import Artifact, Estimator, load_data, teaching_figures
from edgesearch.objectives.data import show
from edgesearch.objectives.training._distillation import Batch, Loss, stored_view
from edgesearch.objectives.training._footprint import PROBES
from edgesearch.spaces import Candidate, Distillation, Student, build

from ._chains import BOARD, DATA, run, stages

KINDS = ("none", "shift", "flip_crop", "alternate_flip", "cutout", "colour", "randaugment")
IN_TURN = ("alternate_flip", "cutout", "colour", "randaugment")
CNN = {"architecture": "cnn_tiny", "input_size": 8, "width": 0.5}
TEACHER = {"student": CNN | {"width": 1.0}, "recipe": {"epochs": 1}}
PRUNED = {"method": "one_step", "ratio": 0.3, "granularity": 2}


class Shown:
    """Every batch that a training was shown, with the logits that it was told the teacher has for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        inner = Loss._targets

        def targets(loss: Loss, batch: Batch, classes: int) -> Tensor:
            soft = inner(loss, batch, classes)
            if len(batch.labels) > max(PROBES):  # others are those that memory is foretold with
                self.batches.append((batch.inputs.detach().clone(), soft.clone()))
            return soft

        monkeypatch.setattr(Loss, "_targets", targets)

    def take(self) -> list[tuple[Tensor, Tensor]]:
        taken, self.batches = self.batches, []
        return taken


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_and_student_see_the_same_pixels(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, fine-tuning and QAT: the teacher's answer to what the student is shown is the logits that it is given."""
    shown = Shown(monkeypatch)
    chain = stages(
        {"student": CNN, "distillation": {"kind": "logit"}, "pruning": PRUNED, "quantization": {"method": "qat"}},
        last="quantized",
        teacher=TEACHER,
        train={"epochs": 4, "augmentation": kind, "batch_size": 50},
        finetune={"epochs": 2, "batch_size": 50},
        qat={"epochs": 2, "batch_size": 50},
    )
    teacher = build(Student(**TEACHER["student"]), channels=1, classes=10)  # type: ignore[arg-type]
    plain = {tuple(image) for image in inputs_of(torch.from_numpy(load_data(DATA).train.images)).flatten(1).tolist()}
    for stage in chain:
        made = run([stage], tmp_path)
        batches = shown.take()
        if stage.kind == "teacher":
            teacher.load_state_dict(made["teacher"].tensors("weights"))
            teacher.eval()
        if stage.kind not in ("student", "pruned", "quantized"):
            continue
        assert len(batches) >= 8
        with torch.no_grad():
            for inputs, soft in batches:
                assert torch.allclose(teacher(inputs), soft, atol=1e-4)
        images = torch.cat([inputs for inputs, _ in batches]).flatten(1).tolist()
        moved = sum(tuple(image) not in plain for image in images)
        assert (moved == 0) == (kind == "none")  # else it would prove little


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("kind", ["logit", "self", "intermediate"])
def test_a_study_that_mixes_images_asks_the_teacher_itself(
    mix: Any, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher and student see the same mixed images in training, fine-tuning and QAT."""
    shown = Shown(monkeypatch)
    chain = stages(
        {"student": CNN, "distillation": {"kind": kind}, "pruning": PRUNED, "quantization": {"method": "qat"}},
        teacher=TEACHER,
        train={"epochs": 2, "augmentation": "colour", "mix": mix, "batch_size": 50},
        last="quantized",
    )
    assert "logits" not in {stage.kind for stage in chain}
    teacher: torch.nn.Module | None = None
    made: dict[str, Artifact] = {}
    for stage in chain:
        made |= {stage.key: run([stage], tmp_path)[stage.kind]}
        batches = shown.take()
        if "teacher" not in stage.inputs:
            continue
        mine = stage.inputs["teacher"]
        teacher = build(Student(**mine.parameters["student"]), channels=1, classes=10)
        teacher.load_state_dict(made[mine.key].tensors("weights"))
        with torch.no_grad():
            assert all(torch.allclose(teacher.eval()(inputs), soft, atol=1e-4) for inputs, soft in batches)
        assert len(batches) >= 4
        assert stage.parameters["recipe"]["mix"] == mix
        assert made[stage.key].figures["taught_by"] == ("logits and features" if kind == "intermediate" else "logits")
    assert teacher is not None
    figures = teaching_figures(chain, made)
    assert set(figures) == {"teacher_accuracy", "student_accuracy"}
    assert figures["teacher_accuracy"] == made[chain[0].key].figures["accuracy"]


def test_what_has_no_effect_on_views_is_in_no_key() -> None:
    def keys(**train: Any) -> dict[str, str]:
        candidate = {"student": CNN, "distillation": {"kind": "logit"}, "pruning": PRUNED, "quantization": {"method": "qat"}}
        return {stage.kind: stage.key for stage in stages(candidate, teacher=TEACHER, train={"epochs": 2, **train})}

    assert keys() == keys(mix_alpha=0.3) == keys(augmentation_strength=0.5)
    one, other = keys(augmentation="colour"), keys(augmentation="colour", augmentation_strength=0.5)
    assert all(one[kind] != other[kind] for kind in one)
    assert keys(mix="mixup") != keys(mix="mixup", mix_alpha=0.3)


def test_mixed_images_are_the_studys_and_not_for_pytorch_nndct() -> None:
    for table in ("finetune", "qat"):
        with pytest.raises(ValueError, match=rf"{table}\.mix is 'cutmix' and train\.mix 'none'; a study shows"):
            stages({}, **{table: {"mix": "cutmix"}})
    candidate = {"student": CNN, "quantization": {"method": "qat", "backend": "nndct"}}
    with pytest.raises(
        SpaceError, match=r"pytorch_nndct trains on single images, and train.mix = 'cutmix' mixes them; leave out"
    ):
        stages(candidate, train={"mix": "cutmix"})


def inputs_of(pixels: Tensor) -> Tensor:
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize("kind", IN_TURN)
@pytest.mark.parametrize("epochs", [1, 3, 4, 9])
def test_stored_views_mirror_every_image_in_every_other_epoch(kind: Any, epochs: int) -> None:
    logits = next(
        stage
        for stage in stages({"distillation": {"kind": "self"}}, train={"epochs": epochs, "augmentation": kind}, last="student")
        if stage.kind == "logits"
    )
    count = logits.parameters["views"]
    views = [stored_view(kind, 40, (8, 8), epoch % count) for epoch in range(9)]
    mirrored = [view.mirrored for view in views if view is not None]
    assert len(mirrored) == 9
    assert all(torch.equal(now, ~before) for before, now in pairwise(mirrored))
    assert 0 < int(mirrored[0].sum()) < 40
    images = torch.randint(256, (40, 8, 8, 1), dtype=torch.uint8)
    every = torch.arange(40)
    assert len({show(images, view, every).numpy().tobytes() for view in views[:count]}) == count


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_other_views_stay_as_they_were(kind: Any) -> None:
    chain = stages({"distillation": {"kind": "self"}}, train={"epochs": 4, "augmentation": kind}, last="student")
    parameters = next(stage.parameters for stage in chain if stage.kind == "logits")
    assert ("plain_first" in parameters) == (kind in IN_TURN)


def intermediate(folder: Path, **tables: Any) -> dict[str, Artifact]:
    candidate = {
        "student": CNN,
        "distillation": {"kind": "intermediate"},
        "pruning": PRUNED,
        "quantization": {"method": "qat"},
    }
    return run(stages(candidate, teacher=TEACHER, **tables), folder)


def test_feature_maps_are_compared_in_training_fine_tuning_and_qat(tmp_path: Path) -> None:
    made = intermediate(tmp_path / "with")
    assert {kind: made[kind].figures["taught_by"] for kind in ("student", "pruned", "quantized")} == dict.fromkeys(
        ("student", "pruned", "quantized"), "logits and features"
    )
    assert "taught_by" not in made["teacher"].figures
    logits = stages({"student": CNN, "distillation": {"kind": "logit"}}, teacher=TEACHER, last="student")
    assert run(logits, tmp_path / "with")["student"].figures["taught_by"] == "logits"


def test_both_accuracies_are_known(tmp_path: Path) -> None:
    chain = stages({"student": CNN, "distillation": {"kind": "nkd"}}, teacher=TEACHER)
    made = run(chain, tmp_path)
    by_key = {stage.key: made[stage.kind] for stage in chain}
    assert teaching_figures(chain, by_key) == {
        "teacher_accuracy": made["teacher"].figures["accuracy"],
        "student_accuracy": made["student"].figures["accuracy"],
    }
    assert teaching_figures(chain, {}) == {}
    assert teaching_figures(stages({}), {stage.key: made["student"] for stage in stages({})}) == {}


def test_the_teacher_of_self_distillation_is_the_plain_training_of_the_same_student() -> None:
    chain = stages({"student": CNN, "distillation": {"kind": "self"}}, teacher=TEACHER, last="student")
    assert [stage.kind for stage in chain] == ["student", "logits", "student"]
    assert chain[0].data == chain[2].data
    assert chain[0].parameters == {name: v for name, v in chain[2].parameters.items() if name != "distillation"}
    assert chain[0].key == stages({"student": CNN}, last="student")[-1].key


FLAT = "flat_nets:Flat"


def test_students_without_feature_maps_are_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "flat_nets.py").write_text(
        "from torch import nn\n\n\nclass Flat(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, in_channels: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
    )
    estimator = Estimator(channels=1, classes=10, board=BOARD, folder=tmp_path)
    how = Distillation(kind="intermediate")
    with pytest.raises(SpaceError, match="Flat has no feature maps"):
        estimator.estimate(Candidate(student=Student(architecture=FLAT, input_size=8), distillation=how))
    assert estimator.estimate(Candidate(student=Student(**CNN), distillation=how))["fps"] > 0  # type: ignore[arg-type]
