"""Precision of matrix products: operands are rounded, in each direction to a type of its own.

Sums, biases, phases and activations stay in float32 whatever the operands are rounded to, and layers that ask for full
precision are left alone.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bfloat16", "float16"]

_DTYPES: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_PRODUCTS_HAVE_OUT_DTYPE = "out_dtype" in (torch.mm.__doc__ or "")
# Bits of a float32 mantissa that tf32 has not.
_TF32_LOST_BITS = 13


@dataclass(frozen=True)
class Rounding:
    """Types to which operands of matrix products are rounded; float32 leaves them to PyTorch's own setting.

    Attributes:
        forward: of ``x W^T``, whenever that is computed.
        backward: of the products that give gradients with respect to inputs and to weights.
    """

    forward: Precision = "float32"
    backward: Precision = "float32"


EXACT = Rounding()
_chosen: contextvars.ContextVar[Rounding | None] = contextvars.ContextVar("rounding", default=None)


@contextlib.contextmanager
def rounded(rounding: Rounding | None) -> Iterator[None]:
    """Round operands of the networks evaluated inside, and of the backward passes of what they give.

    Autocast, where it is on, is stronger. None changes nothing.
    """
    if rounding is None:
        yield
        return
    token = _chosen.set(rounding)
    try:
        yield
    finally:
        _chosen.reset(token)


def rounded_backward(precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Round operands of backward passes alone; see :func:`rounded`."""
    return rounded(Rounding(backward=precision))


def read_rounding(text: str) -> Rounding:
    """Return the rounding that ``PRECISION`` or ``FORWARD,BACKWARD`` names.

    Raises:
        ValueError: for anything else.
    """
    names = [name.strip() for name in text.split(",")]
    known = get_args(Precision)
    if len(names) > 2 or any(name not in known for name in names):
        raise ValueError(f"a precision is one of {', '.join(known)}, or two of them as forward,backward; not {text!r}")
    return Rounding(cast(Precision, names[0]), cast(Precision, names[-1]))


def requested_rounding(x: Tensor) -> Rounding | None:
    """Return what autocast or :func:`rounded` asks for with input like ``x``, None where neither does."""
    if x.dtype != torch.float32:
        return EXACT
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        name: Precision = "float32"
        for half, known in _DTYPES.items():
            name = half if known == dtype else name
        return Rounding(name, name)
    return _chosen.get()


def product(a: Tensor, b: Tensor, precision: Precision, out: Tensor | None = None) -> Tensor:
    """Return ``a b`` of operands rounded to ``precision``, summed up and given back in float32.

    Half-precision sums would be phases, and half-precision phases would be noise.

    Args:
        a: ``[rows, inner]``.
        b: ``[inner, columns]``.
        precision: of the operands.
        out: receives the result; may be neither of the two.
    """
    if precision == "float32":
        return torch.mm(a, b, out=out)
    if precision == "tf32":
        if a.device.type == "cuda":
            with _tf32_products():
                return torch.mm(a, b, out=out)
        return torch.mm(round_to_tf32(a), round_to_tf32(b), out=out)
    dtype = _DTYPES[precision]
    a, b = a.to(dtype), b.to(dtype)
    if a.device.type != "cuda" or not _PRODUCTS_HAVE_OUT_DTYPE:
        return torch.mm(a.float(), b.float(), out=out)
    result = torch.mm(a, b, out_dtype=torch.float32)
    return result if out is None else out.copy_(result)


def round_to_tf32(x: Tensor) -> Tensor:
    """Round float32 numbers to ten bits of mantissa, ties to even, as tensor cores take them."""
    bits = x.contiguous().view(torch.int32)
    rounded_bits = (bits >> _TF32_LOST_BITS).bitwise_and_(1)
    rounded_bits.add_(bits).add_((1 << (_TF32_LOST_BITS - 1)) - 1).bitwise_and_(-1 << _TF32_LOST_BITS)
    return rounded_bits.view(torch.float32)


def pytorch_rounds_to_tf32() -> bool:
    """Whether PyTorch's products of float32 matrices on GPUs are allowed to round operands to tf32."""
    settings = torch.backends.cuda.matmul
    # The newer interface, where there is one: the older one raises an error once the newer one was used.
    return settings.fp32_precision == "tf32" if hasattr(settings, "fp32_precision") else bool(settings.allow_tf32)


@contextlib.contextmanager
def _tf32_products() -> Iterator[None]:
    """Let cuBLAS round operands to tf32."""
    settings = torch.backends.cuda.matmul
    name, allowed = ("fp32_precision", "tf32") if hasattr(settings, "fp32_precision") else ("allow_tf32", True)
    before = getattr(settings, name)
    setattr(settings, name, allowed)
    try:
        yield
    finally:
        setattr(settings, name, before)
