"""Whether a network tells the data set's classes apart, asked before it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgesearch.errors import NetworkRefused, in_one_line
from edgesearch.objectives.pruning import quiet
from edgesearch.objectives.training import other_numbers
from edgesearch.spaces import Student

__all__ = ["check_is_its_state", "check_outputs", "refuse_outputs"]


def check_outputs(model: nn.Module, student: Student, *, channels: int, classes: int, trains: bool = True) -> None:
    """Raise NetworkRefused, in one sentence, unless the network, which is not changed, gives one value per class for an image.

    trains: it does so while it is trained, too.
    """
    size = student.input_size
    parameter = next(model.parameters(), torch.empty(0))
    with quiet(model), torch.random.fork_rng(devices=[]):
        try:
            output = model(torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype))
        except (Exception, SystemExit) as error:  # whatever the user's own forward raises
            raise NetworkRefused(
                f"network {student.architecture!r} fails on an image of {channels} x {size} x {size}: {in_one_line(error)}"
            ) from error
    shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
    if shape != (classes,):
        refuse_outputs(student, shape, classes)
    if trains:
        _check_training(model, student, (channels, size, size), output.shape[1:])


def _check_training(model: nn.Module, student: Student, image: tuple[int, int, int], expected: torch.Size) -> None:
    try:
        trained = copy.deepcopy(model).train()
    except (Exception, SystemExit):  # it holds what cannot be copied; its training tells then
        return
    parameter = next(trained.parameters(), torch.empty(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            output = trained(torch.rand(2, *image, device=parameter.device, dtype=parameter.dtype))
        except (Exception, SystemExit) as error:  # whatever the user's own forward raises
            raise NetworkRefused(
                f"network {student.architecture!r} fails in training, on two images of {' x '.join(map(str, image))}: "
                f"{in_one_line(error)}"
            ) from error
    if not isinstance(output, Tensor) or output.shape[1:] != expected:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise NetworkRefused(
            f"network {student.architecture!r} returns {found} while it is trained; expected the logits alone, as otherwise: "
            "leave its auxiliary outputs out (aux_logits=False, say)"
        )


def check_is_its_state(make: Callable[[], nn.Module], student: Student, *, channels: int) -> None:
    """Raise NetworkRefused unless two networks that `make` gives answer alike once they have one state_dict.

    Every stage makes the network anew and loads what the one before has stored of it.
    """
    size = student.input_size
    with other_numbers(0):
        first = make()
    with other_numbers(1):
        second = make()
        image = torch.rand(1, channels, size, size)
    try:
        second.load_state_dict(first.state_dict())
        answers = []
        for network in (first, second):
            with quiet(network), other_numbers(2):  # in case that it draws some to answer
                answers.append(network(image))
        same = torch.allclose(answers[0], answers[1], rtol=0.0, atol=0.0, equal_nan=True)
    except (Exception, SystemExit):  # whatever the user's own code raises: the stages tell
        return
    if not same:
        raise NetworkRefused(
            f"network {student.architecture!r} is not the same when it is made again and loaded: its class draws something at "
            "random that is not in its state_dict (connections, a buffer with persistent=False); keep it there, or draw it "
            "from a generator with a seed of its own"
        )


def refuse_outputs(student: Student, shape: tuple[int, ...], classes: int) -> None:
    """Raise NetworkRefused for outputs of this shape, without the batch."""
    found = f"{shape[0]} outputs" if len(shape) == 1 else f"outputs of shape {' x '.join(map(str, shape)) or 'none'}"
    raise NetworkRefused(
        f"student {student.architecture!r} has {found}, but the data set {classes} classes; "
        "give its class an argument `num_classes`, use it for the last layer, and return a value per class, (N, num_classes)"
    )
