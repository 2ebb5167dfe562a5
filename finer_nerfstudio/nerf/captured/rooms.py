"""How much room steps get: sizes of a ladder, chosen by what earlier steps needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finer_nerfstudio.nerf.captured.step import Needs, Room

# What steps need grows between the look at it and the steps that it decides about.
_MARGIN = 1.2
# A smaller room is worth a graph of its own where it saves at least as much.
_WORTH_SHRINKING = 0.75
_SMALLEST = 1 << 10


def rung(wanted: float, largest: int) -> int:
    """Return the smallest size of the ladder 2^n, 3/2 2^n that holds so much, or the largest one."""
    size = _SMALLEST
    while size < wanted and size < largest:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, largest)


@dataclass(frozen=True)
class Rooms:
    """Bounds of rooms.

    Attributes:
        most_samples: of a step; rays beyond it are left out of the step.
        columns: steps along the box's diagonal.
        fog_columns: likewise, while there is nothing but fog to see.
        fog_steps: training steps of that.
    """

    most_samples: int
    columns: int
    fog_columns: int
    fog_steps: int

    def first(self) -> Room:
        """Return the room of the first steps, of which nothing is known."""
        return Room(self.most_samples, self.most_samples, self.fog_columns)

    def next(self, room: Room, needs: Needs | None, step: int) -> Room:
        """Return the room for steps from ``step`` on.

        Args:
            room: what there was.
            needs: of earlier steps, where known.
            step: number of the next step.
        """
        columns = self.fog_columns if step < self.fog_steps else self.columns
        if columns != room.columns:
            return replace(self.first(), columns=columns)
        if needs is None:
            return room
        samples = rung(_MARGIN * needs.samples, self.most_samples)
        colors = rung(_MARGIN * needs.colors, samples)
        if _WORTH_SHRINKING * room.samples < samples <= room.samples:
            samples = room.samples
        if _WORTH_SHRINKING * room.colors < colors <= room.colors:
            colors = room.colors
        return Room(samples, min(colors, samples), columns)
