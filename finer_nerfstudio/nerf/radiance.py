"""A radiance field as mathematics: two networks, the box they fill, density and colour (FINER++ paper, §5.3).

Needs PyTorch alone. :mod:`finer_nerfstudio.nerf.field` makes it a field of Nerfstudio's.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr import CoordinateNetwork, GrowingNetwork
from finer_nerfstudio.inr.methods import Preset
from finer_nerfstudio.nerf.sampling.contraction import contract

# The box starts out as thin haze, 0.05 per unit of length, instead of fog: the grid finds empty space sooner, and
# every training step then reaches more rays. On Lego's validation views this is worth 0.2 to 0.7 dB after a minute.
INITIAL_RAW_DENSITY = -3.0
"""Added to the raw density of a fresh field."""

# Beyond this the derivative of a density is that of its bound: one wrong sample must not throw the weights about.
_LARGEST_EXPONENT = 15.0


class Diverged(InputError):
    """The field no longer gives numbers; the trainer knows which settings to name."""


def world_to_box(positions: Float[Tensor, "*batch 3"], aabb: Float[Tensor, "2 3"]) -> Float[Tensor, "*batch 3"]:
    """World positions to the field's box: the corners ``aabb`` (lowest, highest) become -1 and 1 on every axis."""
    return (positions - 0.5 * (aabb[0] + aabb[1])) * (2.0 / (aabb[1] - aabb[0]))


def box_to_world(positions: Float[Tensor, "*batch 3"], aabb: Float[Tensor, "2 3"]) -> Float[Tensor, "*batch 3"]:
    """The inverse of :func:`world_to_box`."""
    return positions * (0.5 * (aabb[1] - aabb[0])) + 0.5 * (aabb[0] + aabb[1])


class _TruncatedExponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT))


def truncated_exponential(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """``exp(x)``, whose derivative is bounded by ``exp(15)`` (Mueller et al. 2022)."""
    return _TruncatedExponential.apply(x)  # pyright: ignore[reportReturnType]


def initial_networks(
    preset: Preset,
    *,
    width: int,
    density_depth: int,
    color_depth: int,
    direction_dim: int = 3,
    position_dim: int = 3,
    generator: torch.Generator | None = None,
) -> tuple[CoordinateNetwork, CoordinateNetwork]:
    """Return fresh networks of a radiance field, that of the density and that of the colour.

    Args:
        preset: activation, bias range and encoding.
        width: units of every hidden layer, and features that the colour network reads.
        density_depth: hidden layers of the density network.
        color_depth: hidden layers of the colour network.
        direction_dim: numbers that stand for a direction.
        position_dim: numbers that stand for a position.
        generator: source of the initial weights.
    """
    sizes = {"width": width, "activation": preset.activation, "bias_range": preset.bias_range}
    density_net = CoordinateNetwork(
        position_dim,
        1 + width,
        depth=density_depth,
        encoding_frequencies=preset.encoding_frequencies,
        generator=generator,
        **sizes,
    )
    with torch.no_grad():
        density_net.last.bias[0] += INITIAL_RAW_DENSITY
    color_net = CoordinateNetwork(width + direction_dim, 3, depth=color_depth, generator=generator, **sizes)
    return density_net, color_net


Network = TypeVar("Network", CoordinateNetwork, GrowingNetwork)


class Radiance(nn.Module, Generic[Network]):
    """Density and colour from two networks.

    The density network maps a position in the networks' box [-1, 1]^3 to a raw density and features; the colour network
    maps features and viewing direction to colour. Methods take world positions.

    Args:
        density_net: 3 coordinates, and perhaps more of a position, to raw density and features.
        color_net: features and (encoded) direction to 3 values.
        aabb: lowest and highest corner of the scene in world units, ``[2, 3]``.
        unbounded: whether all of space is contracted into the networks' box, or the scene's box alone fills it.
    """

    aabb: Tensor

    def __init__(
        self, density_net: Network, color_net: Network, aabb: Float[Tensor, "2 3"], *, unbounded: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        self.density_net: Network = density_net
        self.color_net: Network = color_net
        self.unbounded = unbounded

    def coordinates(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """World positions to those of the networks, [-1, 1]^3."""
        in_box = world_to_box(positions, self.aabb)
        return contract(in_box) if self.unbounded else in_box

    def hidden_features(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch hidden"]:
        """Last hidden layer of the density network at world ``positions``, inside the scene's box if it is bounded."""
        return self.density_net.hidden_features(self.inputs(positions))

    def inputs(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch inputs"]:
        """Return what the density network reads of world ``positions``: their coordinates."""
        return self.coordinates(positions)

    def density(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch"]:
        """Volume density per unit of world length, in (0, inf), of what :meth:`hidden_features` gave.

        Outside the box of a scene without end it is per unit of length contracted as
        :func:`finer_nerfstudio.nerf.sampling.contraction.shrinkage` says.
        """
        return truncated_exponential(self.density_net.readout(hidden, slice(0, 1)).squeeze(-1).float())

    def color(
        self,
        hidden: Float[Tensor, "*batch hidden"],
        directions: Float[Tensor, "*batch 3"],
        appearance: Float[Tensor, "*batch code"] | None = None,
    ) -> Float[Tensor, "*batch 3"]:
        """Colour in (0, 1) seen along unit ``directions``.

        Args:
            hidden: what :meth:`hidden_features` gave.
            directions: of unit length.
            appearance: code of the picture that shows it, of fields that have codes; the mean of all unless given.
        """
        encoded = self.encoded_directions(directions)
        if appearance is None:
            appearance = self.mean_appearance()
        if appearance is not None:
            encoded = torch.cat([encoded, appearance.to(encoded.dtype).expand(*encoded.shape[:-1], -1)], dim=-1)
        return torch.sigmoid(self._raw_color(hidden, encoded).float())

    def mean_appearance(self) -> Float[Tensor, " code"] | None:
        """Return the code by which what no picture shows is seen; None of fields that have no codes."""
        return None

    def encoded_directions(self, directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch encoded"]:
        """Return what the colour network reads of unit directions: their three numbers."""
        return directions

    def _raw_color(self, hidden: Tensor, encoded: Tensor) -> Tensor:
        if isinstance(self.density_net, CoordinateNetwork) and isinstance(self.color_net, CoordinateNetwork):
            last = self.density_net.last
            return self.color_net.forward_fused_input(last.weight[1:], last.bias[1:], hidden, encoded)
        features = self.density_net.readout(hidden, slice(1, None))
        return self.color_net(torch.cat([features, encoded.to(features.dtype)], dim=-1))

    def density_at(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Density at world ``positions``."""
        return self.density(self.hidden_features(positions))
