"""The Nerfstudio model: sampling, rendering, losses, metrics and the viewer's panel."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfacc import accumulate_along_rays
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.inr.description import scales_of
from finer_nerfstudio.nerf.field import FinerFieldConfig, RadianceField
from finer_nerfstudio.nerf.rendering import ray_weights, render, sky
from finer_nerfstudio.nerf.sampling.proposal import ProposalSampler, ProposedSegments
from finer_nerfstudio.nerf.sampling.rays import camera_rays
from finer_nerfstudio.nerf.sampling.sampler import Diverged, OccupancyGrid
from finer_nerfstudio.nerf.sampling.unbounded_grid import UnboundedGrid
from finer_nerfstudio.nerf.streaming.growing_field import GrowingField, GrowingFieldConfig
from finer_nerfstudio.nerf.viewer.live_view import LiveView
from finer_nerfstudio.nerf.viewer.panel import ViewerPanel, neuron_mask, viewer_thread
from finer_nerfstudio.runs import metrics

# Training steps between looks at whether the weights are still numbers.
_LOOK_EVERY = 16
# Of the samples of a ray, those that are taken of the fog in the beginning.
_OF_FOG = 1 / 3


@dataclass
class FinerModelConfig(ModelConfig):
    """A FINER++ radiance field."""

    _target: type = dataclasses.field(default_factory=lambda: FinerModel)
    field: FinerFieldConfig = dataclasses.field(default_factory=FinerFieldConfig)
    """The two networks."""
    enable_collider: bool = False
    """Unused: the sampler intersects rays with the scene's box itself."""
    eval_num_rays_per_chunk: int = 1 << 14
    """Rays rendered at a time; bounds the memory of rendering."""
    sampler: Literal["occupancy", "proposal"] = "occupancy"
    """How matter along a ray is found: by a grid of occupied cells, or nerfacto's two proposal networks, which are
    trained along with the field (--optimizers.proposal-networks) and want a GPU."""
    samples_per_ray: int = 192
    """Steps along the diagonal of the scene's box, of which only those in occupied cells are evaluated. Proposal
    networks choose a quarter as many for every ray, and look themselves at nearly twice as many to do so."""
    max_samples_per_batch: int = 1 << 16
    """Upper bound of samples in a training step: rays beyond it are left out of the step, so that memory is bounded.
    What proposal networks look at does not count."""
    grid_resolution: int = 64
    """Cells per axis of the occupancy grid; this and the next two are of no account to proposal networks."""
    grid_warmup_steps: int = 256
    """Training steps during which every update of the grid looks into all cells, and rays are sampled a third as
    often: there is nothing but fog to see, and three times the rays see more of it."""
    grid_update_every: int = 16
    """Training steps between updates of the grid."""
    unbounded: Literal["auto", "yes", "no"] = "auto"
    """Whether there is something to see outside the scene's box. "auto": not in Blender-format scenes, nor where alpha
    cuts something out of its surroundings; else, as in photographs, all of space is contracted into the field."""
    near_plane: float = 0.05
    """Nothing nearer to a camera is sampled, world units."""
    color_weight_threshold: float = 1e-4
    """Colour is evaluated only for samples whose rendering weight exceeds this in training (ten times this in
    evaluation)."""
    ema_decay: float = 0.95
    """Evaluation uses an exponential moving average of the weights with this decay per step."""
    download_lpips_weights: bool = False
    """Fetch the weights that LPIPS needs (233 MB) if they are not on this machine."""


