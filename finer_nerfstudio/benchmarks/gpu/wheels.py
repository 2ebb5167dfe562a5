"""What has to be carried to a machine that has PyTorch and no network: wheels, this package and a bundle."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

PRESENT = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "scikit-image",
    "pillow",
    "safetensors",
    "jaxtyping",
    "torchmetrics",
    "rich",
    "jinja2",
)
"""What is there already, with what these bring."""

MOST_BYTES = 60_000_000
"""What package, wheels and bundle may be together."""


@dataclass(frozen=True)
class Wheel:
    """A wheel for Python 3.12 on Linux.

    Attributes:
        name: of the distribution.
        version: that the sizes are of.
        size: bytes.
        why: what it is for.
    """

    name: str
    version: str
    size: int
    why: str


WHEELS = (
    Wheel("tyro", "1.0.17", 217_323, "options of the command"),
    Wheel("docstring-parser", "0.18.0", 22_484, "tyro reads their help with it"),
    Wheel("typeguard", "4.6.1", 37_095, "tyro checks their types with it"),
)
"""What the queue imports beside :data:`PRESENT`, as PyPI has it."""


def package_bytes() -> int:
    """Return the size of this package as a wheel: its files, compressed."""
    root = Path(__file__).parents[2]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(root.parent))
    return len(content.getvalue())


def listing(bundle_bytes: int | None) -> str:
    """Return the list of wheels and the size of everything, for a terminal.

    Args:
        bundle_bytes: of a bundle that goes along, None for none.
    """
    lines = [f"beside {', '.join(PRESENT)} and what these bring, the queue takes for Python 3.12:", ""]
    lines += [f"  {wheel.name:<18} {wheel.version:<8} {wheel.size:>10,} bytes  {wheel.why}" for wheel in WHEELS]
    wheels, package = sum(wheel.size for wheel in WHEELS), package_bytes()
    total = wheels + package + (bundle_bytes or 0)
    bundle = "no bundle given" if bundle_bytes is None else f"bundle {bundle_bytes:,}"
    names = " ".join(f"{wheel.name}=={wheel.version}" for wheel in WHEELS)
    fits = "below" if total < MOST_BYTES else "ABOVE"
    return "\n".join(
        [
            *lines,
            "",
            f"wheels {wheels:,} bytes, this package {package:,}, {bundle}: {total:,} bytes together, {fits} the "
            f"{MOST_BYTES / 1e6:.0f} MB that are meant to be carried",
            "",
            "pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 "
            f"--platform manylinux2014_x86_64 --dest wheels {names}",
        ]
    )
