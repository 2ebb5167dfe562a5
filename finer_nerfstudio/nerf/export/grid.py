"""A field as a sparse grid of voxels: density, normal and colour by direction (as PlenOctrees, Yu et al. 2021)."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.atomic import replacing
from finer_nerfstudio.nerf.export import harmonics

FORMAT = "finer-sparse-grid"
FORMAT_VERSION = 1
_MOST_OPAQUE = 1.0 - 1e-6
_ARRAYS = {"aabb": (2, 3), "coordinates": (-1, 3), "opacity": (-1,), "normals": (-1, 3), "harmonics": (-1, -1, 3)}
_COUNTS = ("version", "resolution")
_STORED = ("format", *_COUNTS, *_ARRAYS)
# Bytes in memory to bytes on disk: half-precision numbers of a field shrink to a half, not to a thirtieth. What is
# small may shrink as it likes.
_MOST_COMPRESSED, _SMALL = 30, 1 << 26
_RAYS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class SparseGrid:
    """Voxels that hold matter.

    Attributes:
        aabb: lowest and highest corner of the box, world units, ``[2, 3]``.
        resolution: voxels per axis.
        coordinates: ``[voxels, 3]`` indices along the axes, in ``[0, resolution)``.
        opacity: ``[voxels]`` share of light that a way of one voxel's mean width takes, in [0, 1).
        normals: ``[voxels, 3]`` unit vectors out of the surface.
        harmonics: ``[voxels, terms, 3]`` colours, see :mod:`finer_nerfstudio.nerf.export.harmonics`.
    """

    aabb: Float[Tensor, "2 3"]
    resolution: int
    coordinates: Int[Tensor, "voxels 3"]
    opacity: Float[Tensor, " voxels"]
    normals: Float[Tensor, "voxels 3"]
    harmonics: Float[Tensor, "voxels terms 3"]

    def __len__(self) -> int:
        return len(self.coordinates)

    def to(self, device: torch.device | str) -> SparseGrid:
        moved = {name: getattr(self, name).to(device) for name in _ARRAYS}
        return replace(self, **moved)

    @property
    def voxel(self) -> Float[Tensor, "3"]:
        """Sides of a voxel, world units."""
        return (self.aabb[1] - self.aabb[0]) / self.resolution

    def centers(self) -> Float[Tensor, "voxels 3"]:
        """Middles of the voxels, world units."""
        return self.aabb[0] + (self.coordinates + 0.5) * self.voxel


def write_grid(path: Path, grid: SparseGrid) -> None:
    """Write a compressed npz file.

    It holds ``format``, ``version``, ``resolution``, ``aabb``, ``coordinates`` (uint16), and in half precision
    ``opacity``, ``normals`` and ``harmonics`` (see :class:`SparseGrid`).

    Raises:
        InputError: where the file cannot be written.
    """
    content = {
        "format": np.array(FORMAT),
        "version": np.array(FORMAT_VERSION),
        "resolution": np.array(grid.resolution),
        "aabb": grid.aabb.cpu().numpy().astype(np.float32),
        "coordinates": grid.coordinates.cpu().numpy().astype(np.uint16),
        "opacity": grid.opacity.cpu().numpy().astype(np.float16),
        "normals": grid.normals.cpu().numpy().astype(np.float16),
        "harmonics": grid.harmonics.cpu().numpy().astype(np.float16),
    }
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **content)


def read_grid(path: Path) -> SparseGrid:
    """Read what :func:`write_grid` wrote.

    Raises:
        InputError: for files that are damaged or hold something else.
    """
    try:
        content = _arrays_of(path)
    except Exception as error:  # the unpackers of zip files raise whatever they come across in a damaged one
        reason = in_one_line(error)
        raise InputError(
            f"{path} cannot be read as an npz file ({reason}): bake it anew by finer export grid."
        ) from error
    if str(content.get("format")) != FORMAT or not {*_ARRAYS, *_COUNTS} <= set(content):
        raise InputError(f"{path} holds no baked grid: name a file that finer export grid wrote.")
    for name in _COUNTS:
        if content[name].shape != () or content[name].dtype.kind not in "iu":
            raise InputError(f"{path} is damaged: {name} is no whole number.")
    if int(content["version"]) != FORMAT_VERSION:
        raise InputError(f"{path} is a grid of version {int(content['version'])}, this program reads {FORMAT_VERSION}.")
    resolution, voxels = int(content["resolution"]), content["opacity"].size
    for name, shape in _ARRAYS.items():
        found = content[name].shape
        expected = [voxels if name != "aabb" and i == 0 else side for i, side in enumerate(shape)]
        if len(found) != len(shape) or any(b not in (-1, a) for a, b in zip(found, expected, strict=True)):
            raise InputError(f"{path} is damaged: {name} is of the shape {found}.")
        if content[name].dtype.kind not in ("iu" if name == "coordinates" else "f"):
            raise InputError(f"{path} is damaged: {name} holds no numbers of the kind it must ({content[name].dtype}).")
        if not np.isfinite(content[name]).all():
            raise InputError(f"{path} is damaged: {name} holds NaN or infinite numbers.")
    counts = [harmonics.terms(degree) for degree in range(harmonics.HIGHEST_DEGREE + 1)]
    if not voxels or content["coordinates"].min() < 0 or content["coordinates"].max() >= resolution:
        raise InputError(f"{path} is damaged: its voxels lie outside of the grid, or there are none.")
    if content["harmonics"].shape[1] not in counts:
        raise InputError(f"{path} is damaged: its colours have {content['harmonics'].shape[1]} harmonics.")
    with np.errstate(over="ignore"):
        parts = [content[name].astype(np.float32) for name in ("aabb", "opacity", "normals", "harmonics")]
    aabb, opacity = parts[:2]
    if not (np.isfinite(aabb).all() and (aabb[0] < aabb[1]).all() and (opacity >= 0).all() and (opacity <= 1).all()):
        raise InputError(f"{path} is damaged: its box is empty, or its opacities do not lie between 0 and 1.")
    coordinates = torch.from_numpy(content["coordinates"].astype(np.int64))
    box, *rest = map(torch.from_numpy, parts)
    return SparseGrid(box, resolution, coordinates, *rest)


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays that a grid has, of a file that does not claim to hold far more than its bytes can."""
    with zipfile.ZipFile(path) as archive:
        infos = {name: archive.getinfo(f"{name}.npy") for name in _STORED if f"{name}.npy" in archive.namelist()}
        claimed, size = sum(info.file_size for info in infos.values()), path.stat().st_size
        if claimed > max(_SMALL, _MOST_COMPRESSED * size):
            raise ValueError(f"its {size:,} bytes claim to hold {claimed:,}")
        return {name: _array_in(archive, info) for name, info in infos.items()}


