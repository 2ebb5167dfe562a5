"""The methods: one row each, with what the published numbers were made with (FINER++ paper, §5 and appendix).

Every option that takes a method, ``ns-train``'s specifications, the benchmark and the tables read them. A baseline is a
row here, not a module.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

# Command lines list the methods, and need no PyTorch for that.
if TYPE_CHECKING:
    import torch

    from finer_nerfstudio.inr.activations import Activation
    from finer_nerfstudio.inr.kernels.rounding import Rounding
    from finer_nerfstudio.inr.network import CoordinateNetwork

Task = Literal["image", "sdf", "nerf"]
TASKS: tuple[Task, ...] = get_args(Task)
Source = Literal["code", "text"]


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters of one method for one task.

    Attributes:
        activation: activation of all hidden layers.
        learning_rate: initial learning rate of Adam; it decays exponentially to a tenth unless the task says otherwise.
        bias_range: k, the half-width of the first layer's biases; None for PyTorch's default.
        encoding_frequencies: octaves of positional encoding.
    """

    activation: Activation
    learning_rate: float
    bias_range: float | None = None
    encoding_frequencies: int = 0

    def overridden(
        self,
        *,
        omega_0: float | None = None,
        s_0: float | None = None,
        omega_f: float | None = None,
        scale_gradient: bool | None = None,
        learning_rate: float | None = None,
        bias_range: float | None = None,
        encoding_frequencies: int | None = None,
    ) -> Preset:
        """Return these hyper-parameters with some of them replaced; None keeps what the preset has.

        Raises:
            ValueError: for a parameter that the activation does not have, or a value out of range.
        """
        from finer_nerfstudio.inr.activations import VariablePeriodic, base_of, variable_periodic
        from finer_nerfstudio.inr.initialization import require_bias_range

        activation = self.activation
        base = base_of(activation)
        for name, value in (("omega_0", omega_0), ("s_0", s_0)):
            if value is not None:
                if not hasattr(base, name):
                    raise ValueError(f"the activation {type(base).__name__} has no {name}")
                base = replace(base, **{name: value})  # pyright: ignore[reportArgumentType]
        if isinstance(activation, VariablePeriodic):
            if omega_f is not None and activation.omega_f is None:
                raise ValueError(f"the activation {type(base).__name__} is periodic and has no omega_f")
            activation = variable_periodic(
                base,
                omega_f=activation.omega_f if omega_f is None else omega_f,
                scale_gradient=activation.scale_gradient if scale_gradient is None else scale_gradient,
            )
        elif omega_f is not None or scale_gradient:
            name = "scale_gradient" if omega_f is None else "omega_f"
            raise ValueError(f"{name} belongs to the FINER++ methods; {type(base).__name__} by itself has none")
        else:
            activation = base
        if learning_rate is not None and not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a positive number, not {learning_rate}")
        if bias_range is not None:
            require_bias_range(bias_range)
        if encoding_frequencies is not None and not 0 <= encoding_frequencies <= 64:
            raise ValueError(f"encoding_frequencies must be between 0 and 64, not {encoding_frequencies}")
        return Preset(
            activation,
            self.learning_rate if learning_rate is None else learning_rate,
            self.bias_range if bias_range is None else bias_range,
            self.encoding_frequencies if encoding_frequencies is None else encoding_frequencies,
        )

    def network(
        self, in_dim: int, out_dim: int, *, width: int, depth: int, generator: torch.Generator | None = None
    ) -> CoordinateNetwork:
        """Return a freshly initialised network with these hyper-parameters; see :class:`CoordinateNetwork`."""
        from finer_nerfstudio.inr.network import CoordinateNetwork

        return CoordinateNetwork(
            in_dim,
            out_dim,
            width=width,
            depth=depth,
            activation=self.activation,
            bias_range=self.bias_range,
            encoding_frequencies=self.encoding_frequencies,
            generator=generator,
        )


