"""Rays through pixels: of pinhole cameras without the rest of what Nerfstudio's cameras compute, and of all lenses."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components.ray_generators import RayGenerator
from nerfstudio.utils.math import intersect_obb
from torch import Tensor, nn

from finer_nerfstudio.nerf.sampling.fisheye624 import unproject

# Whose rays all begin where the camera is.
_FROM_ONE_PLACE = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR)
# Pixels of all lenses, of 16 bytes each.
_MOST_TABULATED = 1 << 25
# Rays of a band of a picture; Nerfstudio takes some 300 bytes for a ray of a distorted lens.
_RAYS_OF_BAND = 1 << 20


class PinholeRays(nn.Module):
    """Rays of pinhole cameras, as Nerfstudio's ``RayGenerator`` gives them, in a tenth of the operations.

    A training step of a small field is so short that ray generation is a good part of it. Areas of pixels are left at
    one: nothing here asks for them.

    Args:
        cameras: of which :func:`are_pinholes` holds.
    """

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        self.register_buffer("_rotations", cameras.camera_to_worlds[:, :3, :3].float(), persistent=False)
        self.register_buffer("_centers", cameras.camera_to_worlds[:, :3, 3].float(), persistent=False)
        # Pixel (row, column) has its middle half a pixel further; the camera looks along -z, and rows count downwards.
        scale = torch.cat([1.0 / cameras.fx, -1.0 / cameras.fy], dim=1)
        shift = torch.cat([(0.5 - cameras.cx) / cameras.fx, -(0.5 - cameras.cy) / cameras.fy], dim=1)
        self.register_buffer("_scale", scale.float(), persistent=False)
        self.register_buffer("_shift", shift.float(), persistent=False)

    _rotations: Tensor
    _centers: Tensor
    _scale: Tensor
    _shift: Tensor

    def forward(self, ray_indices: Int[Tensor, "rays 3"]) -> RayBundle:
        """Rays with unit directions through the middles of pixels.

        Args:
            ray_indices: camera, row and column of each pixel.
        """
        # Pixels are drawn where the images are, which may be another device.
        ray_indices = ray_indices.to(self._scale.device)
        camera = ray_indices[:, 0]
        # Indexing with a list would send the list to the GPU, and wait for it.
        column_and_row = ray_indices[:, 1:].flip(1).to(self._scale.dtype)
        pixel = torch.addcmul(self._shift[camera], self._scale[camera], column_and_row)
        rotation = self._rotations[camera]
        along = torch.baddbmm(rotation[:, :, 2:], rotation[:, :, :2], pixel[:, :, None], beta=-1.0).squeeze(-1)
        norm = along.norm(dim=-1, keepdim=True)
        return RayBundle(
            origins=self._centers[camera],
            directions=along / norm,
            pixel_area=torch.ones_like(norm),
            camera_indices=camera[:, None],
            metadata={"directions_norm": norm},
        )


class LensRays(RayGenerator):
    """Nerfstudio's ``RayGenerator``, with the ray along the axis of a fish eye, and lenses of type FISHEYE624.

    Args:
        cameras: of any kind.
    """

    def forward(self, ray_indices: Int[Tensor, "rays 3"]) -> RayBundle:
        """Rays with unit directions through the middles of pixels.

        Args:
            ray_indices: camera, row and column of each pixel.
        """
        ray_indices = ray_indices.to(self.cameras.device)
        rays = _with_axis(super().forward(ray_indices), self.cameras)
        return _with_fisheye624(rays, self.cameras, ray_indices[:, 1:].double() + 0.5)


class TabulatedRays(nn.Module):
    """Rays of cameras with few lenses, which are asked once for the direction of every pixel.

    To undo the distortion of a lens takes ten steps of Newton's method, on each ray of each training step otherwise.

    Args:
        cameras: of which :func:`lenses_of` says how many lenses they have.
    """

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        lens, first = lenses_of(cameras)
        tables = [self._seen_by(cameras[int(number)]) for number in first]
        sizes = torch.tensor([len(table) for table in tables], device=lens.device)
        self.register_buffer("_rotations", cameras.camera_to_worlds[:, :3, :3].float(), persistent=False)
        self.register_buffer("_centers", cameras.camera_to_worlds[:, :3, 3].float(), persistent=False)
        self.register_buffer("_starts", (sizes.cumsum(0) - sizes)[lens], persistent=False)
        self.register_buffer("_widths", cameras.width[:, 0].to(lens), persistent=False)
        self.register_buffer("_table", torch.cat(tables), persistent=False)

    _rotations: Tensor
    _centers: Tensor
    _starts: Tensor
    _widths: Tensor
    _table: Tensor

    @staticmethod
    def _seen_by(camera: Cameras) -> Float[Tensor, "pixels 4"]:
        """Direction of each pixel in the camera's frame, row by row, and the length that it had before it was one."""
        camera = camera.reshape((1,))
        camera.camera_to_worlds = torch.eye(4)[None, :3].to(camera.camera_to_worlds)
        bands = (
            torch.cat([rays.directions, rays.metadata["directions_norm"]], dim=-1).reshape(-1, 4).float()
            for rays in bands_of_rays(camera)
        )
        return torch.cat(list(bands))

    def forward(self, ray_indices: Int[Tensor, "rays 3"]) -> RayBundle:
        """Rays with unit directions through the middles of pixels.

        Args:
            ray_indices: camera, row and column of each pixel.
        """
        camera, row, column = ray_indices.to(self._table.device).unbind(dim=1)
        place = torch.addcmul(self._starts.index_select(0, camera) + column, row, self._widths.index_select(0, camera))
        seen = self._table.index_select(0, place)
        norm = seen[:, 3:]
        return RayBundle(
            origins=self._centers.index_select(0, camera),
            directions=torch.bmm(self._rotations.index_select(0, camera), seen[:, :3, None]).squeeze(-1),
            pixel_area=torch.ones_like(norm),
            camera_indices=camera[:, None],
            metadata={"directions_norm": norm},
        )


