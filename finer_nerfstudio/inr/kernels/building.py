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
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Flags that change no value: no errno, no floating-point exceptions that anybody would look at. Not -ffast-math, which
# would lose NaN and, in older compilers, switch denormal numbers off for the whole process.
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")

_SWITCH, _CHOICE = "FINER_COMPILED_KERNELS", "FINER_VECTORS"


@dataclass(frozen=True)
class _Vectors:
    """Vectors that FINER_VECTORS may name.

    Attributes:
        flags: with which the compiler uses these and no wider ones.
        macro: what it defines where the processor has them; None if there is nothing to have.
    """

    flags: tuple[str, ...]
    macro: str | None


_VECTORS = {
    "avx512": _Vectors(("-mprefer-vector-width=512",), "__AVX512F__"),
    # Every processor with FMA but one of 2012 has AVX2 too.
    "avx2": _Vectors(("-mno-avx512f", "-mprefer-vector-width=256"), "__FMA__"),
    "neon": _Vectors((), "__ARM_NEON"),
    "blas": _Vectors(("-DFINER_PRODUCTS_BY_BLAS",), None),
}

_BUILD_SECONDS = 300
_UNFINISHED = ".unfinished-"


def build(source: Path, name: str, *, included: Sequence[Path] = (), flags: Sequence[str] = ()) -> ctypes.CDLL | str:
    """Return a library of C functions, or one line that says why it cannot be had.

    FINER_VECTORS in the environment chooses the vectors: ``avx512``, ``avx2`` or ``neon``, or ``blas`` to leave matrix
    products to PyTorch's BLAS. Unless given, they are the widest that the processor has.

    Args:
        source: the C++ file; it depends on no header of Python or PyTorch.
        name: what the library is called in the cache folder.
        included: files of ours that it includes.
        flags: more flags for the compiler.

    Raises:
        ValueError: where FINER_VECTORS names no vectors, or some that the processor has not.
    """
    if os.environ.get(_SWITCH) == "0":
        return f"{_SWITCH}=0 switches them off"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        _say_once(f"There is no C++ compiler. {_COST}; {_how_to_install()}.")
        return "there is no C++ compiler (g++ or clang++); set CXX to name one"
    try:
        flags = [*_FLAGS, *_flags_of_processor(compiler), *flags]
        try:
            return _library(compiler, source, name, included, [*flags, *_threads()])
        except subprocess.CalledProcessError:
            # clang comes without the library of OpenMP on many systems.
            library = _library(compiler, source, name, included, flags)
            _say_once(f"{compiler} has no OpenMP, so that the C++ kernels use one thread; g++ or libomp-dev have it.")
            return library
    except subprocess.CalledProcessError as error:
        first = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[0]
        return f"{compiler} cannot translate them: {first}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"they cannot be built or loaded: {error}"


# Steps of finer-sine: networks of radiance fields and images on two cores.
_COST = "Networks on the CPU run by PyTorch's own operations, and training takes two to three times as long"


def _how_to_install() -> str:
    if platform.system() == "Darwin":
        return "install one with `xcode-select --install`"
    return "install one with `apt install g++` or `dnf install gcc-c++`"


@functools.cache
def _say_once(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)


def _flags_of_processor(compiler: str) -> list[str]:
    """Return what makes the compiler use this processor's instructions, and of its vectors those that were chosen."""
    is_arm = platform.machine() in ("aarch64", "arm64")
    native = ["-mcpu=native" if is_arm else "-march=native"]
    if platform.machine() in ("x86_64", "AMD64"):
        native += _VECTORS["avx512"].flags
    chosen = os.environ.get(_CHOICE)
    if not chosen:
        return native
    if chosen not in _VECTORS:
        raise ValueError(f"{_CHOICE} is one of {', '.join(_VECTORS)}; not {chosen!r}")
    vectors = _VECTORS[chosen]
    if vectors.macro is not None:
        command = [compiler, *native, "-dM", "-E", "-x", "c++", os.devnull]
        macros = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode().split()
        if vectors.macro not in macros:
            raise ValueError(f"{_CHOICE}={chosen}, but this processor has no such vectors, or {compiler} knows none")
    return [*native, *vectors.flags]


def _threads() -> list[str]:
    # macOS has no OpenMP of its own; there, one thread computes.
    return ["-fopenmp"] if platform.system() == "Linux" else []


def _library(compiler: str, source: Path, name: str, included: Sequence[Path], flags: Sequence[str]) -> ctypes.CDLL:
    """Return the library that is in the cache, or a new one where that cannot be loaded."""
    try:
        return _load(_compiled(compiler, source, name, included, flags, anew=False))
    except OSError:
        return _load(_compiled(compiler, source, name, included, flags, anew=True))


def _compiled(
    compiler: str, source: Path, name: str, included: Sequence[Path], flags: Sequence[str], anew: bool
) -> Path:
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
