"""Compiled libraries are kept with their digest: a damaged one is built again, and never loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer_nerfstudio.inr.kernels import building

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")), reason="there is no C++ compiler"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "seven.cpp"
    path.write_text('extern "C" int seven() { return 7; }\n')
    return path


def answer(source: Path) -> int:
    library = building.build(source, "seven")
    assert isinstance(library, ctypes.CDLL), library
    return library.seven()


def cached(source: Path) -> Path:
    (library,) = (source.parent / "cache" / "finer_nerfstudio" / "kernels").glob("*.so")
    return library


def test_a_library_is_built_once(source: Path) -> None:
    assert answer(source) == 7
    built = cached(source).stat().st_mtime_ns
    assert answer(source) == 7
    assert cached(source).stat().st_mtime_ns == built
    assert {path.suffix for path in cached(source).parent.iterdir()} == {".so", ".sha256"}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_damaged_library_is_built_again(source: Path, start: float, stop: float, cut: bool) -> None:
    assert answer(source) == 7
    library = cached(source)
    content = bytearray(library.read_bytes())
    first, last = sorted((int(start * len(content)), int(stop * len(content))))
    damaged = content[:first] if cut else content[:first] + bytes(last - first) + content[last:]
    # Not in place: this process still has the whole one loaded.
    library.unlink()
    library.write_bytes(damaged)
    assert answer(source) == 7
    assert building._is_whole(library)


@pytest.mark.parametrize("digest", [None, b"", b"0" * 64, b"\xff\xfe"])
def test_a_library_without_its_digest_is_built_again(source: Path, digest: bytes | None) -> None:
    assert answer(source) == 7
    path = cached(source).with_suffix(".sha256")
    path.unlink()
    if digest is not None:
        path.write_bytes(digest)
    assert answer(source) == 7
    assert building._is_whole(cached(source))


def test_half_built_libraries_of_killed_processes_are_swept(source: Path) -> None:
    folder = source.parent / "cache" / "finer_nerfstudio" / "kernels"
    folder.mkdir(parents=True)
    old, young = folder / ".unfinished-old.so", folder / ".unfinished-young.so"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    assert answer(source) == 7
    assert not old.exists()
    assert young.exists(), "somebody may be building it"


def test_a_source_that_is_wrong_leaves_nothing_behind(source: Path) -> None:
    source.write_text("this is no C++\n")
    assert "cannot translate" in str(building.build(source, "seven"))
    assert not list((source.parent / "cache" / "finer_nerfstudio" / "kernels").iterdir())
