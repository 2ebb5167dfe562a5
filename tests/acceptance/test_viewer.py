"""The live viewer in a real browser, while training: the camera moves, the bias band moves, the picture follows."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page


@pytest.fixture(params=["finer-sine --pipeline.model.field.width 48"])
def viewer_address(request: pytest.FixtureRequest, small_scene: Path, tmp_path: Path) -> Iterator[str]:
    """``ns-train`` of the parameter's method and options with its viewer, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    method, *options = request.param.split()
    command = [str(Path(sys.executable).parent / "ns-train"), method, "--data", str(small_scene)]
    command += ["--output-dir", str(tmp_path), "--vis", "viewer", *options]
    log = tmp_path / "train.log"
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [*command, "--viewer.websocket-port", str(port)], stdout=stream, stderr=subprocess.STDOUT
        ) as training,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while True:
                assert training.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, "the viewer does not answer"
                try:
                    urllib.request.urlopen(address, timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            training.kill()


@pytest.fixture
def page(browser: Browser, viewer_address: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1000, "height": 1400})
    page.goto(viewer_address)
    yield page
    page.close()


def step_of(page: Page) -> int:
    found = re.search(r"Step: (\d+)", page.inner_text("body"))
    return int(found.group(1)) if found else -1


def wait_for_step(page: Page, step: int, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while step_of(page) < step:
        assert time.monotonic() < deadline, f"training is at step {step_of(page)}, not at {step}"
        time.sleep(0.5)


def picture(page: Page) -> np.ndarray:
    """The left part of the page, which shows the rendering, once it has stopped changing."""
    deadline = time.monotonic() + 180
    previous = np.zeros(1)
    unchanged = 0
    while unchanged < 3:
        assert time.monotonic() < deadline, "the picture never comes to rest"
        time.sleep(0.7)
        shot = page.screenshot(clip={"x": 0, "y": 100, "width": 640, "height": 1200})
        current = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=np.float64)
        same = current.shape == previous.shape and np.abs(current - previous).mean() < 0.05
        unchanged = unchanged + 1 if same else 0
        previous = current
    return previous


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def fill_number(page: Page, label: str, value: float) -> None:
    field = page.locator(f'label:text-is("{label}")').locator(
        "xpath=ancestor::div[contains(@class, 'mantine-Flex-root')][1]//input[@inputmode='numeric']"
    )
    field.fill(str(value))
    field.press("Enter")


def test_viewer_follows_camera_bias_band_and_output(page: Page) -> None:
    wait_for_step(page, 300)
    page.get_by_text("Hide Train Cams").click()
    fill_number(page, "Max res", 96)
    page.get_by_text("Pause Training").click()
    page.get_by_text("Resume Training").wait_for()
    # From here on nothing but the viewer itself can change the picture.
    first = picture(page)
    assert first.std() > 3, "something is in the picture"
    # It starts at a view that frames the scene: there is white around what is in the middle.
    height, width, _ = first.shape
    middle = first[int(0.4 * height) : int(0.6 * height), int(0.4 * width) : int(0.6 * width)].mean()
    edges = first[int(0.05 * height) : int(0.95 * height)][:, [5, width - 5]].mean()
    assert edges > 225
    assert middle < edges - 20

    page.mouse.move(300, 700)
    page.mouse.down()
    page.mouse.move(420, 640, steps=8)
    page.mouse.up()
    moved = picture(page)
    assert difference(first, moved) > 2, "the picture follows the camera"

    fill_number(page, "Bias band to (%)", 17)
    low_band = picture(page)
    assert difference(moved, low_band) > 2, "silenced neurons are missing from the picture"
    fill_number(page, "Bias band to (%)", 200)  # beyond its end, where the slider stops
    assert difference(moved, picture(page)) < 0.5, "all neurons speak again"

    page.locator('label:text-is("Output type")').locator(
        "xpath=ancestor::div[contains(@class, 'mantine-Flex-root')][1]//input"
    ).first.click()
    page.get_by_role("option", name="normals").click()
    normals = picture(page)
    assert difference(moved, normals) > 2, "normals look unlike colours"

    paused_at = step_of(page)
    page.get_by_text("Resume Training").click()
    wait_for_step(page, paused_at + 20)


@pytest.mark.parametrize(
    "viewer_address",
    ["finer-sine-stream --pipeline.model.field.widths 12 40 --pipeline.model.field.grow-at 0.01"],
    indirect=True,
)
def test_the_slider_of_widths_shows_earlier_stages(page: Page) -> None:
    wait_for_step(page, 550)  # the second stage has begun at step 375
    page.get_by_text("Hide Train Cams").click()
    fill_number(page, "Max res", 96)
    page.get_by_text("Pause Training").click()
    page.get_by_text("Resume Training").wait_for()
    wide = picture(page)
    assert wide.std() > 3, "something is in the picture"
    fill_number(page, "Width", 39)
    narrow = picture(page)
    assert difference(wide, narrow) > 0.5, "the second stage has left the picture"
    fill_number(page, "Width", 40)
    assert difference(wide, picture(page)) < 0.1, "and comes back"