class SubpixelRays(nn.Module):
    """Several rays for each pixel, side by side: a photograph's pixel is the mean of what it covers.

    Args:
        cameras: of any kind.

    Attributes:
        across: rays along each side of a pixel now, at least 1, which is the middle.
    """

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        self.across = 1
        self._cameras = cameras
        # Made when they are asked for: commands that train nothing need no tables.
        self._by_across = nn.ModuleDict()

    def forward(self, ray_indices: Int[Tensor, "pixels 3"]) -> RayBundle:
        """Rays with unit directions, those of a pixel one after the other, row by row.

        Args:
            ray_indices: camera, row and column of each pixel.
        """
        n = self.across
        if n > 1:
            within = torch.arange(n, device=ray_indices.device)
            rows = n * ray_indices[:, 1, None, None] + within[:, None]
            columns = n * ray_indices[:, 2, None, None] + within
            camera = ray_indices[:, 0, None, None]
            ray_indices = torch.stack(torch.broadcast_tensors(camera, rows, columns), dim=-1).view(-1, 3)
        if str(n) not in self._by_across:
            self._by_across[str(n)] = least_costly_rays(finer_cameras(self._cameras, n))
        return self._by_across[str(n)](ray_indices)


def finer_cameras(cameras: Cameras, across: int) -> Cameras:
    """Return cameras with ``across`` times as many pixels along each side, which see the same."""
    if across == 1:
        return cameras
    finer = copy.deepcopy(cameras)
    finer.rescale_output_resolution(float(across))
    return finer


def least_costly_rays(cameras: Cameras) -> nn.Module:
    """Return what makes rays of these cameras at the least cost."""
    if are_pinholes(cameras):
        return PinholeRays(cameras)
    return TabulatedRays(cameras) if fit_a_table(cameras) else LensRays(cameras)


def lenses_of(cameras: Cameras) -> tuple[Int[Tensor, " cameras"], Int[Tensor, " lenses"]]:
    """Return the lens of each camera, by its number, and a camera that has each lens.

    Args:
        cameras: in a row.
    """
    parts = [cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height, cameras.camera_type]
    if cameras.distortion_params is not None:
        parts.append(cameras.distortion_params)
    rows = torch.cat([part.double() for part in parts], dim=1)
    unique, lens = rows.unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(rows), device=lens.device)
    return lens, first.scatter_reduce_(0, lens, torch.arange(len(rows), device=lens.device), "amin")


def fit_a_table(cameras: Cameras) -> bool:
    """Return whether :class:`TabulatedRays` gives the rays of these cameras, in little memory."""
    kinds = {int(kind) for kind in cameras.camera_type.unique()}
    if cameras.metadata or cameras.times is not None or cameras.camera_to_worlds.dim() != 3:
        return False
    if not kinds <= {kind.value for kind in _FROM_ONE_PLACE}:
        return False
    _, first = lenses_of(cameras)
    pixels = (cameras.width[first].long() * cameras.height[first].long()).sum()
    return int(pixels) <= _MOST_TABULATED


