"""Fifty viewers at once, all of which move their cameras: training goes on, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from websockets.asyncio.client import connect

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CLIENTS = 50
SECONDS = 60.0
MOST_MEGABYTES = 500


def camera(angle: float) -> bytes:
    """What viser's page sends when the mouse moves the camera."""
    position = (4 * math.cos(angle), 4 * math.sin(angle), 1.5)
    pose = {"wxyz": (1.0, 0.0, 0.0, 0.0), "position": position, "look_at": (0.0, 0.0, 0.0)}
    pose |= {"up_direction": (0.0, 0.0, 1.0), "fov": 0.9, "aspect": 1.5}
    return msgspec.msgpack.encode({"type": "ViewerCameraMessage", **pose})


async def look(address: str, number: int, until: float) -> int:
    """Look at the scene from ever new places until then; gives how many pictures came."""
    rng = random.Random(number)
    pictures = 0
    async with connect(address, max_size=None, open_timeout=60, ping_interval=None) as socket_:

        async def move() -> None:
            angle = rng.uniform(0, 6.28)
            while time.monotonic() < until:
                angle += 0.05
                await socket_.send(camera(angle))
                await asyncio.sleep(rng.uniform(0.05, 0.3))

        async def count() -> None:
            nonlocal pictures
            while time.monotonic() < until:
                try:
                    message = await asyncio.wait_for(socket_.recv(), 1.0)
                except TimeoutError:
                    continue
                pictures += b"BackgroundImage" in bytes(message if isinstance(message, bytes) else b"")

        await asyncio.gather(move(), count())
    return pictures


async def all_look(address: str, clients: int, seconds: float) -> list[int | BaseException]:
    until = time.monotonic() + seconds
    return await asyncio.gather(*(look(address, i, until) for i in range(clients)), return_exceptions=True)


def test_many_viewers(tmp_path: Path, share: float, record: Callable[..., None]) -> None:
    clients = max(2, round(CLIENTS * share))
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
    scene = [sys.executable, str(ROOT / "scripts" / "make_demo_scene.py"), "--output-dir", "scene", "--size", "48"]
    views = ["--train-views", "16", "--val-views", "1", "--test-views", "1", "--supersampling", "1"]
    subprocess.run([*scene, *views], cwd=tmp_path, check=True, capture_output=True, env=environment)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(BIN / "ns-train"), "finer-sine", "--data", "scene", "--output-dir", "out", "--vis", "viewer"]
    command += ["--viewer.websocket-port", str(port), "--pipeline.model.field.width", "32"]
    command += ["--steps-per-save", "10", "--max-num-iterations", "100000"]
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=stream, stderr=subprocess.STDOUT, env=environment)

    def step() -> int:
        saved = [int(path.stem.removeprefix("step-")) for path in (tmp_path / "out").rglob("*.ckpt")]
        return max(saved, default=-1)

    def wait_for(step_: int, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while step() < step_:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"training is at step {step()}"
            time.sleep(0.5)

    try:
        wait_for(50)
        urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30).read()
        memory = psutil.Process(process.pid).memory_info().rss
        first, start = step(), time.monotonic()
        time.sleep(15)
        alone = (step() - first) / (time.monotonic() - start)
        before, start = step(), time.monotonic()
        seen = asyncio.run(all_look(f"ws://127.0.0.1:{port}", clients, SECONDS))
        seconds = time.monotonic() - start
        beside = (step() - before) / seconds
        above = (psutil.Process(process.pid).memory_info().rss - memory) / 1e6
        assert process.poll() is None, log.read_text()[-3000:]
        failures = [repr(one) for one in seen if isinstance(one, BaseException)]
        assert not failures, failures[:3]
        assert step() > before, "training goes on"
        wait_for(step() + 20)  # and after they have left
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]
        assert above < MOST_MEGABYTES
        pictures = [one for one in seen if isinstance(one, int)]
        record(
            "viewers",
            clients=clients,
            seconds=round(seconds),
            pictures=sum(pictures),
            clients_with_a_picture=sum(one > 0 for one in pictures),
            steps_per_second_alone=round(alone, 2),
            steps_per_second_beside=round(beside, 2),
            megabytes_above_one=round(above),
        )
        assert all(one > 0 for one in pictures), "everybody gets a picture"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(json.dumps({"log": log.read_text()[-500:]}))
