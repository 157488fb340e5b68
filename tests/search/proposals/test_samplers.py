"""Our samplers by the contract that others' must keep, and a sampler of a user's own."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler

from edgesearch.errors import PluginError, StudyError
from edgesearch.search.proposals._proposals import Proposer
from edgesearch.search.proposals._samplers import check_sampler, make_sampler
from edgesearch.search.study import SearchSettings, StudyFile
from edgesearch.search.study._file import parse_study
from edgesearch.spaces import Space
from edgesearch.testing import SamplerContract

SPACE = """
name = "s"
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0, 2.0]
pruning = ["none", "one_step"]
[constraints]
min_fps = 100
[search]
sampler = "SAMPLER"
"""


def study(sampler: str, **options: object) -> StudyFile:
    settings = parse_study(SPACE.replace("SAMPLER", sampler).encode(), where="s", folder=Path())
    return settings.model_copy(update={"search": settings.search.model_copy(update={"sampler_options": options})})


class OurSampler(SamplerContract):
    name: str

    def make(self, seed: int) -> BaseSampler:
        return make_sampler(SearchSettings(sampler=self.name, startup_trials=6, population=6), seed)


class TestTpe(OurSampler):
    name = "tpe"


class TestNsga2(OurSampler):
    name = "nsga2"


class TestNsga3(OurSampler):
    name = "nsga3"


class TestRandom(OurSampler):
    name = "random"


class TestGp(OurSampler):
    name = "gp"
    trials = 10  # the first six are random, the others take a second each

    def make(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return super().make(seed)


class TestOneOfOptunasByImportPath(OurSampler):
    name = "optuna.samplers:QMCSampler"


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "random", "gp", "optuna.samplers:NSGAIIISampler"])
def test_samplers_that_can_search_a_space_pass_its_check(name: str) -> None:
    check_sampler(study(name))


@pytest.mark.parametrize("widths", [[1.0], [0.5, 1.0], [0.25, 0.5, 1.0, 2.0]])
def test_a_sampler_that_ends_with_its_space_passes_for_a_small_one(widths: list[float]) -> None:
    small = study("optuna.samplers:BruteForceSampler")
    assert small.space is not None
    space = Space(students=("cnn_tiny",), width=tuple(widths), input_size=(8,))
    check_sampler(small.model_copy(update={"space": space}))


def test_a_package_that_a_sampler_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "needing.py").write_text(
        "import optuna\n"
        "class Needing(optuna.samplers.RandomSampler):\n"
        "    def sample_independent(self, study, trial, name, distribution):\n"
        "        import a_package_that_there_is_not\n"
    )
    with pytest.raises(StudyError, match="sampler 'needing:Needing' needs the package a_package_that_there_is_not; install it"):
        check_sampler(study("needing:Needing"), folder=tmp_path)


def test_a_sampler_beside_the_study_is_found_and_given_its_options(tmp_path: Path) -> None:
    (tmp_path / "my_samplers.py").write_text(
        "import optuna\n"
        "class Stubborn(optuna.samplers.RandomSampler):\n"
        "    def __init__(self, seed=None, favourite=None):\n"
        "        super().__init__(seed)\n"
        "        self.favourite = favourite\n"
        "    def sample_independent(self, study, trial, name, distribution):\n"
        "        drawn = super().sample_independent(study, trial, name, distribution)\n"
        "        return self.favourite if name == 'student' else drawn\n"
    )
    proposals = Proposer(study("my_samplers:Stubborn", favourite="mlp"), folder=tmp_path).proposals(0)
    assert {next(proposals).candidate.student.architecture for _ in range(8)} == {"mlp"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("no_such", {}, "expected one of gp, nsga2, nsga3, random, tpe"),
        ("tpe", {"colour": "red"}, "sampler_options"),
        ("tpe", {"seed": 3}, "sampler_options.seed is given, which the study sets itself; give `seed` instead"),
        ("optuna.samplers:RandomSampler", {"seed": 3}, "sampler_options.seed is given, .*; give `seed` instead"),
        ("gp", {"n_startup_trials": 3}, "sampler_options.n_startup_trials is given, .* give search.startup_trials instead"),
        ("pathlib:PurePath", {}, "expected an optuna.samplers.BaseSampler"),
        ("optuna.samplers:GridSampler", {"search_space": {"other": [1, 2]}}, "GridSampler.* cannot search this study"),
    ],
)
def test_what_cannot_search_the_study_is_one_sentence(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises((PluginError, StudyError), match=words) as caught:
        check_sampler(study(name, **options))
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_space_is_not_the_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(space: Space, trial: optuna.Trial) -> None:
        raise KeyError("student")

    monkeypatch.setattr(Space, "suggest", broken)
    with pytest.raises(KeyError):
        check_sampler(study("tpe"))


def test_a_sampler_for_one_objective_is_refused_for_two(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(
        "import optuna\n"
        "class Single(optuna.samplers.RandomSampler):\n"
        "    def sample_independent(self, study, trial, name, distribution):\n"
        "        study.direction\n"
        "        return super().sample_independent(study, trial, name, distribution)\n"
    )
    with pytest.raises(StudyError, match=r"2 objectives, 1 constraints.*choose another"):
        check_sampler(study("single:Single"), folder=tmp_path)


@pytest.mark.parametrize("where", ["__init__", "sample_independent"])
def test_whatever_a_sampler_of_ones_own_raises_is_one_sentence(tmp_path: Path, where: str) -> None:
    (tmp_path / "broken_samplers.py").write_text(
        "import optuna\nclass Broken(optuna.samplers.RandomSampler):\n"
        f"    def {where}(self, *given, **named):\n        len.nothing\n"
    )
    with pytest.raises(StudyError, match=r"sampler 'broken_samplers:Broken' cannot .* has no attribute 'nothing'") as caught:
        check_sampler(study("broken_samplers:Broken"), folder=tmp_path)
    assert isinstance(caught.value.__cause__, AttributeError)


def test_a_sampler_that_fails_once_the_study_runs_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "late_samplers.py").write_text(
        "import optuna\n"
        "class Late(optuna.samplers.RandomSampler):\n"
        "    def sample_independent(self, study, trial, name, distribution):\n"
        "        if len(study.trials) == 1:\n            len.nothing\n"
        "        return super().sample_independent(study, trial, name, distribution)\n"
    )
    proposals = Proposer(study("late_samplers:Late"), folder=tmp_path).proposals(0)
    with pytest.raises(StudyError, match="sampler 'late_samplers:Late' failed: AttributeError"):
        next(proposals)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "gp", "random"])
def test_what_goes_on_from_the_trials_alone_is_nothing_to_warn_of(name: str) -> None:
    assert check_sampler(study(name)) == ""


def test_a_sampler_that_keeps_its_step_in_the_study_is_told_of() -> None:
    said = "sampler 'optuna.samplers:QMCSampler' keeps in the study, and not in the trials, what it goes on from"
    assert check_sampler(study("optuna.samplers:QMCSampler")).startswith(said)
