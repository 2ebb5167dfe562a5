"""Whether the Triton kernels of radiance fields compute on a GPU what tensor functions do.

Compilers and GPUs are many. So before their first use on a GPU the kernels are compared with tensor functions on the
processor, as those of activations are (:mod:`finer_nerfstudio.inr.kernels.triton_program`). Where they fail to compile
or to agree, tensor functions take their place, and a warning says so once.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

_TOLERANCE = 1e-3


def usable(tensor: Tensor) -> bool:
    """Return whether kernels may be used for tensors like this one: not with FINER_GPU_KERNELS=plain.

    Args:
        tensor: float32 on a GPU, or something else, for which there are no kernels.
    """
    if not tensor.is_cuda or tensor.dtype != torch.float32 or os.environ.get("FINER_GPU_KERNELS") == "plain":
        return False
    return _agree(tensor.device)


@functools.cache
def _agree(device: torch.device) -> bool:
    if find_spec("triton") is None:
        return False
    checks = {"weights": _weights, "march": _march, "adam": _adam}
    try:
        with torch.enable_grad():  # whoever asks may be computing without
            differing = [name for name, differs in checks.items() if differs(device)]
        reason = f"results differ from those of tensor functions ({', '.join(differing)})" if differing else None
    except Exception as error:  # whatever a compiler or a driver comes up with
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    if reason is not None:
        warnings.warn(f"The kernels of radiance fields are not used on {device}: {reason}.", stacklevel=2)
    return reason is None


def _weights(device: torch.device) -> bool:
    from finer_nerfstudio.nerf import triton_compositing
    from finer_nerfstudio.nerf.compositing import ray_weights

    counts = torch.tensor([3, 0, 70, 1])
    thickness = torch.linspace(0.0, 2.0, int(counts.sum()) + 4).requires_grad_()
    grad = torch.linspace(-1.0, 1.0, len(thickness))
    rays = torch.repeat_interleave(torch.arange(4), counts)
    expected = ray_weights(thickness[: len(rays)], rays, counts)
    expected.backward(grad[: len(rays)])
    there = counts.to(device)
    weight, behind = triton_compositing.weights(thickness.detach().to(device), there)
    gradient = triton_compositing.gradient(grad.to(device), weight, behind, there)
    assert thickness.grad is not None
    return _differ(weight[: len(rays)], expected.detach()) or _differ(gradient, thickness.grad)


def _march(device: torch.device) -> bool:
    from finer_nerfstudio.nerf.captured import triton_march
    from finer_nerfstudio.nerf.captured.march import Steps, Walk, fitting, march, walk_of

    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=-1)
    box, steps = torch.tensor([[-1.0] * 3, [1.0] * 3]), Steps(64, 8, 2.0 * 3.0**0.5 / 64, 0.0)
    walk = walk_of(-2.0 * directions, directions, torch.rand(40, generator=generator), box, steps)
    occupied = torch.rand(8**3, generator=generator) < 0.3
    expected = march(walk, occupied, steps, 40 * 64)
    moved = Walk(*(getattr(walk, name).to(device) for name in Walk.__dataclass_fields__))
    found = triton_march.counts(moved, occupied.to(device), steps)
    rays, _ = triton_march.places(moved, occupied.to(device), steps, fitting(found, 40 * 64), 40 * 64)
    # A step on the border of a cell may fall to either side.
    found, placed = found.cpu(), rays.cpu().bincount(minlength=40)
    missed = (found - expected.found).abs().sum() + (placed - found)[:-1].abs().sum()
    return int(missed) > 0.01 * int(expected.found.sum())


def _adam(device: torch.device) -> bool:
    from torch import nn

    from finer_nerfstudio.nerf.captured import triton_adam
    from finer_nerfstudio.nerf.captured.adam import AdamRules, FlatAdam

    # Fresh layers would draw from the generator that decides the training to come.
    layer, averaged = (nn.ParameterList([torch.linspace(low, 1.0, 70), torch.ones(5)]) for low in (-1.0, 0.0))
    optimizer = FlatAdam(layer, averaged, AdamRules())
    optimizer.learning_rate.fill_(1e-2)
    buffers = [optimizer.values, optimizer.first, optimizer.second, optimizer.average]
    values, first, second, average = (buffer.to(device, copy=True) for buffer in buffers)
    gradients = [torch.full_like(parameter, 0.5) for parameter in layer.parameters()]
    numbers = optimizer.numbers()
    triton_adam.update(
        values, optimizer.packed(gradients).to(device), first, second, average, numbers.to(device), AdamRules()
    )
    optimizer.step.zero_()
    optimizer.update(gradients)
    return _differ(values, optimizer.values) or _differ(average, optimizer.average)


def _differ(found: Tensor, expected: Tensor) -> bool:
    largest = float(expected.abs().max())
    return not float((found.cpu() - expected).abs().max()) <= _TOLERANCE * largest
