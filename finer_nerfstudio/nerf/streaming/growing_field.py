"""A radiance field that grows in width while it is trained, so that it can be sent stage by stage."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr import GrowingNetwork, bias_shells
from finer_nerfstudio.inr.description import LARGEST_SIZES
from finer_nerfstudio.inr.growth import units_of
from finer_nerfstudio.nerf.field import (
    DIRECTION_DIMS,
    FinerField,
    FinerFieldConfig,
    RadianceField,
)
from finer_nerfstudio.nerf.radiance import INITIAL_RAW_DENSITY
from finer_nerfstudio.nerf.training.averaging import AveragedField


@dataclass
class GrowingFieldConfig(FinerFieldConfig):
    """Networks that grow."""

    _target: type = field(default_factory=lambda: GrowingField)
    widths: tuple[int, ...] = (32, 56, 80)
    """Units of every hidden layer after each stage (--width is not used); the density network hands as many features
    to the colour network as the first one has."""
    grow_at: tuple[float, ...] | None = None
    """When to widen, as shares of the training in (0, 1), one fewer than --widths: "0.5" is step 5,000 of 10,000.
    Equal parts unless given."""
    shells: bool = True
    """Draw the first-layer biases of each widening from a shell of higher magnitudes, from i k to (i + 1) k (FINER++);
    without, all from U(-k, k)."""

    def times(self) -> tuple[float, ...]:
        """When to widen, as shares of the training."""
        stages = len(self.widths)
        return tuple(i / stages for i in range(1, stages)) if self.grow_at is None else self.grow_at

    def setup(
        self,
        *,
        aabb: Float[Tensor, "2 3"],
        unbounded: bool = False,
        codes: tuple[int, int] = (0, 0),
        generator: torch.Generator | None = None,
    ) -> GrowingField:
        chosen = self.require_possible()
        option = "--pipeline.model.field"
        if self.encoding == "grid":
            raise UsageError(f"{option}.encoding grid is for fields that do not grow: leave it out.")
        sizes = self.sizes(has_grid=False)
        if codes[1]:
            raise UsageError("--pipeline.model.appearance-dim is for fields that do not grow: leave it out.")
        if not self.widths:
            raise UsageError(f"{option}.widths: give at least one.")
        units = [units_of(width, chosen.activation) for width in self.widths if width >= 1]
        increasing = len(units) == len(self.widths) and all(b > a for a, b in itertools.pairwise(units))
        if not increasing or self.widths[-1] > LARGEST_SIZES["width"]:
            raise UsageError(
                f"{option}.widths must increase from 1 on to {LARGEST_SIZES['width']:,} at most, and each add a unit, "
                f"not {' '.join(map(str, self.widths))}."
            )
        times = self.times()
        if len(times) != len(self.widths) - 1 or not all(b > a for a, b in itertools.pairwise([0.0, *times, 1.0])):
            raise UsageError(
                f"{option}.grow-at must be {len(self.widths) - 1} increasing shares of the training between 0 and 1 "
                f"for {len(self.widths)} widths, not {' '.join(map(str, times)) or 'none'}."
            )
        features = self.widths[0]
        color_inputs = features + DIRECTION_DIMS[self.direction_encoding]
        density_net = GrowingNetwork(
            3,
            1 + features,
            depth=sizes.density_depth,
            activation=chosen.activation,
            encoding_frequencies=chosen.encoding_frequencies,
        )
        color_net = GrowingNetwork(color_inputs, 3, depth=sizes.color_depth, activation=chosen.activation)
        shells = bias_shells(chosen.bias_range, len(self.widths))
        for network in (density_net, color_net):
            for width, shell in zip(self.widths, shells if self.shells else itertools.repeat(shells[0]), strict=False):
                network.grow(width, bias_shell=shell, generator=generator)
        bias = density_net.stages[0].last.bias
        assert bias is not None
        with torch.no_grad():
            bias[0] += INITIAL_RAW_DENSITY
        grown = GrowingField(
            density_net, color_net, aabb, direction_encoding=self.direction_encoding, unbounded=unbounded
        )
        grown.activate(1)
        return grown


class GrowingField(RadianceField[GrowingNetwork]):
    """A radiance field of two networks that grow together.

    All stages are there from the start, so that an optimiser knows them; those that are not active yet take no part.
    The output of n stages is the same to the bit ever after stage n + 1 was activated.
    """

    @property
    def widths(self) -> list[int]:
        """Units of every hidden layer after each stage."""
        return self.density_net.widths

    @property
    def active(self) -> int:
        """Stages that take part."""
        return self.density_net.active

    def activate(self, stages: int) -> None:
        """Let the first ``stages`` stages take part, of which only the newest is trained."""
        for network in (self.density_net, self.color_net):
            network.active = stages
            network.train_only(stages - 1)

    @torch.no_grad()
    def grow_with(self, averaged: AveragedField, stages: int) -> None:
        """Widen this field and its average to so many stages, as often as is due.

        What is frozen then are the averaged weights, those that evaluation has used: an earlier stage looks the same
        ever after.
        """
        mean = averaged.module
        assert isinstance(mean, GrowingField)
        while self.active < stages:
            if int(averaged.n_averaged) > 0:
                for own, value in zip(self.parameters(), mean.parameters(), strict=True):
                    own.copy_(value)
            grown = self.active + 1
            self.activate(grown)
            mean.activate(grown)

    def stages_within(self, width: float) -> int:
        """Active stages that are no wider than ``width``; the first is there in any case."""
        return max(1, sum(own <= width for own in self.widths[: self.active]))

    def density_at(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        # Without gradients one network is faster than its stages one after the other.
        return super().density_at(positions) if torch.is_grad_enabled() else self.rendered().density_at(positions)

    def rendered(self, stages: int | None = None) -> FinerField:
        return FinerField(
            self.density_net.merged(stages),
            self.color_net.merged(stages),
            self.aabb,
            direction_encoding=self.direction_encoding,
            unbounded=self.unbounded,
        )

    def get_extra_state(self) -> dict[str, int]:
        return {"active": self.active}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.activate(state["active"])
