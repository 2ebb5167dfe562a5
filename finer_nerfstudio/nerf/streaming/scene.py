"""Radiance fields as streams: a trained run into a container, and back into pictures of any stage."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from torch import Tensor

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.inr.growth import GrowingNetwork
from finer_nerfstudio.nerf.data.alpha import over_white
from finer_nerfstudio.nerf.data.images import counted_pixels
from finer_nerfstudio.nerf.data.views import View, evenly, view_of
from finer_nerfstudio.nerf.field import DIRECTION_DIMS, FinerField
from finer_nerfstudio.nerf.model import FinerModelConfig
from finer_nerfstudio.nerf.rendering import render
from finer_nerfstudio.nerf.run_folder import run_config
from finer_nerfstudio.nerf.sampling.rays import camera_rays
from finer_nerfstudio.nerf.sampling.sampler import OccupancyGrid
from finer_nerfstudio.nerf.scene import Scene
from finer_nerfstudio.nerf.streaming.growing_field import GrowingField
from finer_nerfstudio.nerf.training.trained_run import load_run
from finer_nerfstudio.runs import metrics
from finer_nerfstudio.streams.header import Precision, StreamedNetwork, StreamedStage, StreamHeader, describe_network
from finer_nerfstudio.streams.payload import pack_stage, unpack_stage_
from finer_nerfstudio.streams.precision import coarsest
from finer_nerfstudio.streams.reader import Stream
from finer_nerfstudio.streams.writer import write_stream

TASK = "nerf"

# Looks into every cell, each at another random place, after which the grid of a decoded field is taken for known.
_LOOKS = 4
# Rays of training views by whose colours the precision of a stage is chosen.
_PRECISION_RAYS = 4096
# Steps along rays that memory is set aside for at a time, however finely a file asks to sample.
_STEPS_AT_ONCE = 1 << 21
_LARGEST_SIDE = 1 << 16
# Whose cells take some 150 MB to look into.
_LARGEST_GRID = 128
_MOST_SAMPLES = 1 << 14


@dataclass(frozen=True)
class SceneSignal:
    """A scene's settings that a decoder needs beside the networks.

    Attributes:
        aabb: lowest and highest corner of the scene's box, six numbers in world units.
        direction_encoding: how a direction enters the colour network.
        samples_per_ray: steps along the box's diagonal.
        grid_resolution: cells per axis of the occupancy grid.
        near_plane: nothing nearer is sampled, world units.
        weight_threshold: samples of less rendering weight have no colour.
        view: what to show unless asked for something else.
    """

    aabb: tuple[float, ...]
    direction_encoding: Literal["raw", "spherical-harmonics"]
    samples_per_ray: int
    grid_resolution: int
    near_plane: float
    weight_threshold: float
    view: View


class DecodedScene:
    """Some stages of a streamed field, ready to be looked at.

    Args:
        signal: of the stream's header.
        density_net: with these stages at least.
        color_net: with these stages at least.
        stages: how many to use.
    """

    def __init__(
        self, signal: SceneSignal, density_net: GrowingNetwork, color_net: GrowingNetwork, stages: int
    ) -> None:
        self.signal = signal
        self._stages = density_net, color_net, stages
        device = density_net.device
        aabb = torch.tensor(signal.aabb, dtype=torch.float32).reshape(2, 3)
        field = FinerField(
            density_net.merged(stages),
            color_net.merged(stages),
            aabb,
            direction_encoding=signal.direction_encoding,
        ).to(device)
        grid = OccupancyGrid(aabb, resolution=signal.grid_resolution, steps=signal.samples_per_ray).to(device)
        # Fixed, so that a stream looks the same whenever it is decoded.
        generator = torch.Generator(device).manual_seed(0)
        try:
            for _ in range(_LOOKS):
                grid.update(field.density_at, everywhere=True, generator=generator)
        except InputError as error:  # which speaks of training
            raise InputError("the field has densities that are NaN or infinite: there is nothing to see.") from error
        self.scene = Scene(field, grid, signal.near_plane, signal.weight_threshold)

    def take_weights(self) -> None:
        """Show the networks as they are now, in the grid as it was."""
        density_net, color_net, stages = self._stages
        self.scene.field.density_net = density_net.merged(stages)
        self.scene.field.color_net = color_net.merged(stages)

    @torch.no_grad()
    def colors(self, rays: RayBundle) -> Float[Tensor, "rays 3"]:
        """Colours of rays over white, in [0, 1]."""
        parts = []
        at_once = self._rays_at_once()
        for start in range(0, len(rays), at_once):
            seen = render(self.scene, rays[start : start + at_once])
            parts.append(seen["rgb"].clamp(0.0, 1.0))
        return torch.cat(parts)

    def _rays_at_once(self) -> int:
        return max(1, _STEPS_AT_ONCE // self.signal.samples_per_ray)

    def picture(self, view: View | None = None, *, report: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Pixels ``[height, width, 3]`` uint8.

        Args:
            view: the header's own unless given.
            report: progress callback: (completed, total) rows.
        """
        view = self.signal.view if view is None else view
        camera = view.camera().to(self.scene.device)
        pixels = np.empty((view.height, view.width, 3), np.uint8)
        rows_at_once = max(1, self._rays_at_once() // view.width)
        for top in range(0, view.height, rows_at_once):
            rows = torch.arange(top, min(view.height, top + rows_at_once), dtype=torch.float32) + 0.5
            columns = torch.arange(view.width, dtype=torch.float32) + 0.5
            coords = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).to(camera.device)
            colors = self.colors(camera.generate_rays(camera_indices=0, coords=coords).flatten())
            part = (255.0 * colors).round().to(torch.uint8).cpu().numpy()
            pixels[top : top + len(rows)] = part.reshape(len(rows), view.width, 3)
            if report is not None:
                report(top + len(rows), view.height)
        return pixels


