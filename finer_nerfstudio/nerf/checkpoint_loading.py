"""Nerfstudio's own checkpoints under the weights-only unpickler of torch 2.6 and later."""

from __future__ import annotations

import numpy as np
import torch

try:  # numpy 2 moved the module; its old name warns
    from numpy._core.multiarray import scalar
except ImportError:
    from numpy.core.multiarray import scalar


def allow_nerfstudio_checkpoints() -> None:
    """Let ``torch.load`` accept the one thing in a Nerfstudio checkpoint that is neither tensor nor plain Python.

    Nerfstudio's schedulers keep the learning rate as a numpy float64, which pickles as a call of ``scalar`` with a
    ``dtype``. Those three names are harmless and all that is needed; the protection itself stays on.
    """
    # Checkpoints name the function by its numpy 1 address, whichever numpy reads them.
    torch.serialization.add_safe_globals(
        [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    )
