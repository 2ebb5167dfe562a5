"""The Nerfstudio model: sampling, rendering, losses, metrics and the viewer's panel."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from finer_nerfstudio.errors import UsageError
from finer_nerfstudio.inr.kernels.rounding import rounded
from finer_nerfstudio.inr.methods import TrainingPrecision, training_rounding
from finer_nerfstudio.nerf.compositing import composite
from finer_nerfstudio.nerf.data.alpha import over, over_white
from finer_nerfstudio.nerf.data.images import counted_pixels
from finer_nerfstudio.nerf.depth_loss import depth_loss
from finer_nerfstudio.nerf.field import FinerField, FinerFieldConfig, RadianceField
from finer_nerfstudio.nerf.rendering import render
from finer_nerfstudio.nerf.sampling.contraction import far_away
from finer_nerfstudio.nerf.sampling.importance import Amount
from finer_nerfstudio.nerf.sampling.proposal import ProposalSampler, ProposedSegments
from finer_nerfstudio.nerf.sampling.rays import bands_of_rays, finer_cameras
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid, RayLimits
from finer_nerfstudio.nerf.sampling.unbounded_grid import DrawnSegments, UnboundedGrid
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.nerf.streaming.growing_field import GrowingField, GrowingFieldConfig
from finer_nerfstudio.nerf.training.averaging import AveragedField
from finer_nerfstudio.nerf.training.callbacks import training_callbacks
from finer_nerfstudio.nerf.training.setup import require_same_setup
from finer_nerfstudio.nerf.viewer.live_view import LiveView
from finer_nerfstudio.nerf.viewer.panel import ViewerPanel, neuron_mask, viewer_thread
from finer_nerfstudio.runs import metrics

# Whose numbers take 5 GB, and those of scenes without end 22.
_FINEST_GRID = 1024
_LONGEST_CODE = 1024
_SUPERSAMPLING_WITHOUT_END = 2
_MOST_SUPERSAMPLING = 8


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
    samples_per_spread: float = 0.25
    """In scenes without end, which have twice as many steps, samples of a training ray for each step over which the
    grid's expectations are spread: few where it knows the surface, and many in fog. The viewer's pictures take twice
    as many, and others some six times."""
    max_samples_per_batch: int = 1 << 16
    """Upper bound of samples in a training step: rays beyond it are left out of the step, so that memory is bounded.
    What proposal networks look at does not count."""
    grid_resolution: int = 64
    """Cells per axis of the occupancy grid, twice as many in scenes without end; this and the next two are of no
    account to proposal networks."""
    grid_warmup_steps: int = 256
    """In bounded scenes, training steps during which every update of the grid looks into all cells, and rays are
    sampled a third as often: there is nothing but fog to see, and three times the rays see more of it."""
    grid_update_every: int = 16
    """Training steps between updates of the grid."""
    unbounded: Literal["auto", "yes", "no"] = "auto"
    """Whether there is something to see outside the scene's box. "auto": not in Blender-format scenes, nor where alpha
    cuts something out of its surroundings; else, as in photographs, all of space is contracted into the field."""
    appearance_dim: int = 0
    """Numbers of a code that each training picture has, by which colours differ from picture to picture, as exposure
    and white balance do; everything else is seen by the mean of all codes. 0 for none."""
    camera_optimizer: CameraOptimizerConfig = dataclasses.field(default_factory=CameraOptimizerConfig)
    """Whether poses of training pictures are refined along with the field (--optimizers.camera-opt)."""
    supersampling: int | None = None
    """Rays along each side of a pixel, in training and in pictures: a photograph's pixel is the mean of what it covers.
    2 in scenes without end, and 1 else and in the viewer, unless given."""
    supersampling_from: int = 1000
    """Training steps in which a pixel has one ray, through its middle, before it has several."""
    depth_loss_weight: float = 0.0
    """Weight of the error of depths beside that of colours, in captures with depth maps ("depth_file_path"); 0 leaves
    the maps alone, and 0.1 is a good start."""
    near_plane: float = 0.05
    """Nothing nearer to a camera is sampled, world units."""
    color_weight_threshold: float = 1e-4
    """Colour is evaluated only for samples whose rendering weight exceeds this in training (ten times this in
    evaluation)."""
    precision: TrainingPrecision = "auto"
    """How precisely the CPU multiplies matrices in training. auto rounds operands of the backward pass to bfloat16
    where that is faster and the method ends as in float32; float32 rounds nothing."""
    ema_decay: float = 0.95
    """Evaluation uses an exponential moving average of the weights with this decay per step."""
    download_lpips_weights: bool = False
    """Fetch the weights that LPIPS needs (233 MB) if they are not on this machine."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a config.yml says, and the defaults of options that it is too old to have."""
        self.__dict__.update({**vars(type(self)()), **state})

    @property
    def evaluation_threshold(self) -> float:
        """Rendering weight from which evaluation has colour: ten times what training skips."""
        return 10.0 * self.color_weight_threshold

    def require_possible(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: for one that is out of range.
        """
        counts = ("samples_per_ray", "max_samples_per_batch", "grid_resolution", "grid_update_every")
        for name in (*counts, "eval_num_rays_per_chunk"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise UsageError(f"--pipeline.model.{option} must be at least 1, not {getattr(self, name)}.")
        if self.supersampling is not None and not 1 <= self.supersampling <= _MOST_SUPERSAMPLING:
            option = "--pipeline.model.supersampling"
            raise UsageError(f"{option} must lie between 1 and {_MOST_SUPERSAMPLING}, not {self.supersampling}.")
        if not 0 <= self.appearance_dim <= _LONGEST_CODE:
            option = "--pipeline.model.appearance-dim"
            raise UsageError(f"{option} must lie between 0 and {_LONGEST_CODE}, not {self.appearance_dim}.")
        if self.grid_resolution > _FINEST_GRID:
            option = "--pipeline.model.grid-resolution"
            raise UsageError(f"{option} must be at most {_FINEST_GRID:,} cells per axis, not {self.grid_resolution}.")
        if not 0 < self.samples_per_spread < math.inf:
            option = "--pipeline.model.samples-per-spread"
            raise UsageError(f"{option} must be finite and positive, it is {self.samples_per_spread}.")
        for name in ("near_plane", "grid_warmup_steps", "supersampling_from", "depth_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                option = name.replace("_", "-")
                raise UsageError(
                    f"--pipeline.model.{option} must be finite and not negative, it is {getattr(self, name)}."
                )
        if not 0 <= self.color_weight_threshold < 1:
            raise UsageError(
                f"--pipeline.model.color-weight-threshold must lie in [0, 1), it is {self.color_weight_threshold}."
            )
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"--pipeline.model.ema-decay must lie in [0, 1), it is {self.ema_decay}.")
        if self.max_samples_per_batch < self.samples_per_ray:
            raise UsageError("--pipeline.model.max-samples-per-batch must not be smaller than samples-per-ray.")


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
        config.require_possible()
        # Drawn from the global generator that Nerfstudio seeded, so that --machine.seed decides everything here too.
        self._initial_seed = int(torch.randint(1 << 62, ()))
        self._generators: dict[torch.device, torch.Generator] = {}
        aabb = self.scene_box.aabb.float()
        metadata = self.kwargs.get("metadata") or {}
        self.unbounded = metadata.get("unbounded", False) if config.unbounded == "auto" else config.unbounded == "yes"
        self.field = config.field.setup(
            aabb=aabb,
            unbounded=self.unbounded,
            codes=(self.num_train_data, config.appearance_dim),
            generator=torch.Generator().manual_seed(self._initial_seed),
        )
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        default = _SUPERSAMPLING_WITHOUT_END if self.unbounded else 1
        self.supersampling = default if config.supersampling is None else config.supersampling
        # What a pixel covers is of no account yet in the beginning, when more pixels say more.
        self.training_supersampling = 1
        self.averaged_field = AveragedField(self.field, config.ema_decay)
        self.grid: OccupancyGrid | None = None
        self.proposals: ProposalSampler | None = None
        # The sampler's own number, but for the fog in the beginning.
        self.training_steps: int | None = None
        if config.sampler == "proposal":
            self.proposals = ProposalSampler(aabb, unbounded=self.unbounded, steps=config.samples_per_ray)
        else:
            self.grid = self._grid(aabb)
        # Average and grid are then looked after by what captured them.
        self.steps_are_captured = False
        self.panel = ViewerPanel(self.field, steps=self.sampler.steps)
        self.live_view = LiveView()

    @property
    def rays_of_pixel(self) -> int:
        """Rays whose mean is the colour of a pixel in this training step."""
        return self.training_supersampling**2

    def _grid(self, aabb: Tensor) -> OccupancyGrid:
        steps, resolution = self.config.samples_per_ray, self.config.grid_resolution
        if not self.unbounded:
            return OccupancyGrid(aabb, resolution=resolution, steps=steps)
        if 2 * resolution > _FINEST_GRID:
            option = "--pipeline.model.grid-resolution"
            raise UsageError(f"{option} must be at most {_FINEST_GRID // 2} in scenes without end, not {resolution}.")
        amount = Amount(self.config.samples_per_spread)
        return UnboundedGrid(aabb, amount=amount, resolution=2 * resolution, steps=2 * steps)

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

    def grow_until(self, progress: float) -> None:
        """Widen a growing field as often as is due.

        What is frozen then are the averaged weights, those that evaluation has used: an earlier stage looks the same
        ever after.

        Args:
            progress: share of the training that is done, in [0, 1].
        """
        if isinstance(self.field, GrowingField):
            due = 1 + sum(time <= progress for time in self.growth_times)
            self.field.grow_with(self.averaged_field, due)

    def generator(self, device: torch.device) -> torch.Generator:
        """The source of all randomness of a training step."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._initial_seed)
        return self._generators[device]

    def get_extra_state(self) -> dict[str, str]:
        return {
            "method": self.config.field.method,
            "unbounded": "yes" if self.unbounded else "no",
            "sampler": self.config.sampler,
            "scales": ", ".join(f"{name} = {value:g}" for name, value in self.config.field.scales().items()),
        }

    def set_extra_state(self, state: dict[str, str]) -> None:
        require_same_setup(state, self.get_extra_state())

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        grid = getattr(self.field, "grid", None)
        tables = [] if grid is None else list(grid.parameters())
        networks = [own for own in self.field.parameters() if all(own is not table for table in tables)]
        groups = {"fields": networks}
        if tables:
            groups["feature_grid"] = tables
        if self.proposals is not None:
            groups["proposal_networks"] = list(self.proposals.parameters())
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        return training_callbacks(self)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        if not self.training:
            return self._evaluation_outputs(ray_bundle)
        with rounded(training_rounding(self.config.field.method, self.config.precision, self.device)):
            return self._training_outputs(ray_bundle)

    def _training_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Colour over the sky or a transparent background, for the leading rays that fit into the sample budget."""
        sampler, threshold = self.sampler, self.config.color_weight_threshold
        self.camera_optimizer.apply_to_raybundle(ray_bundle)
        limits = RayLimits(
            ray_bundle.nears,
            ray_bundle.fars,
            self.config.near_plane,
            steps=self.training_steps,
            max_samples=self.config.max_samples_per_batch,
            together=self.rays_of_pixel,
            generator=self.generator(ray_bundle.origins.device),
        )
        segments = sampler.march(ray_bundle.origins, ray_bundle.directions, limits)
        num_rays = segments.num_rays
        origins, directions = ray_bundle.origins[:num_rays], ray_bundle.directions[:num_rays]
        appearance = None
        if isinstance(self.field, FinerField) and ray_bundle.camera_indices is not None:
            appearance = self.field.appearance(ray_bundle.camera_indices[:num_rays, 0])
        sky = None if sampler.reach is None else far_away(sampler.reach)
        seen = composite(
            self.field, origins, directions, segments, weight_threshold=threshold, sky=sky, appearance=appearance
        )
        rgb, weights = seen.rgb, seen.weights
        accumulation = (1.0 - seen.passed if sky is None else torch.ones_like(seen.passed))[:, None]
        losses = segments.losses(weights) if isinstance(segments, ProposedSegments) else {}
        if isinstance(segments, DrawnSegments) and isinstance(sampler, UnboundedGrid):
            sampler.see(segments, (seen.thickness / segments.lengths).detach())
        if "depth" in ray_bundle.metadata:
            farthest = origins.norm(dim=-1) + (sampler.aabb[1] - sampler.aabb[0]).norm()
            measured = ray_bundle.metadata["depth"]
            loss = depth_loss(segments, weights, measured, reach=sampler.reach, farthest=farthest)
            losses["depth_loss"] = self.config.depth_loss_weight * loss
        if self.rays_of_pixel > 1:
            rgb, accumulation = (
                values.unflatten(0, (-1, self.rays_of_pixel)).mean(dim=1) for values in (rgb, accumulation)
            )
        return {"rgb": rgb, "accumulation": accumulation, "num_samples_per_batch": len(weights), "losses": losses}

    def scene(self, stages: int | None = None) -> Scene:
        """Return what evaluation looks at: the averaged field, of a growing one so many stages if given."""
        averaged: RadianceField[Any] = self.averaged_field.module  # pyright: ignore[reportAssignmentType]
        config = self.config
        return Scene(averaged.rendered(stages), self.sampler, config.near_plane, config.evaluation_threshold)

    def _evaluation_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        if viewer_thread() is None:
            return render(self.scene(), ray_bundle)
        averaged, stages = self.averaged_field.module, None
        if self.panel.width is not None and isinstance(averaged, GrowingField):
            stages = averaged.stages_within(float(self.panel.width.value))
        scene = self.scene(stages)
        mask = neuron_mask(self.panel.band(), scene.field.density_net.first.bias)
        steps = int(self.panel.samples_per_ray.value)
        drawn = partial(render, scene, ray_bundle, steps=steps, neuron_mask=mask, quick=True)
        return self.live_view.draw(len(ray_bundle), drawn)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        across = 1 if viewer_thread() is not None else self.supersampling
        bands = [
            {
                name: _means_of_pixels(values, across)
                for name, values in self.get_outputs_for_camera_ray_bundle(rays).items()
            }
            for rays in bands_of_rays(finer_cameras(camera, across), obb_box, rows_together=across)
        ]
        return {name: torch.cat([band[name] for band in bands]) for name in bands[0]}

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
                values["occupied_cells"] = self.grid.occupied_share
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
        losses = {"rgb_loss": F.mse_loss(prediction, over(image, background)), **outputs["losses"]}
        self.camera_optimizer.get_loss_dict(losses)
        return losses

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        image = over_white(batch["image"].to(self.device))
        rgb = outputs["rgb"].clamp(0.0, 1.0)
        values = metrics.view_metrics(
            rgb, image, counted_pixels(batch, rgb), download_lpips_weights=self.config.download_lpips_weights
        )
        images = {
            "img": torch.cat([image, rgb], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
            "normals": outputs["normals"],
        }
        return values, images


def _means_of_pixels(values: Tensor, across: int) -> Tensor:
    """Return the means of blocks of ``across`` by ``across`` rays, ``[height, width, channels]``."""
    if across == 1:
        return values
    return values.unflatten(1, (-1, across)).unflatten(0, (-1, across)).mean(dim=(1, 3))
