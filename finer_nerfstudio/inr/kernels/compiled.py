"""Chains of layers on processors, in C++ that the machine's own compiler translates once.

A compiler that knows the processor makes vector instructions out of an activation, its derivative and its bias in one
pass (``activations.cpp``), where a chain of PyTorch operations goes to memory and back for each. Every thread takes
rows of its own through all layers, block by block of what fits into its cache: threads wait for each other once, at
the end. Matrix products are our own (``products.h``) where the processor has vectors of ``vectors.h``: AVX-512, AVX2 or
NEON. Otherwise they are those of the BLAS that PyTorch brings. A family's library takes some seconds to build, is kept
in the user's cache folder, and knows nothing of Python or PyTorch, so that no header or version has to match. Without a
compiler everything still runs, by the tensor functions of ``plain.py``: :func:`unavailable_because` says why.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from finer_nerfstudio.inr.kernels import building
from finer_nerfstudio.inr.kernels.form import KernelForm
from finer_nerfstudio.inr.kernels.layers import Layer
from finer_nerfstudio.inr.kernels.plain import ElementwiseMap
from finer_nerfstudio.inr.kernels.rounding import EXACT, Rounding

_SOURCE = Path(__file__).with_name("activations.cpp")
_HEADERS = ("complex_products", "products", "rounded_products", "vectors")
_INCLUDED = tuple(Path(__file__).with_name(f"{name}.h") for name in _HEADERS)
# Bytes of a block of rows on each core, for as many matrices as are in use at one time; with a layer's weights beside
# them, they stay in the second-level cache of a present core. From half to twice as much is as fast.
_CACHE_BYTES = 1 << 20
_BLOCKS_IN_USE = 4
_FAMILIES = {"relu": 0, "sine": 1, "gauss": 2, "wavelet": 3}


def unavailable_because(family: str) -> str | None:
    """One line on why the kernels of a family cannot be used, or None if they can; builds them if need be."""
    library = _build(family)
    return library if isinstance(library, str) else None


def build_in_background() -> bool:
    """Have the kernels of all families built that this machine lacks; return whether it lacks any."""
    source, included = str(_SOURCE), [str(path) for path in _INCLUDED]
    return building.build_in_background(
        [building.Library(source, family, included, _flags(family)) for family in _FAMILIES]
    )


def supports(x: Tensor, activations: Sequence[ElementwiseMap | None]) -> bool:
    """Whether input like ``x`` and these activations, None for affine maps alone, can be computed here.

    Activations of one chain are of one family, whose kernels are built if need be.
    """
    forms = [None if activation is None else activation.kernel_form() for activation in activations]
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if any(form is None and activation is not None for form, activation in zip(forms, activations, strict=True)):
        return False
    families = {form.family for form in forms if form is not None}
    return len(families) <= 1 and _library(next(iter(families), "relu")) is not None


def computes(rounding: Rounding, activations: Sequence[ElementwiseMap | None]) -> bool:
    """Return whether operands of products can be rounded so: not at all, or those of the backward pass to bfloat16.

    Args:
        rounding: what is asked for.
        activations: of a chain, as for :func:`supports`.
    """
    if rounding == EXACT:
        return True
    forms = [None if activation is None else activation.kernel_form() for activation in activations]
    library = _library(next((form.family for form in forms if form is not None), "relu"))
    has_pairs = library is not None and bool(library.finer_has_pairs())
    return has_pairs and rounding == Rounding(backward="bfloat16")


def forward(x: Tensor, bias: Tensor, activation: ElementwiseMap, out: Tensor) -> None:
    """As :meth:`finer_nerfstudio.inr.kernels.blocks.ActivationKernel.forward`."""
    _activate(activation, x, bias, None, out, None, None)


def backward(
    x: Tensor, bias: Tensor, grad: Tensor, activation: ElementwiseMap, value: Tensor, dx: Tensor, sums: Tensor
) -> None:
    """As :meth:`finer_nerfstudio.inr.kernels.blocks.ActivationKernel.backward`."""
    _activate(activation, x, bias, grad, value, dx, sums)


def run(rows: Tensor, layers: Sequence[Layer], stored: Sequence[Tensor | None], rounding: Rounding) -> Tensor:
    """As :meth:`finer_nerfstudio.inr.kernels.layers.ChainProgram.run`."""
    assert rounding.forward == "float32"
    rows = rows.contiguous()
    call = _Call(rows, layers, stored)
    out = rows.new_empty(len(rows), layers[-1].width())
    call.library.finer_forward(
        call.sgemm, call.layers, len(layers), _pointer(rows), _pointer(out), _pointer(call.scratch), *call.extent
    )
    return out


def run_backward(
    rows: Tensor,
    grad: Tensor,
    layers: Sequence[Layer],
    stored: Sequence[Tensor | None],
    rounding: Rounding,
    want_x_grad: bool,
    want_weight_grads: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """As :meth:`finer_nerfstudio.inr.kernels.layers.ChainProgram.run_backward`."""
    assert rounding.forward == "float32"
    rows, grad = rows.contiguous(), grad.contiguous()
    call = _Call(rows, layers, stored, rounding)
    # Every thread adds up its own.
    pairs = zip(layers, want_weight_grads, strict=True)
    weights = [rows.new_zeros(call.threads, *layer.weight.shape) if wanted else None for layer, wanted in pairs]
    biases = [rows.new_zeros(call.threads, len(layer.bias)) for layer in layers]
    for described, weight, bias in zip(call.layers, weights, biases, strict=True):
        described.weight_grad, described.bias_grad = _pointer(weight), _pointer(bias)
    x_grad = torch.empty_like(rows) if want_x_grad else None
    call.library.finer_backward(
        call.sgemm,
        call.layers,
        len(layers),
        _pointer(rows),
        _pointer(grad),
        _pointer(x_grad),
        _pointer(call.scratch),
        *call.extent,
    )
    summed = [None if each is None else each.sum(dim=0) for pair in zip(weights, biases, strict=True) for each in pair]
    return x_grad, summed


class _Form(ctypes.Structure):
    """FinerForm of activations.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("active", "variable", "real_input")),
        *((name, ctypes.c_float) for name in ("omega", "s", "omega_f", "slope")),
    )


