"""Starting weights: torchvision's ImageNet weights, or a file of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.spaces._adapt import fold_kernel, sum_colours
from edgesearch.spaces._candidate import STUDENTS, Student
from edgesearch.spaces._chain import make_positive
from edgesearch.spaces._imagenet import IMAGENET, fetch_imagenet, find_imagenet, imagenet_shapes
from edgesearch.spaces._weights_file import is_copy, read_weights, rivals, without_prefix

__all__ = ["LoadedWeights", "check_weights", "load_weights"]

#: Batch-norm's count of batches: no part of what a trained network computes, and absent from old files.
_COUNTER = "num_batches_tracked"
#: Tensors that a sentence names before it says how many more there are: of an error, and of a report.
_LISTED, _REPORTED = 4, 12
#: Weights are of another network if less than this share of it, or of them, fits.
_FITTING = 0.5
#: Parts of the names of what training keeps beside networks.
_NO_NETWORK = frozenset(
    {"optimizer", "optimizers", "optim", "scheduler", "schedulers", "lr_scheduler", "scaler"}
    | {"criterion", "loss", "loss_fn", "loss_fct", "loss_function"}
)
#: If this share fits, no other of the known students is looked for: the classifier and the stem may differ.
_ALIKE = 0.8


@dataclass(frozen=True)
class LoadedWeights:
    """What became of starting weights, by the names of tensors; as a string, one sentence. Counters of batches are not counted.

    loaded: those that the network has now; adapted: of them, those that had another shape, with what was done.
    other_shape: of those that were not loaded, the shape found and the shape expected. random: all that were not loaded.
    ignored: those of the file that the network has no place for.
    """

    source: str = ""
    loaded: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    adapted: Mapping[str, str] = field(default_factory=dict)
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """Tensors that the file does not have."""
        return tuple(name for name in self.random if name not in self.other_shape)

    def __str__(self) -> str:
        if not self.source:
            return "every tensor begins at random"
        words = [f"{len(self.loaded)} of {len(self.loaded) + len(self.random)} tensors start from {self.source}"]
        words += (
            [f"adapted: {_some([f'{name} ({how})' for name, how in self.adapted.items()], _REPORTED)}"] if self.adapted else []
        )
        if self.other_shape:
            words.append(f"at random, because of another shape: {_some(self.shapes, _REPORTED)}")
        words += [f"at random, because they are not there: {_some(self.missing, _REPORTED)}"] if self.missing else []
        words += (
            [f"ignored, because the network has none of that name: {_some(self.ignored, _REPORTED)}"] if self.ignored else []
        )
        return "; ".join(words)

    @property
    def shapes(self) -> tuple[str, ...]:
        """Of each tensor of another shape its name, and both shapes."""
        return tuple(f"{name} is {found}, expected {expected}" for name, (found, expected) in self.other_shape.items())


def load_weights(
    model: nn.Module,
    student: Student,
    *,
    require_all: bool = False,
    note: Callable[[str], object] = lambda line: None,
) -> LoadedWeights:
    """Put the student's starting weights into `model`, and say what became of them.

    ImageNet weights are downloaded where they are not on this machine; `note` is told so. A first convolution of grey images is
    given the sum over the file's three colours. Every other tensor must be there in its shape, unless `student.adapt`: then a
    first convolution with a smaller kernel is given the file's, folded (the small stem), and the rest keeps its random start.
    What else the file has is ignored.

    With `require_all` the network is taken as trained: nothing may be missing, of another shape or left over, but for what
    is no layer of a network (an optimizer's state, a loss's weights of classes).

    Raises SpaceError, and changes nothing, where that does not hold, for weights of another architecture or of several networks
    that fit as well, and for values that are not finite or integers.
    """
    source: Mapping[str, Tensor] = {}
    if student.weights == IMAGENET:
        source = read_weights(fetch_imagenet(student.architecture, note))
    elif student.weights:
        source = read_weights(Path(student.weights))
    own = model.state_dict()
    taken, loaded = _match(source, model, student, require_all)
    _refuse_unusable_values(own, taken, student)
    model.load_state_dict(own | {name: tensor.to(own[name].dtype) for name, tensor in taken.items()})
    make_positive(model)
    return loaded


def check_weights(model: nn.Module, student: Student, *, require_all: bool = False) -> LoadedWeights:
    """What `load_weights` would say, or raise, for a network that is not changed; nothing is downloaded for it."""
    source: Mapping[str, Tensor] = {}
    if student.weights == IMAGENET:
        found = find_imagenet(student.architecture)
        source = imagenet_shapes(student.architecture) if found is None else read_weights(found)
    elif student.weights:
        source = read_weights(Path(student.weights))
    own = model.state_dict()
    taken, loaded = _match(source, model, student, require_all)
    if not any(tensor.is_meta for tensor in source.values()):
        _refuse_unusable_values(own, taken, student)
    return loaded


def _match(
    state: Mapping[str, Tensor], model: nn.Module, student: Student, require_all: bool
) -> tuple[dict[str, Tensor], LoadedWeights]:
    """The tensors that the network takes, in its shapes, and what is to be said of all of them."""
    own = model.state_dict()
    if not student.weights:
        if require_all:
            raise SpaceError(
                f"{student.architecture} is to be taken as trained, but has no weights; give weights = 'FILE', or train it"
            )
        return {}, LoadedWeights(random=_counted(own))
    _refuse_several_networks(state, own, student)
    source = _with_tied(without_prefix(state, own), own, student)
    _refuse_eight_bits({name: tensor for name, tensor in source.items() if name in own}, student)
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), "")
    taken: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    for name, expected in own.items():
        if name not in source:
            continue
        fold = name == first and student.adapt and not require_all
        fitted, how = _fitted(source[name], expected, grey=name == first and _reads_grey(model, first), fold=fold)
        if fitted is not None:
            taken[name] = fitted
            adapted |= {name: how} if how else {}
    kept = {id(tensor) for tensor in source.values()}
    foreign = _counted(name for name in source if name not in own)
    outside = _counted(name for name, tensor in state.items() if id(tensor) not in kept)  # beside the wrapper's prefix
    random = _counted(name for name in own if name not in taken)
    loaded = LoadedWeights(
        source=student.weights,
        loaded=_counted(taken),
        random=random,
        ignored=(*foreign, *outside),
        adapted=adapted,
        other_shape={name: (tuple(source[name].shape), tuple(own[name].shape)) for name in random if name in source},
    )
    further = [name for name in foreign if _is_of_a_network(name, source[name])]
    share = len(loaded.loaded) / max(len(_counted(own)), len(loaded.loaded) + len(loaded.other_shape) + len(further))
    if random and share < (_ALIKE if student.architecture in STUDENTS else _FITTING):
        _refuse_another_architecture(state, own, student, loaded, share)
    layers = [name for name in outside if _is_layer(name, state[name]) and not _has_copy(state[name], source)]
    if require_all and (random or further or layers):
        problems = [*_problems(loaded), *([f"the network has no {_some([*further, *layers])}"] if further or layers else [])]
        raise SpaceError(
            f"weights {student.weights!r} are not those of this {student.name}, which is to be taken as trained: "
            f"{'; '.join(problems)}; give the weights of this very network and these classes, with no other layers beside "
            "them, or train it (trained = false)"
        )
    if random and not student.adapt:
        raise SpaceError(
            f"weights {student.weights!r} are not those of this {student.name}: {'; '.join(_problems(loaded))}; write adapt = "
            "true to start from the others, with a new classifier and what else differs at random, or give weights that fit"
        )
    return taken, loaded


def _with_tied(source: Mapping[str, Tensor], own: Mapping[str, Tensor], student: Student) -> Mapping[str, Tensor]:
    """The file's tensors, and those that it has under another name of the same tensor of the network: some tools, as
    safetensors' `save_model`, write one name alone. Raises SpaceError where the file has two in its place.
    """
    names: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in own.items():
        if tensor.numel() and not tensor.is_meta:
            names.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    for group in names.values():
        first, *others = [name for name in group if name in source] or [""]
        for other in others:
            if not is_copy(source[first], source[other]):
                raise SpaceError(
                    f"weights {student.weights!r} have two tensors, {first} and {other}, where this {student.name} has one "
                    "under both names; give weights of a network that shares them, too"
                )
    tied = {
        name: source[known]
        for group in names.values()
        if (known := next((name for name in group if name in source), None)) is not None
        for name in group
        if name not in source
    }
    return {**source, **tied} if tied else source


def _is_of_a_network(name: str, tensor: Tensor) -> bool:
    """Whether it may be a part of a network: no counter such as thop's `total_ops`, and nothing of an optimizer or a loss."""
    is_counter = tensor.numel() <= 1 and not name.endswith(("weight", "bias"))
    return not is_counter and not _NO_NETWORK.intersection(name.split("."))


