"""Networks that grow in width, so that every prefix of their weights is a working network (FINER++ paper, §5.4).

A widening adds units to every hidden layer. New units read old and new ones, old units never read new ones, and the
output layer adds what the new units say to what the old ones said. So nothing that old units compute ever changes:
they are frozen, and their activations are constants while the new units are trained (Cho et al. 2022).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from finer_nerfstudio.inr import kernels
from finer_nerfstudio.inr.activations import Activation, as_activation
from finer_nerfstudio.inr.initialization import bias_bound, require_bias_range, shell_, weight_bound
from finer_nerfstudio.inr.network import ComplexLinear, CoordinateNetwork, draw_bias_, draw_weight_, positional_encoding


def bias_shells(bias_range: float | None, stages: int) -> list[tuple[float, float] | None]:
    """Return where the first-layer biases of each stage come from: magnitudes from ``i k`` to ``(i + 1) k`` in stage i.

    So stage 0 is the FINER++ network of bias range k, and every widening adds higher frequencies (FINER++ paper,
    §5.4). None stands for PyTorch's default.

    Args:
        bias_range: k, or None for a base method.
        stages: how many.

    Raises:
        ValueError: for a bias range that is not positive, and for no stages.
    """
    if bias_range is not None:
        require_bias_range(bias_range)
    if stages < 1:
        raise ValueError(f"stages must be at least 1, not {stages}")
    return [None if bias_range is None else (i * bias_range, (i + 1) * bias_range) for i in range(stages)]


@dataclass(frozen=True)
class FrozenPart:
    """Features of the units before a stage at some coordinates: constants while that stage is trained.

    Attributes:
        features: for each hidden layer but the last ``[rows, old features]``.
        output: ``[rows, out_dim]``.
    """

    features: list[Float[Tensor, "rows old"]]
    output: Float[Tensor, "rows out_dim"]

    def __getitem__(self, rows: slice) -> FrozenPart:
        return FrozenPart([layer[rows] for layer in self.features], self.output[rows])


class GrowthStage(nn.Module):
    """The units that one widening adds, with everything that they read and the output columns that read them.

    Attributes:
        units: how many in each hidden layer; complex ones count once.
        first: reads the (encoded) coordinates.
        hidden: read the units of all earlier stages and then those of this one.
        last: reads the units of this stage; only the first stage has an output bias.
        bias_shell: magnitudes that the first layer's biases were drawn from.
    """

    def __init__(
        self,
        n_in: int,
        out_dim: int,
        *,
        earlier: Sequence[int],
        units: int,
        depth: int,
        complex_valued: bool,
        bias_shell: tuple[float, float] | None,
    ) -> None:
        super().__init__()
        self.units = units
        self.bias_shell = bias_shell
        self.complex_valued = complex_valued
        # Columns of each source: a complex layer's features are packed stage by stage.
        starts = [0]
        for size in (*earlier, units):
            starts.append(starts[-1] + size)
        self._sources = [slice(start, stop) for start, stop in itertools.pairwise(starts)]
        self.first = nn.Linear(n_in, units)
        self.hidden = nn.ModuleList()
        for _ in range(depth - 1):
            self.hidden.append(ComplexLinear(starts[-1], units) if complex_valued else nn.Linear(starts[-1], units))
        self.last: nn.Linear | ComplexLinear = (
            ComplexLinear(units, out_dim, real_output=True) if complex_valued else nn.Linear(units, out_dim)
        )
        if earlier:
            del self.last.bias
            self.last.register_parameter("bias", None)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.first.weight.device

    @property
    def total_units(self) -> int:
        """Units of a hidden layer up to this stage."""
        return self._sources[-1].stop

    def reset_parameters(self, activation: Activation, generator: torch.Generator | None) -> None:
        """Draw weights like those of a network that is this wide, and biases from the stage's shell.

        What new units read of each other and what the output reads of them starts at zero, unless this is the first
        stage: the network's output is then the same as before the widening.
        """
        omega = activation.init_omega
        for layer in (self.first, *self.hidden, self.last):
            is_first = layer is self.first
            n_in = self.first.in_features if is_first else self.total_units
            draw_weight_(layer, weight_bound(n_in, is_first=is_first, omega=omega), generator)
            if layer.bias is not None:
                draw_bias_(layer, bias_bound(n_in, is_first=is_first, bias_range=None), generator)
            if is_first and self.bias_shell is not None:
                shell_(self.first.bias, *self.bias_shell, generator)
        if len(self._sources) > 1:
            with torch.no_grad():
                for layer in self.hidden:
                    for weight in _weights(layer):
                        weight[:, self._sources[-1]] = 0.0
                for weight in _weights(self.last):
                    weight.zero_()

    def forward(
        self, inputs: Float[Tensor, "rows n_in"], before: FrozenPart | None, activation: Activation
    ) -> tuple[list[Float[Tensor, "rows new"]], Float[Tensor, "rows out_dim"]]:
        """Features of this stage's units in every hidden layer, and the output of all stages so far.

        Args:
            inputs: (encoded) coordinates.
            before: what all earlier stages give there; None for the first stage.
            activation: of every hidden layer.
        """
        features = self.features(inputs, None if before is None else before.features, activation)
        y = F.linear(features[-1], self.last.weight, self.last.bias)
        return features, y if before is None else before.output + y

    def features(
        self,
        inputs: Float[Tensor, "rows n_in"],
        before: Sequence[Float[Tensor, "rows old"]] | None,
        activation: Activation,
    ) -> list[Float[Tensor, "rows new"]]:
        """The first half of :meth:`forward`.

        Args:
            inputs: (encoded) coordinates.
            before: features of all earlier stages in every hidden layer but the last; None for the first stage.
            activation: of every hidden layer.
        """
        first = kernels.Layer(self.first.weight, self.first.bias, activation.for_first_layer(), full_precision=True)
        x = kernels.evaluate_layers(inputs, [first])
        features = [x]
        for i, layer in enumerate(self.hidden):
            assert isinstance(layer, (nn.Linear, ComplexLinear))
            own = _matrix(layer, self._sources[-1:])
            if before is None:
                z = F.linear(x, own, layer.bias)
            else:
                # Two products, not one of everything side by side: gradients with respect to constants are not wanted.
                z = F.linear(before[i], _matrix(layer, self._sources[:-1]), layer.bias)
                z = torch.addmm(z, x, own.t()) if z.dtype == x.dtype == own.dtype else z + F.linear(x, own)
            x = kernels.activate(z, activation)
            features.append(x)
        return features


class GrowingNetwork(nn.Module):
    """A coordinate network made of stages, each of which widens it.

    ``network.grow(30); train; network.grow(69); train; ...`` where only the newest stage has anything to learn.
    ``network(coords, stages=1)`` is then, to the bit, what it was before the second widening.

    Args:
        in_dim: number of coordinates.
        out_dim: number of signal values.
        depth: number of hidden layers.
        activation: of every hidden layer.
        encoding_frequencies: octaves of positional encoding, 0 for none.

    Attributes:
        widths: of all stages.
        active: how many stages take part where nothing else is said: all, unless it is set to fewer, of a network that
            was widened before it is trained.

    Raises:
        ValueError: for sizes below one.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        depth: int,
        activation: Activation | Callable[[Tensor], Tensor],
        encoding_frequencies: int = 0,
    ) -> None:
        super().__init__()
        for name, size in {"in_dim": in_dim, "out_dim": out_dim, "depth": depth}.items():
            if size < 1:
                raise ValueError(f"GrowingNetwork: {name} must be at least 1, not {size}")
        if encoding_frequencies < 0:
            raise ValueError(f"GrowingNetwork: encoding_frequencies must not be negative, it is {encoding_frequencies}")
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.depth = depth
        self.activation = activation = as_activation(activation)
        self.encoding_frequencies = encoding_frequencies
        self.widths: list[int] = []
        self.active = 0
        self._stages = nn.ModuleList()

    @property
    def stages(self) -> list[GrowthStage]:
        """From the narrow network to the newest widening."""
        return [stage for stage in self._stages if isinstance(stage, GrowthStage)]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.stages[0].device

    def grow(
        self,
        width: int,
        *,
        bias_shell: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> GrowthStage:
        """Widen every hidden layer to ``width`` units in all, freeze the units so far, and give the new ones.

        The output stays what it is until the new units are trained. A complex activation gives
        ``int(width / sqrt(2))`` complex units, like :class:`CoordinateNetwork`.

        Args:
            width: of every hidden layer from now on.
            bias_shell: first-layer biases are drawn with magnitudes between these two, see :func:`bias_shells`;
                None for PyTorch's default.
            generator: source of the initial weights.

        Raises:
            ValueError: where the network is as wide already, and for a shell that is not one.
        """
        stages = self.stages
        units = units_of(width, self.activation)
        before = stages[-1].total_units if stages else 0
        if units <= before or (self.widths and width <= self.widths[-1]):
            raise ValueError(
                f"GrowingNetwork: width must add a unit to the {before} that are there, and {width} does not"
            )
        if bias_shell is not None and not (0 <= bias_shell[0] < bias_shell[1] < math.inf):
            raise ValueError(f"GrowingNetwork: bias_shell must be two increasing numbers from 0 on, not {bias_shell}")
        like = stages[0].first.weight if stages else torch.empty(0)
        stage = GrowthStage(
            self.in_dim * (1 + 2 * self.encoding_frequencies),
            self.out_dim,
            earlier=[stage.units for stage in stages],
            units=units - before,
            depth=self.depth,
            complex_valued=self.activation.complex_valued,
            bias_shell=bias_shell,
        )
        stage.reset_parameters(self.activation, generator)
        self._stages.requires_grad_(False)
        self._stages.append(stage.to(device=like.device, dtype=like.dtype))
        self.widths.append(width)
        self.active = len(self.widths)
        return stage

    def forward(
        self,
        coords: Float[Tensor, "*batch in_dim"],
        *,
        stages: int | None = None,
        scale_gradient: bool | None = None,
    ) -> Float[Tensor, "*batch out_dim"]:
        """Evaluate the signal.

        Args:
            coords: coordinates ``[*batch, in_dim]``, in the range that the network was trained on, usually [-1, 1].
            stages: use only so many, from the first on; the active ones unless given.
            scale_gradient: overrides the activation's own setting.
        """
        return self.frozen_part(coords, stages=stages, scale_gradient=scale_gradient).output.unflatten(
            0, coords.shape[:-1]
        )

    def frozen_part(
        self,
        coords: Float[Tensor, "*batch in_dim"],
        *,
        stages: int | None = None,
        scale_gradient: bool | None = None,
    ) -> FrozenPart:
        """Return the features of the first ``stages`` stages at coordinates, leading dimensions flattened to rows."""
        activation = self.activation
        if scale_gradient is not None:
            activation = activation.with_scale_gradient(scale_gradient)
        chosen, inputs = self._chosen(stages), self.encoded(coords)
        part: FrozenPart | None = None
        for stage in chosen:
            features, output = stage(inputs, part, activation)
            needed = features[:-1]
            if part is not None:
                needed = [torch.cat(pair, dim=1) for pair in zip(part.features, needed, strict=True)]
            part = FrozenPart(needed, output)
        assert part is not None
        return part

    def hidden_features(
        self, coords: Float[Tensor, "*batch in_dim"], *, stages: int | None = None
    ) -> Float[Tensor, "*batch hidden"]:
        """Evaluate everything but the last affine map: the last hidden layer's features, stage after stage.

        Args:
            coords: coordinates ``[*batch, in_dim]``.
            stages: use only so many, from the first on; the active ones unless given.
        """
        chosen, inputs = self._chosen(stages), self.encoded(coords)
        known: list[Tensor] | None = None
        for stage in chosen:
            features = stage.features(inputs, None if known is None else known[:-1], self.activation)
            if known is not None:
                features = [torch.cat(pair, dim=1) for pair in zip(known, features, strict=True)]
            known = features
        assert known is not None
        return known[-1].unflatten(0, coords.shape[:-1])

    def readout(
        self, features: Float[Tensor, "*batch hidden"], outputs: slice = slice(None)
    ) -> Float[Tensor, "*batch chosen"]:
        """Apply the last affine map, or only some of its outputs: the rest is then not computed.

        Args:
            features: what :meth:`hidden_features` gave, of however many stages.
            outputs: which of the ``out_dim`` signal values are wanted.
        """
        count, columns, y = features.shape[-1], 0, None
        for stage in self.stages:
            weight, bias = stage.last.weight[outputs], stage.last.bias
            start, columns = columns, columns + weight.shape[1]
            if columns > count:
                break
            part = F.linear(features[..., start:columns], weight, None if bias is None else bias[outputs])
            y = part if y is None else y + part
            if columns == count:
                return y
        raise ValueError(f"GrowingNetwork: {count} features are not those of whole stages")

    def train_only(self, stage: int) -> None:
        """Freeze all stages but one, counted from 0."""
        for i, part in enumerate(self.stages):
            part.requires_grad_(i == stage)

    def encoded(self, coords: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "rows n_in"]:
        """Return the input of the first layer: coordinates, encoded where the network encodes them.

        Raises:
            ValueError: where they are of another dimension.
        """
        if coords.dim() == 0 or coords.shape[-1] != self.in_dim:
            raise ValueError(f"GrowingNetwork: coordinates must be [*batch, {self.in_dim}], not {list(coords.shape)}")
        rows = coords.reshape(-1, self.in_dim).to(self.stages[0].first.weight.dtype)
        return positional_encoding(rows, self.encoding_frequencies) if self.encoding_frequencies else rows

    def merged(self, stages: int | None = None) -> CoordinateNetwork:
        """Return the first ``stages`` stages as one network, with zeros where old units do not read new ones.

        Equal to :meth:`forward` up to rounding, and what to evaluate at many coordinates.
        """
        chosen = self._chosen(stages)
        network = CoordinateNetwork(
            self.in_dim,
            self.out_dim,
            width=self.widths[len(chosen) - 1],
            depth=self.depth,
            activation=self.activation,
            encoding_frequencies=self.encoding_frequencies,
        ).to(device=self.device, dtype=chosen[0].first.weight.dtype)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            for stage in chosen:
                stop = stage.total_units
                units = slice(stop - stage.units, stop)
                network.first.weight[units] = stage.first.weight
                network.first.bias[units] = stage.first.bias
                for layer, block in zip(network.hidden, stage.hidden, strict=True):
                    for weight, rows in zip(_weights(layer), _weights(block), strict=True):
                        weight[units, :stop] = rows
                    # A complex layer's biases are packed: real parts, then imaginary parts.
                    parts = 2 if stage.complex_valued else 1
                    layer.bias.view(parts, -1)[:, units] = block.bias.view(parts, -1)  # pyright: ignore
                for weight, columns in zip(_weights(network.last), _weights(stage.last), strict=True):
                    weight[:, units] = columns
                if stage.last.bias is not None:
                    network.last.bias.copy_(stage.last.bias)
        return network

    def _chosen(self, stages: int | None) -> list[GrowthStage]:
        chosen = self.stages[: self.active if stages is None else stages]
        if not chosen:
            raise ValueError("GrowingNetwork: it has no units yet; call grow() first")
        return chosen


def units_of(width: int, activation: Activation) -> int:
    """Units of a hidden layer that is ``width`` wide: complex ones count twice, so there are fewer."""
    return max(1, int(width / math.sqrt(2))) if activation.complex_valued else width


def slim_output(
    network: CoordinateNetwork, coords: Float[Tensor, "*batch in_dim"], width: int
) -> Float[Tensor, "*batch out_dim"]:
    """Return the output of the first ``width`` units of every hidden layer: a slimmable network's narrow self.

    Here old units do read new ones once the network is run wider, so that all widths have to be trained together (Yu
    et al. 2019); Cho et al. (2022) compare growth with this.

    Args:
        network: without positional encoding.
        coords: coordinates ``[*batch, in_dim]``.
        width: at most the network's own.
    """
    units, activation = units_of(width, network.activation), network.activation
    own = [slice(0, units)]
    layers = [kernels.Layer(network.first.weight[:units], network.first.bias[:units], activation.for_first_layer())]
    for layer in network.hidden:
        assert isinstance(layer, (nn.Linear, ComplexLinear))
        parts = 2 if activation.complex_valued else 1
        bias = layer.bias.view(parts, -1)[:, :units].flatten()
        layers.append(kernels.Layer(_matrix(layer, own, rows=own[0]), bias, activation))
    last = _matrix(network.last, own)
    return kernels.evaluate_layers(coords, [*layers, kernels.Layer(last, network.last.bias, None)])


def _weights(layer: nn.Module) -> list[Tensor]:
    if isinstance(layer, ComplexLinear):
        return [layer.weight_real, layer.weight_imaginary]
    assert isinstance(layer, nn.Linear)
    return [layer.weight]


def _matrix(
    layer: nn.Linear | ComplexLinear, sources: Sequence[slice], rows: slice = slice(None)
) -> Float[Tensor, "out_features in_features"]:
    """The real matrix that reads the features of some sources, each packed by itself and one after the other."""
    if isinstance(layer, nn.Linear):
        return layer.weight[rows, sources[0].start : sources[-1].stop]
    blocks = []
    for source in sources:
        real, imaginary = layer.weight_real[rows, source], layer.weight_imaginary[rows, source]
        upper = torch.cat([real, -imaginary], dim=1)
        blocks.append(upper if layer.real_output else torch.cat([upper, torch.cat([imaginary, real], dim=1)]))
    return torch.cat(blocks, dim=1)
