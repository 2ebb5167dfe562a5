"""C++ that the machine's own compiler translates once and keeps in the user's cache folder.

This file is a program too, which builds what it is told (:func:`build_in_background`). It imports nothing of ours, so
that it starts without PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

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


@dataclass(frozen=True)
class Library:
    """What is built.

    Attributes:
        source: the C++ file; it depends on no header of Python or PyTorch.
        name: what the library is called in the cache folder.
        included: files of ours that it includes.
        flags: for the compiler.
    """

    source: str
    name: str
    included: Sequence[str] = ()
    flags: Sequence[str] = ()


def require_known_vectors() -> None:
    """Check what FINER_VECTORS says.

    Raises:
        ValueError: where it names no vectors, or some that the processor has not.
    """
    compiler = _compiler()
    if compiler is not None and os.environ.get(_SWITCH) != "0":
        with suppress(OSError, subprocess.SubprocessError):  # build() says what is wrong with the compiler
            _flags_of_processor(compiler)


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
    compiler = _compiler()
    if compiler is None:
        _say_once(f"There is no C++ compiler. {_COST}; {_how_to_install()}.")
        return "there is no C++ compiler (g++ or clang++); set CXX to name one"
    try:
        wanted = _for_processor(compiler, Library(str(source), name, [str(path) for path in included], flags))
        try:
            return _library(compiler, _with_threads(wanted))
        except subprocess.CalledProcessError:
            # clang comes without the library of OpenMP on many systems.
            library = _library(compiler, wanted)
            _say_once(f"{compiler} has no OpenMP, so that the C++ kernels use one thread; g++ or libomp-dev have it.")
            return library
    except subprocess.CalledProcessError as error:
        first = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[0]
        reason = f"{compiler} cannot translate them: {first}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"they cannot be built or loaded: {error}"
    _say_once(f"The C++ kernels are not used: {reason}. {_COST}.")
    return reason


def build_in_background(libraries: Sequence[Library]) -> bool:
    """Have a process of low priority build what this machine lacks; return whether it lacks anything.

    The process outlives this one if need be. Whoever needs one of the libraries before waits for it in :func:`build`.
    """
    compiler = _compiler()
    if compiler is None or os.environ.get(_SWITCH) == "0":
        return False
    try:
        wanted = [_with_threads(_for_processor(compiler, library)) for library in libraries]
        missing = [asdict(library) for library in wanted if not _place(compiler, library).exists()]
        if missing:
            program = subprocess.Popen(
                [sys.executable, "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not meant for it
            )
            assert program.stdin is not None
            program.stdin.write(json.dumps([compiler, missing]).encode())
            program.stdin.close()
            # It is nobody's to wait for: Python would warn of a process that it still knows.
            program.returncode = 0
    except (OSError, ValueError, subprocess.SubprocessError):  # which build() will say
        return False
    return bool(missing)


def _build_all() -> None:
    """Build what standard input says, one after the other."""
    os.nice(10)
    compiler, libraries = json.loads(sys.stdin.read())
    for library in libraries:
        with suppress(OSError, subprocess.SubprocessError):  # build() will say what is wrong
            _compiled(compiler, Library(**library), anew=False)


def _compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout


# Steps of finer-sine: networks of radiance fields and images on two cores.
_COST = "Networks on the CPU run by PyTorch's own operations, and training takes two to three times as long"


def _how_to_install() -> str:
    if platform.system() == "Darwin":
        return "install one with `xcode-select --install`"
    return "install one with `apt install g++` or `dnf install gcc-c++`"


@functools.cache
def _say_once(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr, flush=True)


def _for_processor(compiler: str, library: Library) -> Library:
    """Return a library with all flags for this processor, but those for threads."""
    return replace(library, flags=[*_FLAGS, *_flags_of_processor(compiler), *library.flags])


def _flags_of_processor(compiler: str) -> tuple[str, ...]:
    """Return what makes the compiler use this processor's instructions, and of its vectors those that were chosen."""
    is_arm = platform.machine() in ("aarch64", "arm64")
    native = ["-mcpu=native" if is_arm else "-march=native"]
    if platform.machine() in ("x86_64", "AMD64"):
        native += _VECTORS["avx512"].flags
    chosen = os.environ.get(_CHOICE, "").lower()
    if not chosen:
        return tuple(native)
    if chosen not in _VECTORS:
        raise ValueError(f"{_CHOICE} is one of {', '.join(_VECTORS)}; not {chosen!r}")
    vectors = _VECTORS[chosen]
    if vectors.macro is not None:
        command = [compiler, *native, "-dM", "-E", "-x", "c++", os.devnull]
        macros = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode().split()
        if vectors.macro not in macros:
            raise ValueError(f"{_CHOICE}={chosen}, but this processor has no such vectors, or {compiler} knows none")
    return (*native, *vectors.flags)


def _with_threads(library: Library) -> Library:
    # macOS has no OpenMP of its own; there, one thread computes.
    return replace(library, flags=[*library.flags, "-fopenmp"]) if platform.system() == "Linux" else library


def _library(compiler: str, wanted: Library) -> ctypes.CDLL:
    """Return the library that is in the cache, or a new one where that cannot be loaded."""
    try:
        return _load(_compiled(compiler, wanted, anew=False))
    except OSError:
        return _load(_compiled(compiler, wanted, anew=True))


def _place(compiler: str, wanted: Library) -> Path:
    """Where the library lies once it is built."""
    texts = [Path(path).read_bytes() for path in (wanted.source, *wanted.included)]
    flags = " ".join(wanted.flags).encode()
    key = hashlib.sha256(b"\0".join([*texts, _version(compiler), flags, _processor()]))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finer_nerfstudio" / "kernels"
    return folder / f"{wanted.name}-{key.hexdigest()[:16]}.so"


def _compiled(compiler: str, wanted: Library, anew: bool) -> Path:
    library = _place(compiler, wanted)
    if not anew and _is_whole(library):
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        _sweep(library.parent)
        lock = library.with_suffix(".lock").open("w")
    except OSError:
        # A home folder that cannot be written: the library then lives as long as the process.
        library = Path(_temporary_folder().name) / library.name
        lock = library.with_suffix(".lock").open("w")
    with lock, _to_oneself(lock):
        if not anew and _is_whole(library):  # another process was at it
            return library
        handle, unfinished = tempfile.mkstemp(dir=library.parent, prefix=_UNFINISHED, suffix=".so")
        os.close(handle)
        try:
            command = [compiler, *wanted.flags, "-o", unfinished, wanted.source]
            subprocess.run(command, capture_output=True, check=True, timeout=_BUILD_SECONDS)
            _keep(Path(unfinished), library)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
    return library


@contextmanager
def _to_oneself(lock: TextIO) -> Iterator[None]:
    """Wait until no other process builds what ``lock`` stands for, where the system can do that."""
    with suppress(ImportError, OSError):  # Windows, and some network folders
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # One that waits for it finds the library.
        Path(lock.name).unlink(missing_ok=True)


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


if __name__ == "__main__":
    _build_all()
