"""How a cell of Table 3 is trained and tested, as options of ns-train."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.description import scales_of
from finer_nerfstudio.inr.methods import METHODS, PROTOCOLS, preset
from finer_nerfstudio.reproduction.radiance.scenes import Scene
from finer_nerfstudio.runs.options import Method

# The paper trains on 25 of 100 views.
TRAIN_VIEW_STRIDE = 4
QUICK_EVAL_VIEW_STRIDE = 8
QUICK_MINUTES = 3.0

# Twice as many as fit in any training time.
_ENDLESS = 10_000_000


@dataclass(frozen=True)
class RadianceProtocol:
    """Length, network and test views.

    Attributes:
        quick: the package's own network, learning rates and scales on some test views, instead of the paper's on all.
        steps: of training; None where minutes count.
        minutes: of training; None where steps count.
        seed: of every run.
    """

    quick: bool
    steps: int | None
    minutes: float | None
    seed: int

    @property
    def eval_view_stride(self) -> int:
        """Every n-th test view is looked at."""
        return QUICK_EVAL_VIEW_STRIDE if self.quick else 1

    def training_options(self, method: Method, *, trained_steps: int = 0) -> list[str]:
        """Options of ns-train.

        Args:
            method: which has a learning rate of its own.
            trained_steps: what a run that goes on has behind it; ns-train counts the steps from there.
        """
        options = [] if self.quick else _paper_options(method)
        if self.steps is None:
            options += ["--max-minutes", str(self.minutes), "--max-num-iterations", str(_ENDLESS)]
        else:
            options += ["--max-num-iterations", str(self.steps - trained_steps)]
        return [
            *options,
            *("--machine.seed", str(self.seed)),
            *("--vis", "tensorboard"),
            # A thousand rays tell how it is going; whole images would cost training time.
            *("--steps-per-eval-batch", "200"),
            *("--steps-per-eval-image", "0"),
            *("--steps-per-eval-all-images", "0"),
            *("--logging.local-writer.max-log-size", "0"),
        ]

    def parser_options(self, scene: Scene) -> list[str]:
        """Options of the parser of scenes."""
        return [
            *("--train-view-stride", str(TRAIN_VIEW_STRIDE)),
            *("--eval-view-stride", str(self.eval_view_stride)),
            *("--downscale-factor", str(scene.downscale_factor)),
        ]

    def sentence(self, scenes: list[Scene]) -> str:
        """The protocol in words."""
        network = (
            "the package's network of 112 units and hyper-parameters"
            if self.quick
            else f"the paper's network of {PROTOCOLS['nerf'].width} units at learning rate "
            f"{preset('siren', 'nerf').learning_rate:g} (published for the sine family alone), "
            "Gauss and WIRE at this package's scales"
        )
        length = f"{self.minutes:g} minutes" if self.steps is None else f"{self.steps:,} steps"
        if not self.quick and self.steps is not None:
            length += f" of up to {PROTOCOLS['nerf'].batch_size:,} rays"
        tested = "all test views" if self.eval_view_stride == 1 else f"every {self.eval_view_stride}th test view"
        trained = "/".join(dict.fromkeys(str(math.ceil(scene.train_views / TRAIN_VIEW_STRIDE)) for scene in scenes))
        counted = "/".join(dict.fromkeys(str(self.num_test_views(scene)) for scene in scenes))
        sizes = "/".join(dict.fromkeys(scene.size for scene in scenes))
        return (
            f"{network}, {length}, {trained} training views (every {TRAIN_VIEW_STRIDE}th) of {sizes} pixels, "
            f"measured on {tested} ({counted}), seed {self.seed}"
        )

    def num_test_views(self, scene: Scene) -> int:
        """How many test views are looked at."""
        return math.ceil(scene.test_views / self.eval_view_stride)


def protocol_of(*, quick: bool, steps: int | None, minutes: float | None, seed: int) -> RadianceProtocol:
    """The paper's protocol, or the quick one, with another length if one is given.

    Raises:
        UsageError: for lengths that cannot be, and for two of them.
    """
    if steps is not None and minutes is not None:
        raise UsageError(
            f"{argument('steps')} and {argument('minutes')} cannot both be given: training ends by one of them."
        )
    if steps is not None and not 1 <= steps < _ENDLESS:
        raise UsageError(f"{argument('steps')} must lie between 1 and {_ENDLESS:,}, not {steps:,}.")
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"{argument('minutes')} must be positive, not {minutes}.")
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"{argument('seed')} must lie between 0 and 2^32 - 1, not {seed}.")
    if steps is None and minutes is None:
        if quick:
            minutes = QUICK_MINUTES
        else:
            steps = PROTOCOLS["nerf"].steps
    return RadianceProtocol(quick=quick, steps=steps, minutes=minutes, seed=seed)


def _paper_options(method: Method) -> list[str]:
    paper, published = PROTOCOLS["nerf"], preset(method, "nerf")
    # Those of some were published for images only, at which their radiance fields hardly train.
    scales = scales_of(published.activation) if METHODS[method].published_for_radiance else {}
    return [
        *(
            word
            for name, value in scales.items()
            for word in (f"--pipeline.model.field.{name.replace('_', '-')}", f"{value:g}")
        ),
        *("--pipeline.model.field.width", str(paper.width)),
        *("--pipeline.model.field.density-depth", str(paper.depth)),
        *("--pipeline.model.field.color-depth", str(paper.depth)),
        *("--pipeline.model.samples-per-ray", "1024"),
        # Enough samples for 4,096 rays a step, once empty space is known.
        *("--pipeline.target-num-samples", "262144"),
        *("--pipeline.model.max-samples-per-batch", "1048576"),
        *("--pipeline.max-num-rays", str(paper.batch_size)),
        *("--pipeline.model.ema-decay", "0.95"),
        *("--optimizers.fields.optimizer.lr", f"{published.learning_rate:g}"),
        *("--optimizers.fields.scheduler.start-lr", "0"),
    ]