class _Layer(ctypes.Structure):
    """FinerLayer of activations.cpp."""

    _fields_ = (
        ("form", _Form),
        *((name, ctypes.c_int64) for name in ("n_in", "n_out", "width")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "stored", "weight_grad", "bias_grad")),
        ("rounded", ctypes.c_int64),
        ("is_complex", ctypes.c_int64),
    )


class _Call:
    """Arguments of the library for both directions; it keeps alive the memory that it points to."""

    def __init__(
        self, rows: Tensor, layers: Sequence[Layer], stored: Sequence[Tensor | None], rounding: Rounding = EXACT
    ) -> None:
        forms = [None if layer.activation is None else layer.activation.kernel_form() for layer in layers]
        library = _library(next((form.family for form in forms if form is not None), "relu"))
        assert library is not None
        self.library = library
        self.sgemm = _sgemm()
        self._parameters = [(layer.weight.contiguous(), layer.bias.contiguous()) for layer in layers]
        self.layers = (_Layer * len(layers))()
        for described, form, (weight, bias), kept, layer in zip(
            self.layers, forms, self._parameters, stored, layers, strict=True
        ):
            described.form = _form(form)
            described.n_out, described.n_in = weight.shape
            described.width = layer.width()
            described.is_complex = int(layer.complex_valued)
            described.rounded = int(layer.rounding(rounding).backward == "bfloat16")
            described.weight, described.bias, described.stored = _pointer(weight), _pointer(bias), _pointer(kept)
        # Threads are worth waking for a few dozen rows each.
        self.threads = max(1, min(torch.get_num_threads(), len(rows) // 32))
        self.block = self._block_rows(len(rows))
        self.scratch = rows.new_empty(library.finer_scratch(self.layers, len(layers), self.block, self.threads))
        self.extent = (len(rows), self.block, self.threads)

    def _block_rows(self, rows: int) -> int:
        widest = max(max(layer.width, layer.n_out) for layer in self.layers)
        fitting = max(32, _CACHE_BYTES // (4 * _BLOCKS_IN_USE * widest))
        return max(1, min(fitting, -(-rows // self.threads)))


def _form(form: KernelForm | None) -> _Form:
    if form is None:
        return _Form(active=0)
    return _Form(
        active=1,
        variable=int(form.variable),
        real_input=int(form.real_input),
        omega=form.omega,
        s=form.s,
        omega_f=form.omega_f,
        slope=2.0 if form.scale_gradient else 1.0,
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _activate(
    activation: ElementwiseMap,
    x: Tensor,
    bias: Tensor,
    grad: Tensor | None,
    z: Tensor,
    dx: Tensor | None,
    sums: Tensor | None,
) -> None:
    form = activation.kernel_form()
    assert form is not None
    library = _library(form.family)
    assert library is not None
    pointers = [_pointer(tensor) for tensor in (x, bias, grad, z, dx, sums)]
    library.finer_activate(ctypes.byref(_form(form)), *pointers, *x.shape, torch.get_num_threads())


def _library(family: str) -> ctypes.CDLL | None:
    library = _build(family)
    return None if isinstance(library, str) else library


def _flags(family: str) -> tuple[str, ...]:
    return (f"-DFINER_FAMILY={_FAMILIES[family]}",)


@functools.cache
def _build(family: str) -> ctypes.CDLL | str:
    """A family's library, or a line that says why there is none."""
    library = building.build(_SOURCE, family, included=_INCLUDED, flags=_flags(family))
    if isinstance(library, str):
        return library
    if not library.finer_has_products() and not _sgemm():
        return "this processor has none of the vectors of our matrix products, and PyTorch shows no sgemm_"
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.finer_activate.argtypes = [pointer] * 7 + [long, long, whole]
    library.finer_activate.restype = None
    library.finer_scratch.argtypes = [pointer, whole, long, whole]
    library.finer_scratch.restype = long
    library.finer_forward.argtypes = [pointer, pointer, whole] + [pointer] * 3 + [long, long, whole]
    library.finer_forward.restype = None
    library.finer_backward.argtypes = [pointer, pointer, whole] + [pointer] * 4 + [long, long, whole]
    library.finer_backward.restype = None
    return library


@functools.cache
def _sgemm() -> int:
    """Return the address of the matrix product that PyTorch itself uses, 0 where it is not to be found."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        with suppress(OSError, AttributeError):
            return ctypes.cast(ctypes.CDLL(str(folder / name)).sgemm_, ctypes.c_void_p).value or 0
    return 0
