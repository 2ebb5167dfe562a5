"""scripts/stream.py as a user types it, and its page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from finer_nerfstudio import GrowingNetwork, Sine
from finer_nerfstudio.files.png import write_image
from finer_nerfstudio.streams.header import StreamedStage, StreamHeader, describe_network
from finer_nerfstudio.streams.payload import pack_stage
from finer_nerfstudio.streams.reader import read_stream
from finer_nerfstudio.streams.writer import write_stream
from finer_nerfstudio.tasks.image.files import sample_image
from finer_nerfstudio.tasks.streaming.serve import original_of, serving

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SMALL = ["--widths", "8", "16", "25", "--depth", "3"]

Command = Callable[..., "tuple[int, str]"]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def encoded(folder: Path, name: str, *options: str, source: Path | None = None, check: bool = True) -> str:
    """Run ``stream.py encode``; the stream is ``folder/name/<source>.finer``."""
    command = [sys.executable, str(ROOT / "scripts" / "stream.py"), "encode", *([str(source)] if source else [])]
    done = subprocess.run(
        [*command, *SMALL, *options, "--output-dir", str(folder / name)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a sine's stream in colour, a complex one in grey, and one with positional encoding."""
    folder = tmp_path_factory.mktemp("streams")
    write_image(folder / "colour.png", sample_image(40).pixels[:, :33])
    write_image(folder / "grey.png", sample_image(32).pixels[..., :1])
    encoded(folder, "colour", "--steps", "80", source=folder / "colour.png")
    options = ("--steps", "40", "--method", "finer-wavelet", "--precision", "float16")
    encoded(folder, "grey", *options, source=folder / "grey.png")
    options = ("--steps", "40", "--method", "pemlp", "--precision", "bfloat16", "--learning-rate", "1e-3")
    encoded(folder, "pemlp", *options, source=folder / "grey.png")
    return folder


def stage_ends(stream: Path) -> list[int]:
    header = read_stream(stream.read_bytes())
    ends = np.cumsum([header.header_bytes, *(stage.bytes for stage in header.header.stages)])
    return [int(end) for end in ends[1:]]


# The command line


def test_encoding_leaves_stream_pictures_numbers_and_report(streams: Path) -> None:
    folder = streams / "colour"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = metrics["stages"]
    assert [row["width"] for row in rows] == [8, 16, 25]
    assert metrics["bytes"] == rows[-1]["bytes"] == (folder / "colour.finer").stat().st_size
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 1
    truth = np.asarray(Image.open(streams / "colour.png"), np.float64)
    for index, row in enumerate(rows):
        picture = np.asarray(Image.open(folder / f"stage-{index}.png"), np.float64)
        assert picture.shape == truth.shape
        measured = 20 * np.log10(255) - 10 * np.log10(np.square(picture - truth).mean())
        assert measured == pytest.approx(row["psnr"], abs=0.1)  # whole pixel values
        assert row["rounding_loss_db"] < 0.1
        assert row["bits_per_pixel"] == pytest.approx(8 * row["bytes"] / (40 * 33))
        assert row["jpeg_psnr_at_these_bytes"] > 10
    assert np.array_equal(np.asarray(Image.open(folder / "original.png"), np.float64), truth)
    assert metrics["configuration"]["widths"] == [8, 16, 25]
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 3


def test_every_prefix_decodes_to_its_stage(command: Command, streams: Path, tmp_path: Path) -> None:
    stream = streams / "colour" / "colour.finer"
    ends = stage_ends(stream)
    code, output = command("stream.py", "decode", stream, "--output-dir", "all")
    assert code == 0, output
    for index in range(3):
        assert (tmp_path / "all" / f"stage-{index}.png").read_bytes() == (
            stream.parent / f"stage-{index}.png"
        ).read_bytes()
    (tmp_path / "part.finer").write_bytes(stream.read_bytes()[: ends[1] + 5])
    code, output = command("stream.py", "decode", "part.finer")
    assert code == 0, output
    assert f"1 of 3 stages are missing: it takes {stream.stat().st_size:,} bytes" in output
    # Each stage says how much of the file it takes, however the file was read.
    assert [f"of the first {end:,} bytes" in output for end in ends] == [True, True, False]
    shown = sorted(path.name for path in (tmp_path / "outputs" / "decoded" / "part").iterdir())
    assert shown == ["stage-0.png", "stage-1.png"]
    code, output = command("stream.py", "decode", stream, "--stage", "0", "--size", "80", "--output-dir", "one")
    assert code == 0, output
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["stage-0.png"]
    assert Image.open(tmp_path / "one" / "stage-0.png").size == (66, 80)
    code, output = command("stream.py", "decode", stream, "--max-bytes", ends[0], "--output-dir", "bytes")
    assert code == 0, output
    assert len(list((tmp_path / "bytes").iterdir())) == 1


