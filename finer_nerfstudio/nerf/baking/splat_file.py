"""Splats on disk, in the PLY layout of 3D Gaussian Splatting that gsplat's tools, viser and web viewers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from finer_nerfstudio.atomic_files import replacing
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.baking import harmonics
from finer_nerfstudio.nerf.baking.splats import Splats

_PLACE, _NORMAL = ["x", "y", "z"], ["nx", "ny", "nz"]
_MEAN_COLOR = ["f_dc_0", "f_dc_1", "f_dc_2"]
_SHAPE = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def write_splats(path: Path, splats: Splats) -> None:
    """Write binary little-endian float32: scales as logarithms, opacities as logits, unit quaternions w x y z, and
    colours as harmonics, of which those above degree 0 go channel by channel.

    Raises:
        InputError: where the file cannot be written.
    """
    higher = splats.harmonics[:, 1:].mT.flatten(1)
    columns = [splats.means, splats.normals, splats.harmonics[:, 0], higher, splats.opacity_logits[:, None]]
    columns += [splats.log_scales, torch.nn.functional.normalize(splats.rotations, dim=-1)]
    table = torch.cat(columns, dim=1).detach().cpu().numpy().astype("<f4")
    names = [*_PLACE, *_NORMAL, *_MEAN_COLOR, *(f"f_rest_{i}" for i in range(higher.shape[1])), *_SHAPE]
    rows = np.ascontiguousarray(table).view([(name, "<f4") for name in names])[:, 0]
    with replacing(path) as unfinished:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(unfinished))


def read_splats(path: Path) -> Splats:
    """Read what :func:`write_splats` or another program wrote; normals may be missing.

    Raises:
        InputError: for files that are damaged or hold something else.
    """
    try:
        content = PlyData.read(str(path))
        rows = content["vertex"].data if "vertex" in content else np.empty(0, [("x", "f4")])
    except Exception as error:  # its reader raises whatever it comes across in a damaged file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, MemoryError):
            reason = "it asks for more memory than there is"
        raise InputError(f"{path} cannot be read as a PLY file ({reason}).") from error
    names = rows.dtype.names or ()
    missing = [name for name in (*_PLACE, *_MEAN_COLOR, *_SHAPE) if name not in names]
    if missing:
        raise InputError(f"{path} holds no Gaussian splats: its vertices have no {', '.join(missing)}.")
    rest = sum(name.startswith("f_rest_") for name in names)
    counts = [3 * (harmonics.terms(degree) - 1) for degree in range(harmonics.HIGHEST_DEGREE + 1)]
    if rest not in counts or not {f"f_rest_{i}" for i in range(rest)} <= set(names):
        raise InputError(f"{path} has {rest} f_rest values a splat; there can be {', '.join(map(str, counts))}.")
    if not len(rows):
        raise InputError(f"{path} holds no splats.")

    def column(wanted: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([rows[name] for name in wanted], axis=1).astype(np.float32))

    means = column(_PLACE)
    normals = column(_NORMAL) if set(_NORMAL) <= set(names) else torch.zeros_like(means)
    higher = column([f"f_rest_{i}" for i in range(rest)]) if rest else means.new_zeros(len(means), 0)
    colors = torch.cat([column(_MEAN_COLOR)[:, None], higher.view(len(means), 3, rest // 3).mT], dim=1)
    shape = column(_SHAPE)
    splats = Splats(means, normals, shape[:, 4:], shape[:, 1:4], shape[:, 0], colors)
    if not all(bool(torch.isfinite(part).all()) for part in (means, colors, splats.rotations, splats.log_scales)):
        raise InputError(f"{path} holds NaN or infinite numbers.")
    return splats
