"""What a study says and nothing reads is told, and nothing that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.search import Study, StudyFile
from edgesearch.search.library._without_effect import without_effect
from edgesearch.search.study._file import bundled_studies, load_study, parse_study

SPACE = '[space]\nstudents = ["cnn_tiny"]\n'
COLOUR = '[train]\naugmentation = "colour"\naugmentation_strength = 2.0\n'
LOGIT = 'distillation = ["logit"]\n'
TEACHER = '[teacher]\narchitecture = "resnet8"\n'


def told(text: str) -> list[str]:
    return without_effect(parse_study(f'name = "s"\n{text}'.encode(), where="a test", folder=Path.cwd()))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[train]\nmomentum = 0.5\n" + SPACE, "train.momentum is 0.5, and optimizer 'adamw' has none"),
        (
            "[train]\naugmentation_strength = 2.0\n" + SPACE,
            "train.augmentation_strength is 2.0, and augmentation 'auto' changes neither colours nor shapes",
        ),
        ("[train]\nmix_alpha = 0.4\n" + SPACE, "train.mix_alpha is 0.4, and mix = 'none' mixes no images"),
        (
            TEACHER + "[teacher.recipe]\nmomentum = 0.5\n" + SPACE + LOGIT,
            "teacher.recipe.momentum is 0.5, and optimizer 'adamw' has none",
        ),
        (
            TEACHER + SPACE + 'distillation = ["none", "self"]\n',
            "[teacher] teaches nobody: no `distillation` of the study is one of intermediate, logit, nkd",
        ),
        ("[finetune]\nepochs = 9\n" + SPACE, "[finetune] decides nothing: no candidate of the study is pruned"),
        ("[prune]\ndraws = 9\n" + SPACE, "[prune] decides nothing: no candidate of the study is pruned"),
        ("[finetune]\nmomentum = 0.5\n" + SPACE, "[finetune] decides nothing: no candidate of the study is pruned"),
        ("[qat]\nepochs = 9\n" + SPACE, "[qat] decides nothing: no candidate of the study is quantized by qat"),
    ],
)
def test_each_is_one_sentence(text: str, sentence: str) -> None:
    assert told(text) == [sentence]


def test_a_table_of_what_no_candidate_can_go_through() -> None:
    sparse = SPACE + 'pruning = ["n_m"]\nquantization = ["ptq", "qat"]\n'
    assert told("[qat]\nepochs = 9\n[finetune]\nepochs = 9\n" + sparse) == [
        "`quantization` in [space] decides nothing, since no choice of `pruning` = ['n_m'] has it",
        "[qat] decides nothing: no candidate of the study is quantized by qat",
    ]


@pytest.mark.parametrize(
    "text",
    [
        SPACE,
        '[train]\noptimizer = "sgd"\nmomentum = 0.5\n' + SPACE,
        '[train]\naugmentation = "colour"\naugmentation_strength = 2.0\nmix = "mixup"\nmix_alpha = 0.4\n' + SPACE,
        TEACHER + SPACE + 'distillation = ["none", "nkd"]\n',
        "[finetune]\nepochs = 9\n[prune]\ndraws = 9\n" + SPACE + 'pruning = ["none", "one_step"]\n',
        "[qat]\nepochs = 9\n" + SPACE + 'quantization = ["ptq", "qat"]\n',
        '[train]\naugmentation = "colour"\n' + TEACHER + "[teacher.recipe]\naugmentation_strength = 2.0\n" + SPACE + LOGIT,
        COLOUR + "[finetune]\naugmentation_strength = 2.0\n" + SPACE + 'pruning = ["one_step"]\n',
        '[train]\nmix = "mixup"\nmix_alpha = 0.4\n[qat]\nmix_alpha = 0.4\n' + SPACE + 'quantization = ["qat"]\n',
        "[qat]\nepochs = 9\n[[candidates]]\nstudent = { architecture = 'cnn_tiny' }\nquantization = { method = 'qat' }\n",
    ],
)
def test_what_is_read_is_not_told(text: str) -> None:
    assert told(text) == []


def test_what_is_left_to_the_dpu_is_not_told_as_if_somebody_had_said_it(tmp_path: Path) -> None:
    opened = Study.open(StudyFile.parse({"name": "s", "space": {"students": ["mlp"]}}, folder=tmp_path), tmp_path / "home")
    assert [sentence for sentence in opened.findings if "decides nothing" in sentence] == []


@pytest.mark.parametrize("name", bundled_studies())
def test_the_bundled_studies_say_nothing_in_vain(name: str) -> None:
    assert without_effect(load_study(name)) == []