def test_damage_is_said_and_what_came_before_is_kept(command: Command, streams: Path, tmp_path: Path) -> None:
    content = bytearray((streams / "colour" / "colour.finer").read_bytes())
    content[stage_ends(streams / "colour" / "colour.finer")[1] + 30] ^= 1
    (tmp_path / "damaged.finer").write_bytes(content)
    code, output = command("stream.py", "decode", "damaged.finer", "--output-dir", "out")
    assert code == 1
    assert "stage 2 is damaged" in output
    assert "the 2 stages before it are decoded" in output
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_inspect(command: Command, streams: Path) -> None:
    stream = streams / "grey" / "grey.finer"
    code, output = command("stream.py", "inspect", stream, "--json")
    content = json.loads(output)
    assert (code, content["complete_stages"], content["damage"]) == (0, 3, None)
    assert content["networks"][0]["activation"]["family"] == "wavelet"
    assert content["bytes"] == content["bytes_when_complete"] == stream.stat().st_size
    code, output = command("stream.py", "inspect", stream)
    assert code == 0
    assert "3 of 3 stages" in output


def test_a_budget_is_kept(command: Command, tmp_path: Path) -> None:
    write_image(tmp_path / "picture.png", sample_image(24).pixels)
    code, output = command(
        "stream.py", "encode", "picture.png", "--steps", "3", "--budget-kb", "20", "--output-dir", "out"
    )
    assert code == 0, output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["stages"]) == 4
    assert metrics["bytes"] <= 20_000
    # The widest that fits at 16 bits.
    assert metrics["parameters"] * 2 > 17_000


