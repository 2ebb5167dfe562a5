"""The networks that are analysed: a method's fresh network, one with an activation of one's own, or a saved model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.checkpoint import load_model
from finer_nerfstudio.inr.activations import variable_periodic
from finer_nerfstudio.inr.description import describe_activation
from finer_nerfstudio.inr.methods import Preset, preset
from finer_nerfstudio.inr.network import CoordinateNetwork
from finer_nerfstudio.runs.options import Method, device_named, require_seed, require_sizes
from finer_nerfstudio.tasks.image.files import SourceImage, read_image, sample_image

LEARNING_RATE_OF_OWN = 5e-4
"""Adam's at the first step, for activations that no learning rate was published for."""

SMALL_SCALES: dict[str, dict[str, float]] = {
    "siren": {"omega_0": 1.0},
    "finer-sine": {"omega_0": 1.0},
    "gauss": {"s_0": 2.5},
    "finer-gauss": {"s_0": 2.5, "omega_f": 2.5},
    "wire": {"omega_0": 5.0, "s_0": 2.5},
    "finer-wavelet": {"omega_0": 5.0, "s_0": 2.5, "omega_f": 2.5},
}
"""Scales at which the paper shows what the bias range does: those for images hide it behind their own frequencies."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Whose network is looked at; hyper-parameters are those published for images unless given."""

    method: Method = "finer-sine"
    """Activation and initialisation."""
    activation: str | None = None
    """An activation of your own instead, made variable-periodic: tanh, sinc or another function of torch, or
    module:function. Learning rate 5e-4."""
    scales: Literal["published", "small"] = "published"
    """Scale parameters where none is given: those published for images, or the small ones with which the paper shows
    what the bias range does (omega_0 1; s_0 2.5; omega_0 5 and s_0 2.5; omega_f 2.5)."""
    omega_0: float | None = None
    """Frequency of the sine or the wavelet."""
    s_0: float | None = None
    """Inverse width of the Gaussian or of the wavelet's envelope."""
    omega_f: float | None = None
    """Frequency of FINER++'s inner sine (not of the sine family)."""
    bias_range: float | None = None
    """k: first-layer biases are drawn from U(-k, k)."""
    scale_gradient: bool | None = None
    """Differentiate through alpha(x) = |x| + 1 in the backward pass."""
    width: int = 256
    """Units of a hidden layer."""
    depth: int = 4
    """Hidden layers."""
    model: Path | None = None
    """model.safetensors of a fit (finer fit-image, finer fit-sdf): its network after training, and before it,
    drawn again from its seed. The options above are then those of the fit."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""


@dataclass(frozen=True)
class Subject:
    """A network, and what training made of it.

    Attributes:
        name: of the method, or of what it was made with.
        initial: before training.
        trained: after training, None where it was not.
        description: the network's hyper-parameters as JSON values.
    """

    name: str
    initial: CoordinateNetwork
    trained: CoordinateNetwork | None
    description: dict[str, Any]

    def states(self) -> dict[str, CoordinateNetwork]:
        """The networks by "initial" and, if there is one, "trained"."""
        return {"initial": self.initial, **({} if self.trained is None else {"trained": self.trained})}


def preset_for(options: NetworkOptions) -> Preset:
    """Hyper-parameters of the method, or of one's own activation, with those of the options in their place.

    Raises:
        UsageError: for a parameter that the activation does not have, or a value out of range.
    """
    own = None if options.activation is None else function_named(options.activation)
    if own is not None and (options.omega_0 is not None or options.s_0 is not None):
        raise UsageError(
            f"{options.activation}: an activation of your own has no omega_0 and no s_0; its frequency is "
            f"{argument('omega_f')}."
        )
    try:
        if own is None:
            scaled = preset(options.method, "image")
            if options.scales == "small":
                scaled = scaled.overridden(**SMALL_SCALES.get(options.method, {}))  # pyright: ignore[reportArgumentType]
            return scaled.overridden(
                omega_0=options.omega_0,
                s_0=options.s_0,
                omega_f=options.omega_f,
                bias_range=options.bias_range,
                scale_gradient=options.scale_gradient,
            )
        periodic = variable_periodic(own, omega_f=options.omega_f, scale_gradient=bool(options.scale_gradient))
        return Preset(periodic, LEARNING_RATE_OF_OWN, 1.0 if options.bias_range is None else options.bias_range)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{options.activation or options.method}: {error}.") from error


def function_named(name: str) -> Callable[[Tensor], Tensor]:
    """An elementwise function of a tensor.

    Args:
        name: ``module:function`` of a module that is installed or in the working directory, or the name of one of
            torch's (``tanh``, ``sinc``, ``softplus``).

    Raises:
        UsageError: where there is none, or it is not elementwise.
    """
    module, _, function = name.rpartition(":")
    if module and "" not in sys.path and str(Path.cwd()) not in sys.path:
        # A script has its own folder there instead of the one that it was called from.
        sys.path.append(str(Path.cwd()))
    places = [module] if module else ["torch", "torch.nn.functional"]
    for place in places:
        try:
            found = getattr(importlib.import_module(place), function, None)
        except ImportError as error:
            raise UsageError(f"{argument('activation')} {name}: there is no module {place} ({error}).") from error
        except Exception as error:  # whatever a module of the user's does while it is imported
            raise UsageError(f"{argument('activation')} {name}: {place} cannot be imported ({error!r}).") from error
        if callable(found):
            function_found: Callable[[Tensor], Any] = found
            _require_activation(function_found, f"{argument('activation')} {name}: {place}.{function}")
            return function_found
    raise UsageError(f"{argument('activation')} {name}: there is no function {function} in {' or '.join(places)}.")


def _require_activation(function: Callable[[Tensor], Any], name: str) -> None:
    probe = torch.linspace(-1.0, 1.0, 6).reshape(2, 3).requires_grad_()
    try:
        value = function(probe)
        elementwise = isinstance(value, Tensor) and torch.allclose(
            value[:1], function(probe[:1]), rtol=0.0, atol=0.0, equal_nan=True
        )
    except (TypeError, ValueError, RuntimeError, IndexError):
        elementwise = False
    if not elementwise:
        raise UsageError(f"{name} is no function of each number by itself.")
    if not bool(value.isfinite().all()):
        raise UsageError(f"{name} is not finite everywhere between -1 and 1, where neurons are.")
    if not value.requires_grad:
        raise UsageError(f"{name} has no derivative, without which nothing is trained.")


def name_of(options: NetworkOptions) -> str:
    """Return the network's name: that of its file, its activation or its method."""
    if options.model is not None:
        return options.model.stem if options.model.stem != "model" else options.model.resolve().parent.name
    return options.activation or options.method


