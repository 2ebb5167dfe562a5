"""Table 3 of the paper: every method on every scene, with pictures and flights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.reproduction.published import TABLE_3, TABLE_3_MEANS, TABLE_3_SCENES
from finer_nerfstudio.reproduction.radiance.cells import last_words
from finer_nerfstudio.reproduction.radiance.pictures import FLIGHT, can_film, write_comparison, write_flight
from finer_nerfstudio.reproduction.radiance.programs import ProgramFailed, view_pictures
from finer_nerfstudio.reproduction.radiance.scenes import Scene
from finer_nerfstudio.reproduction.table import Row
from finer_nerfstudio.runs.options import Method
from finer_nerfstudio.runs.progress import stages

# Of one scene, its finished methods and what was measured of them.
Results = Mapping[Method, Mapping[str, Any]]


def published_row(method: Method, scenes: Sequence[Scene]) -> tuple[dict[str, float] | None, list[dict[str, float]]]:
    """Return the paper's numbers of a method: means over these scenes, and PSNR for each of them.

    The means of SSIM and LPIPS are published for all eight scenes together alone, and nothing for other scenes.
    """
    published = TABLE_3.get(method, {})
    names = [scene.name.lower() for scene in scenes]
    by_scene = [{"psnr": published[name]} if name in published else {} for name in names]
    if sorted(names) == sorted(published):
        return TABLE_3_MEANS[method], by_scene
    if all(by_scene):
        return {"psnr": math.fsum(values["psnr"] for values in by_scene) / len(by_scene)}, by_scene
    return None, by_scene


def radiance_row(method: Method, scenes: Sequence[Scene], results: Sequence[Mapping[str, Any]]) -> Row:
    """A line of the table; ``results`` are empty for cells that failed."""
    means, by_scene = published_row(method, scenes)
    return Row(method, results, means, by_scene)


def notes_on(scenes: Sequence[Scene], rows: Sequence[Row]) -> list[str]:
    """Return sentences that a reader of the table has to know."""
    notes = []
    names = [scene.name.lower() for scene in scenes]
    others = [scene.name for scene in scenes if scene.name.lower() not in TABLE_3_SCENES]
    missing = [name for name in TABLE_3_SCENES if name not in names]
    if others:
        notes.append(f"Not among the paper's scenes, so that it has no mean to set beside ours: {', '.join(others)}.")
    elif missing:
        count = f"{len(scenes)} of the paper's {len(TABLE_3_SCENES)} scenes"
        notes.append(
            f"{count}; the paper's mean PSNR is over the same, its SSIM and LPIPS are published for all eight alone."
        )
    results = [result for row in rows for result in row.results if result]
    if results and all(result["lpips"] is None for result in results):
        notes.append("LPIPS is not available: the weights that it needs are not on this machine.")
    for row in rows:
        for scene, result in zip(scenes, row.results, strict=True):
            if not result:
                notes.append(f"{scene.name}-{row.name} failed and is missing.")
            elif result["resumed_after"]:
                notes.append(
                    f"{scene.name}-{row.name} was interrupted and went on after step {result['resumed_after']:,}: its "
                    f"minutes are extrapolated from the last part, and its random numbers started anew there."
                )
    return notes


def write_pictures(
    folder: Path, scenes: Sequence[Scene], cells: Path, results: Callable[[Scene], Results], *, video: bool
) -> list[str]:
    """A test view per scene, and a flight with its best method.

    Args:
        folder: each scene has a folder in there.
        scenes: of the table.
        cells: the folder of all cells.
        results: of a scene.
        video: make the flights.

    Returns:
        Messages about what could not be made, for that of an error.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    failures = []
    if video and not can_film():
        console.print("flight.mp4 is left out: ns-render needs ffmpeg, which is not installed.")
        video = False
    for scene in scenes:
        found = results(scene)
        pictures = {
            f"{method}\n{result['psnr']:.2f} dB": view_pictures(cells / result["attempt"])
            for method, result in found.items()
        }
        gone = [found_title.split("\n")[0] for found_title, views in pictures.items() if not views]
        if gone:
            failures.append(
                f"{scene.name}: the test views of {', '.join(gone)} are gone from {cells}, and so is its picture"
            )
        elif pictures:
            picture = folder / scene.name / "test_view.png"
            try:
                write_comparison(picture, {name: views[0] for name, views in pictures.items()})
                console.print(str(picture), markup=False)
            except InputError as error:
                failures.append(f"{scene.name}: no {picture.name}, as {error.message}")
        if video and any(result["views"] < 2 for result in found.values()):
            console.print(f"{scene.name}: no {FLIGHT}, since there is only one test view to fly along", markup=False)
        elif video and found:
            try:
                _fly(folder / scene.name, scene, cells, found)
                console.print(str(folder / scene.name / FLIGHT), markup=False)
            except InputError as error:
                failures.append(error.message)
    return failures


def _fly(folder: Path, scene: Scene, cells: Path, results: Results) -> None:
    best = max(results, key=lambda method: results[method]["psnr"])
    result = results[best]
    try:
        with stages() as stage:
            stage(f"{scene.name}: {FLIGHT} with {best}", 0, 1)
            write_flight(folder, cells / result["config"], method=best, views=result["views"])
    except ProgramFailed as error:
        log = folder / "flight.log"
        raise InputError(f"{scene.name}: no {FLIGHT}, as {error} ({last_words(log)}); see {log}") from error