def test_a_killed_encoding_goes_on_to_the_same_file(streams: Path, tmp_path: Path) -> None:
    source = streams / "colour.png"
    program = [sys.executable, str(ROOT / "scripts" / "stream.py"), "encode", str(source), *SMALL, "--steps", "1500"]
    folder = tmp_path / "killed"
    with subprocess.Popen([*program, "--output-dir", str(folder)], stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        # In the middle of the second stage.
        while not ((folder / "stage-0.safetensors").exists() and (folder / "checkpoint.safetensors").exists()):
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (folder / "colour.finer").exists()
    encoded(tmp_path, "killed", "--steps", "1500", "--resume", source=source)
    encoded(tmp_path, "whole", "--steps", "1500", source=source)
    assert (tmp_path / "killed" / "colour.finer").read_bytes() == (tmp_path / "whole" / "colour.finer").read_bytes()


def test_a_finished_stream_is_widened_further(streams: Path, tmp_path: Path) -> None:
    shutil.copytree(streams / "colour", tmp_path / "colour")
    before = read_stream((tmp_path / "colour" / "colour.finer").read_bytes())
    options = ("--steps", "80", "--resume", "--widths", "8", "16", "25", "33")
    encoded(tmp_path, "colour", *options, source=streams / "colour.png")
    after = read_stream((tmp_path / "colour" / "colour.finer").read_bytes())
    assert (before.stages, after.stages) == (3, 4)
    import torch

    coords = torch.rand(20, 2) * 2 - 1
    assert torch.equal(before.networks[0](coords), after.networks[0](coords, stages=3))


def test_a_shape(command: Command, tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=20.0)
    ball.apply_translation([100.0, 0.0, -50.0])
    ball.export(tmp_path / "ball.ply")
    options = ["--widths", "16", "32", "--depth", "2", "--steps", "500", "--batch-size", "1000"]
    code, output = command("stream.py", "encode", "ball.ply", *options, "--learning-rate", "1e-3", "-o", "out")
    assert code == 0, output
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["stages"][-1]["iou"] > 0.7
    code, output = command("stream.py", "decode", "out/ball.finer", "--resolution", "32", "-o", "decoded")
    assert code == 0, output
    found = trimesh.load_mesh(tmp_path / "decoded" / "stage-1.ply")
    radii = np.linalg.norm(found.vertices - [100.0, 0.0, -50.0], axis=1)
    assert np.median(radii) == pytest.approx(20.0, rel=0.1)


def test_comparison(command: Command, tmp_path: Path) -> None:
    options = ["--size", "24", "--widths", "6", "12", "--depth", "2", "--steps", "5", "--output-dir", "out"]
    code, output = command("stream.py", "compare", *options)
    assert code == 0, output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    names = ("", ", no shells", ", single networks", ", slimmable")
    assert set(metrics["ways"]) == {"siren", *(f"finer-sine{name}" for name in names)}
    for rows in metrics["ways"].values():
        assert [row["width"] for row in rows] == [6, 12]
        assert all(5 < row["psnr"] < 60 for row in rows)
    # The first stage of a stream is a network of that width trained by itself.
    assert metrics["ways"]["finer-sine"][0]["psnr"] == metrics["ways"]["finer-sine, single networks"][0]["psnr"]
    code, again = command("stream.py", "compare", *options, "--resume")
    assert code == 0, again
    before = {name: [row["psnr"] for row in rows] for name, rows in metrics["ways"].items()}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert before == {name: [row["psnr"] for row in rows] for name, rows in metrics["ways"].items()}


def bad_inputs() -> dict[str, tuple[int, str, list[str]]]:
    """What is wrong: exit code, part of the sentence, arguments."""
    encode = ["encode", "picture.png", "--output-dir", "out"]
    return {
        "no such file": (1, "missing.finer", ["decode", "missing.finer"]),
        "no stream": (1, "no finer stream", ["decode", "picture.png"]),
        "an empty file": (1, "ends within its header", ["decode", "empty.finer"]),
        "no such server": (1, "cannot be read", ["decode", "http://127.0.0.1:9/stream.finer"]),
        "no bytes": (2, "--max-bytes", ["decode", "stream.finer", "--max-bytes", "0"]),
        "within the header": (1, "ends within its header", ["decode", "stream.finer", "--max-bytes", "50"]),
        "within the first stage": (1, "first stage", ["decode", "stream.finer", "--max-bytes", "700"]),
        "a stage below zero": (2, "--stage", ["decode", "stream.finer", "--stage", "-1"]),
        "a stage too many": (2, "stages 0 to 2", ["decode", "stream.finer", "--stage", "7"]),
        "more pixels than allowed": (1, "--max-pixels", ["decode", "stream.finer", "--max-pixels", "10"]),
        "widths that fall": (2, "must increase", [*encode, "--widths", "30", "20"]),
        "a width of zero": (2, "--widths", [*encode, "--widths", "0", "20"]),
        "one width": (2, "--width", [*encode, "--width", "20"]),
        "a budget of nothing": (2, "--budget-kb", [*encode, "--budget-kb", "0"]),
        "a budget too small": (2, "too little", [*encode, "--budget-kb", "0.5"]),
        "no loss allowed": (2, "--allowed-loss", [*encode, "--allowed-loss", "0"]),
        "automatic k": (2, "--bias-range", [*encode, "--bias-range", "auto"]),
        "no steps": (2, "--steps", [*encode, "--steps", "0"]),
        "an image that is none": (1, "cannot be read as an image", ["encode", "stream.finer"]),
        "comparing a base method": (2, "FINER++", ["compare", "picture.png", "--method", "siren"]),
        "an occupied folder": (2, "holds a run already", ["encode", "picture.png", "--output-dir", "occupied"]),
        "nothing to serve": (1, "cannot be read", ["serve", "missing.finer"]),
        "serving something else": (1, "no finer stream", ["serve", "picture.png", "--port", "0"]),
        "a port that is none": (2, "--port", ["serve", "stream.finer", "--port", "70000"]),
        "a truth that is none": (1, "cannot be read as an image", ["serve", "stream.finer", "--truth", "stream.finer"]),
        "another picture": (1, "it is another picture", ["serve", "stream.finer", "--truth", "picture.png"]),
        "no such truth": (1, "there is no image missing.png", ["serve", "stream.finer", "--truth", "missing.png"]),
        "no speed": (2, "--kilobytes", ["serve", "stream.finer", "--kilobytes", "0"]),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input(command: Command, streams: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(streams / "grey.png", tmp_path / "picture.png")
    shutil.copy(streams / "colour" / "colour.finer", tmp_path / "stream.finer")
    (tmp_path / "empty.finer").touch()
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "metrics.json").write_text("{}")
    exit_code, sentence, arguments = bad_inputs()[name]
    code, output = command("stream.py", *arguments)
    assert code == exit_code, output
    assert "Traceback" not in output
    assert sentence in output.replace("\n", " ")
    assert name != "a stage too many" or not (tmp_path / "outputs").exists(), "nothing is decoded before"


# The server


@pytest.fixture
def address(streams: Path) -> Iterator[str]:
    with serving(streams / "colour" / "colour.finer") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def fetched(address: str, asked: str | None = None) -> tuple[int, bytes, str | None]:
    request = urllib.request.Request(address, headers={"Range": asked} if asked else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), answer.headers["Content-Range"]
    except urllib.error.HTTPError as error:
        return error.code, b"", error.headers["Content-Range"]


def test_ranges(address: str, streams: Path) -> None:
    content = (streams / "colour" / "colour.finer").read_bytes()
    size = len(content)
    stream = f"{address}/stream.finer"
    assert fetched(stream) == (200, content, None)
    assert fetched(stream, "bytes=0-99") == (206, content[:100], f"bytes 0-99/{size}")
    assert fetched(stream, "bytes=100-") == (206, content[100:], f"bytes 100-{size - 1}/{size}")
    assert fetched(stream, "bytes=-10") == (206, content[-10:], f"bytes {size - 10}-{size - 1}/{size}")
    assert fetched(stream, f"bytes=5-{10 * size}")[1] == content[5:]
    assert fetched(stream, f"bytes={size}-") == (416, b"", f"bytes */{size}")
    assert fetched(stream, "bytes=0-1,5-6")[:2] == (200, content)
    assert fetched(stream, "lines=1-2")[:2] == (200, content)
    assert fetched(f"{address}/../../etc/passwd")[0] == 404
    assert fetched(f"{address}/missing.js")[0] == 404


def test_odd_requests_and_rude_visitors(address: str, streams: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = (streams / "colour" / "colour.finer").read_bytes()
    stream = f"{address}/stream.finer"
    for asked in (
        f"bytes={'9' * 5000}-",
        "bytes=0-" + "9" * 5000,
        "bytes=\u0663-",
        "bytes=--",
        "bytes=5-2",
        "=",
        "\x00",
    ):
        try:
            status = fetched(stream, asked)[0]
        except (UnicodeEncodeError, ValueError, urllib.error.URLError):
            continue  # the client itself refuses to send it
        assert status in (200, 206, 400, 416, 431), asked
    host, port = address.removeprefix("http://").split(":")
    for request in (
        b"",
        b"GET",
        b"GET /stream.finer HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + bytes(range(256)),
        b"A" * 70_000,
    ):
        for _ in range(5):
            with socket.create_connection((host, int(port)), timeout=10) as visitor:
                visitor.sendall(request)
                # Gone without a word, and without taking the answer.
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with urllib.request.urlopen(stream) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert answer.read() == content
    assert "Traceback" not in "".join(capfd.readouterr())


def test_five_hundred_visitors_at_once_are_all_served(address: str, streams: Path) -> None:
    content = (streams / "colour" / "colour.finer").read_bytes()
    with ThreadPoolExecutor(500) as visitors:
        answers = list(visitors.map(lambda _: fetched(f"{address}/stream.finer")[1], range(500)))
    assert all(answer == content for answer in answers)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 4), (np.uint16, 1), (np.uint16, 3)])
