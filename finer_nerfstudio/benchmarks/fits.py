"""The quality of whole fits by several programs."""

from __future__ import annotations

import math

import torch

from finer_nerfstudio.benchmarks.reference import PlainNetwork
from finer_nerfstudio.inr.methods import PROTOCOLS, preset
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.image.fit import signal_of
from finer_nerfstudio.tasks.signal.grid import psnr_of_loss, sample_centers


def fits(method: str, steps: int, image: SourceImage, device: torch.device, seed: int) -> dict[str, float]:
    """PSNR in dB after training the same initial network on the same image by each program.

    "plain, shuffled" is the plain reference with the pixels in another order. Only roundings differ then, and what
    they make of the result is what no two programs can be expected to agree in.

    Half precision is that of operands of matrix products, by autocast; float16 with the loss scaled up, as gradients
    of a mean over all pixels are below what it can hold.
    """
    signal = signal_of(image)
    everything = torch.arange(signal.samples)
    in_order = sample_centers(everything, signal.shape).to(device), signal.targets(slice(None)).to(device)
    order = torch.randperm(signal.samples, generator=torch.Generator().manual_seed(seed)).to(device)
    row = preset(method, "image")
    width, depth = PROTOCOLS["image"].width, PROTOCOLS["image"].depth
    programs: dict[str, torch.dtype | None] = {
        "plain": None,
        "plain, shuffled": None,
        "ours": None,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    found = {}
    for name, dtype in programs.items():
        generator = torch.Generator().manual_seed(seed)
        network = row.network(2, signal.channels, width=width, depth=depth, generator=generator).to(device)
        program = PlainNetwork(network) if name.startswith("plain") else network
        coords, targets = (each[order] for each in in_order) if name == "plain, shuffled" else in_order
        scale = 2.0**10 if dtype == torch.float16 else 1.0

        # As in the protocol; not fused, because complex numbers cannot be.
        optimizer = torch.optim.Adam(program.parameters(), lr=row.learning_rate)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1.0 / steps))
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = (program(coords).float() - targets).square().mean()
            (scale * loss).backward()
            for parameter in program.parameters():
                assert parameter.grad is not None
                parameter.grad /= scale
            optimizer.step()
            decay.step()
        with torch.no_grad():
            loss = float((program(coords).float() - targets).square().mean())
        found[name] = psnr_of_loss(loss) if math.isfinite(loss) else math.nan
    return found