def bands_of_rays(camera: Cameras, crop: OrientedBox | None = None, *, rows_together: int = 1) -> Iterator[RayBundle]:
    """Yield the rays of a picture from top to bottom, as :func:`camera_rays` gives them, in bands of bounded memory.

    Args:
        camera: one, of any kind.
        crop: rays begin and end at this box.
        rows_together: rows that are not torn apart, of which the picture's height is a multiple.
    """
    height, width = int(camera.height.flatten()[0]), int(camera.width.flatten()[0])
    rows = max(1, _RAYS_OF_BAND // (width * rows_together)) * rows_together
    for first in range(0, height, rows):
        yield camera_rays(camera, crop, rows=slice(first, first + rows))


def camera_rays(camera: Cameras, crop: OrientedBox | None = None, *, rows: slice = slice(None)) -> RayBundle:
    """Rays ``[rows, width]`` through pixels of a camera.

    Args:
        camera: one, of any kind.
        crop: rays begin and end at this box.
        rows: of the picture, all of them unless given.
    """
    camera = camera if camera.shape else camera.reshape((1,))
    height, width = int(camera.height[0]), int(camera.width[0])
    # Nerfstudio's own table of places is that of the whole picture.
    middles = [torch.arange(height)[rows] + 0.5, torch.arange(width) + 0.5]
    places = torch.stack(torch.meshgrid(middles, indexing="ij"), dim=-1).to(camera.device)
    rays = _with_axis(camera.generate_rays(camera_indices=0, coords=places, keep_shape=True), camera)
    rays = _with_fisheye624(rays, camera, places.double())
    rays.origins = rays.origins.to(rays.directions)  # a camera path of whole numbers has whole-numbered poses
    if crop is not None:
        nears, fars = intersect_obb(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3), crop)
        rays.nears, rays.fars = nears.reshape(*rays.shape, 1), fars.reshape(*rays.shape, 1)
    return rays


def _with_axis(rays: RayBundle, cameras: Cameras) -> RayBundle:
    """Nerfstudio divides by the angle to a fish eye's axis, which is none where a pixel's middle lies on it."""
    camera = rays.camera_indices
    assert camera is not None
    camera = camera.squeeze(-1)
    fisheye = cameras.camera_type[camera] == CameraType.FISHEYE.value
    lost = fisheye & rays.directions.isnan().any(dim=-1, keepdim=True)
    rays.directions = torch.where(lost, -cameras.camera_to_worlds[camera, :3, 2], rays.directions)
    norm = rays.metadata["directions_norm"]
    rays.metadata["directions_norm"] = torch.where(lost, torch.ones_like(norm), norm)
    # The pixel before it is lost too where only areas are asked for: they are differences to the next one.
    area = (1.0 / (cameras.fx * cameras.fy))[camera]
    rays.pixel_area = torch.where(fisheye & rays.pixel_area.isnan(), area, rays.pixel_area)
    return rays


def _with_fisheye624(rays: RayBundle, cameras: Cameras, places: Float[Tensor, "*rays 2"]) -> RayBundle:
    """Nerfstudio takes the numbers of the first ray's lens for all, and knows no angle beyond 90 degrees.

    Args:
        rays: of all kinds of lenses.
        cameras: that they are of.
        places: rows and columns of the middles of their pixels.
    """
    assert rays.camera_indices is not None
    camera = rays.camera_indices.squeeze(-1)
    chosen = cameras.camera_type[camera].squeeze(-1) == CameraType.FISHEYE624.value
    if not bool(chosen.any()):
        return rays
    assert cameras.distortion_params is not None
    camera, (rows, columns) = camera[chosen], places[chosen].unbind(dim=-1)
    fx, fy, cx, cy = (values.double()[camera, 0] for values in (cameras.fx, cameras.fy, cameras.cx, cameras.cy))
    points = torch.stack([(columns - cx) / fx, (rows - cy) / fy], dim=-1)
    local = unproject(points, cameras.distortion_params.double()[camera]) * points.new_tensor([1.0, -1.0, -1.0])
    directions = torch.einsum("nij,nj->ni", cameras.camera_to_worlds.double()[camera, :3, :3], local)
    rays.directions[chosen] = directions.to(rays.directions)
    rays.metadata["directions_norm"][chosen] = 1.0
    rays.pixel_area[chosen] = (1.0 / (fx * fy)).to(rays.pixel_area)[:, None]
    return rays


def are_pinholes(cameras: Cameras) -> bool:
    """Whether all cameras are perspective ones without distortion, lens metadata or time."""
    distortion = cameras.distortion_params
    return (
        bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())
        and (distortion is None or not bool(distortion.any()))
        and not cameras.metadata
        and cameras.times is None
        and cameras.camera_to_worlds.dim() == 3
    )
