"""Turns of training and of the viewer's pictures, which share one field and the same processors."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Turns:
    """A lock that shares time fairly: pictures take turns with each other, and all together with training.

    After a picture, training has the field until it has used as much time, so that twenty people who move their
    cameras at once slow it down by half and no further. A picture that is due goes before the next training step.

    Args:
        is_picture: whether the calling thread is about to draw a picture.
        is_training: whether training goes on; while it rests, pictures do not wait for it.
        picture_share: share of the time that pictures may take while both want it, in (0, 1).
    """

    def __init__(
        self, is_picture: Callable[[], bool], is_training: Callable[[], bool], *, picture_share: float = 0.5
    ) -> None:
        self._is_picture, self._is_training = is_picture, is_training
        self._steps_per_picture = (1.0 - picture_share) / picture_share
        self._changed = threading.Condition()
        self._taken_at: float | None = None
        self._taken_for_picture = False
        # Seconds of training before the next picture, and who draws it.
        self._owed = 0.0
        self._waiting: deque[int] = deque()

    def acquire(self) -> None:
        """Wait for a turn."""
        picture, me = self._is_picture(), threading.get_ident()
        with self._changed:
            if picture:
                self._waiting.append(me)
            try:
                # Training may stop without a word, while a picture waits for it.
                while not self._may_go(picture, me):
                    self._changed.wait(timeout=0.05)
            finally:
                if picture:
                    self._waiting.remove(me)
            self._taken_at, self._taken_for_picture = time.perf_counter(), picture

    def _may_go(self, picture: bool, me: int) -> bool:
        if self._taken_at is not None:
            return False
        due = self._owed <= 0.0 or not self._is_training()
        return (due and self._waiting[0] == me) if picture else not (due and self._waiting)

    def release(self) -> None:
        """End the turn."""
        with self._changed:
            assert self._taken_at is not None
            seconds = time.perf_counter() - self._taken_at
            if self._taken_for_picture:
                self._owed = seconds * self._steps_per_picture
            else:
                self._owed -= seconds
            self._taken_at = None
            self._changed.notify_all()

    def __enter__(self) -> Turns:
        self.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()