def scene_of(stream: Stream, stages: int | None = None) -> DecodedScene:
    """The scene that the stages of a stream show.

    Args:
        stream: with a stage at least.
        stages: use only so many; all that there are unless given.

    Raises:
        InputError: for streams of something else, and where there is nothing to show yet.
    """
    signal = signal_of(stream.header)
    stages = stream.stages if stages is None else stages
    if not 1 <= stages <= stream.stages:
        raise InputError(f"the stream has {stream.stages} complete stages; there is no picture of {stages}.")
    density_net, color_net = stream.networks
    return DecodedScene(signal, density_net, color_net, stages)


def signal_of(header: StreamHeader) -> SceneSignal:
    """The scene that a header describes, every number of it checked.

    Raises:
        InputError: for a stream of something else, and for what no scene can be.
    """
    if header.task != TASK:
        raise InputError(f"the stream holds a signal of the task {header.task!r} and no radiance field.")
    signal = header.signal
    view = signal.get("view")
    view = view if isinstance(view, dict) else {}
    encoding = signal.get("direction_encoding")
    aabb = _numbers(signal.get("aabb"), 6)
    focal, center, pose = (
        _numbers(view.get("focal"), 2),
        _numbers(view.get("center"), 2),
        _numbers(view.get("pose"), 12),
    )
    sizes = [_whole(view.get(name), _LARGEST_SIDE) for name in ("height", "width")]
    samples = _whole(signal.get("samples_per_ray"), _MOST_SAMPLES)
    resolution = _whole(signal.get("grid_resolution"), _LARGEST_GRID)
    limits = [_numbers([signal.get(name)], 1) for name in ("near_plane", "weight_threshold")]
    if (
        not isinstance(encoding, str)
        or encoding not in DIRECTION_DIMS
        or aabb is None
        or not all(low < high for low, high in zip(aabb[:3], aabb[3:], strict=True))
        or focal is None
        or min(focal) <= 0
        or center is None
        or pose is None
        or sizes[0] is None
        or sizes[1] is None
        or samples is None
        or resolution is None
        or limits[0] is None
        or limits[1] is None
        or min(*limits[0], *limits[1]) < 0
    ):
        raise InputError("the stream's header describes no possible scene.")
    if not _fit(header.networks, DIRECTION_DIMS[encoding]):
        raise InputError("the stream's networks are none of a radiance field.")
    shown = View(sizes[0], sizes[1], (focal[0], focal[1]), (center[0], center[1]), pose)
    return SceneSignal(aabb, encoding, samples, resolution, limits[0][0], limits[1][0], shown)


