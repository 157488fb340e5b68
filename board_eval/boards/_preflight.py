"""What is known to cost accuracy or speed on a DPU, looked for before anything is trained or deployed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Add, Conv, Depthwise, Graph, Linear, Node, check_is_graph, round_activations
from edgesearch.board_eval.targets import DEFAULT_TARGET, Limits, Target, check_target

if TYPE_CHECKING:
    from torch import nn

Severity: TypeAlias = Literal["warning", "note"]

#: A tied top-1 is a coin toss; at this share of the images accuracy visibly depends on it.
TIED_SHARE = 0.005
#: Images run to look at the logits.
_LOGIT_IMAGES = 200
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: a warning costs accuracy, a note costs speed or is for information. `layer` may be empty."""

    severity: Severity
    layer: str
    message: str


def preflight(
    graph: Graph,
    *,
    calibration: npt.NDArray[np.float32] | None = None,
    test: npt.NDArray[np.float32] | None = None,
    model: nn.Module | None = None,
    target: Target = DEFAULT_TARGET,
) -> list[Finding]:
    """Findings about a network, quantized or not, on `target`, warnings first.

    `calibration` and `test` are images (N, H, W, C), normalised alike; `model` is the torch model the graph came from. What
    they are needed for is skipped where they are not given.
    """
    check_is_graph(graph)
    check_target(target)
    findings = [*_relu6(graph), *_adds(graph), *_channels(graph, target)]
    findings += _input(graph, calibration)
    if calibration is not None and graph.quantized:
        findings += _logits(graph, calibration[:_LOGIT_IMAGES])
    if calibration is not None and test is not None:
        findings += duplicate_images(calibration, test)
    if model is not None:
        findings += _frozen(model)
    return sorted(findings, key=lambda finding: finding.severity != "warning")


def _relu6(graph: Graph) -> Iterator[Finding]:
    names = [node.name for node in graph if getattr(node, "activation", "none") == "relu6"]
    if names:
        yield Finding(
            "warning",
            names[0],
            f"{len(names)} ReLU6 ({_listed(names)}): Vitis AI replaces each by ReLU before it quantizes, which can cost many "
            "points of accuracy; they are kept here, and algorithm = 'vitis' shows what would be lost",
        )


def _adds(graph: Graph) -> Iterator[Finding]:
    for node in graph:
        if not isinstance(node, Add):
            continue
        a, b = (graph.fix_of(source) for source in node.inputs)
        if a is not None and b is not None and abs(a - b) > Limits.guard_bits:
            yield Finding(
                "warning",
                node.name,
                f"adds tensors at fix positions {a} and {b}; the DPU keeps {Limits.guard_bits} guard bits, so the low bits of "
                f"the finer one are cut off; algorithm = 'best' keeps them at most {Limits.guard_bits} apart",
            )


def _channels(graph: Graph, target: Target) -> Iterator[Finding]:
    together = target.channel_parallel
    layers = [n for n in graph if isinstance(n, Conv | Depthwise | Linear) and not _is_output(graph, n)]
    odd = [node for node in layers if node.shape[-1] % together]
    if odd:
        listed = _listed([f"{node.name} {node.shape[-1]}" for node in odd])
        have = "1 layer has" if len(odd) == 1 else f"{len(odd)} layers have"
        yield Finding(
            "note",
            odd[0].name,
            f"{have} channels that are no multiple of {together} ({listed}); the DPU computes the next "
            "multiple in the same time",
        )


def _is_output(graph: Graph, node: Node) -> bool:
    """Whether nothing but shapes, pools and activations stands between the layer and the network's output."""
    while readers := graph.consumers[node.name]:
        if len(readers) > 1 or isinstance(readers[0], Conv | Depthwise | Linear | Add):
            return False
        node = readers[0]
    return True


