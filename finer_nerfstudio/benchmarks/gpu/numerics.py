"""How networks are computed on the card: by which kernels, and with which rounding of the operands of products."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from finer_nerfstudio.benchmarks.gpu.cell import Place, QueueCell
from finer_nerfstudio.inr.kernels.rounding import read_rounding, rounded

_KERNELS = "FINER_GPU_KERNELS"


@dataclass(frozen=True)
class Numerics:
    """A choice.

    Attributes:
        precision: of the operands of products, as FINER_GPU_PRECISION has it.
        kernels: as FINER_GPU_KERNELS has it.
    """

    precision: str = "float32"
    kernels: Literal["activations", "networks"] = "activations"

    @property
    def words(self) -> list[str]:
        """Return what is not the default."""
        precision = [self.precision.replace(",", "/")] if self.precision != DEFAULT.precision else []
        return [*precision, *([self.kernels] if self.kernels != DEFAULT.kernels else [])]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute everything inside like this."""
        before = os.environ.get(_KERNELS)
        os.environ[_KERNELS] = self.kernels
        try:
            with rounded(read_rounding(self.precision)):
                yield
        finally:
            os.environ.pop(_KERNELS)
            if before is not None:
                os.environ[_KERNELS] = before


DEFAULT = Numerics()


def computed(cell: QueueCell, numerics: Numerics = DEFAULT) -> QueueCell:
    """Return a cell that is computed by a choice, which is part of its name, its row and its settings.

    Args:
        cell: that knows of none.
        numerics: the choice.
    """

    def work(place: Place) -> dict[str, Any]:
        with numerics.applied():
            return cell.work(place)

    named = cell
    if numerics.words:
        short = "-".join(numerics.words).replace("/", "-")
        named = replace(cell, name=f"{cell.name}-{short}", row=", ".join([cell.row, *numerics.words]))
    return replace(named, settings={**cell.settings, **asdict(numerics)}, work=work)
