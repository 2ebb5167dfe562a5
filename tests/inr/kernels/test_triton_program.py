"""Whole chains by Triton kernels: on a GPU, or in Triton's interpreter (see test_triton_interpreter.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from finer_nerfstudio import METHODS, CoordinateNetwork, preset
from finer_nerfstudio.inr.activations import activation_of_form
from finer_nerfstudio.inr.kernels import layers

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


def step(net: CoordinateNetwork, x: Tensor, chosen: layers.ChainProgram | None) -> list[Tensor]:
    """Output and gradients of everything; by plain operations without a program."""
    x = x.clone().requires_grad_()
    chain = net._layers(net.activation)
    encoded = net._encoded(x)
    out = layers.plain_chain(encoded, chain) if chosen is None else layers.fused_chain(encoded, chain, chosen)
    weights = torch.linspace(-1, 1, out.numel(), device=DEVICE).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *net.parameters()])]


@pytest.mark.parametrize("wanted", ["activations", "networks"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_that_of_plain_operations(method: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINER_GPU_KERNELS", wanted)
    torch.set_float32_matmul_precision("high" if wanted == "networks" else "highest")
    net = network(method)
    x = torch.rand(70, 2, generator=torch.Generator().manual_seed(2)).to(DEVICE) * 2 - 1
    encoded = net._encoded(x)
    chosen = program.program_for(encoded, net._layers(net.activation), None)
    assert isinstance(chosen, program.TritonNetworks) == (wanted == "networks")
    expected = step(net, x, None)
    # On a GPU "networks" rounds operands to 11 significant bits, which bumps as narrow as published ones magnify.
    tolerance = 0.2 if DEVICE.type == "cuda" and wanted == "networks" else 1e-3
    for found, reference in zip(step(net, x, chosen), expected, strict=True):
        assert float((found - reference).norm()) <= tolerance * float(reference.norm()) + 1e-7


def test_what_does_not_fit_goes_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINER_GPU_KERNELS", "networks")
    torch.set_float32_matmul_precision("high")
    x = torch.zeros(1, 2, device=DEVICE)
    wide = network("finer-sine", 160)._layers(network("finer-sine").activation)
    assert not isinstance(program.program_for(x, wide, None), program.TritonNetworks), "to be trained"
    with torch.no_grad():
        assert isinstance(program.program_for(x, wide, None), program.TritonNetworks)
        assert not isinstance(program.program_for(x, wide[:-1], None), program.TritonNetworks), "no affine end"
        assert not isinstance(program.program_for(x, wide, torch.float16), program.TritonNetworks)
        torch.set_float32_matmul_precision("highest")
        assert not isinstance(program.program_for(x, wide, None), program.TritonNetworks)
        assert isinstance(program.program_for(x, wide, torch.bfloat16), program.TritonNetworks)


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
            chosen = program.program_for(x, chain, None)
        assert not isinstance(chosen, program.TritonLayers)
    monkeypatch.undo()
    program._agrees.cache_clear()
    assert isinstance(program.program_for(x, chain, None), program.TritonLayers)


@pytest.mark.parametrize("method", METHODS)
def test_a_form_stands_for_its_activation(method: str) -> None:
    activation = preset(method, "image").activation
    for each in {activation, activation.for_first_layer()}:
        form = each.kernel_form()
        assert form is not None
        x = torch.linspace(-1, 1, 24).reshape(4, 6)
        assert torch.equal(activation_of_form(form).value(x), each.value(x))
