"""A network's architecture as plain JSON values, and the network that such a description stands for.

Descriptions may come from strangers: what is read back is checked, nothing in it is executed, and no memory is set
aside for weights before the numbers have been found sensible.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from finer_nerfstudio.inr.activations import Activation, VariablePeriodic, base_of, variable_periodic
from finer_nerfstudio.inr.network import CoordinateNetwork

_PARAMETERS = ("omega_0", "s_0")
LARGEST_SIZES = {"in_dim": 64, "out_dim": 4096, "width": 65_536, "depth": 256, "encoding_frequencies": 64}


def describe(network: CoordinateNetwork) -> dict[str, Any]:
    """The architecture of ``network`` as a dictionary of JSON values, without its weights.

    Raises:
        ValueError: for an activation that is a function of the user's own, which JSON cannot carry.
    """
    return {
        **{name: getattr(network, name) for name in LARGEST_SIZES},
        "bias_range": network.bias_range,
        "activation": describe_activation(network.activation),
    }


def network_of(description: dict[str, Any]) -> CoordinateNetwork:
    """The network that a description stands for, its weights on the "meta" device, where they take no memory.

    Fill it with ``network.load_state_dict(weights, assign=True)``.

    Raises:
        ValueError: for descriptions that are damaged, absurd or from a newer version; the message says what is wrong.
    """
    if not isinstance(description, dict):
        raise ValueError(f"a network's description is no map: {_short(description)}")
    sizes = {name: _whole_number(description, name, largest) for name, largest in LARGEST_SIZES.items()}
    bias_range = description.get("bias_range")
    if bias_range is not None:
        bias_range = _positive_number(description, "bias_range")
    activation = activation_of(description.get("activation"))
    with torch.device("meta"):
        return CoordinateNetwork(
            sizes["in_dim"],
            sizes["out_dim"],
            width=sizes["width"],
            depth=sizes["depth"],
            encoding_frequencies=sizes["encoding_frequencies"],
            activation=activation,
            bias_range=bias_range,
        )


def describe_activation(activation: Activation) -> dict[str, Any]:
    """An activation's family and parameters as JSON values.

    Raises:
        ValueError: for a function of the user's own.
    """
    base = base_of(activation)
    if Activation.families.get(base.family or "") is not type(base):
        raise ValueError(
            f"the activation {base!r} is a function of your own, which a file cannot carry: save the weights with "
            "torch.save(network.state_dict()) and build the network by the same code"
        )
    described: dict[str, Any] = {"family": base.family}
    described |= {name: getattr(base, name) for name in _PARAMETERS if hasattr(base, name)}
    if isinstance(activation, VariablePeriodic):
        described["variable_periodic"] = {"omega_f": activation.omega_f, "scale_gradient": activation.scale_gradient}
    return described


def scales_of(activation: Activation) -> dict[str, float]:
    """Return those of omega_0, s_0 and omega_f that an activation has.

    Raises:
        ValueError: for a function of the user's own.
    """
    described = describe_activation(activation)
    described |= described.get("variable_periodic") or {}
    return {name: described[name] for name in (*_PARAMETERS, "omega_f") if described.get(name) is not None}


def activation_of(described: Any) -> Activation:
    """The activation that :func:`describe_activation` described.

    Raises:
        ValueError: for descriptions that are damaged, absurd or from a newer version.
    """
    known = isinstance(described, dict) and isinstance(described.get("family"), str)
    if not known or described["family"] not in Activation.families:
        raise ValueError(f"unknown activation {_short(described)}; known are {', '.join(Activation.families)}")
    family = Activation.families[described["family"]]
    parameters = {name: _positive_number(described, name) for name in _PARAMETERS if name in described}
    try:
        base = family(**parameters)
    except TypeError as error:
        raise ValueError(f"the activation {described['family']} has other parameters than {parameters}") from error
    periodic = described.get("variable_periodic")
    if periodic is None:
        return base
    if not isinstance(periodic, dict) or not isinstance(periodic.get("scale_gradient"), bool):
        raise ValueError(f"variable_periodic is not understood: {_short(periodic)}")
    omega_f = None if periodic.get("omega_f") is None else _positive_number(periodic, "omega_f")
    return variable_periodic(base, omega_f=omega_f, scale_gradient=periodic["scale_gradient"])


def _whole_number(description: dict[str, Any], name: str, largest: int) -> int:
    value = description.get(name)
    smallest = 0 if name == "encoding_frequencies" else 1
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        raise ValueError(f"{name} must be a whole number from {smallest} to {largest}, not {_short(value)}")
    return value


def _positive_number(description: dict[str, Any], name: str) -> float:
    value = description.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if math.isfinite(number) and number > 0:
            return number
    raise ValueError(f"{name} must be a positive number, not {_short(value)}")


def _short(value: Any) -> str:
    """A value of a file as it may stand in a sentence."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"
