"""Whether cameras see what they should: rays are those of their pixels, and in a bounded scene meet its box."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.data.captures import CaptureOutputs
from finer_nerfstudio.nerf.data.notes import Notes
from finer_nerfstudio.nerf.sampling.fisheye624 import project

Array = npt.NDArray[np.float64]

_PIXELS_OF_A_PICTURE = 256
_PLACES_ACROSS = 9
# Pixels between a ray and where it is seen, and the share of a picture where it may be more.
_MOST_MISSED = 0.5
_MOST_LOST = 0.25
# Fewer rays of what is shown than this meet the box: something is cut off.
_ENOUGH = 0.9


@dataclass(frozen=True)
class Sight:
    """Where the pictures of a scene look.

    Attributes:
        share: of the rays through what is shown, how many meet the box.
        target: the point that all cameras look at, where there is one.
    """

    share: float
    target: Array | None


def require_lenses(outputs: DataparserOutputs, rays_of: Callable[[Int[Tensor, "rays 3"]], RayBundle]) -> None:
    """Check that the distortion of lenses was undone: rays have to be seen in the pixels that they belong to.

    Polynomials that were fitted to the middle of a picture may turn back before its corners.

    Args:
        outputs: of the parser.
        rays_of: rays of camera, row and column.

    Raises:
        InputError: if a good part of a picture is concerned.
    """
    cameras = outputs.cameras
    if cameras.distortion_params is None:
        return
    across = torch.linspace(0, 1, _PLACES_ACROSS)
    rows = (across[:, None] * (cameras.height.cpu()[:, :, None] - 1)).long()
    columns = (across * (cameras.width.cpu()[:, :, None] - 1)).long()
    numbers = torch.arange(len(cameras))[:, None, None]
    indices = torch.stack(torch.broadcast_tensors(numbers, rows, columns), dim=-1).reshape(-1, 3)
    misses = _misses(rays_of(indices).directions.double().cpu(), indices, cameras).reshape(len(cameras), -1)
    lost = (misses > _MOST_MISSED).double().mean(dim=1)
    worst = int(lost.argmax())
    if lost[worst] == 0:
        return
    path, share = outputs.image_filenames[worst], float(lost[worst])
    sentence = (
        f"the distortion of the lens of {path} cannot be undone in {share:.0%} of the picture, where its formula turns "
        f"back"
    )
    if share > _MOST_LOST:
        raise InputError(f"{sentence}: is it that of another lens? Undistort the pictures, or estimate it anew.")
    Notes().tell(f"{sentence[0].upper()}{sentence[1:]}: rays are wrong there. Masks can leave these places out.")


def _misses(
    directions: Float[Tensor, "rays 3"], indices: Int[Tensor, "rays 3"], cameras: Cameras
) -> Float[Tensor, " rays"]:
    """How many pixels away from their own rays are seen, by OpenCV's models and FISHEYE624; 0 for other lenses."""
    camera = indices[:, 0]
    local = torch.einsum("nij,ni->nj", cameras.camera_to_worlds.double().cpu()[camera, :3, :3], directions)
    x, y, ahead = local[:, 0], -local[:, 1], -local[:, 2]
    kind = cameras.camera_type.cpu()[camera, 0]
    fisheye = kind == CameraType.FISHEYE.value
    angle = torch.atan2(torch.hypot(x, y), ahead)
    stretch = torch.where(fisheye, angle / torch.hypot(x, y).clamp(min=1e-12), 1.0 / ahead)
    x, y = x * stretch, y * stretch
    assert cameras.distortion_params is not None
    k1, k2, k3, k4, p1, p2 = cameras.distortion_params.double().cpu()[camera, :6].unbind(dim=1)
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    seen_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    seen_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    fx, fy, cx, cy = (value.double().cpu()[camera, 0] for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy))
    aria = kind == CameraType.FISHEYE624.value
    if bool(aria.any()):
        local = local * local.new_tensor([1.0, -1.0, -1.0])
        seen = project(local[aria], cameras.distortion_params.double().cpu()[camera[aria]])
        seen_x[aria], seen_y[aria] = seen.unbind(dim=1)
    missed = torch.hypot(seen_x * fx + cx - indices[:, 2] - 0.5, seen_y * fy + cy - indices[:, 1] - 0.5)
    known = aria | fisheye | (kind == CameraType.PERSPECTIVE.value)
    return torch.where(known, missed.nan_to_num(nan=math.inf), 0.0)


