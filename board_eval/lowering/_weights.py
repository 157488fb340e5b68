"""The weights that a layer computes with, also where it computes them before each call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgesearch.board_eval.graph import Array
from edgesearch.board_eval.lowering._values import Unsupported

__all__ = ["array", "parameter_of"]


def array(tensor: Tensor) -> Array:
    """A float32 copy in numpy; raises Unsupported for a tensor without values."""
    if tensor.is_meta:
        raise Unsupported("its weights are on torch's `meta` device, which keeps no values; make the network on the CPU")
    if tensor.is_complex():
        raise Unsupported(f"its weights are {str(tensor.dtype).removeprefix('torch.')}; the DPU computes with real numbers")
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return np.array(tensor.detach().cpu().to(torch.float32).numpy(), order="C")


@torch.no_grad()
def parameter_of(module: nn.Module, name: str) -> Tensor:
    """A weight or bias as the next call in evaluation mode has it; the module is not changed.

    `weight_norm`, `spectral_norm` and `torch.nn.utils.prune` compute it in a hook before each call: until then the attribute is
    what the call before had, whatever was loaded or trained since.
    """
    if hasattr(module, "weight_fake_quant"):
        raise Unsupported(
            "torch.ao's quantization-aware training rounds its weights; give the network as it was before `prepare_qat`"
        )
    value = getattr(module, name, None)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            value = hook.compute_weight(module)
        elif isinstance(hook, SpectralNorm) and hook.name == name:
            value = hook.compute_weight(module, do_power_iteration=False)
        elif isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            value = hook.apply_mask(module)  # type: ignore[no-untyped-call]
    if not isinstance(value, Tensor):
        raise Unsupported(f"has no {name}, or one that is no tensor; give the layer one before it is lowered")
    return value
