"""Results that the FINER++ paper prints, to stand beside ours."""

from __future__ import annotations

TABLE_1: dict[str, dict[str, float]] = {
    "pemlp": {"psnr": 29.60, "ssim": 0.8484, "lpips": 1.21e-1},
    "siren": {"psnr": 38.52, "ssim": 0.9724, "lpips": 5.52e-3},
    "finer-sine": {"psnr": 40.76, "ssim": 0.9790, "lpips": 2.56e-3},
    "gauss": {"psnr": 35.39, "ssim": 0.9455, "lpips": 1.91e-2},
    "finer-gauss": {"psnr": 38.60, "ssim": 0.9672, "lpips": 7.90e-3},
    "wire": {"psnr": 31.31, "ssim": 0.8738, "lpips": 6.45e-2},
    "finer-wavelet": {"psnr": 39.90, "ssim": 0.9781, "lpips": 5.00e-3},
}
"""Table 1: images, the mean of 16 natural ones of 512x512 pixels."""

TABLE_2: dict[str, dict[str, float]] = {
    "pemlp": {"chamfer": 3.441e-6, "iou": 0.9769},
    "siren": {"chamfer": 3.438e-6, "iou": 0.9749},
    "finer-sine": {"chamfer": 3.087e-6, "iou": 0.9790},
    "gauss": {"chamfer": 1.262e-5, "iou": 0.9692},
    "finer-gauss": {"chamfer": 2.898e-6, "iou": 0.9806},
    "wire": {"chamfer": 3.252e-6, "iou": 0.9760},
    "finer-wavelet": {"chamfer": 2.483e-6, "iou": 0.9817},
}
"""Table 2: signed distances, the mean of Armadillo, Dragon, Lucy and Thai Statue."""

TABLE_2_ARMADILLO: dict[str, dict[str, float]] = {
    "pemlp": {"chamfer": 3.559e-6, "iou": 0.9870},
    "siren": {"chamfer": 3.505e-6, "iou": 0.9895},
    "finer-sine": {"chamfer": 3.348e-6, "iou": 0.9899},
    "gauss": {"chamfer": 1.778e-5, "iou": 0.9768},
    "finer-gauss": {"chamfer": 3.210e-6, "iou": 0.9919},
    "wire": {"chamfer": 3.346e-6, "iou": 0.9893},
    "finer-wavelet": {"chamfer": 3.291e-6, "iou": 0.9901},
}
"""Table 2: the Armadillo alone."""

FAMILIES: dict[str, str] = {"finer-sine": "siren", "finer-gauss": "gauss", "finer-wavelet": "wire"}
"""Each FINER++ method and the method that it is built on."""
