"""A graph read against the limits of a DPU, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

from edgesearch.board_eval.graph import (
    Activation,
    ActivationKind,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Linear,
    Node,
    Pool,
    Reshape,
    Shape,
)
from edgesearch.board_eval.targets._target import Target, Violation

__all__ = ["violations"]


def violations(graph: Graph, target: Target) -> tuple[Violation, ...]:
    """Every limit of `target` that a layer of `graph` breaks, in the order of its layers."""
    return tuple(_Reading(graph, target).violations())


class _Reading:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph, self.target = graph, target
        #: Channels of one tensor that the DPU's channel groups reach.
        self.most_inputs = target.limits.channel_groups * target.input_parallel
        self.most_outputs = target.limits.channel_groups * target.output_parallel

    def violations(self) -> Iterator[Violation]:
        for node in self.graph:
            match node:
                case Conv():
                    yield from self._conv(node)
                case Depthwise():
                    yield from self._depthwise(node)
                case Linear():
                    yield from self._linear(node)
                case Pool():
                    yield from self._window(node)
                case Add():
                    yield from self._activation(node, ("none", "relu"), "an addition")
                case Concat():
                    yield from self._concat(node)
            yield from self._pixel(node)

    def _channels(self, node: Node) -> int:
        return self.graph.by_name[node.inputs[0]].shape[-1]

    def _most(
        self, node: Node, what: str, given: tuple[int, ...], most: int, advice: str, *, least: int = 1
    ) -> Iterator[Violation]:
        if max(given) > most:
            yield Violation(node.name, f"{what} {given}", f"{self.target.name} takes {least}..{most} per axis", advice)

    # -- operations

    def _conv(self, node: Conv) -> Iterator[Violation]:
        limits = self.target.limits
        yield from self._most(node, "kernel", node.kernel, limits.conv_kernel, "use smaller kernels, one behind the other")
        yield from self._most(node, "stride", node.stride, limits.conv_stride, "use smaller strides, one behind the other")
        vertical, horizontal = ((k - 1) * d for k, d in zip(node.kernel, node.dilation, strict=True))
        left, right, top, bottom = node.padding
        if max(left, right) > horizontal or max(top, bottom) > vertical:
            yield Violation(
                node.name,
                f"padding {node.padding} (left, right, top, bottom) of a kernel {node.kernel} with dilation {node.dilation}",
                f"a convolution on {self.target.name} takes 0..{horizontal} to the left and right, 0..{vertical} at top and "
                "bottom: (kernel - 1) * dilation",
                "pad less",
            )
        yield from self._weights(node, node.kernel, self._channels(node))
        yield from self._outputs(node)
        yield from self._dilation(node)
        yield from self._activation(node, _activations(self.target.leaky_in_conv), "a convolution")

    def _depthwise(self, node: Depthwise) -> Iterator[Violation]:
        # AMD's target file counts the weights of all channels, but its boards run 5 x 5 kernels on 1,536 channels (2,400 words;
        # EfficientNet EdgeTPU in its Model Zoo): channels need nothing of each other, so those done at a time must fit.
        yield from self._window(node)
        yield from self._weights(node, node.kernel, self.target.input_parallel)
        yield from self._dilation(node)
        yield from self._activation(node, _activations(self.target.leaky_in_depthwise), "a depthwise convolution")

    def _linear(self, node: Linear) -> Iterator[Violation]:
        """A linear layer is a 1x1 convolution of a vector, or one of k x k over the image that was flattened."""
        features = self._channels(node)
        if not any(self._holds(*form) for form in ((1, 1, features), self._flattened(node))):
            words = -(-features // self.target.input_parallel)
            if words > self.target.bank_words:
                yield from self._weights(node, (1, 1), features)
            else:
                yield Violation(
                    node.name,
                    f"{features} inputs",
                    f"{self.target.name} takes at most {self.most_inputs}, or an image whose height and width are at most "
                    f"{self.target.limits.conv_kernel}, flattened",
                    "pool before the flatten",
                )
        yield from self._outputs(node)
        yield from self._activation(node, _activations(self.target.leaky_in_conv), "a linear layer")

    def _holds(self, height: int, width: int, channels: int) -> bool:
        """Whether a kernel of this size over so many channels fits: taps, channel groups and words of the weight bank."""
        words = height * width * -(-channels // self.target.input_parallel)
        kernel = max(height, width) <= self.target.limits.conv_kernel
        return kernel and channels <= self.most_inputs and words <= self.target.bank_words

    def _flattened(self, node: Linear) -> tuple[int, int, int]:
        """(height, width, channels) of the image behind the vector that a linear layer reads."""
        source = self.graph.by_name[node.inputs[0]]
        while isinstance(source, Reshape | Activation):
            source = self.graph.by_name[source.inputs[0]]
        return _image(source.shape)

    def _concat(self, node: Concat) -> Iterator[Violation]:
        if node.axis != len(node.shape) - 1:
            where = ("height", "width")[node.axis]
            limit = f"{self.target.name} puts channels side by side only"
            yield Violation(node.name, f"a concatenation along the {where}", limit, "concatenate along the channels")

    # -- limits that several operations share

    def _window(self, node: Depthwise | Pool) -> Iterator[Violation]:
        limits = self.target.limits
        over_all = node.kernel == self.graph.by_name[node.inputs[0]].shape[:2]
        advice = "pool in two steps, or make the image smaller before" if over_all else "use a smaller one"
        yield from self._most(node, "kernel", node.kernel, limits.window_kernel, advice)
        if not (over_all and node.stride == node.kernel):  # nobody chose the stride of a pool over the whole image
            yield from self._most(node, "stride", node.stride, limits.window_stride, "use a smaller one")
        left, right, top, bottom = node.padding
        before, after = limits.window_padding_before, limits.window_padding_after
        yield from self._most(node, "padding to the left and on top", (left, top), before, "pad less there", least=0)
        yield from self._most(node, "padding to the right and at the bottom", (right, bottom), after, "pad less there", least=0)

    def _weights(self, node: Node, kernel: tuple[int, int], channels: int) -> Iterator[Violation]:
        words = kernel[0] * kernel[1] * -(-channels // self.target.input_parallel)
        if words > self.target.bank_words:
            yield Violation(
                node.name,
                f"the weights of one output channel, {kernel[0]} x {kernel[1]} x {channels}, take {words} words",
                f"a weight bank of {self.target.name} has {self.target.bank_words}",
                "use fewer input channels or a smaller kernel",
            )

    def _outputs(self, node: Conv | Linear) -> Iterator[Violation]:
        channels = node.shape[-1]
        if channels > self.most_outputs:
            limit = f"{self.target.name} takes at most {self.most_outputs}"
            is_vector = isinstance(node, Linear)
            other = "two 1 x 1 convolutions, their concat and a flatten behind it" if is_vector else "two layers and a concat"
            yield Violation(node.name, f"{channels} output channels", limit, f"use fewer, or {other}")

    def _dilation(self, node: Conv | Depthwise) -> Iterator[Violation]:
        channels, dilation = self._channels(node), max(node.dilation)
        if channels > self.most_inputs:
            limit = f"{self.target.name} takes at most {self.most_inputs}"
            yield Violation(node.name, f"{channels} input channels", limit, "use fewer")
        elif dilation * channels > self.most_inputs:
            limit = f"their product is limited to {self.most_inputs} on {self.target.name}"
            given = f"dilation {node.dilation} of {channels} input channels"
            yield Violation(node.name, given, limit, "use fewer channels or a smaller dilation")

    def _activation(
        self, node: Conv | Depthwise | Linear | Add, known: tuple[ActivationKind, ...], what: str
    ) -> Iterator[Violation]:
        if node.activation not in known:
            names = " or ".join(_WORDS[kind] for kind in known if kind != "none")
            given = f"{_WORDS[node.activation]} behind {what}"
            yield Violation(node.name, given, f"{self.target.name} has {names} there", "use that")

    def _pixel(self, node: Node) -> Iterator[Violation]:
        """All channels of one pixel lie in one bank."""
        channels = node.shape[-1]
        words = -(-channels // self.target.input_parallel)
        if words > self.target.bank_words and isinstance(node, Conv | Depthwise | Pool | Concat | Activation):
            limit = f"a bank of {self.target.name} has {self.target.bank_words}"
            yield Violation(node.name, f"{channels} channels take {words} words a pixel", limit, "use fewer channels")


_WORDS: dict[ActivationKind, str] = {"none": "none", "relu": "ReLU", "relu6": "ReLU6", "leaky_relu": "leaky ReLU"}


def _activations(leaky: bool) -> tuple[ActivationKind, ...]:
    return ("none", "relu", "relu6", "leaky_relu") if leaky else ("none", "relu", "relu6")


def _image(shape: Shape) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, shape[-1])
