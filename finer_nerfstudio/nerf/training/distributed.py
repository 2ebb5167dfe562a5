"""Messages between the processes of a distributed run; a process that is alone hears itself.

Every process has to call these functions, in the same order: each waits for all others.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from nerfstudio.utils import comms
from torch import Tensor


def total(value: float, device: torch.device) -> float:
    """Sum of the processes' values, the same to the bit on all of them.

    Args:
        value: of this process.
        device: that of the model, which the backend of a GPU run needs.
    """
    if comms.get_world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(shared)
    return shared.item()


def from_main(value: float, device: torch.device) -> float:
    """The value of the main process; ``device`` as in :func:`total`."""
    if comms.get_world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return shared.item()


def keep_largest(tensor: Tensor) -> None:
    """Replace every element by the largest that any process has in its place."""
    if comms.get_world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def keep_mean(tensor: Tensor) -> None:
    """Replace every element by the mean of what all processes have in its place."""
    processes = comms.get_world_size()
    if processes > 1:
        dist.all_reduce(tensor)
        tensor /= processes