@dataclass(frozen=True)
class Protocol:
    """Sizes and lengths that all published runs of a task share.

    Attributes:
        width: units of a hidden layer.
        depth: hidden layers.
        steps: training steps; the learning rate falls exponentially to a tenth at the last one.
        batch_size: points per step, None for all of them.
        max_gradient_norm: gradients longer than this are shortened to it, None for never.
    """

    width: int
    depth: int
    steps: int
    batch_size: int | None = None
    max_gradient_norm: float | None = None


PROTOCOLS: dict[Task, Protocol] = {
    "image": Protocol(width=256, depth=4, steps=5_000),
    "sdf": Protocol(width=256, depth=3, steps=200_000, batch_size=10_000, max_gradient_norm=1.0),
    "nerf": Protocol(width=182, depth=3, steps=37_500, batch_size=4_096),
}
"""Sizes and lengths of the paper's runs (for "nerf" the batch is in rays and the network is the density's)."""


@dataclass(frozen=True)
class RadianceTuning:
    """Best settings for minutes of training on processors; docs/radiance_fields.md has the measurements.

    Attributes:
        learning_rate: from which it falls to a tenth.
        omega_0: frequency of the activation, the one published for images unless given.
        s_0: inverse width of its envelope, likewise.
        omega_f: frequency of FINER++'s inner sine, likewise.
        start_learning_rate: of the very first steps, where it is higher.
    """

    learning_rate: float
    omega_0: float | None = None
    s_0: float | None = None
    omega_f: float | None = None
    start_learning_rate: float = 8e-4


@dataclass(frozen=True)
class TaskSettings:
    """Published hyper-parameters of a method for one task.

    Attributes:
        learning_rate: of Adam at the first step.
        bias_range: k of the first layer's biases in the authors' code; None for PyTorch's default.
        text_bias_range: the same in the paper's text, where it differs.
    """

    learning_rate: float
    bias_range: float | None = None
    text_bias_range: float | None = None


@dataclass(frozen=True)
class Scaled:
    """An activation by its family and scales.

    Attributes:
        family: one of :attr:`Activation.families`.
        omega_0: frequency of the sine or the wavelet.
        s_0: inverse width of the Gaussian or of the wavelet's envelope.
        variable_periodic: whether FINER++ is applied to it.
        omega_f: frequency of FINER++'s inner sine, for families that are not periodic.
    """

    family: str
    omega_0: float | None = None
    s_0: float | None = None
    variable_periodic: bool = False
    omega_f: float | None = None

    def activation(self) -> Activation:
        """Return the activation; only this imports PyTorch."""
        from finer_nerfstudio.inr.description import activation_of

        described: dict[str, Any] = {"family": self.family}
        described |= {
            name: value for name, value in (("omega_0", self.omega_0), ("s_0", self.s_0)) if value is not None
        }
        if self.variable_periodic:
            described["variable_periodic"] = {"omega_f": self.omega_f, "scale_gradient": False}
        return activation_of(described)


@dataclass(frozen=True)
class Method:
    """A method in all that it is used for.

    Attributes:
        name: as options and ``ns-train`` have it.
        description: one line.
        made_with: the activation of all hidden layers, with its scales for images: itself or its description.
        tasks: published settings, of every task.
        radiance: defaults of ``ns-train``, chosen on Lego's training and validation views.
        base: the method that this one makes variable-periodic.
        text_made_with: the activation in the paper's text, where it differs from the authors' code.
        encoding_frequencies: octaves of positional encoding.
        published_for_radiance: whether the scales were published for radiance fields too.
        grows: whether ``ns-train NAME-stream`` trains a field that grows in width.
        rounds_backward: whether training on processors rounds operands of the backward pass to bfloat16 unless float32
            is asked for. docs/speed.md has the measurements.
    """

    name: str
    description: str
    made_with: Scaled | Activation
    tasks: dict[Task, TaskSettings]
    radiance: RadianceTuning
    base: str | None = None
    text_made_with: Scaled | Activation | None = None
    encoding_frequencies: int = 0
    published_for_radiance: bool = True
    grows: bool = False
    rounds_backward: bool = False

    @functools.cached_property
    def activation(self) -> Activation:
        """The activation of all hidden layers, with its scales for images."""
        return _activation(self.made_with)

    @functools.cached_property
    def text_activation(self) -> Activation | None:
        """The activation in the paper's text, where it differs from the authors' code."""
        return None if self.text_made_with is None else _activation(self.text_made_with)


