"""Image quality: PSNR, SSIM and, where its weights are at hand, LPIPS."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

_ALEXNET_WEIGHTS = "alexnet-owt-7be5be79.pth"


def psnr(image: Float[Tensor, "*batch channels"], reference: Float[Tensor, "*batch channels"]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of values in [0, 1]."""
    return peak_signal_noise_ratio(image, reference, data_range=1.0)


def ssim(
    image: Float[Tensor, "height width channels"], reference: Float[Tensor, "height width channels"]
) -> Float[Tensor, ""]:
    """Structural similarity in [-1, 1] of images with values in [0, 1]; NaN below its 11 pixel window."""
    if min(image.shape[:2]) < 11:
        return image.new_tensor(float("nan"))
    value = structural_similarity_index_measure(_as_batch(image), _as_batch(reference), data_range=1.0)
    assert isinstance(value, Tensor)
    return value


def lpips(
    image: Float[Tensor, "height width channels"],
    reference: Float[Tensor, "height width channels"],
    *,
    download: bool = False,
) -> Float[Tensor, ""] | None:
    """Learned perceptual distance (AlexNet; Zhang et al. 2018) of images in [0, 1], or None where it can't be had.

    Args:
        image: the image under test.
        reference: what it should look like.
        download: fetch AlexNet's weights (233 MB) if they are not on this machine. Without it, nothing is fetched.
    """
    network = _lpips_network(download)
    if network is None:
        return None
    network = network.to(image.device)
    with torch.no_grad():
        return network(_as_batch(image).clamp(0, 1), _as_batch(reference).clamp(0, 1))


@cache
def _lpips_network(download: bool) -> torch.nn.Module | None:
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET_WEIGHTS
    if not weights.exists() and not download:
        _say(f"LPIPS is not available: AlexNet's weights are not at {weights}.")
        return None
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except Exception as error:  # the download, the cache folder, a missing extra: any of them means "not available"
        _say(f"LPIPS is not available: {error}.")
        return None


def _say(sentence: str) -> None:
    Console(stderr=True).print(sentence, style="yellow", highlight=False)


def _as_batch(image: Tensor) -> Tensor:
    return image.movedim(-1, 0)[None]
