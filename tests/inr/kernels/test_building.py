"""Compiled libraries are kept with their digest, and built anew where they are damaged or other vectors are chosen."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import threading
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
    monkeypatch.delenv("FINER_VECTORS", raising=False)
    building._say_once.cache_clear()
    path = tmp_path / "seven.cpp"
    path.write_text('extern "C" int seven() { return 7; }\n')
    return path


def answer(source: Path) -> int:
    library = building.build(source, "seven")
    assert isinstance(library, ctypes.CDLL), library
    return library.seven()


def cached_folder(source: Path) -> Path:
    return source.parent / "cache" / "finer_nerfstudio" / "kernels"


def cached(source: Path) -> Path:
    (library,) = cached_folder(source).glob("*.so")
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
    folder = cached_folder(source)
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
    assert not list(cached_folder(source).iterdir())


def test_each_choice_of_vectors_has_a_library_of_its_own(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(source) == 7
    monkeypatch.setenv("FINER_VECTORS", "blas")
    assert answer(source) == 7
    assert len(list(cached_folder(source).glob("*.so"))) == 2


@pytest.mark.parametrize("name", ["sse", "neon avx2"])
def test_unknown_vectors_are_a_sentence(source: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FINER_VECTORS", name)
    with pytest.raises(ValueError, match=f"FINER_VECTORS is one of avx512, avx2, neon, blas; not '{name}'"):
        building.build(source, "seven")


def test_vectors_of_another_processor_are_a_sentence(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "avx512" if platform.machine() in ("aarch64", "arm64") else "neon"
    monkeypatch.setenv("FINER_VECTORS", other)
    with pytest.raises(ValueError, match=f"FINER_VECTORS={other}, but this processor has no such vectors"):
        building.build(source, "seven")


def test_without_a_compiler_a_sentence_says_once_what_that_costs(
    source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(source.parent))
    for _ in range(2):
        assert "there is no C++ compiler" in str(building.build(source, "seven"))
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "note: There is no C++ compiler." in said
    assert "times as long; install one with `" in said


@pytest.mark.parametrize("compiler", ["exit 1", "none"])
def test_a_compiler_that_does_not_work_is_named_once(
    source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], compiler: str
) -> None:
    named = source.parent / "compiler"
    if compiler != "none":
        named.write_text(f"#!/bin/sh\n{compiler}\n")
        named.chmod(0o755)
    monkeypatch.setenv("CXX", str(named))
    for _ in range(2):
        assert isinstance(building.build(source, "seven"), str)
    said = capfd.readouterr().err
    assert said.count("note: The C++ kernels are not used") == 1
    assert str(named) in said


def test_kernels_that_were_switched_off_are_no_reason_for_a_warning(
    source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINER_COMPILED_KERNELS", "0")
    monkeypatch.setenv("PATH", str(source.parent))
    assert "switches them off" in str(building.build(source, "seven"))
    assert not capfd.readouterr().err


@pytest.mark.skipif(platform.system() != "Linux", reason="OpenMP is used on Linux alone")
def test_a_compiler_without_openmp_builds_for_one_thread(
    source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As clang where its library of OpenMP is not installed."""
    compiler = source.parent / "compiler"
    real = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert answer(source) == 7
    assert "has no OpenMP" in capfd.readouterr().err


def test_the_background_builds_what_is_missing(source: Path) -> None:
    wanted = building.Library(str(source), "seven")
    broken = building.Library(str(source.with_name("none.cpp")), "none")
    assert not building.build_in_background([broken]), "there is no such file"
    assert building.build_in_background([wanted])
    # Waits for the other process, or builds it first.
    assert answer(source) == 7
    assert not building.build_in_background([wanted])


def test_a_library_that_another_process_builds_is_waited_for(source: Path) -> None:
    holding = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True)\n"
    holding += "sys.stdin.read(1); open(sys.argv[2], 'w').close()"
    compiler = building._compiler()
    assert compiler is not None
    wanted = building._for_processor(compiler, building.Library(str(source), "seven"))
    library = building._place(compiler, building._with_threads(wanted))
    library.parent.mkdir(parents=True)
    released = source.with_name("released")
    command = [sys.executable, "-c", holding, str(library.with_suffix(".lock")), str(released)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        thread = threading.Thread(target=answer, args=(source,))
        thread.start()
        thread.join(0.5)
        assert not library.exists()
        other.stdin.write(b"x")
        other.stdin.flush()
        thread.join()
    assert released.exists()
    assert library.exists()


@pytest.mark.parametrize("switched_off", [True, False])
def test_the_background_is_left_alone(source: Path, switched_off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = ("FINER_COMPILED_KERNELS", "0") if switched_off else ("CXX", str(source.with_name("no compiler")))
    monkeypatch.setenv(name, value)
    assert not building.build_in_background([building.Library(str(source), "seven")])
