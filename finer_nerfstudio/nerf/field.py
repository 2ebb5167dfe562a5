"""The radiance field: a density network and a colour network (FINER++ paper, §5.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.encodings import SHEncoding
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field, FieldConfig
from torch import Tensor

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr import CoordinateNetwork, preset
from finer_nerfstudio.inr.activations import Activation

# The box starts out as thin haze, 0.05 per unit of length, instead of fog: the grid finds empty space sooner, and
# every training step then reaches more rays. On Lego's validation views this is worth 0.2 to 0.7 dB after a minute.
_INITIAL_RAW_DENSITY = -3.0


@dataclass
class FinerFieldConfig(FieldConfig):
    """Networks of the radiance field."""

    _target: type = field(default_factory=lambda: FinerField)
    method: str = "finer-sine"
    """Activation family and its published hyper-parameters; the options below override them one by one."""
    width: int = 80
    """Units of every hidden layer. The paper's 182 resolves more and costs four times as much; complex (wavelet)
    layers have width/sqrt(2) complex units, so that parameter counts match."""
    density_depth: int = 3
    """Hidden layers of the density network."""
    color_depth: int = 2
    """Hidden layers of the colour network; the paper has 3."""
    direction_encoding: Literal["raw", "spherical-harmonics"] = "raw"
    """How the viewing direction enters the colour network: its three numbers (the paper) or 16 harmonics."""
    omega_0: float | None = None
    """Frequency of the sine or the wavelet."""
    s_0: float | None = None
    """Inverse width of the Gaussian or of the wavelet's envelope."""
    omega_f: float | None = None
    """Frequency of FINER++'s inner sine (Gauss and wavelet families)."""
    bias_range: float | None = None
    """k: first-layer biases of the density network are drawn from U(-k, k); larger k, higher frequencies."""
    scale_gradient: bool = False
    """Differentiate through alpha(x) = |x| + 1 in the backward pass, as the formula has it; the published numbers
    come from holding it constant."""


def activation_of(config: FinerFieldConfig) -> Activation:
    """The method's activation with the overrides of ``config`` applied.

    Raises:
        UsageError: for a parameter that the method's activation does not have, or a value out of range.
    """
    try:
        customised = preset(config.method, "nerf").overridden(
            omega_0=config.omega_0,
            s_0=config.s_0,
            omega_f=config.omega_f,
            scale_gradient=config.scale_gradient or None,
        )
    except ValueError as error:
        raise UsageError(f"--pipeline.model.field of {config.method}: {error}.") from error
    return customised.activation


def world_to_box(positions: Float[Tensor, "*batch 3"], aabb: Float[Tensor, "2 3"]) -> Float[Tensor, "*batch 3"]:
    """World positions to the field's box: the corners ``aabb`` (lowest, highest) become -1 and 1 on every axis."""
    return (positions - 0.5 * (aabb[0] + aabb[1])) * (2.0 / (aabb[1] - aabb[0]))


def box_to_world(positions: Float[Tensor, "*batch 3"], aabb: Float[Tensor, "2 3"]) -> Float[Tensor, "*batch 3"]:
    """The inverse of :func:`world_to_box`."""
    return positions * (0.5 * (aabb[1] - aabb[0])) + 0.5 * (aabb[0] + aabb[1])


