"""The coordinate network: one class for every activation, real or complex."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from finer_nerfstudio.inr import kernels
from finer_nerfstudio.inr.activations import Activation, as_activation
from finer_nerfstudio.inr.inference import InferenceNetwork
from finer_nerfstudio.inr.initialization import bias_bound, require_bias_range, uniform_, weight_bound


def positional_encoding(x: Float[Tensor, "*batch dim"], frequencies: int) -> Float[Tensor, "*batch encoded"]:
    """``[x, sin(2^i x), cos(2^i x)]`` for ``i < frequencies`` (PEMLP; Mildenhall et al. 2020, eq. 4 without pi).

    Args:
        x: coordinates ``[*batch, dim]``, usually in [-1, 1].
        frequencies: number of octaves; the result has ``dim * (1 + 2 * frequencies)`` features.

    Raises:
        ValueError: for a negative number of octaves.
    """
    if frequencies < 0:
        raise ValueError(f"frequencies must not be negative, it is {frequencies}")
    octaves = 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angles = (x[..., None, :] * octaves[:, None]).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], dim=-1)


class ComplexLinear(nn.Module):
    """The complex affine map ``z -> (A + jB) z + c`` on packed real tensors: ``[*batch, 2 n_in] -> [*batch, 2 n_out]``.

    Computed as one real matrix product with the block matrix ``[[A, -B], [B, A]]``.

    Args:
        n_in: number of complex inputs.
        n_out: number of complex outputs, or of real ones with ``real_output``.
        real_output: give the real part alone, as the last layer of a complex network does.
    """

    def __init__(self, n_in: int, n_out: int, *, real_output: bool = False) -> None:
        super().__init__()
        self.real_output = real_output
        self.weight_real = nn.Parameter(torch.empty(n_out, n_in))
        self.weight_imaginary = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out if real_output else 2 * n_out))

    @property
    def weight(self) -> Float[Tensor, "packed_out packed_in"]:
        """The real block matrix that stands for the complex one."""
        upper = torch.cat([self.weight_real, -self.weight_imaginary], dim=1)
        if self.real_output:
            return upper
        return torch.cat([upper, torch.cat([self.weight_imaginary, self.weight_real], dim=1)], dim=0)

    def forward(self, z: Float[Tensor, "*batch packed_in"]) -> Float[Tensor, "*batch packed_out"]:
        return F.linear(z, self.weight, self.bias)


def draw_weight_(layer: nn.Module, bound: float, generator: torch.Generator | None) -> None:
    """Fill a layer's weights with U(-bound, bound), real and imaginary parts alike."""
    if isinstance(layer, nn.Linear):
        uniform_(layer.weight, bound, generator)
        return
    assert isinstance(layer, ComplexLinear)
    # PyTorch's complex tensors hold real and imaginary parts by turns and are filled in that order.
    pairs = uniform_(torch.empty(*layer.weight_real.shape, 2, device=layer.weight_real.device), bound, generator)
    with torch.no_grad():
        layer.weight_real.copy_(pairs[..., 0])
        layer.weight_imaginary.copy_(pairs[..., 1])


def draw_bias_(layer: nn.Module, bound: float, generator: torch.Generator | None) -> None:
    """Fill a layer's biases with U(-bound, bound), real and imaginary parts alike."""
    if isinstance(layer, nn.Linear):
        uniform_(layer.bias, bound, generator)
        return
    assert isinstance(layer, ComplexLinear)
    pairs = uniform_(torch.empty(layer.weight_real.shape[0], 2, device=layer.bias.device), bound, generator)
    with torch.no_grad():
        layer.bias.copy_(pairs[:, 0] if layer.real_output else pairs.T.flatten())


