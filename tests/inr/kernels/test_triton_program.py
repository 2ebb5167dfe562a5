"""Whole chains by Triton kernels: on a GPU, or in Triton's interpreter (see test_triton_interpreter.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from finer_nerfstudio import METHODS, CoordinateNetwork, preset
from finer_nerfstudio.inr.activations import activation_of_form
from finer_nerfstudio.inr.kernels import layers
from finer_nerfstudio.inr.kernels.rounding import Rounding, read_rounding

pytest.importorskip("triton", reason="the fused kernels need Triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("without a GPU, test_triton_interpreter.py runs these tests", allow_module_level=True)

program = pytest.importorskip("finer_nerfstudio.inr.kernels.triton_program")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def network(method: str, width: int = 20) -> CoordinateNetwork:
    row = preset(method, "image")
    net = CoordinateNetwork(
        2,
        3,
        width=width,
        depth=3,
        activation=row.activation,
        bias_range=row.bias_range,
        encoding_frequencies=row.encoding_frequencies and 2,
        generator=torch.Generator().manual_seed(1),
    )
    return net.to(DEVICE)


EXACT = Rounding()


def step(
    net: CoordinateNetwork, x: Tensor, chosen: layers.ChainProgram | None, rounding: Rounding = EXACT
) -> list[Tensor]:
    """Output and gradients of everything; by plain operations without a program."""
    x = x.clone().requires_grad_()
    chain = net._layers(net.activation)
    encoded = net._encoded(x)
    out = layers.plain_chain(encoded, chain) if chosen is None else layers.fused_chain(encoded, chain, chosen, rounding)
    weights = torch.linspace(-1, 1, out.numel(), device=DEVICE).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *net.parameters()])]


# Above 64 features a network is trained from what its forward pass stored.
@pytest.mark.parametrize(("wanted", "width"), [("activations", 20), ("networks", 20), ("networks", 80)])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_that_of_plain_operations(
    method: str, wanted: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINER_GPU_KERNELS", wanted)
    torch.set_float32_matmul_precision("high" if wanted == "networks" else "highest")
    net = network(method, width)
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(2)).to(DEVICE) * 2 - 1
    encoded = net._encoded(x)
    chosen = program.program_for(encoded, net._layers(net.activation), EXACT)
    assert isinstance(chosen, program.TritonNetworks) == (wanted == "networks")
    expected = step(net, x, None)
    # On a GPU "networks" rounds operands to 11 significant bits, which bumps as narrow as published ones magnify.
    # In the interpreter only products outside the kernels are rounded: those of weight gradients.
    rounded = wanted == "networks" and (DEVICE.type == "cuda" or width > 64)
    tolerance = 0.2 if rounded else 1e-3
    for found, reference in zip(step(net, x, chosen), expected, strict=True):
        assert float((found - reference).norm()) <= tolerance * float(reference.norm()) + 1e-7


@pytest.mark.parametrize("width", [20, 80])
@pytest.mark.parametrize("wanted", ["activations", "networks"])
def test_both_passes_round_by_themselves(wanted: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rounded backward pass leaves values alone, and gradients as they are but for the rounding."""
    monkeypatch.setenv("FINER_GPU_KERNELS", wanted)
    net = network("finer-sine", width)
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(2)).to(DEVICE) * 2 - 1
    one, both = Rounding("tf32", "bfloat16"), Rounding("tf32", "tf32")
    chosen = program.program_for(net._encoded(x), net._layers(net.activation), one)
    assert isinstance(chosen, program.TritonNetworks) == (wanted == "networks")
    rounded, (value, *exact) = step(net, x, chosen, one), step(net, x, chosen, both)
    assert torch.equal(rounded[0], value)
    for found, reference in zip(rounded[1:-1], exact[:-1], strict=True):  # the last bias adds up what is given
        difference = float((found - reference).norm()) / float(reference.norm())
        assert 1e-5 < difference < 0.1


