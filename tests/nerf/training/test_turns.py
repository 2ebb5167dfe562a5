"""Training and pictures share time: nobody starves, and any number of viewers leave training its share."""

from __future__ import annotations

import threading
import time

import pytest

from finer_nerfstudio.nerf.training.turns import Turns


def shares(viewers: int, *, training: bool = True, seconds: float = 1.0) -> tuple[float, list[int]]:
    """Share of the used time that training had, and pictures of each viewer, all of which always want the next."""
    viewing = threading.local()
    trains = [training]
    turns = Turns(lambda: getattr(viewing, "yes", False), lambda: trains[0])
    stop = threading.Event()
    used = {"training": 0.0, "pictures": 0.0}
    pictures = [0] * viewers

    def view(number: int) -> None:
        viewing.yes = True
        while not stop.is_set():
            with turns:
                time.sleep(0.01)
                used["pictures"] += 0.01
                pictures[number] += 1

    threads = [threading.Thread(target=view, args=(number,)) for number in range(viewers)]
    for thread in threads:
        thread.start()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if training:
            with turns:
                time.sleep(0.002)
                used["training"] += 0.002
        else:
            time.sleep(0.002)
    stop.set()
    trains[0] = False  # nobody waits for training any more
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
    return used["training"] / max(sum(used.values()), 1e-9), pictures


@pytest.mark.parametrize("viewers", [1, 20])
def test_viewers_leave_training_half_of_the_time(viewers: int) -> None:
    share, pictures = shares(viewers)
    assert share > 0.35
    assert sum(pictures) > 10, "and have pictures all the same"
    assert max(pictures) - min(pictures) <= 2, "as many as the others"


def test_pictures_do_not_wait_for_training_that_rests() -> None:
    _, pictures = shares(2, training=False, seconds=0.5)
    assert sum(pictures) > 20


def test_training_alone_waits_for_nobody() -> None:
    share, _ = shares(0, seconds=0.2)
    assert share == 1.0


def test_a_picture_that_fails_gives_the_turn_back() -> None:
    turns = Turns(lambda: True, lambda: True)
    with pytest.raises(ValueError, match="no picture"), turns:
        raise ValueError("no picture")
    turns = Turns(lambda: False, lambda: True)
    with turns:
        pass
    with turns:
        pass
