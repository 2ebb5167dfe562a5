"""Drawing pixels from pictures of several sizes, and from what masks leave of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig
from torch import Tensor

from finer_nerfstudio.errors import InputError


@dataclass(frozen=True)
class Drawable:
    """The pixels of some pictures that may be drawn, one after the other.

    Attributes:
        ends: ``[pictures]``, how many there are up to each picture's last.
        widths: ``[pictures]``.
        places: for every one of them, its place in its picture, row by row; None where all pixels may be drawn.
    """

    ends: Int[Tensor, " pictures"]
    widths: Int[Tensor, " pictures"]
    places: Int[Tensor, " pixels"] | None

    @property
    def count(self) -> int:
        return int(self.ends[-1])

    def pixels(self, numbers: Int[Tensor, " rays"]) -> Int[Tensor, "rays 3"]:
        """Return picture, row and column of pixels that are named by their numbers in 0 .. count - 1."""
        picture = torch.searchsorted(self.ends, numbers, right=True)
        start = torch.nn.functional.pad(self.ends, (1, 0))[picture]
        place = numbers - start if self.places is None else self.places[numbers].long()
        width = self.widths[picture]
        return torch.stack([picture, place // width, place % width], dim=1)


def drawable(sizes: Sequence[tuple[int, int]], masks: Sequence[Bool[Tensor, "height width 1"]] | None) -> Drawable:
    """Count the pixels that may be drawn.

    Args:
        sizes: height and width of each picture.
        masks: of each picture, what may be drawn of it.

    Raises:
        InputError: if there are none.
    """
    widths = torch.tensor([width for _, width in sizes])
    if masks is None:
        return Drawable(torch.tensor([height * width for height, width in sizes]).cumsum(0), widths, None)
    # A picture of more than two thousand million pixels is none that anybody could hold.
    places = [mask.cpu().flatten().nonzero().squeeze(1).int() for mask in masks]
    ends = torch.tensor([len(place) for place in places]).cumsum(0)
    if int(ends[-1]) == 0:
        raise InputError(
            "the masks leave no pixel of any picture: what is white in a mask counts, so they may be the wrong way "
            "round."
        )
    return Drawable(ends, widths, torch.cat(places))


class ScenePixels(PixelSampler):
    """Draws any number of pixels, each of those that masks leave with the same probability, whatever the sizes.

    Nerfstudio's own draws for pictures of one size without masks. With several sizes it wants an even number and gives
    none to some pictures; with masks it draws a number of pixels that may not be there.
    """

    def __init__(self, config: PixelSamplerConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self._counted: tuple[dict[str, Any], Drawable] | None = None

    def sample(self, image_batch: dict[str, Any]) -> dict[str, Any]:
        """Draw pixels of a batch of pictures.

        Args:
            image_batch: "image" and perhaps "mask", tensors or lists of one for each picture, and "image_idx".

        Returns:
            "image" ``[rays, channels]`` and "indices" ``[rays, 3]``: camera, row and column.

        Raises:
            InputError: if masks leave nothing.
        """
        images = image_batch["image"]
        masks = None if self.config.ignore_mask else image_batch.get("mask")
        if isinstance(images, Tensor) and masks is None:
            return super().sample({name: value for name, value in image_batch.items() if name != "mask"})
        picture, row, column = self._drawn(self.drawable(image_batch), images).unbind(dim=1)
        if isinstance(images, Tensor):
            colors = images[picture, row, column]
        else:
            colors = images[0].new_empty(len(picture), images[0].shape[-1])
            order, counts = picture.argsort(), picture.bincount(minlength=len(images)).tolist()
            for image, mine in zip(images, order.split(counts), strict=True):
                colors[mine] = image[row[mine], column[mine]]
        indices = torch.stack([image_batch["image_idx"].cpu()[picture], row, column], dim=1)
        batch = {"image": colors, "indices": indices}
        return {**batch, "full_image": images} if self.config.keep_full_image else batch

    def drawable(self, image_batch: dict[str, Any]) -> Drawable:
        """Count the pixels of a batch that may be drawn; the same batch is counted once."""
        if self._counted is None or self._counted[0] is not image_batch:
            masks = None if self.config.ignore_mask else image_batch.get("mask")
            sizes = [(image.shape[0], image.shape[1]) for image in image_batch["image"]]
            self._counted = (image_batch, drawable(sizes, masks))
        return self._counted[1]

    def _drawn(self, pixels: Drawable, images: Sequence[Tensor] | Tensor) -> Int[Tensor, "rays 3"]:
        count = self.num_rays_per_batch
        if not self.config.is_equirectangular:
            return pixels.pixels(torch.randint(pixels.count, (count,)))
        # In proportion to the solid angle that a pixel shows, which is little at the poles.
        heights = torch.tensor([image.shape[0] for image in images])
        kept: list[Tensor] = []
        while sum(map(len, kept)) < count:
            candidates = pixels.pixels(torch.randint(pixels.count, (count,)))
            solid_angle = torch.sin(torch.pi * (candidates[:, 1] + 0.5) / heights[candidates[:, 0]])
            kept.append(candidates[torch.rand(count) < solid_angle])
        return torch.cat(kept)[:count]
