"""How radiance fields of a table or a comparison are trained and tested, as options of ns-train."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finer_nerfstudio.errors import UsageError, argument
from finer_nerfstudio.inr.description import scales_of
from finer_nerfstudio.inr.methods import METHODS, PROTOCOLS, preset
from finer_nerfstudio.reproduction.radiance.scenes import Scene

# The paper trains on 25 of 100 views.
TRAIN_VIEW_STRIDE = 4
QUICK_EVAL_VIEW_STRIDE = 8
QUICK_MINUTES = 3.0

# Twice as many as fit in any training time.
_ENDLESS = 10_000_000


@dataclass(frozen=True)
class RadianceProtocol:
    """Length, network and views.

    Attributes:
        seed: of every run.
        steps: of training; None where minutes count.
        minutes: of training; None where steps count.
        paper_network: train the paper's network with its learning rate and scales, and not the package's own.
        paper_size: average images down to the paper's size.
        train_view_stride: train on every n-th training view.
        eval_view_stride: measure on every n-th test view.
        viewer: serve the live viewer while training.

    Raises:
        UsageError: for a length, a seed or a stride that cannot be.
    """

    seed: int
    steps: int | None = None
    minutes: float | None = None
    paper_network: bool = False
    paper_size: bool = False
    train_view_stride: int = 1
    eval_view_stride: int = 1
    viewer: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError(
                f"{argument('steps')} and {argument('minutes')} cannot both be given: training ends by one of them."
            )
        if self.steps is not None and not 1 <= self.steps < _ENDLESS:
            raise UsageError(f"{argument('steps')} must lie between 1 and {_ENDLESS:,}, not {self.steps:,}.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"{argument('minutes')} must be positive, not {self.minutes}.")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"{argument('seed')} must lie between 0 and 2^32 - 1, not {self.seed}.")
        for name in ("train_view_stride", "eval_view_stride"):
            if getattr(self, name) < 1:
                raise UsageError(f"{argument(name)} must be at least 1, not {getattr(self, name)}.")

    def training_options(self, method: str, *, trained_steps: int = 0) -> list[str]:
        """Options of ns-train.

        Args:
            method: which has a learning rate of its own.
            trained_steps: what a run that goes on has behind it; ns-train counts the steps from there.
        """
        options = _paper_options(method) if self.paper_network else []
        if self.steps is None:
            options += ["--max-minutes", str(self.minutes), "--max-num-iterations", str(_ENDLESS)]
        else:
            options += ["--max-num-iterations", str(self.steps - trained_steps)]
        return [
            *options,
            *("--machine.seed", str(self.seed)),
            *(
                ("--vis", "viewer", "--viewer.quit-on-train-completion", "True")
                if self.viewer
                else ("--vis", "tensorboard")
            ),
            # A thousand rays tell how it is going; whole images would cost training time.
            *("--steps-per-eval-batch", "200"),
            *("--steps-per-eval-image", "0"),
            *("--steps-per-eval-all-images", "0"),
            *("--logging.local-writer.max-log-size", "0"),
        ]

    def parser_options(self, scene: Scene) -> list[str]:
        """Options of the parser of scenes."""
        return [
            *("--train-view-stride", str(self.train_view_stride)),
            *("--eval-view-stride", str(self.eval_view_stride)),
            *("--downscale-factor", str(scene.downscale_factor if self.paper_size else 1)),
        ]

    def sentence(self, scenes: list[Scene]) -> str:
        """The protocol in words."""
        network = (
            f"the paper's network of {PROTOCOLS['nerf'].width} units at learning rate "
            f"{preset('siren', 'nerf').learning_rate:g} (published for the sine family alone), "
            "Gauss and WIRE at this package's scales"
            if self.paper_network
            else "the package's network of 112 units and hyper-parameters"
        )
        length = f"{self.minutes:g} minutes" if self.steps is None else f"{self.steps:,} steps"
        if self.paper_network and self.steps is not None:
            length += f" of up to {PROTOCOLS['nerf'].batch_size:,} rays"
        tested = "all test views" if self.eval_view_stride == 1 else f"every {self.eval_view_stride}th test view"
        trained = "/".join(
            dict.fromkeys(str(math.ceil(scene.train_views / self.train_view_stride)) for scene in scenes)
        )
        counted = "/".join(dict.fromkeys(str(self.num_test_views(scene)) for scene in scenes))
        sizes = "/".join(dict.fromkeys(scene.size for scene in scenes))
        return (
            f"{network}, {length}, {trained} training views (every {self.train_view_stride}th) of {sizes} pixels, "
            f"measured on {tested} ({counted}), seed {self.seed}"
        )

    def num_test_views(self, scene: Scene) -> int:
        """How many test views are looked at."""
        return math.ceil(scene.test_views / self.eval_view_stride)


def protocol_of_table(*, quick: bool, steps: int | None, minutes: float | None, seed: int) -> RadianceProtocol:
    """Return the paper's protocol, or the quick one: the package's network on some of the test views.

    Args:
        quick: the latter.
        steps: instead of the protocol's length.
        minutes: instead of the protocol's length.
        seed: of every run.

    Raises:
        UsageError: for lengths that cannot be, and for two of them.
    """
    if steps is None and minutes is None:
        if quick:
            minutes = QUICK_MINUTES
        else:
            steps = PROTOCOLS["nerf"].steps
    return RadianceProtocol(
        seed,
        steps,
        minutes,
        paper_network=not quick,
        paper_size=True,
        train_view_stride=TRAIN_VIEW_STRIDE,
        eval_view_stride=QUICK_EVAL_VIEW_STRIDE if quick else 1,
    )


def _paper_options(method: str) -> list[str]:
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
