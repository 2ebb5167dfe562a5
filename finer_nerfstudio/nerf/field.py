"""The radiance field as Nerfstudio has it: its options, and one that can be looked into."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.encodings import SHEncoding
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field, FieldConfig
from torch import Tensor, nn

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr import CoordinateNetwork, GrowingNetwork, preset
from finer_nerfstudio.inr.description import LARGEST_SIZES, scales_of
from finer_nerfstudio.inr.feature_grid import FeatureGrid
from finer_nerfstudio.inr.initialization import LARGEST_BIAS_RANGE
from finer_nerfstudio.inr.methods import Preset
from finer_nerfstudio.nerf.radiance import Network, Radiance, initial_networks

DirectionEncoding = Literal["raw", "spherical-harmonics"]
DIRECTION_DIMS: dict[DirectionEncoding, int] = {"raw": 3, "spherical-harmonics": 16}
"""Numbers that stand for a direction; four levels of harmonics have 16."""


def encoding_implementation() -> Literal["tcnn", "torch"]:
    """Who computes Nerfstudio's encodings: tiny-cuda-nn where it is installed and there is a GPU, else torch."""
    return "tcnn" if find_spec("tinycudann") is not None and torch.cuda.is_available() else "torch"


@dataclass
class FeatureGridConfig:
    """A multiresolution grid of features."""

    levels: int = 10
    """Grids, of two features each."""
    coarsest: int = 16
    """Cells per axis of the first one."""
    finest: int = 1024
    """Cells per axis of the last one."""
    log2_entries: int = 16
    """Most entries of a grid, as a power of two; where it has more corners, they share them."""

    def setup(self, generator: torch.Generator | None) -> FeatureGrid:
        """Return a fresh grid.

        Raises:
            UsageError: for sizes out of range.
        """
        option = "--pipeline.model.field.grid"
        for name, largest in (("levels", 32), ("coarsest", 4096), ("finest", 4096), ("log2_entries", 24)):
            if not 1 <= getattr(self, name) <= largest:
                raise UsageError(
                    f"{option}.{name.replace('_', '-')} must lie between 1 and {largest:,}, not {getattr(self, name)}."
                )
        if self.finest < self.coarsest:
            raise UsageError(
                f"{option}.finest must not be smaller than coarsest, {self.coarsest}: it is {self.finest}."
            )
        return FeatureGrid(
            levels=self.levels,
            coarsest=self.coarsest,
            finest=self.finest,
            entries=1 << self.log2_entries,
            generator=generator,
        )


@dataclass(frozen=True)
class Sizes:
    """Of the two networks.

    Attributes:
        width: units of every hidden layer.
        density_depth: hidden layers of the density network.
        color_depth: hidden layers of the colour network.
    """

    width: int
    density_depth: int
    color_depth: int


_ALONE, _BEHIND_A_GRID = Sizes(112, 3, 2), Sizes(64, 1, 2)


