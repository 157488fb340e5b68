"""Convolutions and linear layers as kernels that instructions have: dilation as zeros, a flattened image as a window."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgesearch.board_eval.graph import Activation, Conv, Depthwise, Graph, Linear, Node, Reshape, Shape
from edgesearch.board_eval.targets import Target
from edgesearch.errors import CompileError

__all__ = ["before_flatten", "check_padding", "dilated", "flattened", "image_shape", "root"]


def dilated(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Dilated convolutions with zeros between their taps: no field says dilation."""
    if not isinstance(node, Conv | Depthwise) or node.dilation == (1, 1):
        return [node]
    most = target.limits.conv_kernel if isinstance(node, Conv) else target.limits.window_kernel
    kernel = tuple((k - 1) * d + 1 for k, d in zip(node.kernel, node.dilation, strict=True))
    if max(kernel) > most:
        raise CompileError(
            f"layer {node.name!r}: kernel {node.kernel} with dilation {node.dilation} spans {kernel} pixels; the compiler "
            f"writes dilation as zeros between the taps, in kernels of up to {most}: use a smaller dilation"
        )
    depth = 1 if isinstance(node, Depthwise) else -(-graph.by_name[node.inputs[0]].shape[2] // target.input_parallel)
    words = kernel[0] * kernel[1] * depth
    if words > target.bank_words:
        raise CompileError(
            f"layer {node.name!r}: kernel {node.kernel} with dilation {node.dilation} is written as {kernel[0]} x {kernel[1]} "
            f"taps, with zeros between its own: {words} words for an output channel, a weight bank of {target.name} has "
            f"{target.bank_words}; use a smaller dilation or fewer input channels"
        )
    weight = None
    if node.weight is not None:
        first = 0 if isinstance(node, Depthwise) else 1
        shape = list(node.weight.shape)
        shape[first : first + 2] = kernel
        weight = np.zeros(shape, np.float32)
        taps = (slice(None, None, node.dilation[0]), slice(None, None, node.dilation[1]))
        weight[(*(slice(None),) * first, *taps)] = node.weight
    return [dataclasses.replace(node, kernel=(kernel[0], kernel[1]), dilation=(1, 1), weight=weight)]


def check_padding(graph: Graph) -> None:
    """Raise CompileError for a depthwise convolution whose last windows lie in the padding behind the image alone."""
    for node in graph:
        if not isinstance(node, Depthwise):
            continue
        height, width, _ = graph.by_name[node.inputs[0]].shape
        left, _, top, _ = node.padding
        if (node.shape[0] - 1) * node.stride[0] - top < height and (node.shape[1] - 1) * node.stride[1] - left < width:
            continue
        most = tuple((size - 1) * apart for size, apart in zip(node.kernel, node.dilation, strict=True))
        raise CompileError(
            f"layer {node.name!r}: padding {node.padding} (left, right, top, bottom) puts a whole window of the depthwise "
            f"kernel {node.kernel} behind the image, which no field can say; pad with at most {most[1]} to the left and right, "
            f"{most[0]} at top and bottom"
        )


def before_flatten(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Activations of a flattened image with more elements than a pixel has channels, as those of the image: values stay."""
    if not isinstance(node, Activation) or len(node.shape) != 1:
        return [node]
    source = root(graph, graph.by_name[node.inputs[0]])
    name = source.name if len(source.shape) == 3 else f"{source.name}/image"  # one behind another reads its form on the image
    while isinstance(source, Activation) and len(source.shape) == 1:
        source = root(graph, graph.by_name[source.inputs[0]])
    shape = source.shape
    if node.shape[0] <= target.limits.channel_groups * target.input_parallel or len(shape) != 3 or shape[:2] == (1, 1):
        return [node]
    image = dataclasses.replace(node, name=f"{node.name}/image", inputs=(name,), shape=shape)
    return [image, Reshape(name=node.name, inputs=(image.name,), shape=node.shape)]


def flattened(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Linear layers on a flattened image as convolutions of the whole image, where a kernel is large enough."""
    if not isinstance(node, Linear):
        return [node]
    source = root(graph, graph.by_name[node.inputs[0]])
    shape = source.shape
    if len(shape) != 3 or shape[:2] == (1, 1):
        return [node]
    height, width, channels = shape
    words = height * width * -(-channels // target.input_parallel)
    if max(height, width) > target.limits.conv_kernel or words > target.bank_words:
        return [node]
    weight = None if node.weight is None else node.weight.reshape(node.shape[0], height, width, channels)
    conv = Conv(
        name=f"{node.name}/image",
        inputs=(source.name,),
        shape=(1, 1, node.shape[0]),
        fix=node.fix,
        weight=weight,
        bias=node.bias,
        weight_fix=node.weight_fix,
        bias_fix=node.bias_fix,
        activation=node.activation,
        has_bias=node.has_bias,
        kernel=(height, width),
    )
    return [conv, Reshape(name=node.name, inputs=(conv.name,), shape=node.shape)]


def image_shape(shape: Shape) -> Shape:
    """(H, W, C) of an image or a vector."""
    return shape if len(shape) == 3 else (1, 1, *shape)


def root(graph: Graph, node: Node) -> Node:
    """What a chain of reshapes reads."""
    while isinstance(node, Reshape):
        node = graph.by_name[node.inputs[0]]
    return node
