"""Measurements as a table and as a picture."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.inr.kernels import compiled
from finer_nerfstudio.runs.axes import legend_of_figure, whole_decades
from finer_nerfstudio.tasks.streaming.encode import WIDTHS as WIDTHS_OF_STREAM


def description(device: torch.device) -> dict[str, Any]:
    """The machine, as far as it matters here."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    described = {
        "device": str(device),
        "processor": processor,
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiled_kernels": compiled.unavailable_because("sine") or "yes",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def markdown(results: dict[str, Any]) -> str:
    """The ratios as tables."""
    machine = results["machine"]
    lines = [
        f"{machine.get('gpu', machine['processor'])}, {machine['threads']} threads, PyTorch {machine['torch']}",
        "",
    ]
    for case, found in results["cases"].items():
        lines += [
            f"**{case}**",
            "",
            "| | step: plain / ours | forward: plain / ours | step: ours / ReLU | step: ours / products | "
            "memory: ours / plain |",
            "|---|---|---|---|---|---|",
        ]
        for name, numbers in found.items():
            step, forward, memory = numbers["step"], numbers["forward"], numbers["memory"]
            lines.append(
                f"| {name} | {step['plain_over_ours']:.2f} | {forward['plain_over_ours']:.2f} | "
                f"{step['ours_over_relu']:.2f} | {step['ours_over_products']:.2f} | {memory['ours_over_plain']:.2f} |"
            )
        lines.append("")
    if "growth" in results:
        lines += ["**growth**, a step of each stage: ours / new units alone (dense network / ours)", ""]
        lines += [f"| | {' | '.join(map(str, WIDTHS_OF_STREAM[1:]))} |", "|---|" + "---|" * (len(WIDTHS_OF_STREAM) - 1)]
        for name, found in results["growth"].items():
            cells = [f"{row['ours_over_block']:.2f} ({row['dense_over_ours']:.2f})" for row in found.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    if "fits" in results:
        lines += [f"**fits**, PSNR in dB after {results['fit_steps']} steps", "", *_table(results["fits"], 2), ""]
    if "step" in results:
        where = f"on {results['step_data']} after {results['step_after']} steps"
        lines += [f"**step**, milliseconds {where}", "", *_table(results["step"], 1), ""]
    return "\n".join(lines)


def _table(found: dict[str, dict[str, float]], decimals: int) -> list[str]:
    """Lines of a table with a row for each method, and columns for what the first one has."""
    columns = list(next(iter(found.values())))
    rows = [
        f"| {name} | " + " | ".join(f"{numbers[column]:.{decimals}f}" for column in columns) + " |"
        for name, numbers in found.items()
    ]
    return [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns), *rows]


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of a step's time, each program beside the others, one panel for each case."""
    from matplotlib.figure import Figure

    cases = results["cases"]
    figure = Figure(figsize=(9, 0.6 + sum(0.7 + 0.42 * len(found) for found in cases.values())), layout="constrained")
    heights = [1 + len(found) for found in cases.values()]
    panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
    labels = {
        "plain": "plain PyTorch",
        "relu": "plain ReLU network",
        "ours": "this package",
        "products": "products alone",
    }
    for axes, (case, found) in zip(panels, cases.items(), strict=True):
        for i, (program, label) in enumerate(labels.items()):
            values = [1e3 * numbers["step"]["seconds"][program] for numbers in found.values()]
            places = [n + 0.2 * (i - 1.5) for n in range(len(found))]
            axes.barh(places, values, height=0.2, label=label)
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        whole_decades(axes, "x")
        axes.set_xlabel("milliseconds per training step (logarithmic)")
        axes.set_title(case, loc="left")
        axes.grid(axis="x", alpha=0.3)
    legend_of_figure(figure, panels[0])
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