def _activation(made_with: Scaled | Activation) -> Activation:
    return made_with.activation() if isinstance(made_with, Scaled) else made_with


def _is_variable_periodic(made_with: Scaled | Activation) -> bool:
    if isinstance(made_with, Scaled):
        return made_with.variable_periodic
    from finer_nerfstudio.inr.activations import VariablePeriodic

    return isinstance(made_with, VariablePeriodic)


TrainingPrecision = Literal["auto", "float32"]


def training_rounding(method: str, precision: TrainingPrecision, device: torch.device) -> Rounding | None:
    """Return how operands of matrix products are rounded while a method is trained; None leaves that to others.

    On GPUs, FINER_GPU_PRECISION decides.

    Args:
        method: its name.
        precision: "float32" rounds nothing, and "auto" what the method's row allows and the processor computes faster.
        device: where it is trained.
    """
    from finer_nerfstudio.inr.kernels import compiled
    from finer_nerfstudio.inr.kernels.rounding import Rounding

    row, backward = METHODS[method], Rounding(backward="bfloat16")
    if precision != "auto" or device.type != "cpu" or not row.rounds_backward:
        return None
    return backward if compiled.computes(backward, [row.activation]) else None


def precision_in_words(rounding: Rounding | None) -> str:
    """Return what results say of the products of a training: the rounding that was chosen for it."""
    if rounding is None:
        return "float32, unless FINER_GPU_PRECISION says otherwise"
    return f"{rounding.forward}, {rounding.backward} in the backward pass"


METHODS: dict[str, Method] = {}
"""All methods by name: four baselines and the three FINER++ families."""


def register(method: Method) -> None:
    """Add a method to :data:`METHODS`, for everything that is imported afterwards.

    Raises:
        ValueError: for a name that is taken, for a base that is unknown, and where a task has no settings, or one of a
            variable-periodic activation no bias range: PyTorch's default would be taken without a word.
    """
    if method.name in METHODS:
        raise ValueError(f"there is a method {method.name} already")
    if method.base is not None and method.base not in METHODS:
        raise ValueError(f"{method.name} is made from {method.base}, which is no method")
    for task in TASKS:
        if task not in method.tasks:
            raise ValueError(f"the method {method.name} has no settings for the task {task}")
        if _is_variable_periodic(method.made_with) and method.tasks[task].bias_range is None:
            raise ValueError(f"the method {method.name} has no bias range for the task {task}")
    METHODS[method.name] = method


def _tasks(image: float) -> dict[Task, TaskSettings]:
    """A baseline's settings: learning rates of shapes and scenes are the same for all methods."""
    return {"image": TaskSettings(image), "sdf": TaskSettings(1e-4), "nerf": TaskSettings(2e-4)}


_SQRT_2, _SQRT_3 = math.sqrt(2.0), math.sqrt(3.0)

