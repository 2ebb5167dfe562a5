"""Results that the FINER++ paper prints, to stand beside ours."""

from __future__ import annotations

from finer_nerfstudio.inr.methods import METHODS

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

TABLE_3_SCENES = ("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")
"""The scenes of the NeRF synthetic set, in the paper's order."""

TABLE_3: dict[str, dict[str, float]] = {
    method: dict(zip(TABLE_3_SCENES, values, strict=True))
    for method, values in {
        "pemlp": (31.32, 20.18, 24.49, 30.59, 25.90, 25.16, 26.38, 21.46),
        "siren": (33.31, 24.89, 27.26, 32.85, 29.60, 27.13, 33.28, 22.25),
        "finer-sine": (33.90, 24.90, 28.70, 33.05, 30.04, 27.05, 33.96, 22.47),
        "gauss": (32.68, 23.16, 26.10, 32.17, 28.29, 26.19, 33.59, 22.28),
        "finer-gauss": (33.49, 24.55, 28.41, 32.28, 29.35, 26.91, 33.75, 22.44),
        "wire": (29.31, 22.22, 25.91, 30.11, 25.76, 25.05, 32.35, 21.15),
        "finer-wavelet": (33.78, 24.89, 28.81, 32.90, 29.78, 27.21, 34.36, 22.66),
    }.items()
}
"""Table 3: PSNR of radiance fields trained on 25 views of 200x200 pixels."""

TABLE_3_MEANS: dict[str, dict[str, float]] = {
    "pemlp": {"psnr": 25.69, "ssim": 0.895, "lpips": 0.084},
    "siren": {"psnr": 28.82, "ssim": 0.930, "lpips": 0.040},
    "finer-sine": {"psnr": 29.26, "ssim": 0.932, "lpips": 0.037},
    "gauss": {"psnr": 28.06, "ssim": 0.919, "lpips": 0.052},
    "finer-gauss": {"psnr": 28.90, "ssim": 0.930, "lpips": 0.039},
    "wire": {"psnr": 26.48, "ssim": 0.895, "lpips": 0.069},
    "finer-wavelet": {"psnr": 29.30, "ssim": 0.935, "lpips": 0.035},
}
"""Table 3: the means over the eight scenes."""

FAMILIES = {name: row.base for name, row in METHODS.items() if row.base is not None}
"""Each FINER++ method and the method that it is built on."""