def _reads_grey(model: nn.Module, name: str) -> bool:
    """Whether the layer of that weight reads images of one channel; a kernel for one channel may also be one of groups."""
    return getattr(model.get_submodule(name.rpartition(".")[0]), "in_channels", 1) == 1


def _is_layer(name: str, tensor: Tensor) -> bool:
    """Whether it is a weight that some network computes with: no counter, and nothing of an optimizer or of a plain loss."""
    return tensor.ndim >= 2 and name.endswith("weight") and not _NO_NETWORK.intersection(name.split("."))


def _has_copy(tensor: Tensor, source: Mapping[str, Tensor]) -> bool:
    return any(is_copy(tensor, other) for other in source.values())


def _refuse_eight_bits(state: Mapping[str, Tensor], student: Student) -> None:
    """SpaceError for floats of 8 bits or fewer: they mean something with scales alone, which each tool keeps in its own way."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.element_size() < 2:
            raise SpaceError(
                f"weights {student.weights!r}: {name} holds {str(tensor.dtype).removeprefix('torch.')}; expected floats of 16 "
                "bits or more (weights that were not quantized)"
            )


def _refuse_several_networks(state: Mapping[str, Tensor], own: Mapping[str, Tensor], student: Student) -> None:
    """SpaceError where nobody can tell which of the file's networks is meant."""
    if prefixes := rivals(state, own):
        found = " and ".join(f"{prefix}*" for prefix in prefixes)
        raise SpaceError(
            f"weights {student.weights!r} hold {len(prefixes)} networks that fit this {student.name}, of the names {found}; "
            "save the one that you mean alone, such as torch.save(whole.student.state_dict(), FILE)"
        )


