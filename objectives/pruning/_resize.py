"""An architecture with the layer widths of saved weights.

An artifact is a structure and tensors, never a pickled module. A pruned network is its unpruned architecture, with every layer
made as wide as its saved tensors say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._hollow import hollow, is_hollow

__all__ = ["is_computed", "is_depthwise", "resize_to", "set_tensors", "shared_parameters", "tie"]

Network = TypeVar("Network", bound=nn.Module)


def is_depthwise(module: nn.Module) -> bool:
    """Whether `module` is a convolution with one filter for each channel."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def is_computed(module: nn.Module) -> bool:
    """Whether a layer's weight follows from other tensors, as with `weight_norm`: such a layer keeps its width."""
    own = "weight" in module._parameters or "weight" in module._buffers
    return not own and isinstance(getattr(module, "weight", None), Tensor)


def resize_to(model: Network, state_dict: Mapping[str, Tensor]) -> Network:
    """`model` with the tensors of `state_dict`, each layer as wide as its own; changed in place and returned.

    Convolutions, depthwise ones included, linear layers and batch-norms may change their widths; kernels and everything else
    must agree. Layers that share a parameter go on to, where the saved ones are equal. Raises SpaceError naming the first
    tensor that is missing, left over, or of an impossible shape.
    """
    expected = model.state_dict()
    for what, names in (("lack", expected.keys() - state_dict.keys()), ("have", state_dict.keys() - expected.keys())):
        if names:
            raise SpaceError(
                f"the saved weights {what} {min(names)!r}, which {type(model).__name__} has{'' if what == 'lack' else ' not'}; "
                "are they of another network?"
            )
    shared = shared_parameters(model)
    for name, module in model.named_modules():
        own = {
            key: state_dict[f"{name}.{key}" if name else key]
            for key in (
                *(k for k, _ in module.named_parameters(recurse=False)),
                *(k for k, _ in module.named_buffers(recurse=False)),
            )
            if (f"{name}.{key}" if name else key) in state_dict
        }
        if own:
            set_tensors(module, own, name)
    tie(shared)
    return model


def shared_parameters(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Places of each parameter that several layers have."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, key))
    return [each for each in places.values() if len(each) > 1]


def tie(shared: Sequence[Sequence[tuple[nn.Module, str]]]) -> None:
    """Make parameters in these places one again, where they still have the same values."""
    for (first, key), *others in shared:
        kept = getattr(first, key)
        values = [getattr(module, other) for module, other in others]
        if all(value.shape == kept.shape and (is_hollow(kept) or torch.equal(value, kept)) for value in values):
            for module, other in others:
                setattr(module, other, kept)


def set_tensors(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Gives a layer these parameters and buffers, and the attributes that follow from their shapes.

    Raises SpaceError if a layer of this kind cannot have them; `name` is what it is called there.
    """
    depthwise = is_depthwise(module)
    for key, value in tensors.items():
        old = getattr(module, key)
        if not _fits(module, key, value, old, tensors.get("weight")):
            raise SpaceError(
                f"the saved {name}.{key} has shape {tuple(value.shape)}, which does not fit {type(module).__name__} "
                f"with {tuple(old.shape)}"
            )
    with torch.no_grad():
        for key, value in tensors.items():
            old = getattr(module, key)
            if is_hollow(value):
                copy = hollow(value.shape, old)
            else:
                copy = torch.empty(value.shape, dtype=old.dtype, device=old.device).copy_(value)
            if isinstance(old, nn.Parameter):
                setattr(module, key, nn.Parameter(copy, requires_grad=old.requires_grad))
            else:
                setattr(module, key, copy)
    if isinstance(module, nn.Conv2d):
        module.out_channels = module.weight.shape[0]
        module.groups = module.out_channels if depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        module.num_features = len(module.running_mean)


def _fits(module: nn.Module, key: str, value: Tensor, old: Tensor, weight: Tensor | None) -> bool:
    if value.shape == old.shape and not isinstance(module, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)):
        return True
    if value.ndim != old.ndim or 0 in value.shape:
        return False
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        if key == "bias":
            # A weight that is computed, as by weight_norm, keeps its shape, and so does its bias.
            return value.shape == old.shape if weight is None else len(value) == len(weight)
        if isinstance(module, nn.Conv2d):
            same_kernel = value.shape[2:] == old.shape[2:]
            one_each = not is_depthwise(module) or value.shape[1] == 1
            return same_kernel and one_each and (is_depthwise(module) or value.shape[0] % module.groups == 0)
        return True
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return value.ndim == 0 or weight is None or len(value) == len(weight)
    return False
