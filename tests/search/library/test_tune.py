"""Tuning a recipe, without Ray: what is tuned, a training's rungs, the journal, what counts as a gain, the copy of the file."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.errors import StudyError
from edgesearch.objectives import Store, plan, run_stage
from edgesearch.search import StudyFile
from edgesearch.search.library._inputs import Inputs, read_inputs
from edgesearch.search.library._tune import TunedRecipe
from edgesearch.search.library._tune_file import check_place, tuned_text
from edgesearch.search.library._tune_journal import Journal
from edgesearch.search.library._tune_noise import Gain, compare
from edgesearch.search.library._tune_search import Watch
from edgesearch.search.library._tune_space import Target, rungs
from edgesearch.search.library._tune_training import Rung, Task, Training

STUDY = """\
# A study of its own.
name = "tiny"            # short
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[teacher]
architecture = "cnn_tiny"
input_size = 8
recipe = { epochs = 1 }  # brief
[train]
epochs = 3
lr = 1e-3                # low
augmentation = "shift"
[finetune]
augmentation = "shift"
[space]
students = ["cnn_tiny"]
width = [0.5, 1.0, 2.0]
input_size = [8]
distillation = ["none", "logit"]
temperature = [2.0, 4.0, 6.0]

[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
distillation = { kind = "logit" }

[[candidates]]           # its control
student = { architecture = "cnn_tiny", input_size = 8 }
"""
RECIPE = {"lr": 4.5e-3, "weight_decay": 1e-2, "augmentation": "none", "temperature": 2.5, "alpha": 0.3}


def read(text: str = STUDY) -> Inputs:
    return read_inputs(StudyFile.parse(tomllib.loads(text)), to_run=False)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return read()


def task(inputs: Inputs, target: Target, home: Path, **more: Any) -> Task:
    data = inputs.settings.data.model_dump(mode="json")
    return Task(target.to_text(), data, store=str(home / "store"), logs=str(home / "logs"), **more)


# --- what is tuned


def test_a_student_is_tuned_in_the_middle_of_its_choices_with_the_way_that_teaches(inputs: Inputs) -> None:
    target = Target.find("cnn_tiny", inputs)
    assert (target.student.width, target.student.input_size) == (1.0, 8)
    assert target.candidate.distillation.kind == "logit"
    assert target.own == {"lr": 1e-3, "weight_decay": 1e-2, "augmentation": "shift", "temperature": 4.0, "alpha": 0.5}
    plain = Target.find("cnn_tiny", inputs, distillation="none")
    assert set(plain.space) == {"lr", "weight_decay", "augmentation"}


def test_the_files_own_recipe_is_the_stage_that_optimize_runs(inputs: Inputs) -> None:
    for name in ("cnn_tiny", "teacher"):
        target = Target.find(name, inputs)
        planned = inputs.plan(target.candidate, last=target.kind) if name != "teacher" else None
        own = target.stage(target.settings(target.start))
        assert own.key == target.stage(target.own).key
        if planned is not None:
            assert own.key == planned.key
        assert target.stage(target.own, seed=1).key != own.key


def test_one_teacher_serves_every_recipe_and_seed_of_its_student(inputs: Inputs) -> None:
    target = Target.find("cnn_tiny", inputs)
    stages = [target.stage(target.own), target.stage(RECIPE), target.stage(RECIPE, seed=2)]
    teachers = {stage.key for last in stages for stage in last.walk() if stage.kind == "teacher"}
    assert len(teachers) == 1


def test_a_teacher_that_is_trained_as_the_file_trains_its_students_is_one_for_every_recipe() -> None:
    alike = read(
        STUDY.replace("recipe = { epochs = 1 }  # brief", 'recipe = { epochs = 3, lr = 1e-3, augmentation = "shift" }')
    )
    target = Target.find("cnn_tiny", alike)
    walks = [list(target.stage(settings).walk()) for settings in (target.own, RECIPE)]
    teachers = [[stage.key for stage in walk if stage.kind == "teacher"] for walk in walks]
    assert teachers[0] == teachers[1] != []


@pytest.mark.parametrize(("own", "others"), [("", ""), ("", "0.3"), ("0.5", ""), ("0.5", "0.3")])
def test_the_teacher_is_the_one_that_optimize_trains(own: str, others: str) -> None:
    strength = {"teacher": f", augmentation_strength = {own}" if own else "", "train": f"augmentation_strength = {others}\n"}
    text = STUDY.replace("recipe = { epochs = 1 }", f"recipe = {{ epochs = 1{strength['teacher']} }}")
    text = text.replace('augmentation = "shift"', 'augmentation = "colour"')
    text = text.replace("[finetune]\n", f"{strength['train'] if others else ''}[finetune]\n")
    inputs = read(text)
    asked = inputs.complete(inputs.settings.candidates[0])
    walks = (
        plan(asked, inputs.settings.pipeline, inputs.conditions).walk(),
        (target := Target.find("cnn_tiny", inputs)).stage(target.own).walk(),
    )
    teachers = [{stage.key for stage in walk if stage.kind == "teacher"} for walk in walks]
    assert teachers[0] == teachers[1]
    assert len(teachers[0]) == 1


def test_a_target_goes_to_another_process_as_it_is(inputs: Inputs) -> None:
    target = Target.find("cnn_tiny", inputs)
    assert Target.from_text(target.to_text()).stage(RECIPE).key == target.stage(RECIPE).key


def test_images_that_mean_something_else_in_the_mirror_are_not_mirrored(inputs: Inputs) -> None:
    target = Target.find("cnn_tiny", inputs)
    assert target.space["augmentation"].choices == ("none", "shift")  # type: ignore[attr-defined]
    assert "flip_crop" in replace(target, data_name="flowers").space["augmentation"].choices  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("resnet99", STUDY, "no student 'resnet99'; expected teacher, cnn_tiny"),
        (
            "teacher",
            STUDY.replace("[teacher]", "[[candidates]]\n[candidates.student]").replace("recipe =", "#"),
            "no [teacher]",
        ),
    ],
)
def test_what_is_not_in_the_study_is_refused(name: str, text: str, sentence: str) -> None:
    if name == "teacher":
        text = STUDY.split("[teacher]")[0] + '[space]\nstudents = ["cnn_tiny"]\ninput_size = [8]\n'
    with pytest.raises(StudyError, match=sentence.replace("[", r"\[")):
        Target.find(name, read(text))


def test_a_teacher_that_is_trained_already_is_refused(inputs: Inputs) -> None:
    teacher = inputs.settings.teacher
    assert teacher is not None
    trained = inputs.settings.model_copy(update={"teacher": teacher.model_copy(update={"trained": True, "weights": "w.npz"})})
    with pytest.raises(StudyError, match="trained already"):
        Target.find("teacher", replace(inputs, settings=trained))


def test_a_distillation_that_the_study_does_not_have_is_refused(inputs: Inputs) -> None:
    with pytest.raises(StudyError, match="'nkd' is not in the study's space, which has none, logit"):
        Target.find("cnn_tiny", inputs, distillation="nkd")
    with pytest.raises(StudyError, match="without a teacher"):
        Target.find("teacher", inputs, distillation="logit")


@given(st.integers(1, 400))
def test_rungs_grow_threefold_and_end_with_the_training(epochs: int) -> None:
    found = rungs(epochs)
    assert found[-1] == epochs
    assert found[0] == -(-epochs // 9)
    assert all(later == 3 * sooner for sooner, later in itertools.pairwise(found[:-1]))
    assert list(found) == sorted(set(found))


# --- one training


def test_a_training_rung_by_rung_is_the_stage_itself(inputs: Inputs, tmp_path: Path) -> None:
    target = Target.find("cnn_tiny", inputs)
    drawn = {**target.start, "lr": 4.5e-3}
    training = Training(task(inputs, target, tmp_path), drawn)
    first, last = training.step(), training.step()
    assert [(rung.epochs, rung.is_last, rung.outcome) for rung in (first, last)] == [
        (1, False, "trained"),
        (3, True, "trained"),
    ]
    stage = target.stage(target.settings(drawn))
    assert stage.key == first.key == last.key
    at_once = Store(tmp_path / "other")
    for each in stage.walk():
        made = run_stage(each, at_once, data_settings=inputs.settings.data.model_dump(mode="json"))
    kept = Store(tmp_path / "store").get("student", stage.key)
    assert kept is not None
    assert kept.figures["accuracy"] == made.figures["accuracy"] == last.accuracy
    assert all((kept.tensors("weights")[name] == value).all() for name, value in made.tensors("weights").items())
    again = Training(task(inputs, target, tmp_path), drawn).step()  # what the store has is not trained again
    assert (again.epochs, again.is_last, again.accuracy) == (3, True, last.accuracy)


def test_what_is_known_is_not_trained(inputs: Inputs, tmp_path: Path) -> None:
    target = Target.find("cnn_tiny", inputs)
    key = target.stage(target.own).key
    training = Training(task(inputs, target, tmp_path, known={key: {"1": 0.25, "3": 0.5}}), target.start)
    assert [training.step().accuracy for _ in range(2)] == [0.25, 0.5]
    assert not (tmp_path / "store").exists()


def test_a_recipe_that_cannot_be_trained_is_worth_nothing_and_says_why(inputs: Inputs, tmp_path: Path) -> None:
    target = Target.find("teacher", inputs)
    rung = Training(task(inputs, target, tmp_path), {**target.start, "lr": 1e30}).step()
    assert (rung.accuracy, rung.is_last, rung.outcome) == (0.0, True, "failed")
    assert "not a finite number" in rung.message


def test_data_that_changed_stop_every_recipe(inputs: Inputs, tmp_path: Path) -> None:
    target = Target.find("teacher", inputs)
    other = replace(task(inputs, target, tmp_path), data={**inputs.settings.data.model_dump(mode="json"), "noise": 0.5})
    rung = Training(other, target.start).step()
    assert rung.outcome == "refused"
    assert "changed while the study ran" in rung.message


# --- the journal


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "tuning" / "j.json")
    assert journal.tried == ()
    journal.add({"lr": 0.1}, "a", epochs=1, accuracy=0.5)
    journal.add({"lr": 0.2}, "b", epochs=1, accuracy=0.0, failure="not finite")
    journal.add({"lr": 0.1}, "a", epochs=3, accuracy=0.75)
    first, second = Journal(tmp_path / "tuning" / "j.json").tried
    assert (first.drawn, first.epochs, first.accuracy) == ({"lr": 0.1}, 3, 0.75)
    assert (second.accuracy, second.failure) == (0.0, "not finite")
    assert Journal(tmp_path / "tuning" / "j.json").known == {"a": {"1": 0.5, "3": 0.75}}


def test_a_damaged_journal_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "j.json").write_text('{"format": 1, "tried"')
    with pytest.raises(StudyError, match="remove it to begin anew"):
        Journal(tmp_path / "j.json")


# --- the driver's view of workers


def test_rungs_are_noted_once_and_said_once(tmp_path: Path) -> None:
    journal, said = Journal(tmp_path / "j.json"), list[str]()
    watch = Watch(journal, said.append)
    for _ in range(2):
        watch.rung({"lr": 0.1}, Rung("a" * 64, 1, 0.5, is_last=False))
    watch.rung({"lr": 9.0}, Rung("b" * 64, 1, 0.0, True, "failed", "the loss is not finite"))
    assert [tried.accuracy for tried in Journal(tmp_path / "j.json").tried] == [0.5, 0.0]
    assert said == [
        "  recipe aaaaaaaaaaaa  1 epoch     50.00%",
        "  recipe bbbbbbbbbbbb  1 epoch     failed: the loss is not finite",
    ]
    assert watch.fault is None


def test_what_no_recipe_survives_ends_the_search(tmp_path: Path) -> None:
    refused, bug = Watch(Journal(tmp_path / "j.json"), print), Watch(Journal(tmp_path / "j.json"), print)
    refused.rung({}, Rung("a", 1, 0.0, True, "refused", "the data set changed"))
    assert isinstance(refused.fault, StudyError)
    bug.rung({}, Rung("a", 1, 0.0, True, "bug", "Traceback ... KeyError"))
    assert isinstance(bug.fault, RuntimeError)
    assert not (tmp_path / "j.json").exists()


def test_workers_that_die_in_a_row_end_the_search(tmp_path: Path) -> None:
    watch = Watch(Journal(tmp_path / "j.json"), lambda line: None)
    watch.death()
    watch.death()
    watch.rung({}, Rung("a", 1, 0.5, False))
    watch.death()
    watch.death()
    assert watch.fault is None
    watch.death()
    assert "fewer --workers" in str(watch.fault)


# --- what counts as a gain


def test_a_gain_counts_only_beyond_what_seeds_give() -> None:
    assert compare((0.90, 0.91, 0.90), (0.99, 0.95, 0.95), images=400).is_real
    assert not compare((0.90, 0.93, 0.87), (0.99, 0.92, 0.90), images=400).is_real
    assert not compare((0.900, 0.900, 0.900), (0.9025, 0.9025, 0.9025), images=400).is_real  # one image


def test_the_training_that_a_recipe_was_chosen_by_does_not_count() -> None:
    assert compare((0.9, 0.9, 0.9), (1.0, 0.9, 0.9), images=100).value == pytest.approx(0.0)


def test_one_seed_each_has_no_noise_to_tell() -> None:
    gain = compare((0.5,), (0.6,), images=100)
    assert gain.noise is None
    assert gain.is_real
    assert not compare((0.6,), (0.5,), images=100).is_real


# --- the copy


def test_the_copy_keeps_comments_and_trains_what_was_tuned(inputs: Inputs) -> None:
    target = Target.find("cnn_tiny", inputs)
    text = tuned_text(STUDY, target, RECIPE, name="tiny")
    for kept in ("# A study of its own.", "# short", "# brief", "# low", "# its control"):
        assert kept in text
    order = [line.split("#")[0].strip() for line in STUDY.splitlines() if line.startswith("[")]
    assert [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("[")] == order
    copied = read(text)
    assert copied.settings.name == "tiny_tuned"
    assert Target.find("cnn_tiny", copied).own == RECIPE
    assert Target.find("cnn_tiny", copied).stage(RECIPE).key == target.stage(RECIPE).key
    assert copied.settings.finetune.augmentation == "none"
    taught, control = copied.settings.candidates
    assert (taught.distillation.temperature, taught.distillation.alpha) == (2.5, 0.3)
    assert control.distillation.kind == "none"


def test_candidates_of_a_preset_are_taught_as_it_was_tuned(inputs: Inputs) -> None:
    """A preset is a staged network whose table keeps its own name."""
    text = STUDY.replace('["cnn_tiny"]', '["resnet8"]').replace('"cnn_tiny", input_size = 8 }', '"resnet8", input_size = 8 }')
    target = Target.find("resnet8", read(text))
    taught, control = read(tuned_text(text, target, RECIPE, name="tiny")).settings.candidates
    assert (taught.distillation.temperature, taught.distillation.alpha) == (2.5, 0.3)
    assert control.distillation.kind == "none"


def test_the_copy_of_a_teachers_recipe_leaves_the_students(inputs: Inputs) -> None:
    target = Target.find("teacher", inputs)
    recipe = {**target.own, "lr": 7e-4}
    copied = read(tuned_text(STUDY, target, recipe, name="tiny"))
    assert copied.settings.teacher is not None
    assert (copied.settings.teacher.recipe.lr, copied.settings.teacher.recipe.epochs) == (7e-4, 1)
    assert copied.settings.train == inputs.settings.train
    assert Target.find("teacher", copied).stage(recipe).key == target.stage(recipe).key


def test_a_study_without_the_tables_gets_them(inputs: Inputs) -> None:
    bare = 'name = "bare"\n[space]\nstudents = ["cnn_tiny"]\ninput_size = [8]\n[teacher]\narchitecture = "mlp"\n'
    student = read(bare)
    target = Target.find("cnn_tiny", student)
    assert read(tuned_text(bare, target, {**target.own, "lr": 0.01}, name="bare")).settings.train.lr == 0.01
    teacher = Target.find("teacher", student)
    copied = read(tuned_text(bare, teacher, {**teacher.own, "lr": 0.01}, name="bare")).settings
    assert copied.teacher is not None
    assert copied.teacher.recipe.lr == 0.01


def test_a_copy_that_would_not_find_its_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "nets_of_a.py").write_text("from torch import nn\nclass Net(nn.Module): ...\n")
    file = tmp_path / "a" / "own.toml"
    file.write_text('name = "own"\n[space]\nstudents = ["nets_of_a:Net"]\n')
    study = StudyFile.load(file)
    check_place(file.read_text(), study, tmp_path / "a" / "own_tuned.toml")
    with pytest.raises(StudyError, match="give -o a name in"):
        check_place(file.read_text(), study, tmp_path / "b" / "own_tuned.toml")


def test_a_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    found = TunedRecipe("s", "t", 1, {}, {}, (0.5,), (0.5,), Gain(0.0, None), text="name = 1\n")
    (tmp_path / "x.toml").write_text("mine")
    with pytest.raises(StudyError, match="is there already"):
        found.write(tmp_path / "x.toml")
    assert (tmp_path / "x.toml").read_text() == "mine"
    assert found.write(tmp_path / "x.toml", overwrite=True).read_text() == "name = 1\n"
