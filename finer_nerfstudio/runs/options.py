"""Options that every fit has: the method, its published hyper-parameters, and what replaces them.

The docstrings of the fields are the help texts of the command lines.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.methods import (
    METHODS,
    PROTOCOLS,
    Preset,
    Protocol,
    Source,
    Task,
    TrainingPrecision,
    preset,
)

if TYPE_CHECKING:
    import torch

    Method = str
else:
    Method = Literal[tuple(METHODS)]
ALL_METHODS: tuple[Method, ...] = tuple(METHODS)
BatchSize = int | Literal["full", "auto"]


@dataclass(frozen=True)
class FitOptions:
    """Method and hyper-parameters; whatever is left out comes from the paper's protocol for the method and task."""

    method: Method = "finer-sine"
    """Activation and initialisation with their published hyper-parameters."""
    steps: int | None = None
    """Training steps; the paper's number (5,000 for images, 200,000 for shapes) unless given."""
    minutes: float | None = None
    """Train for this long instead of a number of steps; the learning rate decays over this time."""
    seed: int = 0
    """Seed of all randomness; the same seed on the same machine gives the same result."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    learning_rate: float | None = None
    """Adam's learning rate at the first step; it decays exponentially to a tenth at the last one. The published one
    unless given, but 3e-4 for shapes with --minutes, because 1e-4 belongs to 200,000 steps."""
    width: int | None = None
    """Units of a hidden layer (256); complex layers have width/sqrt(2) complex ones, so that sizes match."""
    depth: int | None = None
    """Hidden layers (4 for images, 3 for shapes)."""
    omega_0: float | None = None
    """Frequency of the sine or the wavelet."""
    s_0: float | None = None
    """Inverse width of the Gaussian or of the wavelet's envelope."""
    omega_f: float | None = None
    """Frequency of FINER++'s inner sine (Gauss and wavelet families)."""
    bias_range: float | Literal["auto"] | None = None
    """k: first-layer biases are drawn from U(-k, k); larger k, higher frequencies. auto (images)
    chooses between the published k and its double and fourfold by short trials on a piece of the image."""
    scale_gradient: bool | None = None
    """Differentiate through alpha(x) = |x| + 1 in the backward pass, as the formula has it; the published numbers
    come from holding it constant."""
    encoding_frequencies: int | None = None
    """Octaves of positional encoding (10 for pemlp, 0 for the others)."""
    preset_source: Source = "code"
    """Where the authors' code and the paper's text differ, which one to follow; the published numbers come from the
    code."""


@dataclass(frozen=True)
class SignalOptions(FitOptions):
    """Options of a fit of one network to one signal."""

    precision: TrainingPrecision = "auto"
    """How precisely the CPU multiplies matrices in training. auto rounds operands of the backward pass to bfloat16
    where that is faster and the method ends as in float32; float32 rounds nothing."""


def preset_of(options: FitOptions, task: Task) -> Preset:
    """The published hyper-parameters with those of the options in their place.

    An automatic bias range is still the published one: it takes the signal, see
    :mod:`finer_nerfstudio.tasks.signal.bias_range`.

    Raises:
        UsageError: for a parameter that the method does not have, or a value out of range.
    """
    protocol = protocol_of(options, task)
    require_seed(options.seed)
    require_sizes(protocol.width, protocol.depth)
    try:
        chosen = preset(options.method, task, options.preset_source)
        customised = chosen.overridden(
            omega_0=options.omega_0,
            s_0=options.s_0,
            omega_f=options.omega_f,
            scale_gradient=options.scale_gradient,
            learning_rate=options.learning_rate,
            bias_range=None if isinstance(options.bias_range, str) else options.bias_range,
            encoding_frequencies=options.encoding_frequencies,
        )
    except ValueError as error:
        raise UsageError(f"{options.method}: {error}.") from error
    if options.bias_range == "auto" and chosen.bias_range is None:
        raise UsageError(
            f"{options.method}: a bias range belongs to the FINER++ methods, and auto chooses among theirs."
        )
    if options.bias_range == "auto" and task != "image":
        raise UsageError(
            f"{options.method}: {argument('bias_range', 'auto')} is for images; give a number, or leave it at "
            f"{chosen.bias_range:.4g}."
        )
    return customised


def protocol_of(options: FitOptions, task: Task) -> Protocol:
    """The task's published sizes and lengths with those of the options in their place."""
    published = PROTOCOLS[task]
    return Protocol(
        width=published.width if options.width is None else options.width,
        depth=published.depth if options.depth is None else options.depth,
        steps=published.steps if options.steps is None else options.steps,
        batch_size=published.batch_size,
        max_gradient_norm=published.max_gradient_norm,
    )


def require_seed(seed: int) -> None:
    """Refuse what no generator takes.

    Raises:
        UsageError: for a seed out of range.
    """
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"{argument('seed')} must be between 0 and 2^63 - 1, not {seed}.")


def require_sizes(width: int, depth: int) -> None:
    """Refuse networks that cannot be.

    Raises:
        UsageError: for a size out of range.
    """
    from finer_nerfstudio.inr.description import LARGEST_SIZES

    for name, size in (("width", width), ("depth", depth)):
        if not 1 <= size <= LARGEST_SIZES[name]:
            raise UsageError(f"{argument(name)} must lie between 1 and {LARGEST_SIZES[name]:,}, not {size}.")


def device_named(name: str) -> torch.device:
    """The device with this name; "auto" is a GPU if there is one.

    Raises:
        UsageError: for one that this machine does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{argument('device')} {name} is not known: use auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"{argument('device')} {name} is not supported: use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"{argument('device')} {name}: this machine has {torch.cuda.device_count()} CUDA devices; leave it out "
            f"to take what there is."
        )
    return device


def settings_of(options: FitOptions, preset: Preset, protocol: Protocol) -> dict[str, Any]:
    """Everything that decides a result, as JSON values: the options, and what they stand for."""
    from finer_nerfstudio.inr.description import describe_activation

    given = asdict(options)
    if isinstance(options, SignalOptions):
        del given["precision"]  # "products" says what came of it
    return {
        **given,
        "steps": None if options.minutes is not None else protocol.steps,
        "width": protocol.width,
        "depth": protocol.depth,
        "learning_rate": preset.learning_rate,
        "bias_range": preset.bias_range,
        "encoding_frequencies": preset.encoding_frequencies,
        "activation": describe_activation(preset.activation),
    }