def _input(graph: Graph, images: npt.NDArray[np.float32] | None) -> Iterator[Finding]:
    """Saturation of the image: a warning when it costs more than it gains, a note for whoever writes the host's program.

    A finer position rounds better and saturates more. What saturates is worth a warning only when the position that is one
    coarser gives the images back with less squared error.
    """
    name, fix = graph.input.name, graph.input.fix
    if images is None:
        if fix == 7:
            yield Finding("note", name, f"the input's fix position is 7: +1.0 is 128 and saturates at 127; {_CASTS}")
        return
    position = _usual_position(images) if fix is None else fix
    over = images >= 127.5 / 2.0**position
    if not over.any():
        return
    per_image = over.reshape(len(images), -1).any(axis=1)
    share = f"{over.mean():.2%} of the values in {per_image.mean():.0%} of the images saturate at 127"
    if _squared_error(images, position) > _squared_error(images, position - 1):
        yield Finding(
            "warning",
            name,
            f"values up to {images.max():g} do not fit fix position {position}: {share}, and position {position - 1} would "
            "give the images back better; normalise them to a smaller range, or quantize with images like these",
        )
    else:
        yield Finding("note", name, f"{share} at fix position {position}, which costs less than a coarser one would; {_CASTS}")


_CASTS = "a host program that casts instead of saturating turns such values into -128"


def _squared_error(images: npt.NDArray[np.float32], fix: int) -> float:
    """Mean squared error of the images at a fix position, rounding and saturation together."""
    back = np.ldexp(round_activations(images, fix).astype(np.float64), -fix)
    return float(np.mean((images - back) ** 2))


def _usual_position(images: npt.NDArray[np.float32]) -> int:
    """The position that Vitis AI gives an input of these images: the one that most of them ask for by themselves."""
    flat = images.reshape(len(images), -1)
    steps = np.maximum(flat.min(axis=1) / -128.5, flat.max(axis=1) / 127.5)
    steps = steps[steps > 0]
    if not len(steps):
        return 7
    positions, votes = np.unique(np.floor(np.log2(1 / steps)).astype(int), return_counts=True)
    return int(positions[votes.argmax()])  # ties: the coarser, which comes first


def _logits(graph: Graph, images: npt.NDArray[np.float32]) -> Iterator[Finding]:
    from edgesearch.board_eval.execution import execute

    logits = execute(graph, images)
    if logits.ndim != 2 or logits.shape[1] < 2:
        return
    top = np.sort(logits, axis=1)[:, -2:]
    tied = top[:, 0] == top[:, 1]
    fix = graph.fix_of(graph.output.name) or 0
    saturated = tied & (top[:, 1] * 2.0**fix >= 2 ** (graph.bits - 1) - 1)
    if tied.mean() >= TIED_SHARE:
        why = "most of them saturated" if saturated.sum() * 2 > tied.sum() else "the steps are too coarse"
        yield Finding(
            "warning",
            graph.output.name,
            f"the two best classes have equal logits on {tied.mean():.1%} of {len(images)} images, {why} at position {fix}; "
            "algorithm = 'best' takes the position at which the answers stay closest to the float network's",
        )


def duplicate_images(
    images: npt.NDArray[np.generic],
    others: npt.NDArray[np.generic],
    *,
    kinds: tuple[str, str] = ("calibration", "test"),
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> list[Finding]:
    """A warning when `images` lie among the `others`, too, bit for bit; both (N, ...), prepared alike.

    `kinds` are what both are for, the second being what accuracy is measured on; `names` what they are called, else by number.
    """
    places = {digest: i for i, digest in reversed(list(enumerate(_digests(others))))}
    pairs = [(i, places[digest]) for i, digest in enumerate(_digests(images)) if digest in places]
    if not pairs:
        return []
    kind, other = kinds
    called = [(str(i), str(j)) if names is None else (names[0][i], names[1][j]) for i, j in pairs]
    named = _listed([f"{i} = {j}" for i, j in called])
    legend = f"{kind} = {other}, counted from 0: " if names is None else ""
    return [
        Finding(
            "warning",
            "",
            f"{len(pairs)} of {len(images)} {kind} images have exact duplicates among the {other} images ({legend}{named}); "
            f"accuracy on the {other} split will look better than it is; take the duplicates out of the data",
        )
    ]


def _digests(images: npt.NDArray[np.generic]) -> Iterable[bytes]:
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)


def _frozen(model: nn.Module) -> Iterator[Finding]:
    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if names:
        yield Finding(
            "warning",
            names[0].rpartition(".")[0],
            f"{len(names)} parameters are frozen ({_listed(names)}) as the model is built; every training stage here trains "
            "them all the same, a script of your own would not; set requires_grad",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
