"""Many independent runs: here in one process, in a pool of them, or on a Ray cluster, and never twice the same one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finer_nerfstudio.errors import InputError, UsageError, argument, in_one_line
from finer_nerfstudio.files.atomic import write_json
from finer_nerfstudio.runs.folder import FOLDER

_SECONDS_TO_ANSWER = 10.0


@dataclass(frozen=True)
class Cell:
    """One run of a table.

    Attributes:
        name: of its result's file.
        settings: JSON values that decide the result; a result on disk counts only where they are the same.
        work: a function of a module, called with ``arguments``, that gives the measured numbers as JSON values.
        arguments: what it needs. Whole signals and not paths, because it may run on another machine.
    """

    name: str
    settings: dict[str, Any]
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = field(repr=False)


def require_distinct(paths: Sequence[Path]) -> None:
    """Cells and tables call inputs by the stems of their files, which therefore have to differ.

    Raises:
        UsageError: where two do not.
    """
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise UsageError(f"{other} and {path} would both be called {path.stem} in the table: rename or drop one.")


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    report: Callable[[Cell, dict[str, Any], bool], None] | None = None,
    on_failure: Callable[[Cell, InputError], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run all cells that have no result in ``folder`` yet.

    Args:
        cells: what to run.
        folder: keeps one JSON file per finished cell.
        workers: processes; one per GPU, or one, unless given.
        cluster: address of a Ray cluster, or "local" for Ray on this machine alone.
        report: called with each cell, its result, and whether that was on disk already.
        on_failure: called with each cell that fails; the others go on then.

    Returns:
        The results by the cells' names, without those that failed.

    Raises:
        InputError: when a cell fails and nobody is told instead; the results of those before it are kept.
        UsageError: for a number of workers below one, or a cluster without Ray.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{argument('workers')} must be at least 1, not {workers}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)  # now, and not after the first cell
    except OSError as error:
        raise InputError(
            f"{folder}, which keeps finished runs, cannot be made ({in_one_line(error)}): choose another {FOLDER} "
            f"(or {argument('cells_dir')})."
        ) from error
    results: dict[str, dict[str, Any]] = {}
    missing = []
    for cell in cells:
        found = _finished(cell, folder)
        if found is None:
            missing.append(cell)
        else:
            results[cell.name] = found
            if report is not None:
                report(cell, found, True)
    if missing:
        with _executor(workers, cluster, len(missing)) as run:
            for cell, result in run(missing):
                if isinstance(result, InputError):
                    if on_failure is None:
                        raise result
                    on_failure(cell, result)
                    continue
                write_json(folder / f"{cell.name}.json", {"settings": cell.settings, "result": result})
                results[cell.name] = result
                if report is not None:
                    report(cell, result, False)
    return {cell.name: results[cell.name] for cell in cells if cell.name in results}


def _finished(cell: Cell, folder: Path) -> dict[str, Any] | None:
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return content["result"] if content["settings"] == json.loads(json.dumps(cell.settings)) else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a result of this command: move it away, or name another folder.") from error


Outcome = dict[str, Any] | InputError
Runner = Callable[[Sequence[Cell]], Iterator[tuple[Cell, Outcome]]]


# Set in a worker that was told to end, and may have cells in its queue yet.
_ending = threading.Event()


def _outcome(work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> Outcome:
    if _ending.is_set():
        raise SystemExit(1)
    try:
        return work(*arguments)
    except InputError as error:
        return error


@contextmanager
def _executor(workers: int | None, cluster: str | None, cells: int) -> Iterator[Runner]:
    if cluster is not None:
        yield lambda todo: _on_cluster(todo, cluster)
        return
    gpus = torch.cuda.device_count()
    workers = min(cells, workers or max(1, gpus))
    if workers == 1:
        yield lambda todo: ((cell, _outcome(cell.work, cell.arguments)) for cell in todo)
        return
    # Forked children of a process that has used threads may hang; each worker gets its share of the processor and, by
    # turns, a GPU.
    context = multiprocessing.get_context("spawn")
    turns = context.Value("i", 0)
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(turns, gpus, threads)) as pool:

        def run(todo: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
            running = {pool.submit(_outcome, cell.work, cell.arguments): cell for cell in todo}
            try:
                for done in as_completed(running):
                    yield running[done], done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        try:
            yield run
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


# What a worker's share of the machine means for programs that its cells start.
_share: dict[str, str] = {}


def environment_of_programs() -> dict[str, str]:
    """The environment for programs that a cell starts: their processors and their GPU are those of its worker."""
    return {**os.environ, **_share}


def _start_worker(turns: Any, gpus: int, threads: int) -> None:
    from finer_nerfstudio.runs.processor import prepare_processor

    torch.set_num_threads(threads)
    prepare_processor()
    # Ctrl-C reaches all processes of a terminal. The first one ends the others, which then end what they have started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    _share.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(threads)))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with turns.get_lock():
        turn = turns.value
        turns.value += 1
    if gpus:
        torch.cuda.set_device(turn % gpus)
        _share["CUDA_VISIBLE_DEVICES"] = visible_gpu(turn % gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpu(index: int, visible: str | None) -> str:
    """How a program has to be told about the GPU that this process knows by ``index``.

    Args:
        index: among those that this process sees.
        visible: what ``CUDA_VISIBLE_DEVICES`` holds here, None where it is not set.
    """
    return str(index) if visible is None else visible.split(",")[index].strip()


def _exit(number: int, frame: object) -> None:
    _ending.set()
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Without this a worker outlives a killed sweep, computing what nobody waits for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _on_cluster(cells: Sequence[Cell], address: str) -> Iterator[tuple[Cell, Outcome]]:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            'a cluster needs Ray, which is not installed: pip install "finer-nerfstudio[cluster]".'
        ) from error
    _require_answer(address)
    try:
        # The dashboard would listen on the network.
        ray.init(
            address=None if address == "local" else address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
        )
    except Exception as error:  # Ray raises bare ones, as where a loaded machine lets it wait for itself too long
        raise InputError(f"no Ray cluster answers at {address} ({in_one_line(error)}): is it up?") from error
    try:
        with_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        remote = (ray.remote(num_gpus=1) if with_gpu else ray.remote(num_cpus=1))(_work_on_cluster)
        running = {remote.remote(cell.work, cell.arguments): cell for cell in cells}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Refuse an address at which nobody listens, for which Ray would look for minutes without a word.

    Raises:
        InputError: there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # "auto", "local"
        return
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({in_one_line(error)}): give the address that ray start printed."
        ) from error


def _work_on_cluster(work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> Outcome:
    from finer_nerfstudio.runs.processor import prepare_processor

    prepare_processor()
    return _outcome(work, arguments)


def announce(quantity: str, unit: str) -> Callable[[Cell, dict[str, Any], bool], None]:
    """A report for :func:`run_cells` that prints one number of each cell as it comes in."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)

    def report(cell: Cell, result: dict[str, Any], was_there: bool) -> None:
        value = result.get(quantity)
        shown = "n/a" if value is None else f"{value:.4g} {unit}"
        console.print(f"{cell.name}: {shown}" + (" (from an earlier run)" if was_there else ""), markup=False)

    return report
