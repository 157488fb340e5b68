"""What a network of the user's own must do."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import optuna
import pytest
import torch
from torch import nn

from edgesearch.board_eval import lower
from edgesearch.objectives import check_is_its_state, check_outputs
from edgesearch.objectives.pruning import PRUNERS, Pruned, PruningTask, layer_macs, resize_to
from edgesearch.objectives.training import other_numbers
from edgesearch.search.study import quiet_optuna
from edgesearch.spaces import Space, Student, build, complete, with_declared_parameters

#: Networks that are drawn of what the class declares as its `search_space`.
_DRAWN = 6
#: Steps in which every parameter must have been used once.
_STEPS = 8


class StudentContract:
    """Subclass it and set `architecture`; every test asks networks drawn of the class's `search_space`, where it declares one.

    Images are `input_size` pixels high and wide.
    """

    #: The import path of a torch.nn.Module class, or of a function that makes one: "my_nets:FlowerNet".
    architecture = ""
    #: Where its module lies; None: where Python looks.
    folder: Path | None = None
    channels = 3
    classes = 10
    input_size = 32
    #: False for a network that is not to be pruned.
    prunable = True

    def students(self) -> list[Student]:
        """The network as its class makes it; of one that declares a `search_space`, the least and some drawn of it."""
        space = Space(students=(self.architecture,), input_size=(self.input_size,))
        space = with_declared_parameters(space, folder=self.folder)
        found = list(space.smallest_students())
        with quiet_optuna():
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
            found += [space.suggest_training(study.ask())[0] for _ in range(_DRAWN)]
        given = [complete(student, folder=self.folder) for student in found]
        return list({student.model_dump_json(): student for student in given}.values())

    def _build(self, student: Student, classes: int | None = None, *, seed: int = 0) -> nn.Module:
        with other_numbers(seed):
            return build(student, channels=self.channels, classes=classes or self.classes, folder=self.folder)

    def _images(self, count: int, student: Student) -> torch.Tensor:
        return torch.rand(count, *self._shape(student), generator=torch.Generator().manual_seed(0))

    def test_it_gives_a_value_per_class_whatever_their_number(self) -> None:
        """In evaluation and in training, (N, classes)."""
        for student in self.students():
            for classes in (self.classes, self.classes + 3):
                check_outputs(self._build(student, classes), student, channels=self.channels, classes=classes)

    def test_the_same_random_numbers_start_the_same_network(self) -> None:
        """What a stage begins with follows from its seed."""
        for student in self.students():
            first, second = (self._build(student).state_dict() for _ in range(2))
            assert list(first) == list(second)
            assert all(torch.equal(first[name], second[name]) for name in first), student

    def test_it_is_made_again_from_its_weights(self) -> None:
        """Every stage makes it anew, and loads what the one before has stored."""
        for student in self.students():
            self._build(student, seed=1).load_state_dict(self._build(student).state_dict())
            make = partial(build, student, channels=self.channels, classes=self.classes, folder=self.folder)
            check_is_its_state(make, student, channels=self.channels)

    def test_an_image_has_the_same_answer_alone_and_among_others(self) -> None:
        """In evaluation; a board shows the network one image at a time."""
        for student in self.students():
            model, images = self._build(student).eval(), self._images(5, student)
            with torch.no_grad():
                torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)

    def test_every_parameter_learns(self) -> None:
        """Gradients of the loss reach all that is not frozen, and are finite: in one of some steps, where chance decides."""
        for student in self.students():
            model, images = self._build(student).train(), self._images(4, student)
            for seed in range(_STEPS):
                with other_numbers(seed):
                    loss = nn.functional.cross_entropy(model(images), torch.arange(4) % self.classes)
                loss.backward()  # type: ignore[no-untyped-call]
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, f"{name} of {student} has no effect on the loss; leave it out"
                    assert torch.isfinite(parameter.grad).all(), f"{name} of {student}"

    def test_the_dpu_runs_it(self) -> None:
        """All of it: what the DPU lacks is said layer by layer."""
        for student in self.students():
            graph = lower(self._build(student).eval(), self._shape(student))
            assert graph.nodes

    def test_a_pruned_one_is_made_again_from_its_weights(self) -> None:
        """Of the class's own network, widths follow from what is stored."""
        if not self.prunable:
            pytest.skip("it is not to be pruned")
        for student in self.students():
            model = self._build(student).eval()
            pruned = self._pruned(model, student)
            before, after = (sum(layer_macs(network, self._shape(student)).values()) for network in (model, pruned.model))
            assert after < before, f"nothing of {student} is pruned"
            again = resize_to(self._build(student, seed=1), pruned.model.state_dict()).eval()
            images = self._images(2, student)
            with torch.no_grad():
                torch.testing.assert_close(again(images), pruned.model.eval()(images), rtol=0, atol=0)

    def _shape(self, student: Student) -> tuple[int, int, int]:
        return self.channels, student.input_size, student.input_size

    def _pruned(self, model: nn.Module, student: Student) -> Pruned:
        def by_size(network: nn.Module) -> float:
            return float(sum(float(p.detach().abs().sum()) for p in network.parameters()))

        task = PruningTask(
            model=model,
            input_shape=self._shape(student),
            ratio=0.3,
            granularity=1,
            draws=1,
            steps=1,
            score=by_size,
            recalibrate=lambda network: None,
            finetune=lambda network, step: None,
            seed=0,
        )
        return PRUNERS.find("one_step")(task)
