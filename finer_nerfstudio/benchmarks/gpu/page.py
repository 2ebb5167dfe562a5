"""The measured cells as tables beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from finer_nerfstudio.benchmarks.gpu.cell import QueueCell
from finer_nerfstudio.benchmarks.gpu.cells import all_cells
from finer_nerfstudio.benchmarks.gpu.records import Record

_NOT_YET = "not yet measured"


class Published(Protocol):
    """The paper's results, as :mod:`finer_nerfstudio.reproduction.published` has them."""

    TABLE_1: dict[str, dict[str, float]]
    TABLE_2_ARMADILLO: dict[str, dict[str, float]]
    TABLE_3: dict[str, dict[str, float]]


def tables(records: Mapping[str, Record], published: Published) -> str:
    """Return all that was measured on GPUs as Markdown; toys are named and not shown.

    Args:
        records: of cells, by name.
        published: the paper's numbers.
    """
    measured = [record for record in records.values() if "result" in record and not record["quick"]]
    cells = all_cells(None)
    parts = [
        _images(cells, measured, published.TABLE_1),
        _shapes(cells, measured, published.TABLE_2_ARMADILLO),
        _scenes(cells, measured, published.TABLE_3),
        _speed(cells, measured),
    ]
    done = {record["name"] for record in measured}
    rounded = [cell for cell in cells if cell.group in ("fields", "images") and cell.row.count("tf32")]
    if rest := sum(cell.name not in done for cell in rounded):
        parts.append(f"What rounded products change, in {rest} of {len(rounded)} runs: {_NOT_YET}.")
    failed = [
        f"`{name}` ({record['error']})" for name, record in records.items() if "error" in record and not record["quick"]
    ]
    if failed:
        parts.append(f"Tried in vain so far: {'; '.join(failed)}.")
    toys = [f"`{name}`" for name, record in records.items() if record["quick"]]
    if toys:
        parts.append(f"Toy sizes, which measure nothing: {', '.join(toys)}.")
    return "\n\n".join(parts)


def figure_of(record: Record) -> str:
    """Return the most important number of a record for a terminal, empty for one without a result."""
    result = record.get("result")
    if result is None:
        return ""
    if "psnr" in result:
        return f"{result['psnr']:.2f} dB"
    if "iou_paper" in result:
        return f"IoU {result['iou_paper']:.4f}"
    if "step" in result:
        return (
            f"{1e3 * result['step']['seconds']['ours']:.3f} ms a step, {result['step']['plain_over_ours']:.2f}x plain"
        )
    return f"{result['float32'] / 1e12:.3g} TFLOP/s in float32, {result['copy'] / 1e12:.3g} TB/s"


