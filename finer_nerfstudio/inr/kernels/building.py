"""C++ that the machine's own compiler translates once and keeps in the user's cache folder."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Flags that change no value: no errno, no floating-point exceptions that anybody would look at. Not -ffast-math, which
# would lose NaN and, in older compilers, switch denormal numbers off for the whole process.
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")

_BUILD_SECONDS = 300
_UNFINISHED = ".unfinished-"


def build(source: Path, name: str, *, included: Sequence[Path] = (), flags: Sequence[str] = ()) -> ctypes.CDLL | str:
    """A library of C functions, or one line that says why it cannot be had.

    Args:
        source: the C++ file; it depends on no header of Python or PyTorch.
        name: what the library is called in the cache folder.
        included: files of ours that it includes.
        flags: more flags for the compiler.
    """
    if os.environ.get("FINER_COMPILED_KERNELS") == "0":
        return "FINER_COMPILED_KERNELS=0 switches them off"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        return "there is no C++ compiler (g++ or clang++); set CXX to name one"
    try:
        try:
            return _load(_compiled(compiler, source, name, included, flags, anew=False))
        except OSError:
            return _load(_compiled(compiler, source, name, included, flags, anew=True))
    except subprocess.CalledProcessError as error:
        first = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[0]
        return f"{compiler} cannot translate them: {first}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"they cannot be built or loaded: {error}"


def _compiled(compiler: str, source: Path, name: str, included: Sequence[Path], own: Sequence[str], anew: bool) -> Path:
    flags = [*_FLAGS, "-march=native", *own]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-mprefer-vector-width=512")
    # macOS has no OpenMP of its own; there, one thread computes.
    if platform.system() == "Linux":
        flags.append("-fopenmp")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    texts = [path.read_bytes() for path in (source, *included)]
    key = hashlib.sha256(b"\0".join([*texts, version, " ".join(flags).encode(), _processor()]))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finer_nerfstudio" / "kernels"
    library = folder / f"{name}-{key.hexdigest()[:16]}.so"
    if not anew and _is_whole(library):
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=_UNFINISHED, suffix=".so")
    except OSError:
        # A home folder that cannot be written: the library then lives as long as the process.
        folder = Path(_temporary_folder().name)
        library = folder / library.name
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=_UNFINISHED, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *flags, "-o", unfinished, str(source)]
        subprocess.run(command, capture_output=True, check=True, timeout=_BUILD_SECONDS)
        _keep(Path(unfinished), library)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return library


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_whole(library: Path) -> bool:
    """Whether the library is as it was built. Loading one that was cut or overwritten would end the process."""
    try:
        return _digest_file(library).read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


def _keep(unfinished: Path, library: Path) -> None:
    """Put a library in its place, its digest first: whatever a crash leaves does not match, and is built again."""
    digest = unfinished.with_suffix(".sha256")
    digest.write_text(hashlib.sha256(unfinished.read_bytes()).hexdigest())
    for source, target in ((digest, _digest_file(library)), (unfinished, library)):
        with source.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(source, target)


def _sweep(folder: Path) -> None:
    """Delete what killed builds left; one that still goes on is younger than it may take."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * _BUILD_SECONDS:
                left.unlink()


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="finer_nerfstudio-")


def _processor() -> bytes:
    """Return what tells processors apart that share a home folder: one may not know the instructions of another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        ).encode()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}".encode()


def _load(path: Path) -> ctypes.CDLL:
    # After torch, so that both share one OpenMP runtime and its threads.
    return ctypes.CDLL(str(path))
