"""One measurement of the queue: what decides it, how long it should take, and where it runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

Group = Literal["ceilings", "kernels", "fields", "images", "shapes", "nerfacto", "splats"]


class OutOfTime(Exception):
    """Raised within a cell that is still at work when the time is over."""


@dataclass(frozen=True)
class Place:
    """Where a cell runs, and until when.

    Attributes:
        device: of its tensors.
        scratch: a folder of its own for what is to survive an interruption; deleted once its result is stored.
        deadline: by ``time.monotonic()``.
        finished: results of other cells that this card measured, by name.
    """

    device: torch.device
    scratch: Path
    deadline: float
    finished: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def require_time(self) -> None:
        """Raise where the time is over.

        Raises:
            OutOfTime: there.
        """
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def while_there_is_time(self, report: Callable[..., None]) -> Callable[..., None]:
        """Return a progress callback that passes everything on, and raises :class:`OutOfTime` at the deadline."""

        def passed_on(*values: Any) -> None:
            self.require_time()
            report(*values)

        return passed_on


Work = Callable[[Place], dict[str, Any]]


def _nothing_missing(_: Place) -> str | None:
    return None


def _nothing_done(_: Place) -> float | None:
    return None


@dataclass(frozen=True)
class QueueCell:
    """One measurement.

    Attributes:
        name: of its file.
        group: of cells whose times are wrong by about the same factor.
        row: its line in a table.
        item: what is measured there: an image, a shape, a scene, a number of points.
        settings: JSON values that decide the result.
        estimate: seconds on an H100, or of a toy cell on a processor.
        work: gives the result as JSON values. ``earlier_seconds`` among them is what earlier visits spent on it.
        missing: a sentence where the cell cannot be measured here, None where it can.
        remaining: seconds that are left of an interrupted cell, None where none of it is done.
        quick: whether this is a toy.
    """

    name: str
    group: Group
    row: str
    item: str
    settings: dict[str, Any]
    estimate: float
    work: Work = field(repr=False)
    missing: Callable[[Place], str | None] = field(default=_nothing_missing, repr=False)
    remaining: Callable[[Place], float | None] = field(default=_nothing_done, repr=False)
    quick: bool = False

    @property
    def digest(self) -> str:
        """Return what tells this cell's unfinished work from that with other settings."""
        return hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        return json.loads(json.dumps(self.settings))