class FinerField(Field):
    """Density and colour from two coordinate networks.

    The density network maps a position in the field's box [-1, 1]^3 to a raw density and ``width`` features; the
    colour network maps features and viewing direction to colour. Methods take world positions.

    Args:
        config: sizes and activation.
        aabb: lowest and highest corner of the scene in world units, ``[2, 3]``.
        generator: source of the initial weights.

    Raises:
        UsageError: for sizes and parameters out of range.
    """

    aabb: Tensor

    def __init__(
        self,
        config: FinerFieldConfig,
        aabb: Float[Tensor, "2 3"],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        for name in ("width", "density_depth", "color_depth"):
            if getattr(config, name) < 1:
                option = name.replace("_", "-")
                raise UsageError(f"--pipeline.model.field.{option} must be at least 1, not {getattr(config, name)}.")
        row = preset(config.method, "nerf")
        activation = activation_of(config)
        self.bias_range = row.bias_range if config.bias_range is None else config.bias_range
        if self.bias_range is not None and not self.bias_range > 0:
            raise UsageError(f"--pipeline.model.field.bias-range must be positive, not {self.bias_range}.")
        self.density_net = CoordinateNetwork(
            3,
            1 + config.width,
            width=config.width,
            depth=config.density_depth,
            activation=activation,
            bias_range=self.bias_range,
            encoding_frequencies=row.encoding_frequencies,
            generator=generator,
        )
        with torch.no_grad():
            self.density_net.last.bias[0] += _INITIAL_RAW_DENSITY
        self.harmonics: SHEncoding | None = None
        direction_dim = 3
        if config.direction_encoding == "spherical-harmonics":
            fused = find_spec("tinycudann") is not None and torch.cuda.is_available()
            self.harmonics = SHEncoding(levels=4, implementation="tcnn" if fused else "torch")
            direction_dim = self.harmonics.get_out_dim()
        self.color_net = CoordinateNetwork(
            config.width + direction_dim,
            3,
            width=config.width,
            depth=config.color_depth,
            activation=activation,
            bias_range=self.bias_range,
            generator=generator,
        )

    def hidden_features(
        self, positions: Float[Tensor, "*batch 3"], neuron_mask: Float[Tensor, " units"] | None = None
    ) -> Float[Tensor, "*batch hidden"]:
        """Last hidden layer of the density network at world ``positions``.

        Args:
            positions: world positions inside the scene's box.
            neuron_mask: factors for the first-layer neurons, see :meth:`CoordinateNetwork.hidden_features`.
        """
        return self.density_net.hidden_features(world_to_box(positions, self.aabb), neuron_mask=neuron_mask)

    def density(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch"]:
        """Volume density per unit of world length, in (0, inf), of what :meth:`hidden_features` gave."""
        return trunc_exp(self.density_net.readout(hidden, slice(0, 1)).squeeze(-1).float())

    def color(
        self, hidden: Float[Tensor, "*batch hidden"], directions: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch 3"]:
        """Colour in (0, 1) seen along unit ``directions``."""
        features = self.density_net.readout(hidden, slice(1, None))
        if self.harmonics is None:
            encoded = directions
        elif self.harmonics.tcnn_encoding is not None:  # which maps [0, 1] to [-1, 1] itself
            encoded = self.harmonics(0.5 * directions + 0.5)
        else:
            encoded = self.harmonics(directions)
        return torch.sigmoid(self.color_net(torch.cat([features, encoded.to(features.dtype)], dim=-1)).float())

    def density_at(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Density at world ``positions``."""
        return self.density(self.hidden_features(positions))

    @torch.enable_grad()
    def normals_at(
        self, positions: Float[Tensor, "*batch 3"], neuron_mask: Float[Tensor, " units"] | None = None
    ) -> Float[Tensor, "*batch 3"]:
        """Unit normals, the direction in which density falls fastest, at world ``positions``.

        The true gradient is taken whatever ``scale_gradient`` says: holding alpha constant is a device of training.
        """
        positions = positions.detach().requires_grad_()
        hidden = self.density_net.hidden_features(
            world_to_box(positions, self.aabb), neuron_mask=neuron_mask, scale_gradient=True
        )
        raw_density = self.density_net.readout(hidden, slice(0, 1))
        (gradient,) = torch.autograd.grad(raw_density.sum(), positions)
        return -torch.nn.functional.normalize(gradient.float(), dim=-1)

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        hidden = self.hidden_features(ray_samples.frustums.get_positions())
        return self.density(hidden)[..., None], hidden

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        assert density_embedding is not None
        directions = ray_samples.frustums.directions.expand(*density_embedding.shape[:-1], 3)
        return {FieldHeadNames.RGB: self.color(density_embedding, directions)}
