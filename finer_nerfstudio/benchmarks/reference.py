"""FINER++ networks as one would write them in PyTorch from the formulas."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finer_nerfstudio.inr.activations import Activation, Gauss, ReLU, Sine, VariablePeriodic, Wavelet
from finer_nerfstudio.inr.network import CoordinateNetwork


class PlainNetwork(nn.Module):
    """A coordinate network in plain PyTorch, with the weights of one of ours; complex layers in complex numbers."""

    def __init__(self, network: CoordinateNetwork) -> None:
        super().__init__()
        self.activation = network.activation
        self.frequencies = network.encoding_frequencies
        layers = [network.first, *network.hidden, network.last]
        self.weights = nn.ParameterList(plain_weight(layer) for layer in layers)
        self.biases = nn.ParameterList(plain_bias(layer) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.frequencies:
            angles = torch.cat([2.0**i * x for i in range(self.frequencies)], dim=-1)
            order = angles.unflatten(-1, (self.frequencies, x.shape[-1])).flatten(-2)
            x = torch.cat([x, torch.sin(order), torch.cos(order)], dim=-1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(x, weight, bias)
            if i < len(self.weights) - 1:
                x = plain_activation(x, self.activation)
        return x.real if x.is_complex() else x


def plain_weight(layer: nn.Module) -> nn.Parameter:
    """A copy of a layer's weight, complex if the layer is."""
    if isinstance(layer, nn.Linear):
        return nn.Parameter(layer.weight.detach().clone())
    return nn.Parameter(torch.complex(layer.weight_real.detach(), layer.weight_imaginary.detach()))  # pyright: ignore


def plain_bias(layer: nn.Module) -> nn.Parameter:
    """A copy of a layer's bias, complex if the layer is."""
    bias: Tensor = layer.bias.detach().clone()  # pyright: ignore
    if isinstance(layer, nn.Linear):
        return nn.Parameter(bias)
    if layer.real_output:
        return nn.Parameter(torch.complex(bias, torch.zeros_like(bias)))
    return nn.Parameter(torch.complex(*bias.chunk(2)))


def plain_activation(x: Tensor, activation: Activation) -> Tensor:
    """The formulas, alpha held constant in the backward pass as the published numbers have it."""
    if isinstance(activation, VariablePeriodic):
        with torch.no_grad():
            alpha = x.real.abs() + 1 if x.is_complex() else x.abs() + 1
            alpha_imaginary = x.imag.abs() + 1 if x.is_complex() else alpha
        x = torch.complex(alpha * x.real, alpha_imaginary * x.imag) if x.is_complex() else alpha * x
        base, omega_f = activation.base, activation.omega_f
        if omega_f is None:
            return plain_base(x, base, 1.0)
        return plain_base(torch.sin(omega_f * x), base, 1.0 / omega_f)
    return plain_base(x, activation, 1.0)


def plain_base(x: Tensor, base: Activation, factor: float) -> Tensor:
    """A base activation whose parameters are multiplied by ``factor``."""
    if isinstance(base, Sine):
        return torch.sin(factor * base.omega_0 * x)
    if isinstance(base, Gauss):
        return torch.exp(-((factor * base.s_0 * x) ** 2))
    if isinstance(base, Wavelet):
        return torch.exp(1j * factor * base.omega_0 * x - (factor * base.s_0 * x).abs().square())
    if isinstance(base, ReLU):
        return torch.relu(x)
    return base.rescaled(factor).value(x)


def plain_relu_network(sizes: list[int]) -> nn.Sequential:
    """Linear maps of these sizes with ReLU in between."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
