"""Matrix products of layers of any size against float64: of all vectors, by either compiler, and by BLAS."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_nerfstudio import Sine, Wavelet, variable_periodic
from finer_nerfstudio.inr.kernels import building, compiled
from finer_nerfstudio.inr.kernels.layers import Layer, fused_chain, plain_chain

KERNELS = Path(compiled.__file__).parent


@pytest.fixture(
    scope="module",
    params=[
        *itertools.product(["g++"], ["avx512", "avx2", "neon", "blas"]),
        *itertools.product(["clang++"], ["avx512", "avx2", "neon"]),
    ],
    ids=" ".join,
)
def program(request: pytest.FixtureRequest) -> Iterator[str]:
    """Vectors of this processor, and the compiler that builds for them."""
    compiler, vectors = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", compiler)
        patch.setenv("FINER_VECTORS", vectors)
        compiled._build.cache_clear()
        try:
            reason = compiled.unavailable_because("sine")
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            pytest.skip(reason)
        library = compiled._library("sine")
        assert library is not None
        assert library.finer_has_products() == (vectors != "blas")
        yield vectors
    compiled._build.cache_clear()


def chain(sizes: list[int], generator: torch.Generator) -> list[Layer]:
    """Layers of these sizes, with a smooth activation between them."""
    layers = []
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        bias = torch.randn(n_out, generator=generator)
        layers.append(Layer(weight, bias, Sine(1.0) if number < len(sizes) - 2 else None))
    return layers


def evaluated(x: Tensor, layers: list[Layer], upstream: Tensor, *, fused: bool) -> list[Tensor]:
    """Value and gradients with respect to input, weights and biases."""
    inputs = [x, *(tensor for layer in layers for tensor in (layer.weight, layer.bias))]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    remade = [
        Layer(weight, bias, layer.activation)
        for layer, weight, bias in zip(layers, leaves[1::2], leaves[2::2], strict=True)
    ]
    out = fused_chain(leaves[0], remade, compiled) if fused else plain_chain(leaves[0], remade)
    return [out, *torch.autograd.grad(out, leaves, upstream)]


# Whole tiles of every width, tiles with a rest, and the sizes of radiance fields.
SIZES = [[3, 80, 80, 1], [83, 80, 3], [16, 32, 48, 64, 96], [100, 112, 182, 5], [257, 17, 2], [1, 1, 1], [2, 200, 33]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_tile(program: str, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = chain(sizes, generator)
    for rows in (1, 5, 64, 131):
        check(layers, rows, generator)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 150), min_size=3, max_size=4), st.integers(1, 200))
def test_any_size(program: str, sizes: list[int], rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    check(chain(sizes, generator), rows, generator)


def check(layers: list[Layer], rows: int, generator: torch.Generator, emulated: list[str] | None = None) -> None:
    """Compare a chain with float64, here or as the program of chain.cpp that an emulator runs."""
    x = torch.randn(rows, layers[0].weight.shape[1], generator=generator)
    upstream = torch.randn(rows, layers[-1].width(), generator=generator)
    exact = [Layer(layer.weight.double(), layer.bias.double(), layer.activation) for layer in layers]
    expected = evaluated(x.double(), exact, upstream.double(), fused=False)
    results = evaluated(x, layers, upstream, fused=True) if emulated is None else answer(emulated, x, layers, upstream)
    for i, (found, wanted) in enumerate(zip(results, expected, strict=True)):
        # Gradients of weights and biases, all but the first two, are sums over rows, whose terms may cancel and leave
        # what was rounded away from each.
        scale = float(wanted.detach().abs().max()) + (1.0 if i < 2 else rows**0.5)
        torch.testing.assert_close(found.double() / scale, wanted / scale, atol=3e-6, rtol=0)


@pytest.fixture(
    scope="module", params=[("aarch64-linux-gnu-g++",), ("clang++", "--target=aarch64-linux-gnu")], ids=lambda p: p[0]
)
def on_arm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that answers chains of sines on an emulated Arm processor."""
    return program_for_arm("sine", request.param, tmp_path_factory.mktemp("arm"))