def _array_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{info.filename} is of a version that is not written here")
        shape, by_column, kind = np.lib.format.read_array_header_1_0(file)
        values = file.read()
    count = math.prod(shape)
    # Pickled objects are programs; they are not opened.
    if kind.hasobject or count * kind.itemsize != len(values) or not kind.itemsize:
        raise ValueError(f"{info.filename} does not hold what it claims to")
    return np.frombuffer(values, kind, count).reshape(shape, order="F" if by_column else "C")


class GridRenderer:
    """Draws a grid by marching along rays, densities interpolated between voxels and colours of the nearest one.

    Args:
        grid: to draw.
    """

    def __init__(self, grid: SparseGrid) -> None:
        self.grid = grid
        size = grid.resolution
        self._width = float(grid.voxel.mean())
        opacity = grid.opacity.clamp(max=_MOST_OPAQUE)
        cells = (grid.coordinates[:, 0] * size + grid.coordinates[:, 1]) * size + grid.coordinates[:, 2]
        self._density = opacity.new_zeros(size**3)
        self._density[cells] = -torch.log1p(-opacity) / self._width
        self._voxel_of = torch.full((size**3,), -1, dtype=torch.long, device=opacity.device)
        self._voxel_of[cells] = torch.arange(len(cells), device=opacity.device)

    def colors(
        self, origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"]]:
        """Colours over black and opacities of rays.

        Args:
            origins: world units.
            directions: unit vectors.
        """
        parts = zip(origins.split(_RAYS_AT_ONCE), directions.split(_RAYS_AT_ONCE), strict=True)
        color, alpha = zip(*(self._march(*part) for part in parts), strict=True)
        return torch.cat(color), torch.cat(alpha)

    def _march(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        size, aabb = self.grid.resolution, self.grid.aabb
        to_sides = (aabb[:, None] - origins) / torch.where(directions.abs() < 1e-9, 1e-9, directions)
        near = to_sides.amin(dim=0).amax(dim=-1).clamp(min=0.0)
        far = to_sides.amax(dim=0).amin(dim=-1)
        step = 0.5 * self._width
        steps = max(1, int(float((far - near).clamp(min=0.0).max()) / step))
        distances = near[:, None] + (torch.arange(steps, device=near.device) + 0.5) * step
        positions = origins[:, None] + directions[:, None] * distances[..., None]
        place = (positions - aabb[0]) / self.grid.voxel
        volume = self._density.view(1, 1, size, size, size)
        # The first axis of the volume is x, which grid_sample takes for its last coordinate.
        density = torch.nn.functional.grid_sample(
            volume, (2.0 * place / size - 1.0).flip(-1)[None, None], align_corners=False, padding_mode="zeros"
        ).view(distances.shape)
        density = torch.where(distances < far[:, None], density, 0.0)
        thickness = density * step
        before = thickness.cumsum(dim=1) - thickness
        weights = torch.exp(-before) * -torch.expm1(-thickness)
        ray, sample = (weights > 1e-3).nonzero(as_tuple=True)
        voxel = self._nearest(place[ray, sample])
        color = harmonics.colors(self.grid.harmonics[voxel], directions[ray])
        seen = weights[ray, sample]
        mixed = origins.new_zeros(len(origins), 3).index_add(0, ray, seen[:, None] * color)
        return mixed.clamp(max=1.0), origins.new_zeros(len(origins)).index_add(0, ray, seen).clamp(max=1.0)

    def _nearest(self, place: Float[Tensor, "points 3"]) -> Int[Tensor, " points"]:
        """The occupied voxel whose middle is nearest, of the eight around a place; one of them is occupied."""
        size = self.grid.resolution
        corner = (place - 0.5).floor()
        offsets = torch.cartesian_prod(*[torch.arange(2, device=place.device)] * 3)
        around = corner[:, None] + offsets
        off = (around + 0.5 - place[:, None]).square().sum(dim=-1)
        inside = ((around >= 0) & (around < size)).all(dim=-1)
        index = around.long().clamp(0, size - 1)
        voxel = self._voxel_of[(index[..., 0] * size + index[..., 1]) * size + index[..., 2]]
        off = off.masked_fill((voxel < 0) | ~inside, torch.inf)
        return voxel.gather(1, off.argmin(dim=1, keepdim=True)).squeeze(1)
