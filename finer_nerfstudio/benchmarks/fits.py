"""The quality of whole fits by several programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch

from finer_nerfstudio.benchmarks.reference import PlainNetwork
from finer_nerfstudio.inr.kernels import Rounding, rounded
from finer_nerfstudio.inr.kernels.rounding import EXACT, read_rounding
from finer_nerfstudio.inr.methods import PROTOCOLS, preset
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss, sample_centers

Program = Literal[
    "plain",
    "plain, shuffled",
    "ours",
    "ours, shuffled",
    "tf32",
    "float32,bfloat16",
    "tf32,bfloat16",
    "bfloat16",
    "float16",
]
"""What trains: the last five are roundings of operands, named as FINER_GPU_PRECISION names them."""
PROGRAMS: tuple[Program, ...] = get_args(Program)

LARGEST_CHANGE = 0.1
"""dB by which a rounding may change a fit, beyond chance, and still be the default on a GPU."""

# Gradients of a mean over all pixels are below what float16 can hold.
_LOSS_SCALE = 2.0**10


def fits(
    method: str,
    steps: int,
    image: SourceImage,
    device: torch.device,
    seed: int,
    *,
    width: int | None = None,
    programs: Sequence[Program] = PROGRAMS,
) -> dict[str, float]:
    """Return the PSNR in dB after training the same initial network on the same image by each program.

    A program that is "shuffled" has the pixels in another order. Only roundings differ then, and what they make of the
    result is what no two programs can be expected to agree in. "plain" is the reference by PyTorch, and all others are
    this package: "ours" in float32, and the rest with operands of matrix products rounded.

    Args:
        method: its preset for images is trained.
        steps: of Adam, over all pixels each.
        image: what is fitted.
        device: where.
        seed: of the weights and of the other order.
        width: of hidden layers; the protocol's unless given.
        programs: those to train by.
    """
    signal = signal_of(image)
    everything = torch.arange(signal.samples)
    in_order = sample_centers(everything, signal.shape).to(device), signal.targets(slice(None)).to(device)
    order = torch.randperm(signal.samples, generator=torch.Generator().manual_seed(seed)).to(device)
    row = preset(method, "image")
    width, depth = width or PROTOCOLS["image"].width, PROTOCOLS["image"].depth
    found = {}
    for name in programs:
        generator = torch.Generator().manual_seed(seed)
        network = row.network(2, signal.channels, width=width, depth=depth, generator=generator).to(device)
        program = PlainNetwork(network) if name.startswith("plain") else network
        coords, targets = (each[order] for each in in_order) if name.endswith("shuffled") else in_order
        rounding = EXACT if name.startswith(("plain", "ours")) else read_rounding(name)
        found[name] = _fitted(program, coords, targets, row.learning_rate, steps, rounding)
    return found


def changes_beyond_chance(found: Mapping[str, float]) -> dict[str, float]:
    """Return how far each rounding ends from float32 in dB, less what a mere shuffle of the pixels does.

    Args:
        found: PSNR by program for one method, as :func:`fits` gives it.
    """
    chance = abs(found["ours, shuffled"] - found["ours"])
    roundings = [name for name in found if not name.startswith(("plain", "ours"))]
    return {name: abs(found[name] - found["ours"]) - chance for name in roundings}


def allowed_precisions(fits: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the roundings with which each of several fits ends as it does in float32.

    Args:
        fits: PSNR by program, for each method and each seed.
    """
    changes = [changes_beyond_chance(found) for found in fits]
    return [name for name in changes[0] if all(change[name] <= LARGEST_CHANGE for change in changes)]


def _fitted(
    program: torch.nn.Module,
    coords: torch.Tensor,
    targets: torch.Tensor,
    learning_rate: float,
    steps: int,
    rounding: Rounding,
) -> float:
    """Train as the protocol does, and return the PSNR; NaN where training went astray."""
    scale = _LOSS_SCALE if rounding.backward == "float16" else 1.0
    # Not fused, because complex numbers cannot be.
    optimizer = torch.optim.Adam(program.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1.0 / steps))
    for _ in range(steps):
        optimizer.zero_grad()
        with rounded(rounding):
            loss = (program(coords).float() - targets).square().mean()
        (scale * loss).backward()
        for parameter in program.parameters():
            assert parameter.grad is not None
            parameter.grad /= scale
        optimizer.step()
        decay.step()
    with torch.no_grad(), rounded(rounding):
        loss = float((program(coords).float() - targets).square().mean())
    return psnr_of_loss(loss) if math.isfinite(loss) else math.nan