def test_what_does_not_fit_goes_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINER_GPU_KERNELS", "networks")
    torch.set_float32_matmul_precision("high")
    x = torch.zeros(1, 2, device=DEVICE)
    wide = network("finer-sine", 160)._layers(network("finer-sine").activation)
    narrow = network("finer-sine", 80)._layers(network("finer-sine").activation)
    uneven = [*wide[:1], replace(wide[1], weight=wide[1].weight[:80], bias=wide[1].bias[:80]), *narrow[2:]]

    def is_one_kernel(layers: list[layers.Layer], rounding: Rounding = EXACT) -> bool:
        return isinstance(program.program_for(x, layers, rounding), program.TritonNetworks)

    assert is_one_kernel(wide)
    assert not is_one_kernel(uneven), "to be trained"
    with torch.no_grad():
        assert is_one_kernel(uneven)
        assert not is_one_kernel(wide[:-1]), "no affine end"
        assert not is_one_kernel([*wide[:-1], replace(wide[-1], full_precision=True)])
        torch.set_float32_matmul_precision("highest")
        assert not is_one_kernel(wide)
        for precision in ("tf32", "bfloat16", "float16"):
            assert is_one_kernel(wide, Rounding(precision, "float32"))
    assert not is_one_kernel(wide, Rounding("tf32", "float32"))


def test_memory_apart_is_put_together() -> None:
    net = network("finer-sine", 80)
    chain = net._layers(net.activation)
    x = torch.rand(9, 2, device=DEVICE)
    chosen, rounding = program.TritonNetworks(), Rounding("tf32", "tf32")
    results = []
    for block in (x.new_empty(2, 9, 80), [x.new_empty(9, 80), x.new_empty(9, 80)]):
        stored = [None, *block, None]
        with torch.no_grad():
            chosen.run(x, chain, stored, rounding)
            found = chosen.run_backward(x, x.new_ones(9, 3), chain, stored, rounding, True, [True] * 4)
        results.append([*stored[1:3], found[0], *found[1]])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_the_environment_chooses_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINER_GPU_PRECISION", raising=False)
    assert program.default_rounding() == read_rounding(program.DEFAULT_PRECISION)
    monkeypatch.setenv("FINER_GPU_PRECISION", "tf32, bfloat16")
    assert program.default_rounding() == Rounding("tf32", "bfloat16")
    monkeypatch.setenv("FINER_GPU_PRECISION", "half")
    with pytest.raises(ValueError, match="FINER_GPU_PRECISION: a precision is one of float32, tf32"):
        program.default_rounding()


def test_kernels_that_fail_or_lie_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = network("finer-gauss")._layers(network("finer-gauss").activation)
    x = torch.zeros(1, 2, device=DEVICE)

    def failing(*_arguments: object) -> None:
        raise RuntimeError("no such target")

    launch = program.triton_activation.launch

    def lying(x: Tensor, bias: Tensor, grad: Tensor, z: Tensor, x_grad: Tensor, form: object) -> None:
        launch(x, bias, grad, z, x_grad, form)
        z += 0.1

    for broken, why in ((failing, "no such target"), (lying, "differ")):
        program._agrees.cache_clear()
        monkeypatch.setattr(program.triton_activation, "launch", broken)
        with pytest.warns(UserWarning, match=why):
            chosen = program.program_for(x, chain, EXACT)
        assert not isinstance(chosen, program.TritonLayers)
    monkeypatch.undo()
    program._agrees.cache_clear()
    assert isinstance(program.program_for(x, chain, EXACT), program.TritonLayers)


@pytest.mark.parametrize("method", METHODS)
def test_a_form_stands_for_its_activation(method: str) -> None:
    activation = preset(method, "image").activation
    for each in {activation, activation.for_first_layer()}:
        form = each.kernel_form()
        assert form is not None
        x = torch.linspace(-1, 1, 24).reshape(4, 6)
        assert torch.equal(activation_of_form(form).value(x), each.value(x))