class FinerModel(Model):
    """Volume rendering of a :class:`FinerField` inside the scene's box, or in all of space.

    Args:
        config: the model's configuration.
        scene_box: box that the field fills, or of which it goes on outside.
        num_train_data: number of training images.
        metadata: of the training images; "unbounded" says whether they show surroundings without end.
    """

    config: FinerModelConfig

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        counts = ("samples_per_ray", "max_samples_per_batch", "grid_resolution", "grid_update_every")
        for name in (*counts, "eval_num_rays_per_chunk"):
            if getattr(config, name) < 1:
                option = name.replace("_", "-")
                raise UsageError(f"--pipeline.model.{option} must be at least 1, not {getattr(config, name)}.")
        for name in ("near_plane", "grid_warmup_steps"):
            if not 0 <= getattr(config, name) < math.inf:
                option = name.replace("_", "-")
                raise UsageError(
                    f"--pipeline.model.{option} must be finite and not negative, it is {getattr(config, name)}."
                )
        if not 0 <= config.color_weight_threshold < 1:
            raise UsageError(
                f"--pipeline.model.color-weight-threshold must lie in [0, 1), it is {config.color_weight_threshold}."
            )
        if not 0 <= config.ema_decay < 1:
            raise UsageError(f"--pipeline.model.ema-decay must lie in [0, 1), it is {config.ema_decay}.")
        if config.max_samples_per_batch < config.samples_per_ray:
            raise UsageError("--pipeline.model.max-samples-per-batch must not be smaller than samples-per-ray.")
        # Drawn from the global generator that Nerfstudio seeded, so that --machine.seed decides everything here too.
        self._initial_seed = int(torch.randint(1 << 62, ()))
        self._generators: dict[torch.device, torch.Generator] = {}
        aabb = self.scene_box.aabb.float()
        metadata = self.kwargs.get("metadata") or {}
        self.unbounded = metadata.get("unbounded", False) if config.unbounded == "auto" else config.unbounded == "yes"
        self.field = config.field.setup(
            aabb=aabb, unbounded=self.unbounded, generator=torch.Generator().manual_seed(self._initial_seed)
        )
        self._move_average = get_ema_multi_avg_fn(config.ema_decay)
        self.averaged_field = AveragedModel(self.field, multi_avg_fn=self._move_average)
        self.averaged_field.requires_grad_(False)
        self._has_average = False
        self._averages: list[tuple[Tensor, Tensor]] = []
        self.grid: OccupancyGrid | None = None
        self.proposals: ProposalSampler | None = None
        self._training_samples_per_ray = config.samples_per_ray
        if config.sampler == "proposal":
            self.proposals = ProposalSampler(aabb, unbounded=self.unbounded, steps=config.samples_per_ray)
        else:
            grid = UnboundedGrid if self.unbounded else OccupancyGrid
            self.grid = grid(aabb, resolution=config.grid_resolution, steps=config.samples_per_ray)
        widths = self.field.widths if isinstance(self.field, GrowingField) else []
        widest = self.field.rendered(len(widths) or None)
        first_bias = widest.density_net.first.bias
        self.panel = ViewerPanel(
            steps=config.samples_per_ray,
            highest_bias=float(first_bias.detach().abs().max()),
            widths=widths,
        )
        self.live_view = LiveView()

    @property
    def sampler(self) -> OccupancyGrid | ProposalSampler:
        """The sampler that says where to look along a ray."""
        sampler = self.proposals if self.grid is None else self.grid
        assert sampler is not None
        return sampler

    @property
    def growth_times(self) -> tuple[float, ...]:
        """When the field widens, as shares of the training; the learning rate starts anew then."""
        config = self.config.field
        return config.times() if isinstance(config, GrowingFieldConfig) else ()

    @torch.no_grad()
    def grow_until(self, progress: float) -> None:
        """Widen a growing field as often as is due.

        What is frozen then are the averaged weights, those that evaluation has used: an earlier stage looks the same
        ever after.

        Args:
            progress: share of the training that is done, in [0, 1].
        """
        field, averaged = self.field, self.averaged_field.module
        if not isinstance(field, GrowingField):
            return
        assert isinstance(averaged, GrowingField)
        due = 1 + sum(time <= progress for time in self.growth_times)
        while field.active < due:
            if int(self.averaged_field.n_averaged) > 0:
                for own, mean in zip(field.parameters(), averaged.parameters(), strict=True):
                    own.copy_(mean)
            stages = field.active + 1
            field.activate(stages)
            averaged.activate(stages)

    def generator(self, device: torch.device) -> torch.Generator:
        """The source of all randomness of a training step."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._initial_seed)
        return self._generators[device]

    def _scales(self) -> str:
        """Return the activation's scales, stored to detect checkpoints of others; empty where it has none."""
        scales = scales_of(self.config.field.require_possible().activation)
        return ", ".join(f"{name} = {value:g}" for name, value in scales.items())

    def scale_options(self) -> str:
        """Options of the activation's scales and of the bias range with their values, as one would type them."""
        chosen = self.config.field.require_possible()
        values = {**scales_of(chosen.activation), "bias_range": chosen.bias_range}
        options = (f"{name.replace('_', '-')} {value:g}" for name, value in values.items() if value is not None)
        return ", ".join(f"--pipeline.model.field.{option}" for option in options)

    def get_extra_state(self) -> dict[str, str]:
        return {
            "method": self.config.field.method,
            "unbounded": "yes" if self.unbounded else "no",
            "sampler": self.config.sampler,
            "scales": self._scales(),
        }

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state["method"] != self.config.field.method:
            raise InputError(
                f"this checkpoint is of the method {state['method']}, not {self.config.field.method}: name the "
                f"former on the command line, or leave the checkpoint out."
            )
        scales, own = state.get("scales"), self._scales()
        if scales is not None and scales != own:
            raise InputError(
                f"this checkpoint was trained with {scales}, not {own}: give those by --pipeline.model.field.omega-0, "
                f"s-0 and omega-f, or leave the checkpoint out."
            )
        trained = state.get("unbounded", "no")
        if (trained == "yes") != self.unbounded:
            kind = "a scene without end" if trained == "yes" else "a bounded scene"
            raise InputError(
                f"this checkpoint is of {kind}, which the one at hand is not: give --pipeline.model.unbounded "
                f"{trained}, or leave the checkpoint out."
            )
        sampler = state.get("sampler", "occupancy")
        if sampler != self.config.sampler:
            raise InputError(
                f"this checkpoint was trained with --pipeline.model.sampler {sampler}: give that option, or leave the "
                f"checkpoint out."
            )

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {"fields": list(self.field.parameters())}
        if self.proposals is not None:
            groups["proposal_networks"] = list(self.proposals.parameters())
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        grid, proposals = self.grid, self.proposals

        def update_average(step: int) -> None:
            self._update_average()

        callbacks = [TrainingCallback([after], update_average)]
        if grid is not None:

            def sample_fog(step: int) -> None:
                share = _OF_FOG if step < self.config.grid_warmup_steps else 1.0
                self._training_samples_per_ray = max(1, round(share * self.config.samples_per_ray))

            callbacks.append(TrainingCallback([before], sample_fog))

            def update_grid(step: int) -> None:
                grid.update(
                    self.field.density_at,
                    everywhere=step < self.config.grid_warmup_steps,
                    generator=self.generator(self.device),
                )

            callbacks.append(
                TrainingCallback([before], update_grid, update_every_num_iters=self.config.grid_update_every)
            )
        if proposals is not None:
            callbacks.append(TrainingCallback([before], proposals.before_step))
            callbacks.append(TrainingCallback([after], proposals.after_step))
            callbacks.append(TrainingCallback([before], self._require_finite, update_every_num_iters=_LOOK_EVERY))
        return callbacks

    def _require_finite(self, step: int) -> None:
        """Stop training where weights are not finite; all processes of a distributed run have the same ones."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.field.parameters()):
            raise Diverged("weights are NaN or infinite")

    @torch.no_grad()
    def _update_average(self) -> None:
        """As ``AveragedModel.update_parameters``, which takes as long as a small network's own training step."""
        averaged = self.averaged_field
        # Asked once: the answer lies on the GPU, which has to finish its work to give it.
        self._has_average = self._has_average or int(averaged.n_averaged) > 0
        if not self._averages:  # finding them takes longer than moving them
            self._averages = [*zip(averaged.module.parameters(), self.field.parameters(), strict=True)]
        means, values = map(list, zip(*self._averages, strict=True))
        if self._has_average:
            self._move_average(means, values, averaged.n_averaged)
        else:
            for mean, value in self._averages:
                mean.copy_(value)
        averaged.n_averaged += 1

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        return self._training_outputs(ray_bundle) if self.training else self._evaluation_outputs(ray_bundle)

    def _training_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Colour over the sky or a transparent background, for the leading rays that fit into the sample budget."""
        generator = self.generator(ray_bundle.origins.device)
        sampler = self.sampler
        segments = sampler.march(
            ray_bundle.origins,
            ray_bundle.directions,
            nears=ray_bundle.nears,
            fars=ray_bundle.fars,
            near_plane=self.config.near_plane,
            steps=self._training_samples_per_ray,
            max_samples=self.config.max_samples_per_batch,
            generator=generator,
        )
        rays, num_rays = segments.ray_indices, segments.num_rays
        directions = ray_bundle.directions.index_select(0, rays)
        positions = torch.addcmul(ray_bundle.origins.index_select(0, rays), directions, segments.distances[:, None])
        hidden = self.field.hidden_features(positions)
        weights = ray_weights(self.field.density(hidden) * segments.lengths, rays, segments.counts)
        colored = (weights.detach() > self.config.color_weight_threshold).nonzero().squeeze(-1)
        # Not by indexing, whose backward pass has to reckon with samples that are met twice.
        color = self.field.color(hidden.index_select(0, colored), directions.index_select(0, colored))
        rgb = accumulate_along_rays(weights.index_select(0, colored), color, rays.index_select(0, colored), num_rays)
        accumulation = accumulate_along_rays(weights, None, rays, num_rays)
        losses = segments.losses(weights) if isinstance(segments, ProposedSegments) else {}
        if sampler.reach is not None:
            rgb = rgb + sky(
                self.field.hidden_features,
                self.field.color,
                ray_bundle.origins[:num_rays],
                ray_bundle.directions[:num_rays],
                1.0 - accumulation.squeeze(-1),
                reach=sampler.reach,
                threshold=self.config.color_weight_threshold,
            )
            accumulation = torch.ones_like(accumulation)
        return {
            "rgb": rgb,
            "accumulation": accumulation,
            "num_samples_per_batch": rays.shape[0],
            "losses": losses,
        }

    def _evaluation_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        averaged: RadianceField[Any] = self.averaged_field.module  # pyright: ignore[reportAssignmentType]
        mask, stages, steps = None, None, self.config.samples_per_ray
        for_viewer = viewer_thread() is not None
        if for_viewer:
            if self.panel.width is not None and isinstance(averaged, GrowingField):
                stages = averaged.stages_within(float(self.panel.width.value))
            steps = int(self.panel.samples_per_ray.value)
        field = averaged.rendered(stages)
        if for_viewer:
            mask = neuron_mask(self.panel.band(), field.density_net.first.bias)
        rendering = partial(
            render,
            field,
            self.sampler,
            ray_bundle,
            near_plane=self.config.near_plane,
            # Evaluation skips what is ten times as faint as what training skips.
            weight_threshold=10 * self.config.color_weight_threshold,
            steps=steps,
            neuron_mask=mask,
        )
        return self.live_view.draw(len(ray_bundle), rendering) if for_viewer else rendering()

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        return self.get_outputs_for_camera_ray_bundle(camera_rays(camera, obb_box))

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Straight-alpha ``[*, 4]`` image: the white that evaluation puts behind the scene is taken out again."""
        alpha = outputs["accumulation"]
        color = (outputs[output_name] - (1.0 - alpha)) / alpha.clamp(min=1e-6)
        return torch.cat([color.clamp(0.0, 1.0), alpha], dim=-1)

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        if not self.training:
            image = over_white(batch["image"].to(self.device))
            return {"psnr": metrics.psnr(outputs["rgb"], image), "num_samples_per_batch": 0}
        with torch.no_grad():
            image = batch["image"][: outputs["rgb"].shape[0]].to(self.device)
            white = outputs["rgb"] + 1.0 - outputs["accumulation"]
            values = {
                "psnr": -10.0 * F.mse_loss(white, over_white(image)).log10(),
                "num_samples_per_batch": outputs["num_samples_per_batch"],
            }
            if self.grid is not None:
                values["occupied_cells"] = self.grid.occupied.float().mean()
            return values

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        rgb = outputs["rgb"]
        image = batch["image"][: rgb.shape[0]].to(self.device)
        if not self.training:
            return {"rgb_loss": F.mse_loss(rgb, over_white(image))}
        # A background that changes with every ray makes matter the only way to explain opaque pixels, and keeps the
        # field from painting any background into the scene.
        # Where the sky stands behind everything, what alpha cuts out is white, as in evaluation.
        background = torch.ones_like(rgb)
        if not self.unbounded:
            background = torch.rand(rgb.shape, device=rgb.device, generator=self.generator(rgb.device))
        prediction = rgb + (1.0 - outputs["accumulation"]) * background
        return {"rgb_loss": F.mse_loss(prediction, over(image, background)), **outputs["losses"]}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        image = over_white(batch["image"].to(self.device))
        rgb = outputs["rgb"].clamp(0.0, 1.0)
        values = view_metrics(rgb, image, download_lpips_weights=self.config.download_lpips_weights)
        images = {
            "img": torch.cat([image, rgb], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
            "normals": outputs["normals"],
        }
        return values, images


def view_metrics(
    rgb: Float[Tensor, "height width 3"],
    image: Float[Tensor, "height width 3"],
    *,
    download_lpips_weights: bool = False,
) -> dict[str, float]:
    """How much a rendering resembles the truth: ``psnr``, ``ssim``, and ``lpips`` where its weights can be had.

    Args:
        rgb: the rendering, values in [0, 1].
        image: the truth, likewise.
        download_lpips_weights: fetch the weights if they are not here.
    """
    values = {"psnr": float(metrics.psnr(rgb, image)), "ssim": float(metrics.ssim(rgb, image))}
    distance = metrics.lpips(rgb, image, download=download_lpips_weights)
    return values if distance is None else {**values, "lpips": float(distance)}


def over(image: Float[Tensor, "*batch channels"], background: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Straight-alpha RGBA over ``background``; RGB is returned as it is. Values in [0, 1]."""
    if image.shape[-1] == 3:
        return image
    rgb, alpha = image[..., :3], image[..., 3:]
    return rgb * alpha + background * (1.0 - alpha)


def over_white(image: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch 3"]:
    """Straight-alpha RGBA over white."""
    return over(image, torch.ones_like(image[..., :3]))