def _fit(networks: Sequence[StreamedNetwork], direction_dim: int) -> bool:
    if len(networks) != 2:
        return False
    density, color = networks
    return (
        density.in_dim == 3
        and density.out_dim >= 2
        and (color.in_dim, color.out_dim)
        == (
            density.out_dim - 1 + direction_dim,
            3,
        )
    )


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return None
    if not all(type(value) in (int, float) and abs(value) < 1e6 for value in values):
        return None
    return tuple(float(value) for value in values)


def _whole(value: Any, largest: int) -> int | None:
    return value if type(value) is int and 1 <= value <= largest else None


# Packing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackedStage:
    """A stage as it is sent.

    Attributes:
        width: of the hidden layers.
        precision: of its matrices.
        end: bytes of the stream up to it.
        psnr: mean over the chosen test views, of what a decoder shows, dB.
        ssim: the same.
    """

    width: int
    precision: Precision
    end: int
    psnr: float
    ssim: float


@dataclass(frozen=True)
class PackedRun:
    """A stream of a trained run.

    Attributes:
        content: the file.
        stages: what it holds.
        views: test views that quality was measured on, of how many there are.
        method: the run's.
        steps: that it was trained for.
        truth: the view of the header as it was photographed, ``[height, width, 3]`` uint8.
    """

    content: bytes
    stages: list[PackedStage]
    views: tuple[int, int]
    method: str
    steps: int
    truth: np.ndarray


def pack_run(
    run: Path,
    *,
    precision: Precision | Literal["auto"] = "auto",
    allowed_loss: float = 0.1,
    views: int = 8,
    seed: int = 0,
    report: Callable[[str, int, int], None] | None = None,
) -> PackedRun:
    """Put the averaged weights of a run with a growing field into a stream.

    Stages are rounded one after the other, each for the field with all stages so far.

    Args:
        run: its folder or config.yml.
        precision: how weights are stored; "auto" takes the coarsest for each stage that costs less than
            ``allowed_loss`` in colours of training views.
        allowed_loss: what rounding a stage may cost, dB.
        views: test views to measure quality on, evenly spread; 0 for all.
        seed: of the rays by which precision is chosen.
        report: progress callback: (description, completed, total).

    Raises:
        UsageError: for numbers out of range.
        InputError: where there is no such run, or its field does not grow.
    """
    if not 0 < allowed_loss < math.inf:
        raise UsageError(f"{argument('allowed_loss')} must be a positive number of dB, not {allowed_loss}.")
    if views < 0:
        raise UsageError(f"{argument('views')} must not be negative, it is {views}.")
    report = (lambda name, done, total: None) if report is None else report
    method, steps, model, data = load_run(run_config(run))
    averaged = model.averaged_field.module
    if not isinstance(averaged, GrowingField):
        raise InputError(f"the field of {run} does not grow: train finer-sine-stream or finer-wavelet-stream.")
    if averaged.unbounded:
        raise InputError(f"the scene of {run} has no end, and a stream holds bounded scenes only.")
    density_net, color_net = copy.deepcopy(averaged.density_net), copy.deepcopy(averaged.color_net)
    chosen = evenly(len(data.eval_dataset), views)
    cameras = data.eval_dataset.cameras.to(model.device)
    signal = _signal_of(averaged, model.config, view_of(cameras, chosen[0]))
    torch.manual_seed(seed)
    assert data.train_pixel_sampler is not None
    data.train_pixel_sampler.set_num_rays_per_batch(_PRECISION_RAYS)
    rays, batch = data.next_train(0)
    photographed = over_white(batch["image"].to(model.device))
    payloads, rows = [], []
    for i in range(averaged.active):
        report("rounding", i, averaged.active)
        new = [density_net.stages[i], color_net.stages[i]]
        kind, step = precision, 1.0
        if kind == "auto":
            # The grid of the unrounded stage: rounding that lets matter appear elsewhere has to show in colours.
            decibels = _decibels(DecodedScene(signal, density_net, color_net, i + 1), rays, photographed)
            kind, step = coarsest(new, decibels, allowed_loss=allowed_loss)
        payloads.append(pack_stage(new, kind, step))
        unpack_stage_(new, payloads[-1], kind)
        scene = DecodedScene(signal, density_net, color_net, i + 1)
        values = []
        for done, index in enumerate(chosen):
            report(f"looking at stage {i}", done, len(chosen))
            values.append(_quality(scene, cameras, data, index))
        psnr, ssim = (sum(column) / len(column) for column in zip(*values, strict=True))
        shell, widths = density_net.stages[i].bias_shell, [density_net.widths[i], color_net.widths[i]]
        quality = {"psnr": psnr, "ssim": ssim, "views": len(chosen)}
        rows.append(StreamedStage(widths, 0, kind, quality, None if shell is None else list(shell)))
    networks = [describe_network("density", density_net), describe_network("color", color_net)]
    header = StreamHeader(networks, TASK, _as_plain(signal), rows)
    signal_of(header)  # what no decoder would accept is not written
    content, ends = write_stream(header, payloads)
    stages = [
        PackedStage(row.widths[0], row.precision, end, row.quality["psnr"], row.quality["ssim"])
        for row, end in zip(rows, ends, strict=True)
    ]
    truth = (255.0 * _photograph(data, chosen[0])).round().to(torch.uint8).cpu().numpy()
    return PackedRun(content, stages, (len(chosen), len(data.eval_dataset)), method, steps, truth)