def require_sight(
    outputs: DataparserOutputs, batch: dict[str, Any], rays_of: Callable[[Int[Tensor, "rays 3"]], RayBundle]
) -> None:
    """Check that the pictures show what is in the box, and say how much of it is outside.

    Args:
        outputs: of the parser, for the box and the way back to the file's coordinates.
        batch: "image", perhaps "mask", and "image_idx" of training pictures.
        rays_of: rays of camera, row and column.

    Raises:
        InputError: if no ray meets the box, or what all cameras look at lies outside.
    """
    shown = shown_pixels(batch)
    if len(shown) == 0:
        raise InputError("the pictures show nothing: they are transparent throughout, or masked.")
    bundle = rays_of(shown)
    origins = bundle.origins.double().cpu().numpy()
    directions = bundle.directions.double().cpu().numpy()
    box = outputs.scene_box.aabb.double().cpu().numpy()
    sight = sight_of(origins, directions, shown[:, 0].numpy(), box)
    outside = sight.target is not None and bool(
        (np.abs(sight.target - box.mean(axis=0)) > np.ptp(box, axis=0) / 2).any()
    )
    if sight.share >= _ENOUGH and not outside:
        return
    half = np.ptp(box, axis=0).max() / 2 / outputs.dataparser_scale
    place = "around the origin" if not isinstance(outputs, CaptureOutputs) else "around the middle of the cameras"
    where = f"the scene's box, which reaches {half:.3g} units of the file {place}"
    looking = ""
    if sight.target is not None:
        looking = f"; the cameras look at {_point(_in_the_file(sight.target, outputs), half)} there"
    bounds = (
        "--center-method focus or a larger --scene-scale after nerfstudio-data"
        if isinstance(outputs, CaptureOutputs)
        else "a larger --scene-half-extent after blender-views, or move the scene to the origin"
    )
    sentence = (
        f"{sight.share:.0%} of the rays through what the pictures show meet {where}{looking}: give {bounds}, or train "
        f"all of space with --pipeline.model.unbounded yes."
    )
    if outside or sight.share == 0:
        raise InputError(f"the pictures show what lies outside of the box to train: {sentence}")
    Notes().tell(f"Only {sentence}")


def shown_pixels(batch: dict[str, Any]) -> Int[Tensor, "rays 3"]:
    """Camera, row and column of some pixels of every picture, of those that are neither transparent nor masked."""
    found = []
    masks = batch.get("mask")
    for number, camera in enumerate(batch["image_idx"].tolist()):
        image = batch["image"][number]
        shown: Bool[Tensor, "height width"] = (
            image[..., 3] > 0.5 if image.shape[-1] == 4 else torch.ones(image.shape[:2], dtype=torch.bool)
        )
        if masks is not None:
            shown = shown & masks[number].squeeze(-1).to(shown.device)
        places = shown.flatten().nonzero().squeeze(1).cpu()
        if len(places) == 0:
            continue
        places = places[torch.linspace(0, len(places) - 1, min(len(places), _PIXELS_OF_A_PICTURE)).long()]
        width = image.shape[1]
        found.append(torch.stack([torch.full_like(places, camera), places // width, places % width], dim=1))
    return torch.cat(found) if found else torch.zeros(0, 3, dtype=torch.long)


def sight_of(
    origins: Float[np.ndarray, "rays 3"],
    directions: Float[np.ndarray, "rays 3"],
    cameras: Int[np.ndarray, " rays"],
    box: Float[np.ndarray, "2 3"],
) -> Sight:
    """Share of rays that meet a box, and what their cameras look at together.

    Args:
        origins: of rays.
        directions: of unit length.
        cameras: which camera each ray is of.
        box: lowest and highest corner.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = (box[:, None] - origins) / directions
    # A ray along a face divides 0 by 0; it meets what it touches.
    entered = np.nanmax(distances.min(axis=0), axis=1)
    left = np.nanmin(distances.max(axis=0), axis=1)
    share = float((left > np.maximum(entered, 0.0)).mean())

    numbers = np.unique(cameras)
    axes = np.stack([directions[cameras == number].mean(axis=0) for number in numbers])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    places = np.stack([origins[cameras == number].mean(axis=0) for number in numbers])
    # The point nearest to all axes: the sum of what each axis leaves of the way there vanishes.
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    total = across.sum(axis=0)
    # How far the axes turn from one view to the next, as a sine: the less, the less they say of the distance.
    spread = float(np.sqrt(max(0.0, np.linalg.eigvalsh(total)[0]) / len(numbers)))
    if len(numbers) < 3 or spread < 1e-3:
        return Sight(share, None)
    target = np.linalg.solve(total, np.einsum("nij,nj->i", across, places))
    ways = target - places
    ahead = np.einsum("ni,ni->n", ways, axes)
    missed = np.linalg.norm(np.einsum("nij,nj->ni", across, ways), axis=1)
    agreed = (ahead > 0) & (missed < 0.25 * spread * np.abs(ahead))
    return Sight(share, target if agreed.mean() > 0.9 else None)


def _in_the_file(point: Array, outputs: DataparserOutputs) -> Array:
    transform = outputs.dataparser_transform.double().cpu().numpy()
    return np.linalg.solve(transform[:, :3], point / outputs.dataparser_scale - transform[:, 3])


def _point(values: Array, half: float) -> str:
    """A place for a sentence, to a hundredth of the box."""
    step = 10.0 ** np.floor(np.log10(half / 10))
    return "(" + ", ".join(f"{step * round(value / step):.6g}" for value in values) + ")"