def subject_of(options: NetworkOptions, in_dim: int, out_dim: int) -> Subject:
    """The network that the options describe.

    Args:
        options: which.
        in_dim: coordinates of a fresh network; a saved model has its own.
        out_dim: signal values, likewise.

    Raises:
        UsageError: for options that mean nothing.
        InputError: for a model that cannot be read.
    """
    device = device_named(options.device)
    require_seed(options.seed)
    if options.model is not None:
        return _saved(options, device)
    chosen = preset_for(options)
    require_sizes(options.width, options.depth)
    generator = torch.Generator().manual_seed(options.seed)
    try:
        network = chosen.network(in_dim, out_dim, width=options.width, depth=options.depth, generator=generator)
    except ValueError as error:
        raise UsageError(f"{name_of(options)}: {str(error).removeprefix('CoordinateNetwork: ')}.") from error
    return Subject(name_of(options), network.to(device), None, _description(network, options.activation))


def bias_ranges_of(options: NetworkOptions, several: tuple[float, ...]) -> tuple[float | None, ...]:
    """k of the networks to lay side by side: several where the method has one and none is named, None for no k.

    Raises:
        UsageError: for none, and for one that is named twice.
    """
    varied = options.activation is not None or options.method.startswith("finer")
    if not varied or options.bias_range is not None:
        return (options.bias_range,)
    if not several:
        raise UsageError(f"{argument('bias_ranges')} needs at least one bias range.")
    if len({f"{k:g}" for k in several}) < len(several):
        raise UsageError(f"{argument('bias_ranges')} has a value twice: name each once.")
    return several


def _saved(options: NetworkOptions, device: torch.device) -> Subject:
    assert options.model is not None
    given = [
        name
        for name in ("activation", "omega_0", "s_0", "omega_f", "bias_range", "scale_gradient")
        if getattr(options, name) is not None
    ]
    if given:
        raise UsageError(f"{argument(given[0])} cannot be given with {argument('model')}, whose network has its own.")
    saved = load_model(options.model)
    trained, seed = saved.network, saved.configuration.get("seed")
    if not isinstance(seed, int):
        raise InputError(f"{options.model} does not say the seed of its fit, so that its first weights are unknown.")
    initial = CoordinateNetwork(
        trained.in_dim,
        trained.out_dim,
        width=trained.width,
        depth=trained.depth,
        activation=trained.activation,
        bias_range=trained.bias_range,
        encoding_frequencies=trained.encoding_frequencies,
        generator=torch.Generator().manual_seed(seed),
    )
    description = {**_description(trained, None), "method": saved.configuration.get("method"), "seed_of_fit": seed}
    description["model"] = str(options.model)
    return Subject(name_of(options), initial.to(device), trained.to(device), description)


def _description(network: CoordinateNetwork, own: str | None) -> dict[str, Any]:
    return {
        "in_dim": network.in_dim,
        "out_dim": network.out_dim,
        "width": network.width,
        "depth": network.depth,
        "bias_range": network.bias_range,
        "encoding_frequencies": network.encoding_frequencies,
        "activation": describe_activation(network.activation) if own is None else {"function": own},
    }


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Which image."""

    image: Path | None = None
    """Anything that Pillow reads; a generated sample unless given."""
    size: int = 128
    """The image is averaged down so that its longer side has this many pixels."""


def image_of(source: ImageSource) -> SourceImage:
    """The image, averaged down; one that is smaller stays as it is.

    Raises:
        UsageError: for a size below 16.
        InputError: for what is missing, damaged or no image.
    """
    if source.size < 16:
        raise UsageError(f"{argument('size')} must be at least 16, not {source.size}.")
    if source.image is None:
        return sample_image(source.size)
    image = read_image(source.image)
    if max(image.height, image.width) <= source.size:
        return image
    return replace(read_image(source.image, size=source.size), notes=image.notes)
