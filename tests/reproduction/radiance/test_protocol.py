"""The paper's protocol and the quick one as options of ns-train."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.reproduction.radiance.protocol import protocol_of_table
from finer_nerfstudio.reproduction.radiance.scenes import Scene

TASKS = Path(__file__).parents[3] / "docs" / "tasks.md"


def scene(size: int = 800) -> Scene:
    return Scene("lego", Path("/lego"), size, size, 100, 200, "digest")


def pairs(options: list[str]) -> dict[str, str]:
    assert len(options) % 2 == 0
    return dict(zip(options[::2], options[1::2], strict=True))


def test_the_papers_options_are_those_of_the_tasks() -> None:
    (row,) = re.findall(r"train the paper's network at the paper's length.*?`(ns-train[^`]*)`", TASKS.read_text())
    words = row.split()
    shown = {name: value for name, value in pairwise(words) if name.startswith("--") and name != "--data"}
    protocol = protocol_of_table(quick=False, steps=None, minutes=None, seed=0)
    ours = pairs(protocol.training_options("finer-sine")) | pairs(protocol.parser_options(scene()))
    assert {name: float(ours[name]) for name in shown} == {name: float(value) for name, value in shown.items()}
    assert ours["--eval-view-stride"] == "1", "all 200 test views"
    # What the command leaves at its default is the paper's too.
    assert ours["--pipeline.model.ema-decay"] == "0.95"
    assert ours["--pipeline.model.field.density-depth"] == "3"
    assert protocol.num_test_views(scene()) == 200


def test_the_quick_protocol_has_the_packages_network_and_every_eighth_view() -> None:
    protocol = protocol_of_table(quick=True, steps=None, minutes=None, seed=3)
    options = pairs(protocol.training_options("siren"))
    assert not any(name.startswith(("--pipeline", "--optimizers")) for name in options)
    assert options["--max-minutes"] == "3.0"
    assert options["--machine.seed"] == "3"
    assert pairs(protocol.parser_options(scene(200))) == {
        "--train-view-stride": "4",
        "--eval-view-stride": "8",
        "--downscale-factor": "1",
    }
    assert protocol.num_test_views(scene()) == 25
    sentence = protocol.sentence([scene()])
    for words in ("112 units", "3 minutes", "25 training views", "200x200", "every 8th test view (25)", "seed 3"):
        assert words in sentence


def test_a_length_of_ones_own_replaces_the_published_one() -> None:
    by_steps = pairs(protocol_of_table(quick=True, steps=70, minutes=None, seed=0).training_options("siren"))
    assert by_steps["--max-num-iterations"] == "70"
    assert "--max-minutes" not in by_steps
    by_minutes = pairs(protocol_of_table(quick=False, steps=None, minutes=1.5, seed=0).training_options("wire"))
    assert by_minutes["--max-minutes"] == "1.5"
    assert int(by_minutes["--max-num-iterations"]) > 10**6


def test_a_run_that_goes_on_is_told_what_is_left() -> None:
    """Nerfstudio counts --max-num-iterations from the checkpoint."""
    protocol = protocol_of_table(quick=False, steps=None, minutes=None, seed=0)
    assert pairs(protocol.training_options("siren", trained_steps=30_001))["--max-num-iterations"] == "7499"


@pytest.mark.parametrize(
    "lengths",
    [(5, 1.0), (0, None), (-3, None), (10**8, None), (None, 0.0), (None, float("nan")), (None, float("inf"))],
)
def test_lengths_that_cannot_be_are_refused(lengths: tuple[int | None, float | None]) -> None:
    with pytest.raises(UsageError, match=r"^(steps|minutes) "):
        protocol_of_table(quick=True, steps=lengths[0], minutes=lengths[1], seed=0)
    with pytest.raises(UsageError, match=r"^seed must lie between"):
        protocol_of_table(quick=True, steps=1, minutes=None, seed=-1)
