"""How much room steps get: sizes of a ladder, chosen by what earlier steps needed."""

from __future__ import annotations

from dataclasses import dataclass

from finer_nerfstudio.nerf.captured.step import Needs, Room

# What steps need grows between the look at it and the steps that it decides about.
_MARGIN = 1.2
# A smaller room is worth a graph of its own where it saves at least as much.
_WORTH_SHRINKING = 0.75
_SMALLEST = 1 << 10
_FEWEST_RAYS = 16
# Of the number of rays, from one choice to the next.
_FASTEST_GROWTH = 4.0


def rung(wanted: float, largest: int, *, smallest: int = _SMALLEST) -> int:
    """Return the smallest size of the ladder 2^n, 3/2 2^n that holds so much, or the largest one.

    Args:
        wanted: what it has to hold.
        largest: of the sizes.
        smallest: of the sizes, a power of two.
    """
    size = smallest
    while size < wanted and size < largest:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, largest)


@dataclass(frozen=True)
class Rooms:
    """Bounds of rooms.

    Attributes:
        most_samples: of a step; rays beyond it are left out of the step.
        most_rays: of a step.
        columns: steps along the box's diagonal.
        fog_columns: likewise, while there is nothing but fog to see.
        fog_steps: training steps of that.
        target_samples: that a step should have, for which as many rays are taken as that needs; None for all rays.
    """

    most_samples: int
    most_rays: int
    columns: int
    fog_columns: int
    fog_steps: int
    target_samples: int | None = None

    def first(self, step: int = 0) -> Room:
        """Return the room of steps of which nothing is known, from ``step`` on."""
        columns = self.fog_columns if step < self.fog_steps else self.columns
        rays = self.most_rays
        if self.target_samples is not None:  # as if every sample of a ray were one in matter
            rays = max(_FEWEST_RAYS, min(rays, self.target_samples // columns))
        return Room(rays, self.most_samples, self.most_samples, columns)

    def next(self, room: Room, needs: Needs | None, step: int) -> Room:
        """Return the room for steps from ``step`` on.

        Args:
            room: that the steps had whose needs these are.
            needs: where known.
            step: number of the next step.
        """
        first = self.first(step)
        if first.columns != room.columns:
            return first
        if needs is None:
            return room
        rays = self._rays(room, needs)
        more = rays / room.rays
        samples = rung(_MARGIN * more * needs.samples, self.most_samples)
        colors = rung(_MARGIN * more * needs.colors, samples)
        if rays == room.rays:
            if _WORTH_SHRINKING * room.samples < samples <= room.samples:
                samples = room.samples
            if _WORTH_SHRINKING * room.colors < colors <= room.colors:
                colors = room.colors
        return Room(rays, samples, min(colors, samples), columns=room.columns)

    def _rays(self, room: Room, needs: Needs) -> int:
        """As many rays as have the samples that are aimed at, and no flood of them after a look at empty sky."""
        if self.target_samples is None:
            return room.rays
        wanted = room.rays * min(_FASTEST_GROWTH, self.target_samples / max(needs.samples, 1.0))
        if _WORTH_SHRINKING * room.rays < wanted < room.rays / _WORTH_SHRINKING:
            return room.rays
        return rung(_WORTH_SHRINKING * wanted, self.most_rays, smallest=_FEWEST_RAYS)
