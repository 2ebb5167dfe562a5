"""Quality of images (PSNR, SSIM and, where its weights are at hand, LPIPS) and of surfaces (Chamfer, IoU, normals)."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

SSIM_BORDER = 5
"""Pixels along each border that are in the middle of no window of SSIM."""
_WINDOW = 2 * SSIM_BORDER + 1
_ALEXNET_WEIGHTS = "alexnet-owt-7be5be79.pth"


def decibels(squared_error: float, *, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error; infinite for none.

    Args:
        squared_error: mean over all values, at least 0.
        peak: largest difference that two values can have.
    """
    return 10.0 * math.log10(peak**2 / squared_error) if squared_error > 0 else math.inf


def psnr(
    image: Float[Tensor, "*batch channels"],
    reference: Float[Tensor, "*batch channels"],
    counted: Bool[Tensor, "*batch 1"] | None = None,
) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of values in [0, 1].

    Args:
        image: the image under test.
        reference: what it should look like.
        counted: which pixels count, all unless given; NaN where none does.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    if counted is not None:
        image, reference = (pixels[counted.squeeze(-1)] for pixels in (image, reference))
        if not len(image):
            return image.new_tensor(float("nan"))
    return peak_signal_noise_ratio(image, reference, data_range=1.0)


def ssim(
    image: Float[Tensor, "height width channels"],
    reference: Float[Tensor, "height width channels"],
    counted: Bool[Tensor, "height width 1"] | None = None,
) -> Float[Tensor, ""]:
    """Structural similarity in [-1, 1] of images with values in [0, 1]; NaN below its 11 pixel window.

    The mean over all windows that lie within the image, as of Wang et al. 2004 and scikit-image. torchmetrics counts
    windows around border pixels too (from 1.4.3 on), which see a reflection beyond the border.

    Args:
        image: the image under test.
        reference: what it should look like.
        counted: which pixels count, all unless given. A window counts if all its pixels do; NaN where none does.
    """
    windows = ssim_map(image, reference)
    if counted is None or min(image.shape[:2]) < _WINDOW:
        return windows.mean()
    left_out = torch.nn.functional.max_pool2d(_as_batch((~counted).to(windows)), _WINDOW, stride=1)
    return windows[left_out[0, 0] == 0].mean()


def ssim_map(
    image: Float[Tensor, "height width channels"], reference: Float[Tensor, "height width channels"]
) -> Float[Tensor, "rows columns channels"]:
    """Structural similarity of every window of 11 by 11 pixels (a Gaussian of σ = 1.5) that lies within the images.

    Returns:
        ``[height - 10, width - 10, channels]``, one NaN for images that are smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(image.shape[:2]) < _WINDOW:
        return torch.full_like(image[:1, :1], float("nan"))
    _, similarity = structural_similarity_index_measure(
        _as_batch(image), _as_batch(reference), data_range=1.0, return_full_image=True
    )
    inside = slice(SSIM_BORDER, -SSIM_BORDER)
    return similarity[0].movedim(0, -1)[inside, inside]


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
        _say(
            f"LPIPS is not available: AlexNet's weights are not at {weights}. The page on installation says how to "
            f"fetch them once."
        )
        return None
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except Exception as error:  # the download, the cache folder, a missing extra: any of them means "not available"
        _say(f"LPIPS is not available: {error}.")
        return None


def view_metrics(
    rgb: Float[Tensor, "height width 3"],
    image: Float[Tensor, "height width 3"],
    counted: Bool[Tensor, "height width 1"] | None = None,
    *,
    download_lpips_weights: bool = False,
) -> dict[str, float]:
    """Return how much a rendering resembles the truth: ``psnr``, ``ssim``, and ``lpips`` where its weights can be had.

    Args:
        rgb: the rendering, values in [0, 1].
        image: the truth, likewise.
        counted: which pixels count, all unless given. LPIPS sees the truth at the others, in both images.
        download_lpips_weights: fetch the weights if they are not here.
    """
    values = {"psnr": float(psnr(rgb, image, counted)), "ssim": float(ssim(rgb, image, counted))}
    shown = rgb if counted is None else torch.where(counted, rgb, image)
    distance = lpips(shown, image, download=download_lpips_weights)
    return values if distance is None else {**values, "lpips": float(distance)}


def _say(sentence: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(sentence, style="yellow", highlight=False)


def _as_batch(image: Tensor) -> Tensor:
    return image.movedim(-1, 0)[None]


def chamfer(points: np.ndarray, reference: np.ndarray) -> float:
    """Sum of the two mean squared distances to the nearest point of the other set.

    The paper takes 300,000 random points of either surface, in the frame where a shape's coordinates span
    [-0.45, 0.45]. Two such samples of one and the same surface of area A are about ``2 A / (300,000 pi)`` apart.

    Args:
        points: ``[n, 3]``.
        reference: ``[m, 3]``.
    """
    to_reference, _ = _nearest(points, reference)
    to_points, _ = _nearest(reference, points)
    return float(np.square(to_reference).mean() + np.square(to_points).mean())


def chamfer_and_normal_consistency(
    points: np.ndarray, normals: np.ndarray, reference: np.ndarray, reference_normals: np.ndarray
) -> tuple[float, float]:
    """:func:`chamfer`, and the mean cosine between the normals of nearest neighbours, both ways.

    Args:
        points: ``[n, 3]``.
        normals: ``[n, 3]`` unit vectors.
        reference: ``[m, 3]``.
        reference_normals: ``[m, 3]`` unit vectors.

    Returns:
        The chamfer distance, and the consistency in [-1, 1]; 1 where both surfaces face the same way everywhere.
    """
    to_reference, there = _nearest(points, reference)
    to_points, here = _nearest(reference, points)
    forward = np.einsum("ij,ij->i", normals, reference_normals[there]).mean()
    backward = np.einsum("ij,ij->i", reference_normals, normals[here]).mean()
    distance = np.square(to_reference).mean() + np.square(to_points).mean()
    return float(distance), float(0.5 * (forward + backward))


def iou(inside: np.ndarray, reference: np.ndarray) -> float:
    """Intersection over union of two boolean masks of one shape; 1 where both are empty."""
    union = np.logical_or(inside, reference).sum()
    return float(np.logical_and(inside, reference).sum() / union) if union else 1.0


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import KDTree

    distances, indices = KDTree(others).query(points, workers=-1)
    return np.asarray(distances), np.asarray(indices)
