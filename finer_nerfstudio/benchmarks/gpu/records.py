"""The file that a cell leaves: its settings, the machine, the seconds, and a result or an error."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from finer_nerfstudio.benchmarks.gpu.cell import QueueCell
from finer_nerfstudio.errors import in_one_line
from finer_nerfstudio.files.atomic import write_json
from finer_nerfstudio.runs.results import software_versions

Record = dict[str, Any]

# A cell that was stopped after so many seconds takes longer, nobody knows by how much.
_LONGER_THAN_STOPPED = 1.25


def card_of(device: torch.device) -> str:
    """Return the name of a GPU, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def versions() -> dict[str, str | None]:
    """Return the versions of all software that the speed depends on."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    return {**software_versions(), "triton": triton, "cuda": torch.version.cuda}


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records in a folder by name, without files that are damaged or something else."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("name") == path.stem and _is_record(content):
            found[path.stem] = content
    return found


def _is_record(content: dict[str, Any]) -> bool:
    """Whether everything is there that is asked of a record."""
    kinds = {"settings": dict, "card": str, "quick": bool, "group": str, "row": str, "item": str}
    known = all(isinstance(content.get(name), kind) for name, kind in kinds.items())
    numbers = all(isinstance(content.get(name), (int, float)) for name in ("seconds", "estimate"))
    return known and numbers and isinstance(content.get("result", {}), dict)


def write_record(
    folder: Path,
    cell: QueueCell,
    *,
    card: str,
    seconds: float,
    result: dict[str, Any] | None = None,
    error: BaseException | str | None = None,
) -> Record:
    """Write what came of a cell, in the place of what an earlier try left.

    A result with other settings, which is not a result of this cell any more, is kept beside an error as "earlier".

    Args:
        folder: of all records.
        cell: that was tried.
        card: from :func:`card_of`.
        seconds: that it took, earlier visits included.
        result: of one that ended well.
        error: of one that did not.
    """
    record: Record = {
        "name": cell.name,
        "group": cell.group,
        "row": cell.row,
        "item": cell.item,
        "quick": cell.quick,
        "card": card,
        "versions": versions(),
        "settings": cell.settings,
        "estimate": cell.estimate,
        "seconds": round(seconds, 3),
    }
    if result is not None:
        record["result"] = result
    elif isinstance(error, BaseException):
        record["error"] = f"{type(error).__name__}: {in_one_line(error)}"
    else:
        record["error"] = error
        record["stopped_after"] = round(seconds, 3)
    if result is None:
        before = read_records(folder).get(cell.name, {})
        earlier = before if "result" in before else before.get("earlier")
        record |= {} if earlier is None else {"earlier": earlier}
    write_json(folder / f"{cell.name}.json", record)
    return record


def is_measured(cell: QueueCell, record: Record | None) -> bool:
    """Return whether a record holds this cell's result, measured with the same settings."""
    return record is not None and "result" in record and record["settings"] == cell.identity


def has_failed(cell: QueueCell, record: Record | None) -> bool:
    """Return whether a record says that this cell was tried with the same settings, in vain."""
    return record is not None and "result" not in record and record["settings"] == cell.identity


def expected_seconds(cell: QueueCell, records: Mapping[str, Record], card: str) -> float:
    """Return how long a whole cell should take on a card, by what others of its group took there.

    Args:
        cell: of which the estimate is corrected.
        records: of all cells.
        card: from :func:`card_of`.
    """
    expected = cell.estimate * correction(records.values(), cell.group, card, quick=cell.quick)
    own = records.get(cell.name)
    if own is not None and own.get("card") == card and own["settings"] == cell.identity:
        expected = max(expected, _LONGER_THAN_STOPPED * own.get("stopped_after", 0.0))
    return expected


def correction(records: Iterable[Record], group: str, card: str, *, quick: bool) -> float:
    """Return measured over estimated seconds, the median of a group's finished cells on a card; 1 where there is none.

    Args:
        records: of all cells.
        group: whose.
        card: from :func:`card_of`.
        quick: of toys, or of the others.
    """
    ratios = [
        record["seconds"] / record["estimate"]
        for record in records
        if record.get("group") == group
        and record.get("card") == card
        and bool(record.get("quick")) == quick
        and "result" in record
        and record.get("estimate")
    ]
    return statistics.median(ratios) if ratios else 1.0
