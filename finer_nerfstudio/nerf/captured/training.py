"""Training step after step: random numbers, the grid's updates, the room of steps, and what is known of them.

On a GPU every step is a graph, and the only thing waited for is a handful of numbers that were sent for a block of
steps ago.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finer_nerfstudio.nerf.captured.adam import AdamRules, FlatAdam
from finer_nerfstudio.nerf.captured.grid import FixedGrid
from finer_nerfstudio.nerf.captured.repeated import Repeated, on
from finer_nerfstudio.nerf.captured.rooms import Rooms
from finer_nerfstudio.nerf.captured.step import Drawn, Needs, Record, Room, Sent, TrainingStep
from finer_nerfstudio.nerf.captured.views import PixelRays
from finer_nerfstudio.nerf.radiance import Diverged, Radiance


@dataclass
class Totals:
    """What was trained so far, as far as it is known.

    Attributes:
        rays: whole ones.
        samples: of these.
        loss: mean squared error of the last step that is known of, over random backgrounds; NaN before.
    """

    rays: float = 0.0
    samples: float = 0.0
    loss: float = float("nan")


class CapturedTraining:
    """A field in training.

    Args:
        field: what is trained.
        averaged: the same once more, for the moving average of the weights.
        pixels: to train on.
        grid: says where matter may be.
        adam: hyper-parameters.
        rooms: bounds of what a step holds.
        weight_threshold: samples of less rendering weight have no colour.
        update_every: training steps between updates of the grid; the room of steps is chosen as often.
        generator: source of all randomness, on the device.
    """

    def __init__(
        self,
        field: Radiance[Any],
        averaged: Radiance[Any],
        pixels: PixelRays,
        grid: FixedGrid,
        *,
        adam: AdamRules,
        rooms: Rooms,
        weight_threshold: float,
        update_every: int,
        generator: torch.Generator,
    ) -> None:
        self.field, self.averaged, self.grid = field, averaged, grid
        self.optimizer = FlatAdam(field, averaged, adam)
        self.totals = Totals()
        self._pixels, self._rooms, self._threshold = pixels, rooms, weight_threshold
        self._every, self._generator = update_every, generator
        device = pixels.device
        self._drawn, self._record = Drawn(rooms.most_rays, device), Record(device)
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._repeated: dict[Room, Repeated] = {}
        self._look = self._graph(lambda: grid.look(field.density_at))
        self._look_everywhere = self._graph(lambda: grid.look_everywhere(field.density_at))
        self._sent: list[tuple[Room, Sent]] = []
        self._steps_of_block = 0
        self.room = rooms.first()

    def step(self, number: int, learning_rate: float) -> None:
        """Train one step.

        Args:
            number: of the step; the first ones look into all of the grid.
            learning_rate: of this step.

        Raises:
            Diverged: once it is known that an earlier step gave no numbers.
        """
        with on(self._pixels.device):
            if self._steps_of_block % self._every == 0:
                self._begin_block(number)
            self._steps_of_block += 1
            self.optimizer.learning_rate.fill_(learning_rate)
            self._drawn.draw(self._generator)
            self._step_in(self.room)()

    def finish(self) -> Totals:
        """Wait for all steps, and return what was trained.

        Raises:
            Diverged: where a step gave no numbers.
        """
        with on(self._pixels.device):
            self._send()
            while self._sent:
                self._take()
        self._steps_of_block = 0
        return self.totals

    @property
    def graphs(self) -> int:
        """Return the number of steps of different size that were captured."""
        return sum(repeated.is_captured for repeated in self._repeated.values())

    def _begin_block(self, number: int) -> None:
        self._send()
        room, needs = self.room, None
        if len(self._sent) > 1:  # of the block before the last, which is over or nearly so
            room, needs = self._take()
        self.room = self._rooms.next(room, needs, number)
        self.grid.draw(self._generator)
        # Cells that were never looked at are empty to the grid.
        everywhere = number == 0 or number < self._rooms.fog_steps
        (self._look_everywhere if everywhere else self._look)()

    def _send(self) -> None:
        if self._steps_of_block:
            self._sent.append((self.room, self._record.send(self.grid.is_finite)))

    def _take(self) -> tuple[Room, Needs]:
        room, sent = self._sent.pop(0)
        needs = sent.take()
        if not needs.are_numbers:
            raise Diverged("densities or losses are NaN or infinite")
        self.totals.rays += needs.rays
        self.totals.samples += needs.trained_samples
        self.totals.loss = needs.loss
        return room, needs

    def _step_in(self, room: Room) -> Repeated:
        if room not in self._repeated:
            step = TrainingStep(
                self.field,
                self.optimizer,
                self.grid,
                self._pixels,
                self._drawn,
                self._record,
                room=room,
                weight_threshold=self._threshold,
            )
            self._repeated[room] = self._graph(step)
        return self._repeated[room]

    def _graph(self, function: Callable[[], None]) -> Repeated:
        return Repeated(function, self._pixels.device, self._pool)