def test_the_original_is_served_in_8_bits(streams: Path, tmp_path: Path, dtype: type, channels: int) -> None:
    """The stream's picture has 33x40 pixels; one twice as large, and one of a camera, are shown as well."""
    header = read_stream((streams / "colour" / "colour.finer").read_bytes()).header
    full = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, full, (80, 66, channels), dtype=dtype, endpoint=True)
    write_image(tmp_path / "truth.png", pixels)
    with Image.open(io.BytesIO(original_of(header, tmp_path / "truth.png"))) as shown:
        assert shown.format == "PNG"
        assert shown.size == (66, 80)
        values = np.asarray(shown).reshape(pixels.shape)
    assert values.dtype == np.uint8
    assert np.abs(values / 255.0 - pixels / full).max() <= 0.5 / 255.0 + 1e-12
    write_image(tmp_path / "large.png", np.full((2400, 1980, 3), 40, np.uint8))
    with Image.open(io.BytesIO(original_of(header, tmp_path / "large.png"))) as shown:
        assert shown.size == (845, 1024)


def test_an_original_that_does_not_fit_is_left_out(streams: Path, tmp_path: Path) -> None:
    shutil.copy(streams / "colour" / "colour.finer", tmp_path / "stream.finer")
    shutil.copy(streams / "grey.png", tmp_path / "original.png")
    command = [sys.executable, str(ROOT / "scripts" / "stream.py"), "serve", "stream.finer", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stdout is not None
        assert "original.png has 32x32 pixels, and the stream's picture 33x40" in server.stdout.readline()
        address = server.stdout.readline().split()[0]
        assert fetched(f"{address}original.png")[0] == 404
        assert fetched(f"{address}stream.finer")[0] == 200
        server.kill()


@pytest.fixture
def endless(streams: Path) -> Iterator[str]:
    """A server that never stops sending, behind the end of a stream."""
    content = (streams / "colour" / "colour.finer").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content)
                while True:
                    self.wfile.write(bytes(1 << 16))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/x.finer"
    server.shutdown()
    server.server_close()


