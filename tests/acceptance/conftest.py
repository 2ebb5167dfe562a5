"""A small scene made by the project's own generator, and one trained run that the commands share."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Command = Callable[..., "tuple[int, str]"]


@pytest.fixture(scope="session")
def run(nerfstudio_commands: Path) -> Run:
    """Run a program to its end, outputs joined; a bare name is one of Nerfstudio's, or stands beside this Python."""

    def run_command(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(nerfstudio_commands), str(BIN), os.environ["PATH"]])
        environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "PATH": path}
        program, *rest = map(str, arguments)
        return subprocess.run(
            [shutil.which(program, path=path) or program, *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=environment,
            stdin=subprocess.DEVNULL,
        )

    return run_command


@pytest.fixture(scope="session")
def small_scene(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene at 48x48: 16 train, 3 val and 4 test views."""
    folder = tmp_path_factory.mktemp("scene") / "small"
    command = [sys.executable, ROOT / "scripts" / "make_demo_scene.py", "--output-dir", folder, "--size", "48"]
    done = run(*command, "--train-views", "16", "--val-views", "3", "--test-views", "4", "--supersampling", "2")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def scene_copy(small_scene: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    folder = tmp_path / "scene"
    shutil.copytree(small_scene, folder)
    return folder


@pytest.fixture(scope="session")
def trained_run(run: Run, small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short ``ns-train finer-wavelet`` run on the small scene, with its config.yml and checkpoint."""
    output = tmp_path_factory.mktemp("outputs")
    done = run(
        "ns-train",
        "finer-wavelet",
        "--data",
        small_scene,
        "--output-dir",
        output,
        "--max-num-iterations",
        "250",
        "--pipeline.model.field.width",
        "48",
        "--pipeline.target-num-samples",
        "4000",
        "--vis",
        "tensorboard",
        "--steps-per-eval-image",
        "100",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (config,) = output.rglob("config.yml")
    return config.parent


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a script in this process, from a folder of its own, and gives its exit code and all that it printed."""

    def run(script: str, *arguments: str | Path) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium with WebGL on the processor, and nothing that asks the network."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    webgl = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*webgl, *quiet])
        yield browser
        browser.close()
