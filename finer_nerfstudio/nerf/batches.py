"""Batches of pixels and their rays, sent to a GPU without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager

from finer_nerfstudio.nerf.images import SceneImages


class SceneBatches(VanillaDataManager[SceneImages]):
    """Nerfstudio's data manager, which leaves the GPU at its work while the next batch is put together.

    An ordinary copy to a GPU waits until everything has been computed that was asked for before. That is the better
    part of the step before, behind which drawing pixels, making rays and marching them can hide.
    """

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Rays of pixels drawn at random, and the pixels, both where the model is."""
        del step
        self.train_count += 1
        images = next(self.iter_train_image_dataloader)
        assert self.train_pixel_sampler is not None
        assert isinstance(images, dict)
        drawn = self.train_pixel_sampler.sample(images)
        batch = {name: values if name == "full_image" else self._sent(values) for name, values in drawn.items()}
        return self.train_ray_generator(batch["indices"]), batch

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        device = torch.device(self.device)
        if device.type != "cuda" or values.is_cuda:
            return values.to(device)
        return values.pin_memory().to(device, non_blocking=True)