def _signal_of(field: GrowingField, config: FinerModelConfig, view: View) -> SceneSignal:
    return SceneSignal(
        tuple(float(value) for value in field.aabb.flatten()),
        field.direction_encoding,
        min(config.samples_per_ray, _MOST_SAMPLES),
        # A decoder looks into the cells itself: they need not be those of the training.
        min(config.grid_resolution, _LARGEST_GRID),
        float(config.near_plane),
        config.evaluation_threshold,
        view,
    )


def _decibels(scene: DecodedScene, rays: RayBundle, photographed: Tensor) -> Callable[[], float]:
    """Return what measures the colours of rays with the networks' weights as they are."""

    def decibels() -> float:
        scene.take_weights()
        return float(metrics.psnr(scene.colors(rays), photographed))

    return decibels


def _photograph(data: VanillaDataManager, index: int) -> Float[Tensor, "height width 3"]:
    return over_white(data.eval_dataset[index]["image"].float())


def _quality(scene: DecodedScene, cameras: Cameras, data: VanillaDataManager, index: int) -> tuple[float, float]:
    """PSNR and SSIM of a test view."""
    photograph = _photograph(data, index)
    counted = counted_pixels(data.eval_dataset[index], photograph)
    rays = camera_rays(cameras[index : index + 1])
    seen = scene.colors(rays.flatten()).reshape(photograph.shape).cpu()
    return float(metrics.psnr(seen, photograph, counted)), float(metrics.ssim(seen, photograph, counted))


def _as_plain(signal: SceneSignal) -> dict[str, Any]:
    """Of lists, as a reader of the file gets them."""
    view = signal.view
    shown = {
        "height": view.height,
        "width": view.width,
        "focal": list(view.focal),
        "center": list(view.center),
        "pose": list(view.pose),
    }
    return {
        "aabb": list(signal.aabb),
        "direction_encoding": signal.direction_encoding,
        "samples_per_ray": signal.samples_per_ray,
        "grid_resolution": signal.grid_resolution,
        "near_plane": signal.near_plane,
        "weight_threshold": signal.weight_threshold,
        "view": shown,
    }