@dataclass
class FinerFieldConfig(FieldConfig):
    """Networks of the radiance field."""

    _target: type = field(default_factory=lambda: FinerField)
    method: str = "finer-sine"
    """Activation family and its published hyper-parameters; the options below override them one by one."""
    encoding: Literal["auto", "none", "grid"] = "auto"
    """What the density network reads beside coordinates: features of a multiresolution grid (grid), which hold what is
    local, or nothing (none), as in the paper. "auto": grid in scenes without end."""
    width: int | None = None
    """Units of every hidden layer: 112, and 64 behind a grid, unless given. The paper's 182 resolves more and costs two
    and a half times as much; complex (wavelet) layers have width/sqrt(2) complex units, so that parameter counts
    match."""
    density_depth: int | None = None
    """Hidden layers of the density network: 3, and 1 behind a grid, unless given."""
    color_depth: int | None = None
    """Hidden layers of the colour network: 2 unless given; the paper has 3."""
    grid: FeatureGridConfig = field(default_factory=lambda: FeatureGridConfig())
    """The grid of features."""
    direction_encoding: DirectionEncoding = "raw"
    """How the viewing direction enters the colour network: its three numbers (the paper) or 16 harmonics."""
    omega_0: float | None = None
    """Frequency of the sine or the wavelet."""
    s_0: float | None = None
    """Inverse width of the Gaussian or of the wavelet's envelope."""
    omega_f: float | None = None
    """Frequency of FINER++'s inner sine (Gauss and wavelet families)."""
    bias_range: float | None = None
    """k: first-layer biases of both networks are drawn from U(-k, k); larger k, higher frequencies."""
    scale_gradient: bool = False
    """Differentiate through alpha(x) = |x| + 1 in the backward pass, as the formula has it; the published numbers
    come from holding it constant."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a config.yml says, and the defaults of options that it is too old to have."""
        self.__dict__.update({**vars(type(self)()), **state})

    def setup(
        self,
        *,
        aabb: Float[Tensor, "2 3"],
        unbounded: bool = False,
        codes: tuple[int, int] = (0, 0),
        generator: torch.Generator | None = None,
    ) -> RadianceField[CoordinateNetwork] | RadianceField[GrowingNetwork]:
        """A field with fresh weights.

        Args:
            aabb: lowest and highest corner of the scene in world units, ``[2, 3]``.
            unbounded: whether the field goes on outside of it.
            codes: number of pictures, and of the numbers of the code that each has; 0 for none.
            generator: source of the initial weights.

        Raises:
            UsageError: for sizes and parameters out of range.
        """
        chosen = self.require_possible()
        has_grid = self.has_grid(unbounded)
        sizes = self.sizes(has_grid)
        grid = self.grid.setup(generator) if has_grid else None
        density_net, color_net = initial_networks(
            chosen,
            width=sizes.width,
            density_depth=sizes.density_depth,
            color_depth=sizes.color_depth,
            direction_dim=DIRECTION_DIMS[self.direction_encoding] + codes[1],
            position_dim=3 if grid is None else 3 + grid.features,
            generator=generator,
        )
        return FinerField(
            density_net,
            color_net,
            aabb,
            direction_encoding=self.direction_encoding,
            unbounded=unbounded,
            grid=grid,
            codes=torch.zeros(codes) if codes[1] else None,
        )

    def has_grid(self, unbounded: bool) -> bool:
        """Return whether the network reads a grid of features, in a scene without end or in a bounded one."""
        return unbounded if self.encoding == "auto" else self.encoding == "grid"

    def sizes(self, has_grid: bool) -> Sizes:
        """Return the sizes of the networks, those that are usual with or without a grid where none are given."""
        usual = _BEHIND_A_GRID if has_grid else _ALONE
        given = {name: getattr(self, name) for name in ("width", "density_depth", "color_depth")}
        return replace(usual, **{name: size for name, size in given.items() if size is not None})

    def require_possible(self) -> Preset:
        """The method's hyper-parameters with the overrides applied.

        Raises:
            UsageError: for a parameter that the method's activation does not have, and for values out of range.
        """
        for name in ("width", "density_depth", "color_depth"):
            largest = LARGEST_SIZES["width" if name == "width" else "depth"]
            if getattr(self, name) is not None and not 1 <= getattr(self, name) <= largest:
                option = f"--pipeline.model.field.{name.replace('_', '-')}"
                raise UsageError(f"{option} must lie between 1 and {largest:,}, not {getattr(self, name)}.")
        if self.bias_range is not None and not 0 < self.bias_range <= LARGEST_BIAS_RANGE:
            raise UsageError(
                f"--pipeline.model.field.bias-range must be a positive number up to {LARGEST_BIAS_RANGE:g}, not "
                f"{self.bias_range}."
            )
        try:
            return preset(self.method, "nerf").overridden(
                omega_0=self.omega_0,
                s_0=self.s_0,
                omega_f=self.omega_f,
                bias_range=self.bias_range,
                scale_gradient=self.scale_gradient or None,
            )
        except ValueError as error:
            raise UsageError(f"--pipeline.model.field of {self.method}: {error}.") from error

    def scales(self) -> dict[str, float]:
        """Return those of omega_0, s_0 and omega_f that the activation has."""
        return scales_of(self.require_possible().activation)

    def scale_options(self) -> str:
        """Return options of the scales and of the bias range with their values, as one would type them."""
        values = {**self.scales(), "bias_range": self.require_possible().bias_range}
        options = (f"{name.replace('_', '-')} {value:g}" for name, value in values.items() if value is not None)
        return ", ".join(f"--pipeline.model.field.{option}" for option in options)


