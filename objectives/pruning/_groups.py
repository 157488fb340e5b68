"""Which channels of a network must go together, which matter least, and what is left of it without them.

A channel that a convolution makes is also a channel of the batch-norm behind it, an input of every layer that reads it, and,
across an addition, a channel of the other branch. The groups are found once; channels are then removed in one go, by index, so
that any number of variants of a network costs a copy each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.objectives.pruning._channels import Channels, Integers, trace_channels
from edgesearch.objectives.pruning._hollow import copied, hollow, is_hollow
from edgesearch.objectives.pruning._macs import quiet
from edgesearch.objectives.pruning._resize import is_depthwise, set_tensors, shared_parameters, tie

__all__ = ["Group", "Member", "find_groups", "parts_of", "remove_channels", "shares"]

Network = TypeVar("Network", bound=nn.Module)

#: Share of its answer that a network's answers to two images differ by, in float64, where it says the same of both.
_SILENT = 1e-10


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group: channel `index[i]` there belongs to channel `root[i]` of the group."""

    layer: str
    side: Literal["out", "in"]  # batch-norms and depthwise convolutions have one side, "out"
    index: Integers
    root: Integers


@dataclass(frozen=True)
class Group:
    """Channels that exist in several layers at once. `importance` (channels,) is their mean L1 norm."""

    name: str  # the first layer that makes them
    channels: int
    members: tuple[Member, ...]
    importance: NDArray[np.float64]


def find_groups(model: nn.Module, input_shape: tuple[int, int, int]) -> list[Group]:
    """The groups of `model` that may be pruned, in order of execution. `input_shape` is (channels, height, width).

    Left out: groups that hold one of the network's outputs, or that reach an operation whose channels cannot simply be removed
    (grouped convolutions that are not depthwise, layer-norm, bare parameters), or without which the network computes something
    else. Raises SpaceError for a network that torch.fx cannot trace, or that fails with two images at once.
    """
    traced = copied(model).cpu().float().eval()
    channels = trace_channels(traced, input_shape)
    modules = dict(traced.named_modules())
    groups = [_group(makers, channels, modules) for makers in _makers_together(channels)]
    widths = {input_shape[0], *(group.channels for group in groups)} if channels.decides else set()

    def sound(some: Sequence[Group]) -> bool:
        return all(_sound(traced, some, input_shape, kept) for kept in _tries(some, sorted(widths)))

    if sound(groups):
        return groups
    groups = [group for group in groups if sound([group])]
    return groups if sound(groups) else []