def test_nothing_is_read_after_the_last_stage(command: Command, endless: str, streams: Path, tmp_path: Path) -> None:
    code, output = command("stream.py", "decode", endless, "--output-dir", "out")
    assert code == 0, output
    assert len(list((tmp_path / "out").iterdir())) == 3
    code, output = command("stream.py", "inspect", endless, "--json")
    assert code == 0, output
    assert json.loads(output)["bytes"] == (streams / "colour" / "colour.finer").stat().st_size


def test_text_of_a_stream_does_not_steer_the_terminal(command: Command, tmp_path: Path) -> None:
    network = GrowingNetwork(2, 3, depth=2, activation=Sine(30.0))
    stage = network.grow(5, generator=torch.Generator().manual_seed(0))
    described = describe_network("\x1b[2Jcleared", network)
    rows = [StreamedStage([5], 0, "float32", {"\x1b]0;title\x07": 1.0})]
    header = StreamHeader([described], "\x1b[31mimage", {"\x1b[1m": "\x9b31m"}, rows, "somebody\x1b[7m\r\n")
    content, _ = write_stream(header, [pack_stage([stage], "float32")])
    (tmp_path / "odd.finer").write_bytes(content)
    for arguments in (("inspect", "odd.finer"), ("decode", "odd.finer"), ("decode", "\x1b[2Jmissing.finer")):
        _, output = command("stream.py", *arguments)
        assert not set(output) & {"\x1b", "\x07", "\x9b", "\r"}, arguments


def test_decoding_from_an_address(command: Command, address: str, streams: Path, tmp_path: Path) -> None:
    code, output = command("stream.py", "decode", f"{address}/stream.finer", "--stage", "1", "--output-dir", "out")
    assert code == 0, output
    assert (tmp_path / "out" / "stage-1.png").read_bytes() == (streams / "colour" / "stage-1.png").read_bytes()


# The page


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        yield page
        browser.close()


def canvas(page: Page, stage: int) -> np.ndarray:
    """What the page shows of a stage, RGB in [0, 255]."""
    page.evaluate(
        "stage => { const slider = document.getElementById('stage'); slider.value = stage;"
        " slider.dispatchEvent(new Event('input')); }",
        stage,
    )
    page.wait_for_function("stage => document.body.dataset.shown === String(stage)", arg=stage, timeout=60_000)
    encoded = page.evaluate("document.getElementById('picture').toDataURL()").split(",")[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), np.float64)


def difference(page: Page, folder: Path, stage: int) -> float:
    truth = np.asarray(Image.open(folder / f"stage-{stage}.png").convert("RGB"), np.float64)
    return float(np.abs(canvas(page, stage) - truth).mean())


