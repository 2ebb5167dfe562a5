"""A training step of one shape: pixels, rays, samples, field, compositing, loss, gradients and the update of weights.

Nothing in it asks the GPU how many samples there are. A step has room for a number of samples and of colours; rays that
do not fit are masked, and how much was needed is written down for later, when somebody looks without waiting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finer_nerfstudio.nerf.captured.adam import FlatAdam
from finer_nerfstudio.nerf.captured.grid import FixedGrid
from finer_nerfstudio.nerf.captured.march import PaddedSegments, march, walk_of
from finer_nerfstudio.nerf.captured.views import PixelRays
from finer_nerfstudio.nerf.compositing import Composite, composite
from finer_nerfstudio.nerf.data.alpha import over
from finer_nerfstudio.nerf.radiance import Radiance


@dataclass(frozen=True)
class Room:
    """How much a step holds.

    Attributes:
        rays: that are drawn.
        samples: at which density is evaluated.
        colors: of these.
        columns: steps along the box's diagonal.
    """

    rays: int
    samples: int
    colors: int
    columns: int


class Drawn:
    """The random numbers of a step, all drawn at once.

    Args:
        rays: the most of a step.
        device: where they are drawn.
    """

    def __init__(self, rays: int, device: torch.device) -> None:
        # Single precision would miss pixels of more than some hundred views.
        self._pixels = torch.zeros(rays, dtype=torch.float64, device=device)
        self._numbers = torch.zeros(rays, 4, device=device)

    def draw(self, generator: torch.Generator) -> None:
        """Draw them anew."""
        self._pixels.uniform_(generator=generator)
        self._numbers.uniform_(generator=generator)

    def pixels(self, rays: int, count: int) -> Tensor:
        """Return a pixel of ``count`` for each of so many rays."""
        return (self._pixels[:rays] * count).long().clamp_(max=count - 1)

    def offsets(self, rays: int) -> Tensor:
        """Return the place of samples within a step for each of so many rays, in [0, 1)."""
        return self._numbers[:rays, 0]

    def backgrounds(self, rays: int) -> Tensor:
        """Return a colour for each of so many rays."""
        return self._numbers[:rays, 1:]


@dataclass(frozen=True)
class Needs:
    """What some steps needed and what became of them.

    Attributes:
        samples: the most that a step wanted.
        colors: likewise.
        rays: that were trained, in all.
        trained_samples: of these rays.
        loss: of the last step, mean squared error.
        finite: 1 where all densities were numbers, else 0.
    """

    samples: float
    colors: float
    rays: float
    trained_samples: float
    loss: float
    finite: float = 1.0

    @property
    def are_numbers(self) -> bool:
        """Whether nothing was NaN or infinite."""
        return self.finite > 0 and math.isfinite(self.loss)


class Record:
    """What steps needed, kept on the device until somebody sends for it.

    Args:
        device: where steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._now = torch.zeros(5, dtype=torch.float64, device=device)

    def note(self, samples: Tensor, colors: Tensor, rays: Tensor, trained_samples: Tensor, loss: Tensor) -> None:
        """Add a step."""
        fresh = torch.stack([value.double() for value in (samples, colors, rays, trained_samples, loss)])
        largest, total = torch.maximum(self._now, fresh), self._now + fresh
        self._now.copy_(torch.cat([largest[:2], total[2:4], fresh[4:]]))

    def send(self, is_finite: Tensor) -> Sent:
        """Send for what was noted, and begin anew.

        Args:
            is_finite: whether all densities were numbers.
        """
        sent = Sent(torch.cat([self._now, is_finite.double().view(1)]))
        self._now.zero_()
        return sent


class Sent:
    """Numbers on their way from a device.

    Args:
        numbers: float64.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._numbers = numbers

    def take(self) -> Needs:
        """Return them once they are here; to ask long after they were sent is not to wait."""
        if self._event is not None:
            self._event.synchronize()
        return Needs(*self._numbers.tolist())


class TrainingStep:
    """A training step, to be repeated with what :class:`Drawn` holds.

    Args:
        field: what is trained.
        optimizer: of its weights.
        grid: says where matter may be.
        views: to train on.
        drawn: random numbers.
        record: takes down what steps need.
        room: how much a step holds.
        weight_threshold: samples of less rendering weight have no colour.
    """

    def __init__(
        self,
        field: Radiance[Any],
        optimizer: FlatAdam,
        grid: FixedGrid,
        views: PixelRays,
        drawn: Drawn,
        record: Record,
        *,
        room: Room,
        weight_threshold: float,
    ) -> None:
        self._field, self._optimizer, self._grid, self._views = field, optimizer, grid, views
        self._drawn, self._record, self._room = drawn, record, room
        # Fewer and longer ones, while there is fog.
        longer = grid.steps.columns / room.columns
        self._steps = replace(grid.steps, columns=room.columns, length=longer * grid.steps.length)
        self._threshold = weight_threshold

    def __call__(self) -> None:
        rays = self._room.rays
        pixels = self._drawn.pixels(rays, self._views.pixels)
        origins, directions = self._views.rays(pixels)
        walk = walk_of(origins, directions, self._drawn.offsets(rays), self._grid.aabb, self._steps)
        segments = march(walk, self._grid.occupied, self._steps, self._room.samples)
        seen = composite(
            self._field,
            origins,
            directions,
            segments,
            weight_threshold=self._threshold,
            most_colored=self._room.colors,
        )
        is_whole = self._fits(segments, seen)
        whole = is_whole.sum()
        loss = (self._errors(self._views.colors(pixels), segments, seen) * is_whole).sum() / (3 * whole).clamp(min=1)
        self._optimizer.update(torch.autograd.grad(loss, self._optimizer.parameters))
        trained = torch.where(is_whole, segments.counts, 0).sum()
        self._record.note(segments.found.sum(), seen.colored.sum(), whole, trained, loss.detach())

    def _fits(self, segments: PaddedSegments, seen: Composite) -> Tensor:
        """Which rays had all their samples and all their colours."""
        with_samples = segments.found.cumsum(0) <= self._room.samples
        return with_samples & (seen.colored.cumsum(0) <= self._room.colors)

    def _errors(self, image: Tensor, segments: PaddedSegments, seen: Composite) -> Tensor:
        """Squared errors of rays over a background of one random colour each, summed over channels.

        A background that changes makes matter the only way to explain opaque pixels, and keeps the field from painting
        any background into the scene.
        """
        background = self._drawn.backgrounds(self._room.rays)
        return (seen.rgb + seen.passed[:, None] * background - over(image, background)).square().sum(dim=1)
