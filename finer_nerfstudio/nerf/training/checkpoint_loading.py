"""Nerfstudio's own checkpoints under the weights-only unpickler of torch 2.6 and later."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import torch

from finer_nerfstudio.errors import InputError, in_one_line

# numpy 2 moved the module that numpy's own pickles name; neither address is public.
try:
    _multiarray = import_module("numpy._core.multiarray")
except ImportError:
    _multiarray = import_module("numpy.core.multiarray")


def allow_nerfstudio_checkpoints() -> None:
    """Let ``torch.load`` accept the one thing in a Nerfstudio checkpoint that is neither tensor nor plain Python.

    Nerfstudio's schedulers keep the learning rate as a numpy float64, which pickles as a call of ``scalar`` with a
    ``dtype``. Those three names are harmless and all that is needed; the protection itself stays on.
    """
    # Checkpoints name the function by its numpy 1 address, whichever numpy reads them.
    torch.serialization.add_safe_globals(
        [(_multiarray.scalar, "numpy.core.multiarray.scalar"), _multiarray.scalar, np.dtype, type(np.dtype(np.float64))]
    )


def damaged_checkpoint(which: str, error: BaseException) -> InputError:
    """Return the error for a checkpoint that is there and cannot be read.

    Args:
        which: its path, or of what it is, after "the checkpoint".
        error: of the library that tried.
    """
    if isinstance(error, PermissionError):
        return InputError(f"the checkpoint {which} cannot be read ({in_one_line(error)}): make it readable.")
    if isinstance(error, IndexError):  # Nerfstudio took the newest of none
        return InputError(f"there is no checkpoint {which}: train anew, or name another run.")
    return InputError(
        f"the checkpoint {which} cannot be read, it may be cut short or damaged ({in_one_line(error)}): move it away "
        f"to have the one before it taken, if there is one, or train anew."
    )