def _tries(groups: Sequence[Group], widths: Sequence[int]) -> Iterator[list[int]]:
    """Channels kept of each group, to see whether the others can be removed: three of four.

    Where `widths` says how wide a network is that may decide by it, such as whether two maps are equally wide, also fewer, and
    as many as another group has.
    """
    yield [max(1, group.channels * 3 // 4) for group in groups]
    if not widths:
        return
    for divisor in (2, 8):
        yield [max(1, group.channels // divisor) for group in groups]
    for width in {*widths, max(1, widths[-1] // 4)}:
        kept = [min(group.channels, width) for group in groups]
        if any(count < group.channels for count, group in zip(kept, groups, strict=True)):
            yield kept


def _makers_together(channels: Channels) -> list[list[str]]:
    """The layers that make channels in common with each other, none of which must stay; in order of execution."""
    together: list[tuple[list[str], set[int]]] = []
    for layer, numbers in channels.made.items():
        makers, all_numbers = [layer], set(numbers.tolist())
        apart = []
        for others, theirs in together:
            if all_numbers.isdisjoint(theirs):
                apart.append((others, theirs))
            else:
                makers, all_numbers = others + makers, all_numbers | theirs
        together = [*apart, (makers, all_numbers)]
    order = {layer: place for place, layer in enumerate(channels.made)}
    free = [sorted(makers, key=order.__getitem__) for makers, numbers in together if channels.fixed.isdisjoint(numbers)]
    return sorted(free, key=lambda makers: order[makers[0]])


def _group(makers: Sequence[str], channels: Channels, modules: Mapping[str, nn.Module]) -> Group:
    numbers = dict.fromkeys(number for layer in makers for number in channels.made[layer].tolist())
    root = {number: place for place, number in enumerate(numbers)}
    members = []
    sides: tuple[tuple[Literal["out", "in"], Mapping[str, Integers]], ...] = (
        ("out", {layer: channels.made[layer] for layer in makers}),
        ("out", channels.kept),
        ("in", channels.read),
    )
    for side, table in sides:
        for layer, own in table.items():
            index = np.array([place for place, number in enumerate(own.tolist()) if number in root], np.int64)
            if len(index):
                members.append(Member(layer, side, index, np.array([root[number] for number in own[index].tolist()], np.int64)))
    return Group(makers[0], len(root), tuple(members), _importance(members, len(root), modules))


def _importance(members: Sequence[Member], channels: int, modules: Mapping[str, nn.Module]) -> NDArray[np.float64]:
    """(channels,) the L1 norms that the layers of a group have for each channel, their mean over the layers.

    Depthwise layers, whose norms are of another size, have no say (G. Fang et al. 2023).
    """
    total, counted = np.zeros(channels), 0
    for member in members:
        module = modules[member.layer]
        weight = module.weight
        if is_depthwise(module) or not isinstance(weight, Tensor):
            continue
        sizes = weight.detach().abs().double()
        sizes = sizes.transpose(0, 1) if member.side == "in" else sizes
        norms = sizes.reshape(len(sizes), -1).sum(1).numpy()
        np.add.at(total, member.root, norms[member.index])
        counted += 1
    return total / max(1, counted)


def _sound(model: nn.Module, groups: Sequence[Group], input_shape: tuple[int, int, int], kept: Sequence[int]) -> bool:
    """Whether keeping so many of each group's channels does what zero weights at all readers of the others do."""
    images = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # Again where rounding alone may have parted them, and with other weights where these say the same of every image.
    for redraws, kind in ((False, torch.float32), (False, torch.float64), (True, torch.float64)):
        network = _redrawn(model) if redraws else model
        expected = _answer(_ignoring(network, groups, kept).to(kind), images.to(kind))  # gone before the other copy is made
        try:
            got = _answer(remove_channels(network, groups, kept).to(kind), images.to(kind))
        except MemoryError:
            raise
        except Exception:  # shapes that no longer fit together, a layer that cannot be narrower, what the network insists on
            return False
        if got.shape != expected.shape:
            return False
        differs = (expected[0] - expected[1]).abs().max()  # between two images: what it says, less what it always says
        if bool((got - expected).abs().max() <= 1e-3 * differs):
            return True
        if kind == torch.float64 and bool(differs > _SILENT * expected.abs().max()):
            return False  # it tells images apart, and says something else of them
    return False


def _redrawn(model: nn.Module) -> nn.Module:
    """A copy of `model` whose weights are not negative and small, so that its activations are neither silent nor saturated."""
    redrawn = copied(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*redrawn.named_parameters(), *redrawn.named_buffers()):
            kind = name.rpartition(".")[2]
            if is_hollow(value) or not value.is_floating_point():
                continue
            if kind == "weight":
                value.copy_(torch.rand(value.shape, generator=generator) / max(1, value[0].numel()))
            elif kind in ("bias", "running_mean", "running_var"):
                value.fill_(float(kind == "running_var"))
    return redrawn


def _answer(model: nn.Module, images: Tensor) -> Tensor:
    with quiet(model):
        answer: Tensor = model(images)
    return answer


def _ignoring(model: nn.Module, groups: Sequence[Group], kept: Sequence[int]) -> nn.Module:
    """A copy of `model` whose readers have zero weights where `remove_channels` takes channels away."""
    ignoring = copied(model)
    modules = dict(ignoring.named_modules())
    with torch.no_grad():
        for group, count in zip(groups, kept, strict=True):
            lost = _least(group, count)
            for member in group.members:
                if member.side == "in" and not is_hollow(_weight(modules[member.layer])):
                    _weight(modules[member.layer])[:, member.index[lost[member.root]]] = 0
    return ignoring


def _least(group: Group, count: int) -> NDArray[np.bool_]:
    """(channels,) true for those that go when the `count` most important stay.

    Where several layers make a group's channels side by side (a concat that is added to something), each keeps its share of
    them, and at least one: by importance alone one of them might be left with none.
    """
    lost = np.zeros(group.channels, bool)
    parts = parts_of(group)
    for part, stays in zip(parts, shares([len(part) for part in parts], count), strict=True):
        lost[part[np.argsort(group.importance[part], kind="stable")[: len(part) - stays]]] = True
    return lost


def parts_of(group: Group) -> list[Integers]:
    """The group's channels, those together that exist in the same layers, equally often."""
    exists = np.zeros((group.channels, len(group.members)), np.int64)
    for column, member in enumerate(group.members):
        np.add.at(exists[:, column], member.root, 1)
    rows, place = np.unique(exists, axis=0, return_inverse=True)
    return [np.flatnonzero(place.reshape(-1) == row) for row in range(len(rows))]


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """`count` in proportion to `sizes`, whole numbers of at least 1, the largest remainders rounded up."""
    exact = [count * size / sum(sizes) for size in sizes]
    parts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda place: int(exact[place]) - exact[place])
    for place in by_remainder[: max(0, count - sum(parts))]:
        parts[place] += 1
    while sum(parts) > max(count, len(sizes)):  # what parts below one channel were given
        parts[max(range(len(sizes)), key=parts.__getitem__)] -= 1
    return parts


def remove_channels(model: Network, groups: Sequence[Group], kept: Sequence[int]) -> Network:
    """A copy of `model` with the `kept[g]` most important channels of each group, in their old order."""
    pruned = copied(model)
    modules, shared = dict(pruned.named_modules()), shared_parameters(pruned)
    gone: dict[tuple[str, str], list[Integers]] = {}
    for group, count in zip(groups, kept, strict=True):
        if count >= group.channels:
            continue
        lost = _least(group, count)
        for member in group.members:
            gone.setdefault((member.layer, member.side), []).append(member.index[lost[member.root]])
    for name in dict.fromkeys(layer for layer, _ in gone):
        module = modules[name]
        out, into = (_remaining(module, side, gone.get((name, side), [])) for side in ("out", "in"))
        set_tensors(module, _cut(module, out, into), name)
    tie(shared)
    return pruned


def _remaining(module: nn.Module, side: str, gone: Sequence[Integers]) -> Tensor:
    weight = module.weight
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        weight = weight if weight is not None else module.running_mean
    assert isinstance(weight, Tensor)
    width = weight.shape[0] if side == "out" or weight.ndim == 1 else weight.shape[1]
    stays = np.ones(width, bool)
    for index in gone:
        stays[index] = False
    return torch.from_numpy(np.flatnonzero(stays)).to(weight.device)


def _cut(module: nn.Module, out: Tensor, into: Tensor) -> dict[str, Tensor]:
    """The tensors of a layer at the outputs `out` and, where its weight has them, the inputs `into`."""
    tensors = {}
    for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if value.ndim == 0:
            tensors[key] = value.detach()
            continue
        is_cut_twice = value.ndim > 1 and not is_depthwise(module)
        if is_hollow(value):
            sides = (len(out), len(into), *value.shape[2:]) if is_cut_twice else (len(out), *value.shape[1:])
            tensors[key] = hollow(sides, value.detach())
            continue
        part = value.detach()[out]
        tensors[key] = part[:, into] if is_cut_twice else part
    return tensors


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