def _fitted(given: Tensor, own: Tensor, *, grey: bool, fold: bool) -> tuple[Tensor | None, str]:
    """The given tensor in the shape of the network's, and what was done for it; None where it does not fit."""
    if given.shape == own.shape:
        return given, ""
    if not given.is_floating_point():
        return None, ""
    how = []
    if grey and (summed := sum_colours(given, own)) is not None:
        given = summed
        how.append("the sum over three colours")
    if fold and (folded := fold_kernel(given, own)) is not None:
        how.append(f"{_taps(given)} taps folded to {_taps(own)}")
        given = folded
    return (given, ", ".join(how)) if given.shape == own.shape else (None, "")


def _taps(kernel: Tensor) -> str:
    return f"{kernel.shape[2]} x {kernel.shape[3]}"


def _refuse_unusable_values(own: Mapping[str, Tensor], taken: Mapping[str, Tensor], student: Student) -> None:
    for name, tensor in taken.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise SpaceError(
                f"weights {student.weights!r}: {name} holds {str(tensor.dtype).removeprefix('torch.')}; expected floats "
                "(weights that were not quantized)"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise SpaceError(
                f"weights {student.weights!r}: {name} holds values that are not finite (NaN or infinite); they come from a "
                "training that failed, give those of an earlier epoch"
            )
        if not bool(torch.isfinite(tensor.to(own[name].dtype)).all()):
            dtype = str(own[name].dtype).removeprefix("torch.")
            raise SpaceError(
                f"weights {student.weights!r}: {name} holds values up to {float(tensor.abs().max()):.3g}, more than the "
                f"network's {dtype} can; give weights of usual size"
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise SpaceError(
                f"weights {student.weights!r}: {name} goes down to {float(tensor.min()):.3g}; it holds variances of a "
                "batch-norm, which are never below 0: save the weights again"
            )


def _refuse_another_architecture(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], student: Student, loaded: LoadedWeights, share: float
) -> None:
    """SpaceError where less than half fits, or a known student is more like the weights than this one."""
    from edgesearch.spaces._likeness import in_words, likeliest  # builds networks, which nothing else here needs

    likeness, probably = likeliest(state, student.input_size)
    if share >= _FITTING and (likeness <= share or probably == in_words(student.architecture, student.width)):
        return
    names = f"its first tensors are {', '.join(list(state)[:3])}, expected {', '.join(list(own)[:3])}"
    hint = f"it looks like {probably}, so give that network" if probably else f"{names}; give its network"
    raise SpaceError(
        f"weights {student.weights!r} are of another network than {student.name}, of which {len(loaded.loaded)} of "
        f"{len(_counted(own))} tensors fit: {hint}, or weights of this one"
    )


def _problems(loaded: LoadedWeights) -> list[str]:
    problems = [_some(loaded.shapes)] if loaded.other_shape else []
    return problems + ([f"there is no {_some(loaded.missing)}"] if loaded.missing else [])


def _counted(names: Iterable[str]) -> tuple[str, ...]:
    """Those that decide what a network computes."""
    return tuple(name for name in names if not name.endswith(_COUNTER))


def _some(names: Sequence[str], limit: int = _LISTED) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
