"""Weights files as people have them: the tensors by name, whatever they are wrapped in.

safetensors, NumPy archives and what torch.save writes are read, the last without running any code in it. A checkpoint may hold
its state_dict beside other things, and its names may begin with the name of a wrapper (module., model., _orig_mod.).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesearch.errors import SpaceError

__all__ = ["TORCH_SUFFIXES", "is_copy", "read_weights", "rivals", "without_prefix"]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
#: Where checkpoints keep the tensors, most usual first.
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
_LFS_POINTER = b"version https://git-lfs"
#: A wrapper's prefix is taken off only if what remains names at least this share of the network.
_NAMED = 0.5
#: Wrappers that may lie around a part of a network: their names stand within a tensor's name.
_INNER = frozenset({"_orig_mod", "module"})

State = Mapping[str, Tensor]


class _Reason(Exception):
    """Why a file cannot be read, in a few words."""


def read_weights(path: Path) -> State:
    """Tensors by name. Raises SpaceError, in one sentence, for a file that is none of these or is damaged."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SpaceError(f"weights {str(path)!r} end in {path.suffix!r}; expected one of {', '.join(_READERS)}")
    try:
        with path.open("rb") as opened:
            start = opened.read(len(_LFS_POINTER))
        if not start:
            raise _Reason("the file is empty; copy it again")
        if start == _LFS_POINTER:
            raise _Reason("it is a Git LFS pointer, not the weights; run `git lfs pull` where it comes from")
        state = reader(path)
        if not state:
            raise _Reason("it holds no tensors")
        _refuse_without_values(state)
    except RecursionError as error:
        raise SpaceError(f"weights {str(path)!r} cannot be read: its dictionaries hold each other without end") from error
    except _Reason as reason:
        raise SpaceError(f"weights {str(path)!r} cannot be read: {reason}") from reason.__cause__
    except OSError as error:
        raise SpaceError(f"weights {str(path)!r} cannot be read: {error.strerror or error}") from error
    return state


def _refuse_without_values(state: State) -> None:
    """_Reason for tensors that do not simply hold their values, which torch.save writes as they are."""
    for name, tensor in state.items():
        if tensor.is_meta:
            raise _Reason(f"{name} has a shape and no values (device 'meta'); save the model after its weights were loaded")
        if tensor.dtype == torch.int8 and tensor.ndim == 4:
            raise _Reason(
                f"{name} holds integers of eight bits, of a network that was quantized; give the float weights that they were "
                "made of"
            )
        if tensor.layout != torch.strided or tensor.is_nested:
            raise _Reason(f"{name} is a sparse or nested tensor; save it as tensor.to_dense()")


def without_prefix(state: State, own: Mapping[str, Tensor]) -> State:
    """The tensors by the names of `own`, without the prefix that a wrapper put before them; others are left out then.

    The prefix is the one after which most names and shapes are those of `own`, if they are at least half of them. Parts that
    were compiled or made parallel on their own (layer1._orig_mod.0.weight) are named as in the network, too.
    """
    state = _without_inner(state, own)
    fits = _fits(state, own)
    prefix = max(fits, key=lambda candidate: (fits[candidate], -len(candidate)), default="")
    if not prefix or fits[prefix] <= fits[""] or fits[prefix] < _NAMED * len(own):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def rivals(state: State, own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The prefixes of networks that fit `own` equally well, better than any other, with other values; () for one network."""
    state = _without_inner(state, own)
    fits = _fits(state, own)
    most = max(fits.values(), default=0)
    if most < max(1, _NAMED * len(own)):
        return ()
    first, *others = (prefix for prefix, count in fits.items() if count == most)

    def differs(prefix: str) -> bool:
        pairs = ((state.get(first + name), state.get(prefix + name)) for name in own)
        return any(a is not None and b is not None and not is_copy(a, b) for a, b in pairs)

    differing = [prefix for prefix in others if differs(prefix)]
    return (first, *differing) if differing else ()


def is_copy(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, or none."""
    return a is b or (a.shape == b.shape and (a.is_meta or b.is_meta or torch.equal(_wide(a), _wide(b))))


def _wide(tensor: Tensor) -> Tensor:
    """The values in a type that torch compares with others; it has no rule for floats of eight bits."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 2 else tensor


def _fits(state: State, own: Mapping[str, Tensor]) -> Counter[str]:
    """By prefix, how many tensors have a name and shape of `own` behind it."""
    fits: Counter[str] = Counter()
    for name, tensor in state.items():
        for cut in (0, *(match.end() for match in re.finditer(r"\.", name))):
            expected = own.get(name[cut:])
            if expected is not None and expected.shape == tensor.shape:
                fits[name[:cut]] += 1
    return fits


def _without_inner(state: State, own: Mapping[str, Tensor]) -> State:
    """The tensors without the names of wrappers behind the start of theirs, unless the network has such names itself."""
    used = {part for name in own for part in name.split(".")}
    wrappers = _INNER - used
    shorter = {_drop(name, wrappers): tensor for name, tensor in state.items()}
    return shorter if len(shorter) == len(state) else state


def _drop(name: str, wrappers: frozenset[str]) -> str:
    parts = name.split(".")
    start = next((place for place, part in enumerate(parts) if part not in wrappers), 0)
    return ".".join((*parts[:start], *(part for part in parts[start:] if part not in wrappers)))


# --- formats ------------------------------------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _Reason("it is no safetensors file, or a damaged one; save it again or copy it again") from error


def _read_npz(path: Path) -> State:
    import numpy as np

    state: dict[str, Tensor] = {}
    try:
        with path.open("rb") as opened:  # numpy leaves a file open that it cannot read
            archive = np.load(opened, allow_pickle=False)
            for name in archive.files:
                state[name] = torch.from_numpy(_native(archive[name]))
    except Exception as error:  # zipfile, zlib and numpy each have exceptions of their own for damage
        if "pickle" in str(error) and path.read_bytes()[:2] == b"PK":
            raise _Reason(
                "it holds Python objects; store one array of numbers for each tensor: numpy.savez(FILE, **{name: "
                "tensor.numpy() for name, tensor in model.state_dict().items()})"
            ) from error
        if isinstance(error, TypeError):
            raise _Reason("it holds arrays that are no numbers; store the tensors alone") from error
        raise _Reason("it is no .npz archive, or a damaged one; write it with numpy.savez, or copy it again") from error
    return state


def _native(array: Any) -> Any:
    """The array in this machine's byte order."""
    return array.astype(array.dtype.newbyteorder("="))


class _Aside:
    """Stands for an object beside the tensors that nobody reads: made of anything, it keeps nothing and runs nothing."""

    def __init__(self, *ignored: object) -> None: ...

    def __setstate__(self, ignored: object) -> None: ...


#: What checkpoints keep beside their tensors that is plain data: figures of NumPy's, and the settings of a command line.
_ASIDE = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
)


