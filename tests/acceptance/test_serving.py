"""Everything that serves listens on this machine alone, at the address that it prints."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LISTENING = "0A"


@contextmanager
def serving(log: Path, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TERM": "dumb", "COLUMNS": "200"}
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [*map(str, command)],
            stdout=stream,
            stderr=stream,
            env=environment,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as server,
    ):
        try:
            yield server
        finally:
            server.kill()


def listening(process: int) -> set[tuple[str, int]]:
    """Addresses and ports at which a process and its children accept connections, from Linux's tables."""
    sockets: set[str] = set()
    for task in Path("/proc").glob("[0-9]*"):
        try:
            status = (task / "stat").read_text()
            parent = int(status.rsplit(")", 1)[1].split()[1])
            if int(task.name) != process and parent != process:
                continue
            links = [os.readlink(link) for link in (task / "fd").iterdir()]
        except OSError:
            continue
        sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == LISTENING and parts[9] in sockets:
                address, port = parts[1].split(":")
                found.add((address, int(port, 16)))
    return found


def wait_for_address(server: subprocess.Popen[bytes], log: Path) -> tuple[str, int]:
    """Host and port that a command prints once it answers there."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        for host, port in re.findall(r"http://([\w.]+):(\d+)", log.read_text()):
            with socket.socket() as probe:
                probe.settimeout(2)
                if probe.connect_ex((host, int(port))) == 0:
                    return host, int(port)
        time.sleep(0.3)
    raise AssertionError(f"no address: {log.read_text()[-2000:]}")


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def assert_loopback_alone(server: subprocess.Popen[bytes], log: Path) -> int:
    host, port = wait_for_address(server, log)
    assert host in ("127.0.0.1", "localhost")
    found = listening(server.pid)
    assert port in {number for _, number in found}, "the printed address is the one that is served"
    assert {address for address, _ in found} == {"0100007F"}, "127.0.0.1 and no other"
    return port


def test_training_with_a_viewer_whose_port_is_taken(small_scene: Path, tmp_path: Path, busy_port: int) -> None:
    log = tmp_path / "log"
    options = ["--output-dir", tmp_path, "--viewer.websocket-port", str(busy_port)]
    with serving(log, BIN / "ns-train", "finer-sine", "--data", small_scene, *options) as server:
        assert assert_loopback_alone(server, log) != busy_port


def test_the_viewer_of_a_finished_run(trained_run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, BIN / "ns-viewer", "--load-config", trained_run / "config.yml") as server:
        assert_loopback_alone(server, log)


def test_the_viewer_is_open_to_the_network_for_who_says_so(trained_run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ["--load-config", trained_run / "config.yml", "--viewer.websocket-host", "0.0.0.0"]
    with serving(log, BIN / "ns-viewer", *options) as server:
        deadline = time.monotonic() + 180
        while not listening(server.pid):
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert {address for address, _ in listening(server.pid)} == {"00000000"}


def test_the_page_of_a_stream(tmp_path: Path) -> None:
    stream = ROOT / "tests" / "streams" / "version-1-finer-sine-int8.finer"
    log = tmp_path / "log"
    with serving(log, sys.executable, ROOT / "scripts" / "stream.py", "serve", stream) as server:
        assert_loopback_alone(server, log)


def test_splats_in_the_browser(tmp_path: Path) -> None:
    import numpy as np
    from plyfile import PlyData, PlyElement

    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    splats = np.zeros(50, dtype=[(name, "f4") for name in names])
    for name in ("x", "y", "z"):
        splats[name] = np.random.default_rng(0).uniform(-1, 1, 50)
    for i in range(3):
        splats[f"scale_{i}"] = -3.0
    splats["rot_0"] = 1.0
    PlyData([PlyElement.describe(splats, "vertex")]).write(tmp_path / "splats.ply")
    log = tmp_path / "log"
    with serving(log, sys.executable, ROOT / "scripts" / "bake.py", "view", tmp_path / "splats.ply") as server:
        assert_loopback_alone(server, log)
