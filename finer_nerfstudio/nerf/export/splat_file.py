"""Splats on disk, in the PLY layout of 3D Gaussian Splatting that gsplat's tools, viser and web viewers read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.splats import Splats

_PLACE, _NORMAL = ["x", "y", "z"], ["nx", "ny", "nz"]
_MEAN_COLOR = ["f_dc_0", "f_dc_1", "f_dc_2"]
_SHAPE = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
_LONGEST_HEADER = 1 << 16


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


def read_splats(path: Path) -> tuple[Splats, list[str]]:
    """Read what :func:`write_splats` or another program wrote; normals may be missing.

    Where positions are in double precision, all of it is.

    Returns:
        The splats of which everything is known, and sentences on those that were left out.

    Raises:
        InputError: for files that are damaged or hold something else.
    """
    try:
        _require_possible_header(path)
        content = PlyData.read(str(path))
        rows = content["vertex"].data if "vertex" in content else np.empty(0, [("x", "f4")])
    except InputError:
        raise
    except Exception as error:  # its reader raises whatever it comes across in a damaged file
        reason = in_one_line(error)
        if isinstance(error, MemoryError):
            reason = "it asks for more memory than there is"
        raise InputError(f"{path} cannot be read as a PLY file ({reason}): name a file of Gaussian splats.") from error
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
    kind = np.float64 if any(rows.dtype[name] == np.float64 for name in _PLACE) else np.float32

    def column(wanted: list[str]) -> torch.Tensor:
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.stack([rows[name] for name in wanted], axis=1).astype(kind))

    means = column(_PLACE)
    normals = column(_NORMAL).nan_to_num(0.0, 0.0, 0.0) if set(_NORMAL) <= set(names) else torch.zeros_like(means)
    higher = column([f"f_rest_{i}" for i in range(rest)]) if rest else means.new_zeros(len(means), 0)
    colors = torch.cat([column(_MEAN_COLOR)[:, None], higher.view(len(means), 3, rest // 3).mT], dim=1)
    shape = column(_SHAPE)
    splats = Splats(means, normals, shape[:, 4:], shape[:, 1:4], shape[:, 0], colors)
    return _without_unknown(path, splats)


def _require_possible_header(path: Path) -> None:
    """Refuse, before it is read, a file that is no list of splats or claims more rows than it has bytes."""
    with path.open("rb") as file:
        header = file.read(_LONGEST_HEADER).partition(b"end_header")[0]
    lines = [line.split() for line in header.splitlines()]
    if any(line[:2] == [b"property", b"list"] for line in lines):
        raise InputError(
            f"{path} holds no Gaussian splats: it has lists, as the faces of a mesh. Name one of finer export splats."
        )
    # A number of thousands of digits is not worth reading.
    claimed = sum(int(line[2]) for line in lines if line[:1] == [b"element"] and line[2:] and len(line[2]) < 20)
    if claimed > path.stat().st_size:
        raise InputError(
            f"{path} is damaged: it claims {claimed:,} rows, and has {path.stat().st_size:,} bytes. "
            f"Export or fetch it again."
        )


def _without_unknown(path: Path, splats: Splats) -> tuple[Splats, list[str]]:
    """Return the splats of which everything is known, and a sentence on the others.

    The logit of an opacity of one or zero is infinite, and the logarithm of no thickness: these are known.
    """
    turned = splats.rotations.isfinite().all(dim=1) & (splats.rotations.norm(dim=1) > 1e-6)
    unknown = {
        "position": ~splats.means.isfinite().all(dim=1),
        "rotation": ~turned,
        "scale": (splats.log_scales.isnan() | (splats.log_scales == torch.inf)).any(dim=1),
        "opacity": splats.opacity_logits.isnan(),
        "colour": ~splats.harmonics.isfinite().flatten(1).all(dim=1),
    }
    kept = ~torch.stack(list(unknown.values())).any(dim=0)
    left_out = len(splats) - int(kept.sum())
    if not left_out:
        return splats, []
    reasons = ", ".join(f"the {name} of {int(bad.sum()):,}" for name, bad in unknown.items() if bad.any())
    if left_out == len(splats):
        raise InputError(f"{path} holds no splat that can be shown: not a finite number is {reasons}.")
    sentence = f"{left_out:,} of {len(splats):,} splats are left out, since not a finite number is {reasons}."
    return Splats(*(getattr(splats, field.name)[kept] for field in fields(splats))), [sentence]