def _read_torch(path: Path) -> State:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on TorchScript archives, which are refused below
            with torch.serialization.safe_globals([(_Aside, name) for name in _ASIDE]):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each of torch's formats has exceptions of its own; their advice is to run the file's code
        message = str(error)
        if "TorchScript" in message:
            raise _Reason("it is a TorchScript program; save its tensors: torch.save(model.state_dict(), FILE)") from error
        unknown = re.search(r"GLOBAL ([\w.]+)", message)
        if unknown or "nsupported" in message:
            what = f" ({unknown.group(1)})" if unknown else ""
            raise _Reason(
                f"it holds Python objects beside tensors{what}, which could run code; save its tensors alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from error
        raise _Reason("torch.save did not write it, or it is damaged; save it again or copy it again") from error
    return _tensors(loaded)


def _tensors(loaded: object) -> State:
    """The state_dict in what torch.save wrote: the dictionary itself, or one that a checkpoint keeps in it.

    What lies beside that one and may be the same network (its running mean) comes along, so that `rivals` finds both: then
    the names of both begin with their keys.
    """
    if not isinstance(loaded, Mapping):
        raise _Reason(f"it holds {type(loaded).__name__}, not a state_dict; write it with torch.save(model.state_dict(), FILE)")
    own = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if own and len(own) == len(loaded):
        return own
    reasons: list[_Reason] = []
    for key in _NESTED:
        if isinstance(loaded.get(key), Mapping):
            try:
                first = _tensors(loaded[key])
            except _Reason as reason:  # settings of the network, say
                reasons.append(reason)
                continue
            return _with_others(key, first, loaded)
    if own:
        return own
    if reasons:
        raise reasons[0]
    found = ", ".join(str(key) for key in list(loaded)[:5]) or "nothing"
    raise _Reason(f"it does not hold a state_dict but {found}; write it with torch.save(model.state_dict(), FILE)")


def _with_others(key: str, first: State, loaded: Mapping[object, object]) -> State:
    kinds = _kinds(first)
    alike = {key: first}
    for other, value in loaded.items():
        if other == key or not isinstance(value, Mapping):
            continue
        try:
            state = _tensors(value)
        except _Reason:  # an optimizer's state, settings
            continue
        if (kinds & _kinds(state)).total() >= max(1, _NAMED * kinds.total()):
            alike[str(other)] = state
    if len(alike) == 1:
        return first
    return {f"{prefix}.{name}": tensor for prefix, state in alike.items() for name, tensor in state.items()}


def _kinds(state: State) -> Counter[tuple[str, torch.Size]]:
    """Tensors by what stays the same inside any wrapper: the last part of the name, and the shape."""
    return Counter((name.rpartition(".")[2], tensor.shape) for name, tensor in state.items())


_READERS: dict[str, Callable[[Path], State]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    **dict.fromkeys(TORCH_SUFFIXES, _read_torch),
}
