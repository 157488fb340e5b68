"""How much memory quantization-aware training takes, told before it starts from the shapes of its network."""

from __future__ import annotations

import torch
from torch import nn

from edgesearch.board_eval.graph import graph_to_json
from edgesearch.objectives.quantization._qat_features import supervision_of_nodes
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.quantization._qat_recipe import QatRecipe
from edgesearch.objectives.training import DataShape, MemoryForecast, Supervision, predict_memory

__all__ = ["predict_qat_memory"]

#: Images by which the nodes of the network are told apart.
_IMAGES = 4


def predict_qat_memory(
    model: nn.Module,
    data: DataShape,
    *,
    recipe: QatRecipe,
    input_size: int | None,
    bits: int = 8,
    supervision: Supervision | None = None,
    device: str = "cpu",
    before: int | None = None,
) -> MemoryForecast:
    """What `train_qat` with the same arguments will take, once its positions are found.

    `model` is not changed. before: bytes that the process has before, `model` among them; None: those of this one.
    Raises what `QatNetwork.of` does for a network that cannot be quantized.
    """
    size = data.size if input_size is None else (input_size, input_size)
    network = QatNetwork.of(model, (data.channels, *size), bits, None)
    if supervision is not None and supervision.compares_features:
        images = torch.rand(_IMAGES, data.channels, *size, generator=torch.Generator().manual_seed(0))
        supervision = supervision_of_nodes(supervision, model, network, images)
    if before is not None:
        own = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
        before += own + sum(array.nbytes for array in graph_to_json(network.graph)[1].values())
    return predict_memory(
        network,
        data,
        recipe=recipe.model_copy(update={"mixed_precision": "off"}),
        input_size=input_size,
        supervision=supervision,
        device=device,
        before=before,
        consume=True,
    )