@needs_browser
def test_small_pictures_are_decoded_larger(page: Page, streams: Path, tmp_path: Path, command: Command) -> None:
    stream = streams / "colour" / "colour.finer"  # of 33x40 pixels
    code, output = command("stream.py", "decode", stream, "--size", 40 * 12, "--output-dir", "larger")
    assert code == 0, output
    with serving(stream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.wait_for_function("() => document.body.dataset.shown === '2'", timeout=60_000)
        shown = canvas(page, 2)
        server.shutdown()
    assert shown.shape[:2] == (480, 396)
    truth = np.asarray(Image.open(tmp_path / "larger" / "stage-2.png").convert("RGB"), np.float64)
    assert np.abs(shown - truth).mean() < 0.5


@needs_browser
@pytest.mark.parametrize("name", ["colour", "grey", "pemlp"])
def test_the_browser_decodes_what_python_decodes(page: Page, streams: Path, name: str) -> None:
    (stream,) = (streams / name).glob("*.finer")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with serving(stream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/?native")
        page.wait_for_function("document.body.dataset.ended", timeout=60_000)
        assert page.inner_text("#status") == "complete"
        total = f"{stream.stat().st_size:,}"
        assert page.inner_text("#bytes") == f"{total} of {total} bytes"
        assert page.locator("tr.here").count() == 3
        for stage in range(3):
            assert difference(page, stream.parent, stage) <= 1.0
        server.shutdown()
    assert not errors


@contextmanager
def shown(page: Page, stream: Path, *, original: Path | None, query: str = "") -> Iterator[str]:
    """The page with all stages of a stream, and its address."""
    header = read_stream(stream.read_bytes()).header
    content = None if original is None else original_of(header, original)
    with serving(stream, original=content) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        page.goto(address + query)
        last = str(len(header.stages) - 1)
        page.wait_for_function("last => document.body.dataset.shown === last", arg=last, timeout=60_000)
        page.wait_for_load_state("networkidle")
        yield address
        server.shutdown()


@needs_browser
def test_the_original_is_shown_beside_every_stage(page: Page, streams: Path) -> None:
    folder = streams / "colour"
    rows = json.loads((folder / "metrics.json").read_text())["stages"]
    with shown(page, folder / "colour.finer", original=folder / "original.png"):
        for stage, row in enumerate(rows):
            canvas(page, stage)
            caption = f"stage {stage}, {row['bytes']:,} bytes, PSNR {row['psnr']:.2f} dB"
            assert page.inner_text("#caption") == caption
            cells = page.locator(f"#stages tr:nth-child({stage + 1}) td").all_inner_texts()
            assert cells[2] == f"{row['bytes']:,}"
            assert cells[4].startswith(f"PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}")
        assert page.inner_text("#truth figcaption") == "original"
        script = """() => {
            const image = document.getElementById("original"), canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
        served = Image.open(io.BytesIO(base64.b64decode(page.evaluate(script).split(",")[1]))).convert("RGB")
        assert np.array_equal(np.asarray(served), np.asarray(Image.open(streams / "colour.png")))
        for width, beside in ((1280, True), (420, False)):
            page.set_viewport_size({"width": width, "height": 900})
            decoded, truth = (page.locator(name).bounding_box() for name in ("#picture", "#original"))
            assert decoded is not None
            assert truth is not None
            assert (decoded["width"], decoded["height"]) == (truth["width"], truth["height"])
            assert decoded["width"] / decoded["height"] == pytest.approx(33 / 40, rel=1e-2)
            assert (decoded["y"] == truth["y"]) is beside
            assert (decoded["x"] == truth["x"]) is not beside
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_viewport_size({"width": 1280, "height": 720})


@needs_browser
def test_without_an_original_the_picture_stands_alone(page: Page, streams: Path) -> None:
    stream = streams / "colour" / "colour.finer"
    with shown(page, stream, original=None) as address:
        assert fetched(f"{address}original.png")[0] == 404
        assert not page.locator("#original").is_visible()
        assert not page.locator("figcaption").first.is_visible()
        box = page.locator("#picture").bounding_box()
        assert box is not None
        assert (box["width"], box["height"]) == (396, 480)  # decoded pixels, one by one
    # Nothing is known of a stream that a visitor names.
    with shown(page, stream, original=streams / "colour.png", query="?stream=stream.finer"):
        assert not page.locator("#original").is_visible()


@needs_browser
def test_qualities_that_nobody_measured_or_knows(page: Page, tmp_path: Path) -> None:
    network = GrowingNetwork(2, 3, depth=2, activation=Sine(30.0))
    qualities = [{}, {"mean_error": 0.01234, "constructor": 2.0}, {"psnr": 31.234, "ssim": 0.9123, "iou": 0.98765}]
    rows, payloads = [], []
    stages = []
    for i, quality in enumerate(qualities):
        stages.append(network.grow(4 * (i + 1), generator=torch.Generator().manual_seed(i)))
        rows.append(StreamedStage([4 * (i + 1)], 0, "float32", quality))
        payloads.append(pack_stage([stages[-1]], "float32"))
    signal = {"height": 20, "width": 30, "maximum": 255}
    content, ends = write_stream(StreamHeader([describe_network("image", network)], "image", signal, rows), payloads)
    (tmp_path / "measured.finer").write_bytes(content)
    write_image(tmp_path / "truth.png", np.zeros((20, 30, 3), np.uint8))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with shown(page, tmp_path / "measured.finer", original=tmp_path / "truth.png"):
        texts = [page.locator(f"#stages tr:nth-child({i}) td").last.inner_text() for i in (1, 2, 3)]
        assert texts[0] == ""
        assert set(texts[1].split(", ")) == {"mean error 0.01234", "constructor 2.000"}
        assert set(texts[2].split(", ")) == {"PSNR 31.23 dB", "SSIM 0.912", "IoU 0.9877"}
        assert page.inner_text("#caption") == f"stage 2, {ends[2]:,} bytes, PSNR 31.23 dB"
        canvas(page, 0)
        assert page.inner_text("#caption") == f"stage 0, {ends[0]:,} bytes"
    assert not errors


@needs_browser
def test_the_last_whole_stage_stays_when_the_server_dies(page: Page, streams: Path) -> None:
    stream = streams / "colour" / "colour.finer"
    # Slow enough that the last stage is under way for seconds.
    last = stage_ends(stream)[2] - stage_ends(stream)[1]
    command = [sys.executable, str(ROOT / "scripts" / "stream.py"), "serve", str(stream), "--port", "0"]
    with subprocess.Popen([*command, "--kilobytes", str(last / 8000)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        page.goto(f"{address}/?native")
        page.wait_for_function("document.body.dataset.stages === '2'", timeout=120_000)
        server.kill()
    page.wait_for_function("document.body.dataset.ended", timeout=60_000)
    assert "2 stages have arrived" in page.inner_text("#status")
    assert difference(page, stream.parent, 1) <= 1.0


@needs_browser
def test_the_page_finds_damage(page: Page, streams: Path, tmp_path: Path) -> None:
    content = bytearray((streams / "colour" / "colour.finer").read_bytes())
    content[stage_ends(streams / "colour" / "colour.finer")[0] + 100] ^= 4
    (tmp_path / "damaged.finer").write_bytes(content)
    with serving(tmp_path / "damaged.finer") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/?native")
        page.wait_for_function("document.body.dataset.ended", timeout=60_000)
        assert "stage 1 is damaged" in page.inner_text("#status")
        assert difference(page, streams / "colour", 0) <= 1.0
        server.shutdown()


@needs_browser
def test_the_page_unpacks_what_zstd_packs(page: Page, streams: Path) -> None:
    """Frames of all kinds of blocks, literals and sequences, and the digests of RFC 7693."""
    import hashlib

    import zstandard

    random = np.random.default_rng(0)
    contents = [
        b"",
        b"a",
        bytes(100_000),
        random.bytes(3000),
        b"hello hello hello " * 40,
        (ROOT / "README.md").read_bytes() * 3,
        random.integers(0, 3, 300_000).astype(np.uint8).tobytes(),
        *(random.normal(0, scale, 5000).clip(-127, 127).astype(np.int8).tobytes() for scale in (0.4, 3, 20, 60)),
        random.normal(0, 0.1, 5000).astype("<f2").view(np.uint8).reshape(-1, 2).T.tobytes(),
    ]
    with serving(streams / "colour" / "colour.finer") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/?native")
        script = """async ([packed, size]) => {
            const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
            const { decompress } = await import("/zstd.js"), { blake2s } = await import("/blake2s.js");
            return Array.from(blake2s(decompress(bytes, size), 16));
        }"""
        for content in contents:
            for level in (1, 3, 19):
                packed = zstandard.ZstdCompressor(level=level).compress(content)
                digest = page.evaluate(script, [base64.b64encode(packed).decode(), len(content)])
                assert bytes(digest) == hashlib.blake2s(content, digest_size=16).digest()
        server.shutdown()
