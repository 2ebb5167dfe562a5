"""A scene's pictures, and batches of pixels and their rays, sent to a GPU without waiting for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import (
    VanillaDataManager,
    VanillaDataManagerConfig,
    variable_res_collate,
)
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.memory import available_memory, gigabytes
from finer_nerfstudio.nerf.data.captures import checked_captures
from finer_nerfstudio.nerf.data.depths import DepthMaps, depth_maps
from finer_nerfstudio.nerf.data.images import SceneImages
from finer_nerfstudio.nerf.data.pixels import ScenePixels
from finer_nerfstudio.nerf.sampling.rays import LensRays

# Training steps whose pixels are drawn together: for one step's, the calls take longer than what they do.
_STEPS_AHEAD = 8


@dataclass
class _Drawn:
    """Pixels and rays of some training steps.

    Attributes:
        pictures: that the pixels are of.
        rays: of all pixels, those of a pixel side by side.
        batch: "image" and "indices" of all pixels.
        of_pixel: rays of a pixel.
        taken: pixels that have been given away.
    """

    pictures: dict[str, Any]
    rays: RayBundle
    batch: dict[str, Any]
    of_pixel: int
    taken: int = 0

    def has(self, count: int, pictures: dict[str, Any], across: int) -> bool:
        """Return whether so many pixels of these pictures are left, of as many rays along each side."""
        left = len(self.batch["indices"]) - self.taken
        return left >= count and self.pictures is pictures and self.of_pixel == across**2

    def take(self, count: int) -> tuple[RayBundle, dict[str, Any]]:
        """Return the next pixels and their rays."""
        pixels = slice(self.taken, self.taken + count)
        own = slice(self.of_pixel * pixels.start, self.of_pixel * pixels.stop)
        self.taken += count
        rays = self.rays
        assert rays.camera_indices is not None
        bundle = RayBundle(
            origins=rays.origins[own],
            directions=rays.directions[own],
            pixel_area=rays.pixel_area[own],
            camera_indices=rays.camera_indices[own],
            times=None if rays.times is None else rays.times[own],
            metadata={name: values[own] for name, values in rays.metadata.items()},
        )
        return bundle, {name: values[pixels] for name, values in self.batch.items()}


class SceneBatches(VanillaDataManager[SceneImages]):
    """Nerfstudio's data manager for scenes of every kind, which leaves the GPU at its work meanwhile.

    Captures are read by the parser that checks them, and pictures may have several sizes.

    An ordinary copy to a GPU waits until everything has been computed that was asked for before. That is the better
    part of the step before, behind which drawing pixels, making rays and marching them can hide.
    """

    depths: DepthMaps | None = None
    """Depth maps of the training pictures, where they are trained on."""

    _drawn: _Drawn | None = None

    def __init__(self, config: VanillaDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        if isinstance(config.dataparser, NerfstudioDataParserConfig):
            config = dataclasses.replace(config, dataparser=checked_captures(config.dataparser))
        try:
            super().__init__(config, *args, **kwargs)
        except OSError as error:
            # A folder that may not be entered, or a name that is too long, for which Python has no answer but this.
            name = str(error.filename or config.data)
            name = name if len(name) <= 200 else f"{name[:200]} ..."
            raise InputError(f"the scene cannot be read ({in_one_line(error)}): {name}.") from error

    def setup_train(self) -> None:
        datasets = (self.train_dataset, self.eval_dataset)
        if any(bool(dataset.cameras.is_jagged) for dataset in datasets):
            self.config.collate_fn = variable_res_collate
        self._require_memory()
        super().setup_train()
        self.train_ray_generator = LensRays(self.train_dataset.cameras.to(self.device))
        if isinstance(self.train_pixel_sampler, ScenePixels):
            self.train_pixel_sampler.drawable(self.training_pictures())

    def training_pictures(self) -> dict[str, Any]:
        """The pictures that pixels are drawn from now: "image", "image_idx" and perhaps "mask"."""
        pictures = next(self.iter_train_image_dataloader)
        assert isinstance(pictures, dict)
        return pictures

    def read_depths(self) -> None:
        """Have training batches say how far along their rays something is, as "depth" of the rays.

        Raises:
            InputError: if there are no depth maps, or one of them is damaged.
        """
        self.depths = depth_maps(self.train_dataparser_outputs, self.config.camera_res_scale_factor)
        if self.depths is None:
            raise InputError(
                "--pipeline.model.depth-loss-weight trains on depth maps, and no training view of this scene has one: "
                'give frames of a capture their "depth_file_path", or leave the option out.'
            )

    def setup_eval(self) -> None:
        super().setup_eval()
        # The quality of a view of which nothing counts is no number.
        counted = [index for index in range(len(self.eval_dataset)) if self.eval_dataset.counts(index)]
        if not counted:
            raise InputError(
                "the masks leave no pixel of any picture to evaluate on: what is white in a mask counts, so they may "
                "be the wrong way round."
            )
        self.fixed_indices_eval_dataloader.image_indices = counted
        self.eval_ray_generator = LensRays(self.eval_dataset.cameras.to(self.device))

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Rays of pixels drawn at random, and the pixels, both where the model is."""
        del step
        self.train_count += 1
        sampler, pictures = self.train_pixel_sampler, self.training_pictures()
        assert sampler is not None
        if not isinstance(sampler, ScenePixels) or sampler.config.keep_full_image:
            drawn = self._draw(sampler, pictures)
            return drawn.rays, drawn.batch
        count, across = sampler.num_rays_per_batch, getattr(self.train_ray_generator, "across", 1)
        drawn = self._drawn
        if drawn is None or not drawn.has(count, pictures, across):
            sampler.set_num_rays_per_batch(_STEPS_AHEAD * count)
            try:
                drawn = self._drawn = self._draw(sampler, pictures)
            finally:
                sampler.set_num_rays_per_batch(count)
        return drawn.take(count)

    def _draw(self, sampler: PixelSampler, pictures: dict[str, Any]) -> _Drawn:
        drawn = sampler.sample(pictures)
        batch = {name: values if name == "full_image" else self._sent(values) for name, values in drawn.items()}
        rays = self.train_ray_generator(batch["indices"])
        of_pixel = len(rays) // len(drawn["indices"])
        if self.depths is not None:
            rays.metadata["depth"] = self.depths.along(rays, drawn["indices"].repeat_interleave(of_pixel, dim=0))
        return _Drawn(pictures, rays, batch, of_pixel)

    def _get_pixel_sampler(self, dataset: SceneImages, num_rays_per_batch: int) -> PixelSampler:
        config = self.config.pixel_sampler
        if self.config.patch_size > 1 or type(config) is not PixelSamplerConfig:
            return super()._get_pixel_sampler(dataset, num_rays_per_batch)
        return ScenePixels(
            dataclasses.replace(config),
            num_rays_per_batch=num_rays_per_batch,
            is_equirectangular=bool((dataset.cameras.camera_type == CameraType.EQUIRECTANGULAR.value).all()),
        )

    def _require_memory(self) -> None:
        """All pictures are held as floating numbers; while training's are put together, there are two of each."""

        def size(dataset: SceneImages, most: int) -> int:
            pixels = (dataset.cameras.width * dataset.cameras.height).flatten().sort(descending=True).values
            return int(pixels[: most if most >= 0 else None].sum()) * 4 * (4 if dataset.any_alpha else 3)

        config = self.config
        trained = size(self.train_dataset, config.train_num_images_to_sample_from)
        needed = max(2 * trained, trained + 2 * size(self.eval_dataset, config.eval_num_images_to_sample_from))
        available = available_memory()
        if needed > available:
            raise InputError(
                f"the scene's {len(self.train_dataset)} pictures to train on take {gigabytes(needed)} of memory, and "
                f"{gigabytes(available)} are free: give --downscale-factor after blender-views or nerfstudio-data, or "
                f"--pipeline.datamanager.train-num-images-to-sample-from with "
                f"--pipeline.datamanager.train-num-times-to-repeat-images."
            )

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        device = torch.device(self.device)
        if device.type != "cuda" or values.is_cuda:
            return values.to(device)
        return values.pin_memory().to(device, non_blocking=True)
