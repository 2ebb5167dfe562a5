"""A trained network made ready for rendering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.inr import kernels

# On a processor the layers themselves work through the cache block by block; this many coordinates at once keep what
# is around them small.
_ROWS_ON_PROCESSORS = 1 << 18
# Of the memory that a GPU has to spare.
_SHARE_OF_FREE_MEMORY = 0.25


class InferenceNetwork:
    """The function that a network computes, without autograd and at any number of coordinates.

    Made by :meth:`CoordinateNetwork.compile_for_inference`. It keeps the weights as they were then: further training
    of the network does not reach it. Coordinates are worked through in portions that the memory has room for.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], layers: Sequence[kernels.Layer]) -> None:
        self._encode = encode
        # Copies: a matrix of a complex layer is put together here once, not for every portion.
        self._layers = [
            replace(layer, weight=layer.weight.detach().clone(), bias=layer.bias.detach().clone()) for layer in layers
        ]

    def __call__(self, coords: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """The signal at coordinates on the network's device, in the range it was trained on, usually [-1, 1]."""
        weight = self._layers[-1].weight
        rows = coords.reshape(-1, coords.shape[-1])
        out = torch.empty(len(rows), len(weight), dtype=weight.dtype, device=weight.device)
        with torch.inference_mode():
            at_once = self._rows_at_once()
            for start in range(0, len(rows), at_once):
                portion = self._encode(rows[start : start + at_once])
                out[start : start + at_once] = kernels.evaluate_layers(portion, self._layers)
        return out.reshape(*coords.shape[:-1], out.shape[-1])

    def _rows_at_once(self) -> int:
        weight = self._layers[0].weight
        if weight.device.type != "cuda":
            return _ROWS_ON_PROCESSORS
        free, _ = torch.cuda.mem_get_info(weight.device)
        # A layer's input, its affine map and its result.
        widest = max(sum(layer.weight.shape) + layer.width() for layer in self._layers)
        return max(1024, int(_SHARE_OF_FREE_MEMORY * free / (weight.element_size() * widest)))