for _method in (
    Method(
        "pemlp",
        "Baseline: ReLU network with positional encoding (PEMLP).",
        Scaled("relu"),
        _tasks(5e-4),
        RadianceTuning(1e-3),
        encoding_frequencies=10,
        rounds_backward=True,
    ),
    Method(
        "siren",
        "Baseline: SIREN, sine activations with one frequency.",
        Scaled("sine", omega_0=30.0),
        _tasks(5e-4),
        RadianceTuning(2e-4),
        rounds_backward=True,
    ),
    # From their scales for images, gauss and wire start as noise that their radiance fields hardly leave.
    Method(
        "gauss",
        "Baseline: Gaussian activations.",
        Scaled("gauss", s_0=30.0),
        _tasks(5e-3),
        RadianceTuning(1e-3, s_0=10.0),
        published_for_radiance=False,
    ),
    Method(
        "wire",
        "Baseline: WIRE, complex Gabor wavelet activations.",
        Scaled("wavelet", omega_0=20.0, s_0=10.0),
        _tasks(5e-3),
        RadianceTuning(1e-3, omega_0=5.0, s_0=2.5),
        published_for_radiance=False,
    ),
    Method(
        "finer-sine",
        "FINER++ Sine: variable-periodic sine; the fastest.",
        Scaled("sine", omega_0=30.0, variable_periodic=True),
        {
            "image": TaskSettings(5e-4, 1.0 / _SQRT_2),
            "sdf": TaskSettings(1e-4, 1.0),
            "nerf": TaskSettings(2e-4, 1.0 / _SQRT_3),
        },
        # The inner function multiplies a local frequency by up to 3: 20 is to it what 30 is to SIREN.
        RadianceTuning(2e-4, omega_0=20.0),
        base="siren",
        grows=True,
        rounds_backward=True,
    ),
    # s_0 / omega_f = 3, and for the wavelet s_0 / omega_f = 2 and omega_0 / omega_f = 4: the authors' code.
    Method(
        "finer-gauss",
        "FINER++ Gauss: variable-periodic Gaussian.",
        Scaled("gauss", s_0=30.0, variable_periodic=True, omega_f=10.0),
        {
            "image": TaskSettings(1e-3, 1.0),
            "sdf": TaskSettings(1e-4, 1.0),
            "nerf": TaskSettings(2e-4, 1.0 / _SQRT_3),
        },
        # At 1e-3 the fields of this and the next method get worse again after a thousand steps.
        RadianceTuning(3e-4, s_0=20.0, omega_f=20.0 / 3.0),
        base="gauss",
        text_made_with=Scaled("gauss", s_0=30.0, variable_periodic=True, omega_f=2.5),
    ),
    Method(
        "finer-wavelet",
        "FINER++ Wavelet: variable-periodic complex Gabor wavelet.",
        Scaled("wavelet", omega_0=20.0, s_0=10.0, variable_periodic=True, omega_f=5.0),
        {
            "image": TaskSettings(1e-3, 1.0),
            "sdf": TaskSettings(1e-4, 1.0 / _SQRT_3, text_bias_range=1.0 / _SQRT_2),
            "nerf": TaskSettings(2e-4, 1.0),
        },
        RadianceTuning(3e-4),
        base="wire",
        text_made_with=Scaled("wavelet", omega_0=20.0, s_0=10.0, variable_periodic=True, omega_f=2.5),
        grows=True,
        rounds_backward=True,
    ),
):
    register(_method)


def preset(method: str, task: Task, source: Source = "code") -> Preset:
    """Return the published hyper-parameters of ``method`` for ``task``.

    Args:
        method: one of :data:`METHODS`.
        task: "image", "sdf" or "nerf". Learning rates of the Gauss and Wavelet families for "nerf" were not published
            and are those of the sine.
        source: where the authors' "code" and the paper's "text" differ: the text has omega_f = 2.5 throughout, the
            code 10 (Gauss) and 5 (Wavelet), and another bias range for the Wavelet's signed distances. The published
            numbers come from the code.

    Raises:
        ValueError: for an unknown method, task or source, naming the known ones.
    """
    for kind, value, known in (
        ("method", method, METHODS),
        ("task", task, TASKS),
        ("source", source, get_args(Source)),
    ):
        if value not in known:
            raise ValueError(f"unknown {kind} {value!r}; known are {', '.join(known)}")
    row, from_text = METHODS[method], source == "text"
    settings = row.tasks[task]
    return Preset(
        row.text_activation if from_text and row.text_activation is not None else row.activation,
        settings.learning_rate,
        settings.text_bias_range if from_text and settings.text_bias_range is not None else settings.bias_range,
        row.encoding_frequencies,
    )
