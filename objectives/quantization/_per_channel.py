"""PTQ with a fix position for the weights of each output channel, for analysis: what one position for a whole tensor costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network, to_tensor
from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear, Node, from_torch_layout
from edgesearch.objectives.quantization._positions import round_half_away, search_position
from edgesearch.objectives.quantization._vitis import Calibration

__all__ = ["has_channel_positions", "quantize_per_channel", "with_one_position"]


def quantize_per_channel(
    graph: Graph, images: npt.NDArray[np.float32], *, bits: int = 8, seed: int = 0, device: str = "cpu"
) -> Graph:
    """See `quantize`: what "vitis" does, but for the weights, and without equalization, which stands in for such positions.

    Nothing is left to chance, so `seed` changes nothing. No xmodel can hold the result; `execute` computes it exactly.
    """
    with torch.no_grad():
        calibration = _ChannelCalibration(Network.of(graph).to(device), bits)
        for image in torch.split(to_tensor(images), 1):
            calibration.show(image.contiguous().to(device))
        return calibration.finish()


def has_channel_positions(graph: Graph) -> bool:
    """Whether some layer has a position for each channel, so that no DPU can run the network."""
    return any(isinstance(node, Conv | Depthwise | Linear) and node.channel_fix is not None for node in graph)


def with_one_position(graph: Graph) -> Graph:
    """The network as if each layer's weights had the finest of their channels' positions: of the same time, and no more."""

    def put(node: Node) -> Node:
        return dataclasses.replace(node, channel_fix=None) if isinstance(node, Conv | Depthwise | Linear) else node

    return graph.map(put)


@dataclasses.dataclass
class _ChannelCalibration(Calibration):
    """A calibration in which each output channel's weights have the position with the least squared error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._channels: dict[str, tuple[int, ...]] = {}
        for name, weight in self.network.weights.items():  # torch's layout: output channels come first
            self._channels[name] = tuple(search_position(channel, self.bits, weights=True) for channel in weight)
            self._rounded[name] = _round(weight, self._channels[name], self.bits)

    def finish(self) -> Graph:
        """The quantized Graph."""

        def put(node: Node) -> Node:
            if not isinstance(node, Conv | Depthwise | Linear):
                return node
            fixes, weight = self._channels[node.name], self._rounded[node.name].cpu().numpy()
            return dataclasses.replace(node, weight=from_torch_layout(node, weight), weight_fix=max(fixes), channel_fix=fixes)

        return super().finish().map(put)


def _round(weight: Tensor, fixes: tuple[int, ...], bits: int) -> Tensor:
    return torch.stack([round_half_away(channel, fix, bits) for channel, fix in zip(weight, fixes, strict=True)])