def _lines_of(group: str, cells: Sequence[QueueCell], measured: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of every line of a table: planned ones first, without those of rounded products that are empty."""
    rows: dict[str, list[Record]] = {
        cell.row: [] for cell in cells if cell.group == group and cell.settings.get("precision", "float32") == "float32"
    }
    for record in measured:
        if record["group"] == group:
            rows.setdefault(record["row"], []).append(record)
    return rows


def _markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"**{title}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _mean(records: Sequence[Record], quantity: str) -> float | None:
    values = [record["result"].get(quantity) for record in records]
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form).replace("e-0", "e-")


def _machine(records: Sequence[Record]) -> list[str]:
    """The columns of the cards and of the seconds, which a cell took on average."""
    cards = ", ".join(dict.fromkeys(record["card"] for record in records))
    return [cards, _number(sum(record["seconds"] for record in records) / len(records) if records else None, ",.0f")]


def _images(cells: Sequence[QueueCell], measured: Sequence[Record], paper: Mapping[str, Mapping[str, float]]) -> str:
    lines = _lines_of("images", cells, measured)
    rows = []
    for name, records in lines.items():
        published = paper.get(name, {})
        ours = [_number(_mean(records, "psnr"), ".2f"), _number(_mean(records, "ssim"), ".4f")] if records else None
        psnr, ssim = ours or (_NOT_YET, "")
        theirs = _number(published.get("psnr"), ".2f"), _number(published.get("ssim"), ".4f")
        planned = sum(cell.group == "images" and cell.row == name for cell in cells)
        count = f"{len(records)} of {planned}"
        rows.append([name, psnr, theirs[0], ssim, theirs[1], count, *_machine(records)])
    heads = ("method", "PSNR", "paper", "SSIM", "paper", "images", "card", "seconds each")
    table = _markdown("Table 1: images of 512x512, all pixels, 5,000 steps; the paper has 16 images", heads, rows)
    items = list(dict.fromkeys(record["item"] for record in measured if record["group"] == "images"))
    if not items:
        return table
    found = {(r["row"], r["item"]): r["result"]["psnr"] for r in measured if r["group"] == "images"}
    by_item = [[name, *(_number(found.get((name, item)), ".2f") or _NOT_YET for item in items)] for name in lines]
    return table + "\n\n" + _markdown("PSNR of each image", ["method", *items], by_item)


def _shapes(cells: Sequence[QueueCell], measured: Sequence[Record], paper: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name, records in _lines_of("shapes", cells, measured).items():
        chamfer, iou = _number(_mean(records, "chamfer_paper"), ".3e"), _number(_mean(records, "iou_paper"), ".4f")
        published = paper.get(name, {})
        theirs = _number(published.get("chamfer"), ".3e"), _number(published.get("iou"), ".4f")
        tight = _number(_mean(records, "iou"), ".4f")
        rows.append([name, iou if records else _NOT_YET, theirs[1], tight, chamfer, theirs[0], *_machine(records)])
    heads = ("method", "IoU", "paper", "IoU, tight grid", "Chamfer", "paper", "card", "seconds")
    return _markdown("Table 2: the Armadillo, 200,000 steps of 10,000 points", heads, rows)


def _scenes(cells: Sequence[QueueCell], measured: Sequence[Record], paper: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for group in ("fields", "nerfacto", "splats"):
        for name, records in _lines_of(group, cells, measured).items():
            items = {record["item"] for record in records} or {"lego"}
            published = [paper.get(name, {}).get(item) for item in items]
            theirs = _number(published[0], ".2f") if len(items) == 1 else ""
            views = ", ".join(str(record["result"].get("views", "")) for record in records)
            psnr, ssim = _number(_mean(records, "psnr"), ".2f"), _number(_mean(records, "ssim"), ".4f")
            speed = _number(_mean(records, "rays_per_second"), ",.0f")
            label = f"{name}, against the field" if group == "splats" else name
            rows.append([label, psnr if records else _NOT_YET, theirs, ssim, views, speed, *_machine(records)])
    heads = ("method", "PSNR", "paper", "SSIM", "test views", "rays per second", "card", "seconds")
    return _markdown("Table 3: Lego, 25 views of 200x200, 37,500 steps of 4,096 rays", heads, rows)


def _speed(cells: Sequence[QueueCell], measured: Sequence[Record]) -> str:
    planned = [cell for cell in cells if cell.group == "kernels"]
    points = list(dict.fromkeys(cell.item for cell in planned))
    found = {(record["row"], record["item"]): record for record in measured if record["group"] == "kernels"}
    rows = [
        [name, item, *_speeds(found[name, item])]
        for name in dict.fromkeys(cell.row for cell in planned)
        for item in points
        if (name, item) in found
    ]
    heads = ("networks", "points", "step, ms", "plain / ours", "ours / ReLU", "ours / products")
    table = _markdown("Speed", (*heads, "share of peak", "card", "seconds"), rows) if rows else "**Speed**"
    if rest := len(planned) - len(rows):
        table += f"\n\nTraining steps of {rest} of {len(planned)} networks: {_NOT_YET}."
    ceilings = [record for record in measured if record["group"] == "ceilings"]
    if not ceilings:
        return f"{table}\n\nCeilings of the card: {_NOT_YET}."
    return table + "\n\n" + "\n".join(_ceilings(record) for record in ceilings)


def _speeds(record: Record) -> list[str]:
    step: dict[str, Any] = record["result"]["step"]
    ratios = [f"{step[name]:.2f}" for name in ("plain_over_ours", "ours_over_relu", "ours_over_products")]
    # Of what the card does with operands of the forward pass's precision; it is as fast in either half one.
    precision = record["settings"].get("precision", "float32").split(",")[0]
    peak = {"float16": "bfloat16"}.get(precision, precision)
    share = f"{step['share_of_ceiling'][peak]['ours']:.0%}"
    return [f"{1e3 * step['seconds']['ours']:.3f}", *ratios, share, *_machine([record])]


def _ceilings(record: Record) -> str:
    found = record["result"]
    products = ", ".join(f"{found[name] / 1e12:.3g} in {name}" for name in ("float32", "tf32", "bfloat16"))
    return (
        f"Ceilings of {record['card']}: a copy moves {found['copy'] / 1e12:.3g} TB/s, a matrix product does {products} "
        f"(TFLOP/s)."
    )