def program_for_arm(family: str, compiler: tuple[str, ...], folder: Path) -> list[str]:
    """Return the command that runs chain.cpp for a family, translated for 64-bit Arm."""
    for program in (compiler[0], "aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} (Debian: g++-aarch64-linux-gnu, clang and qemu-user)")
    flags = [flag for flag in building._FLAGS if flag not in ("-fPIC", "-shared")]
    flags += ["-static", f"-I{KERNELS}", f"-DFINER_FAMILY={compiled._FAMILIES[family]}", "-o", str(folder / family)]
    subprocess.run([*compiler, *flags, str(Path(__file__).with_name("chain.cpp"))], check=True, capture_output=True)
    return ["qemu-aarch64", str(folder / family)]


def answer(command: list[str], x: Tensor, layers: list[Layer], upstream: Tensor) -> list[Tensor]:
    """Return what the program of chain.cpp gives: as :func:`evaluated`."""
    block = max(1, len(x) // 2)
    described = [np.array([len(layers), len(x), block], dtype=np.int64).tobytes()]
    for layer in layers:
        n_out, n_in = layer.weight.shape
        described.append(np.array([n_in, n_out, layer.width()], dtype=np.int64).tobytes())
        form = None if layer.activation is None else layer.activation.kernel_form()
        described.append(bytes(compiled._form(form)))
    tensors = [x, upstream, *(tensor for layer in layers for tensor in (layer.weight, layer.bias))]
    described += [tensor.numpy().tobytes() for tensor in tensors]
    output = subprocess.run(command, input=b"".join(described), capture_output=True, check=True).stdout
    values = iter(torch.from_numpy(np.frombuffer(output, dtype=np.float32).copy()).split(shapes_of(layers, x)))
    parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    return [part.reshape(like.shape) for part, like in zip(values, [upstream, x, *parameters], strict=True)]


def shapes_of(layers: list[Layer], x: Tensor) -> list[int]:
    """Numbers of each tensor that the program writes."""
    own = [tensor.numel() for layer in layers for tensor in (layer.weight, layer.bias)]
    return [len(x) * layers[-1].width(), x.numel(), *own]


@settings(max_examples=10)
@given(st.lists(st.integers(1, 150), min_size=3, max_size=4), st.integers(1, 100))
def test_any_size_on_arm(on_arm: list[str], sizes: list[int], rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    check(chain(sizes, generator), rows, generator, on_arm)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_tile_on_arm(on_arm: list[str], sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    check(chain(sizes, generator), 37, generator, on_arm)


def test_wavelets_on_arm(tmp_path: Path) -> None:
    """Sines, exponentials and their derivatives as the compiler makes vectors of them."""
    command = program_for_arm("wavelet", ("aarch64-linux-gnu-g++",), tmp_path)
    generator = torch.Generator().manual_seed(0)
    for activation in (Wavelet(2.0, 1.0), variable_periodic(Wavelet(2.0, 1.0), omega_f=1.5)):
        layers = [
            Layer(torch.randn(46, 3, generator=generator) / 4, torch.randn(46, generator=generator) / 4, activation),
            Layer(torch.randn(5, 46, generator=generator) / 7, torch.randn(5, generator=generator), None),
        ]
        check(layers, 37, generator, command)


def test_denormal_numbers_are_flushed_on_arm(on_arm: list[str]) -> None:
    layers = [Layer(torch.full((5, 3), 1e-10), torch.zeros(5), None)]
    x, upstream = torch.ones(4, 3), torch.full((4, 5), 1e-30)
    _, x_grad, weight_grad, _ = answer(on_arm, x, layers, upstream)
    assert (x_grad == 0).all()
    assert (weight_grad > 0).all()