class CoordinateNetwork(nn.Module):
    """A multi-layer perceptron from coordinates to signal values.

    ``CoordinateNetwork(2, 3, width=256, depth=4, activation=variable_periodic(Sine(30.0)), bias_range=2**-0.5)`` is
    the paper's image network ``2 -> 256 -> 256 -> 256 -> 256 -> 3``.

    Args:
        in_dim: number of coordinates.
        out_dim: number of signal values.
        width: units of a hidden layer; a complex activation gives ``int(width / sqrt(2))`` complex units, so that the
            real parameter counts match.
        depth: number of hidden layers, each followed by the activation.
        activation: the activation of every hidden layer, or any elementwise function of a tensor; weights are
            initialised to suit it.
        bias_range: k of FINER++, first-layer biases are drawn from U(-k, k); None leaves PyTorch's default.
        encoding_frequencies: octaves of positional encoding in front of the first layer, 0 for none.
        generator: source of the initial weights, for reproducible networks.

    Raises:
        ValueError: for sizes below one, negative octaves, and a bias range that is not positive.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        width: int,
        depth: int,
        activation: Activation | Callable[[Tensor], Tensor],
        bias_range: float | None = None,
        encoding_frequencies: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_dim": in_dim, "out_dim": out_dim, "width": width, "depth": depth}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"CoordinateNetwork: {name} must be at least 1, not {size}")
        if encoding_frequencies < 0:
            raise ValueError(
                f"CoordinateNetwork: encoding_frequencies must not be negative, it is {encoding_frequencies}"
            )
        if bias_range is not None:
            require_bias_range(bias_range)
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.width = width
        self.depth = depth
        self.activation = activation = as_activation(activation)
        self.bias_range = bias_range
        self.encoding_frequencies = encoding_frequencies
        self.units = max(1, int(width / math.sqrt(2))) if activation.complex_valued else width
        self.first = nn.Linear(in_dim * (1 + 2 * encoding_frequencies), self.units)
        if activation.complex_valued:
            self.hidden = nn.ModuleList(ComplexLinear(self.units, self.units) for _ in range(depth - 1))
            self.last: nn.Linear | ComplexLinear = ComplexLinear(self.units, out_dim, real_output=True)
        else:
            self.hidden = nn.ModuleList(nn.Linear(self.units, self.units) for _ in range(depth - 1))
            self.last = nn.Linear(self.units, out_dim)
        self.reset_parameters(bias_range=bias_range, generator=generator)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.first.weight.device

    def reset_parameters(self, *, bias_range: float | None, generator: torch.Generator | None = None) -> None:
        """Draw all weights and biases anew; see :mod:`finer_nerfstudio.inr.initialization` for the distributions.

        Random numbers are drawn in the order of the usual PyTorch construction: each layer with PyTorch's default
        first, and then again what the method draws differently. So a seed gives the network that it gives to such
        code, of which the authors' is an instance, and results can be compared seed by seed.
        """
        omega = self.activation.init_omega
        for layer in (self.first, *self.hidden, self.last):
            is_first = layer is self.first
            n_in = self.first.in_features if is_first else self.units
            draw_weight_(layer, weight_bound(n_in, is_first=is_first, omega=None), generator)
            draw_bias_(layer, bias_bound(n_in, is_first=is_first, bias_range=None), generator)
            if omega is not None:
                draw_weight_(layer, weight_bound(n_in, is_first=is_first, omega=omega), generator)
            if is_first and bias_range is not None:
                draw_bias_(layer, bias_bound(n_in, is_first=True, bias_range=bias_range), generator)

    def forward(
        self,
        coords: Float[Tensor, "*batch in_dim"],
        *,
        neuron_mask: Float[Tensor, " units"] | None = None,
        scale_gradient: bool | None = None,
    ) -> Float[Tensor, "*batch out_dim"]:
        """Evaluate the signal; the arguments are those of :meth:`hidden_features`."""
        return self._evaluate(coords, with_readout=True, neuron_mask=neuron_mask, scale_gradient=scale_gradient)

    def hidden_features(
        self,
        coords: Float[Tensor, "*batch in_dim"],
        *,
        neuron_mask: Float[Tensor, " units"] | None = None,
        scale_gradient: bool | None = None,
    ) -> Float[Tensor, "*batch hidden"]:
        """Evaluate everything but the last affine map.

        Args:
            coords: coordinates ``[*batch, in_dim]``, in the range that the network was trained on, usually [-1, 1].
            neuron_mask: ``[units]`` factors for the outputs of the first-layer neurons; zero silences a neuron.
            scale_gradient: overrides the activation's own setting. Pass True where the gradient with respect to
                ``coords`` has to be the true one, as for normals.
        """
        return self._evaluate(coords, with_readout=False, neuron_mask=neuron_mask, scale_gradient=scale_gradient)

    def first_layer(self, coords: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch hidden"]:
        """Return the outputs of the first hidden layer at coordinates ``[*batch, in_dim]``."""
        return kernels.evaluate_layers(self._encoded(coords), self._layers(self.activation)[:1])

    def readout(
        self, features: Float[Tensor, "*batch hidden"], outputs: slice = slice(None)
    ) -> Float[Tensor, "*batch chosen"]:
        """Apply the last affine map, or only some of its outputs: the rest is then not computed.

        Args:
            features: what :meth:`hidden_features` gave.
            outputs: which of the ``out_dim`` signal values are wanted.
        """
        return F.linear(features, self.last.weight[outputs], self.last.bias[outputs])

    def forward_fused_input(
        self,
        weight: Float[Tensor, "features inner"],
        bias: Float[Tensor, " features"],
        inner: Float[Tensor, "*batch inner"],
        rest: Float[Tensor, "*batch rest"],
    ) -> Float[Tensor, "*batch out_dim"]:
        """Return what the network gives at ``[inner weight^T + bias, rest]``, its first layer fused with that map.

        Two affine maps one after the other are one, so that a network which reads another one's output costs a matrix
        product less than evaluating both.

        Args:
            weight: of the affine map that gives the leading inputs.
            bias: of the same.
            inner: what that map reads.
            rest: the other inputs.

        Raises:
            ValueError: if the network encodes its input, which then is no affine map's.
        """
        if self.encoding_frequencies:
            raise ValueError("CoordinateNetwork: a network that encodes its input cannot take over an affine map")
        first, *others = self._layers(self.activation)
        leading, trailing = first.weight.split([len(weight), first.weight.shape[1] - len(weight)], dim=1)
        merged = replace(
            first,
            weight=torch.cat([leading @ weight, trailing], dim=1),
            bias=torch.addmv(first.bias, leading, bias),
            # It reads no coordinates, whose gradients need all of their digits.
            full_precision=False,
            full_precision_forward=True,
        )
        return kernels.evaluate_layers(torch.cat([inner, rest.to(inner.dtype)], dim=-1), [merged, *others])

    def compile_for_inference(self) -> InferenceNetwork:
        """Return the network as it is now, a function for rendering: no autograd, bounded memory, fastest kernels."""
        return InferenceNetwork(self._encoded, self._layers(self.activation))

    def _evaluate(
        self, coords: Tensor, *, with_readout: bool, neuron_mask: Tensor | None, scale_gradient: bool | None
    ) -> Tensor:
        activation = self.activation
        if scale_gradient is not None:
            activation = activation.with_scale_gradient(scale_gradient)
        layers = self._layers(activation)
        if not with_readout:
            del layers[-1]
        x = self._encoded(coords)
        if neuron_mask is None:
            return kernels.evaluate_layers(x, layers)
        z = kernels.evaluate_layers(x, layers[:1])
        z = z * (neuron_mask.repeat(2) if activation.complex_valued else neuron_mask)
        return kernels.evaluate_layers(z, layers[1:]) if layers[1:] else z

    def _encoded(self, coords: Tensor) -> Tensor:
        if coords.dim() == 0 or coords.shape[-1] != self.in_dim:
            raise ValueError(
                f"CoordinateNetwork: coordinates must be [*batch, {self.in_dim}], not {list(coords.shape)}"
            )
        coords = coords.to(self.first.weight.dtype)
        return positional_encoding(coords, self.encoding_frequencies) if self.encoding_frequencies else coords

    def _layers(self, activation: Activation) -> list[kernels.Layer]:
        hidden = [layer for layer in self.hidden if isinstance(layer, (nn.Linear, ComplexLinear))]
        return [
            # It turns coordinates into phases: half precision there would blur the signal itself.
            kernels.Layer(self.first.weight, self.first.bias, activation.for_first_layer(), full_precision=True),
            *(
                kernels.Layer(layer.weight, layer.bias, activation, complex_valued=isinstance(layer, ComplexLinear))
                for layer in hidden
            ),
            kernels.Layer(self.last.weight, self.last.bias, None),
        ]
