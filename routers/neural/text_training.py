"""The encoder of `routers.neural.text_encoder` with gradients. Needs torch; only fitting calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers.neural.early_stopping import torch_module
from routers.neural.text_encoder import EPSILON, LAYER, Shape

DROPOUT = 0.1


def encoded_with_gradients(
    parameters: Mapping[str, Any], shape: Shape, ids: Any, mask: Any, dropout: float = 0.0
) -> Any:
    """`text_encoder.encoded` of tensors [n, T], with dropout after the embedding and before the pooling."""
    functional = torch_module().nn.functional
    width = shape.width

    def norm(x: Any, gain: str) -> Any:
        return functional.layer_norm(x, (width,), parameters[gain], parameters[f"{gain}_bias"], EPSILON)

    x = functional.embedding(ids, parameters["token"]) + parameters["position"][: ids.shape[1]]
    x = functional.dropout(norm(x, "norm"), dropout, training=dropout > 0)
    for layer in range(shape.layers):
        own = {name: parameters[f"layer{layer}_{name}"] for name in LAYER}
        mixed = (x @ own["qkv"] + own["qkv_bias"]).unflatten(2, (3, shape.heads, -1)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(*mixed, attn_mask=mask[:, None, None, :])
        found = found.transpose(1, 2).flatten(2) @ own["out"] + own["out_bias"]
        x = norm(x + found, f"layer{layer}_norm1")
        inner = functional.gelu(x @ own["up"] + own["up_bias"])
        x = norm(x + inner @ own["down"] + own["down_bias"], f"layer{layer}_norm2")
    share = mask / mask.sum(dim=1, keepdim=True)
    mean = functional.dropout((x * share[:, :, None]).sum(dim=1), dropout, training=dropout > 0)
    return (mean @ parameters["pool"] + parameters["pool_bias"]).tanh()


def length_groups(rows: Sequence[Sequence[int]], size: int) -> list[NDArray[np.intp]]:
    """Positions of the rows in groups of `size` that are about equally long, so that little of a batch is padding."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]