class RadianceField(Radiance[Network], Field):
    """Density and colour from two networks, as a field of Nerfstudio's.

    Args:
        density_net: 3 coordinates to raw density and features.
        color_net: features and (encoded) direction to 3 values.
        aabb: lowest and highest corner of the scene in world units, ``[2, 3]``.
        direction_encoding: how a direction enters the colour network.
        unbounded: whether all of space is contracted into the networks' box, or the scene's box alone fills it.
    """

    def __init__(
        self,
        density_net: Network,
        color_net: Network,
        aabb: Float[Tensor, "2 3"],
        *,
        direction_encoding: DirectionEncoding = "raw",
        unbounded: bool = False,
    ) -> None:
        super().__init__(density_net, color_net, aabb, unbounded=unbounded)
        self.direction_encoding: DirectionEncoding = direction_encoding
        self.harmonics: SHEncoding | None = None
        if direction_encoding == "spherical-harmonics":
            self.harmonics = SHEncoding(levels=4, implementation=encoding_implementation())

    def encoded_directions(self, directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch encoded"]:
        """Return what the colour network reads of unit directions: their three numbers, or harmonics."""
        if self.harmonics is None:
            return directions
        if self.harmonics.tcnn_encoding is not None:  # which maps [0, 1] to [-1, 1] itself
            return self.harmonics(0.5 * directions + 0.5)
        return self.harmonics(directions)

    def rendered(self, stages: int | None = None) -> FinerField:
        """The field to look at.

        Args:
            stages: of a growing field, use only so many; the active ones unless given.
        """
        raise NotImplementedError

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        hidden = self.hidden_features(ray_samples.frustums.get_positions())
        return self.density(hidden)[..., None], hidden

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        assert density_embedding is not None
        directions = ray_samples.frustums.directions.expand(*density_embedding.shape[:-1], 3)
        return {FieldHeadNames.RGB: self.color(density_embedding, directions)}


class FinerField(RadianceField[CoordinateNetwork]):
    """A radiance field that can be looked into, too: neurons silenced, surface normals.

    :meth:`FinerFieldConfig.setup` makes one with fresh weights.

    Args:
        density_net: 3 coordinates, and the grid's features, to raw density and features.
        color_net: features, (encoded) direction and perhaps a picture's code to 3 values.
        aabb: lowest and highest corner of the scene in world units, ``[2, 3]``.
        grid: whose features the density network reads beside coordinates.
        codes: of all pictures (Martin-Brualla et al. 2021, NeRF in the Wild, §4.1), ``[pictures, code]``; they are
            trained along with the networks.
        **options: of :class:`RadianceField`.
    """

    def __init__(
        self,
        density_net: CoordinateNetwork,
        color_net: CoordinateNetwork,
        aabb: Float[Tensor, "2 3"],
        *,
        grid: FeatureGrid | None = None,
        codes: Float[Tensor, "pictures code"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(density_net, color_net, aabb, **options)
        self.grid = grid
        self.codes = None if codes is None else nn.Parameter(codes)

    def inputs(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch inputs"]:
        """Return what the density network reads of world ``positions``: coordinates, and features of the grid."""
        coordinates = self.coordinates(positions)
        return coordinates if self.grid is None else self.grid(coordinates, with_points=True)

    def appearance(self, pictures: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch code"] | None:
        """Return the codes of pictures, by their numbers; None of a field without codes."""
        return None if self.codes is None else self.codes[pictures]

    def mean_appearance(self) -> Float[Tensor, " code"] | None:
        return None if self.codes is None else self.codes.mean(dim=0)

    def hidden_features(
        self, positions: Float[Tensor, "*batch 3"], neuron_mask: Float[Tensor, " units"] | None = None
    ) -> Float[Tensor, "*batch hidden"]:
        """Last hidden layer of the density network at world ``positions``.

        Args:
            positions: world positions, inside the scene's box if it is bounded.
            neuron_mask: factors for the first-layer neurons, see :meth:`CoordinateNetwork.hidden_features`.
        """
        return self.density_net.hidden_features(self.inputs(positions), neuron_mask=neuron_mask)

    def rendered(self, stages: int | None = None) -> FinerField:
        del stages  # it has one
        return self

    @torch.enable_grad()
    def normals_at(
        self, positions: Float[Tensor, "*batch 3"], neuron_mask: Float[Tensor, " units"] | None = None
    ) -> Float[Tensor, "*batch 3"]:
        """Unit normals, the direction in which density falls fastest, at world ``positions``.

        The true gradient is taken whatever ``scale_gradient`` says: holding alpha constant is a device of training.
        """
        positions = positions.detach().requires_grad_()
        hidden = self.density_net.hidden_features(self.inputs(positions), neuron_mask=neuron_mask, scale_gradient=True)
        raw_density = self.density_net.readout(hidden, slice(0, 1))
        (gradient,) = torch.autograd.grad(raw_density.sum(), positions)
        return -torch.nn.functional.normalize(gradient.float(), dim=-1)
