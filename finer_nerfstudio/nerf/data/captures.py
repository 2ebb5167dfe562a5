"""Captures: photographs with one transforms.json, as Nerfstudio's nerfstudio-data, with its options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras import camera_utils
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import MAX_AUTO_RESOLUTION, NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.data.utils import dataparsers_utils
from torch import Tensor

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.images import find_image
from finer_nerfstudio.nerf.data.notes import Notes
from finer_nerfstudio.nerf.data.transforms import (
    Frame,
    Matrix,
    Picture,
    Transforms,
    cameras_of,
    measure,
    of_times,
    read_transforms,
)

# Where programs that began with COLMAP leave the poses; what Nerfstudio did to such poses before files said it.
_COLMAP = "colmap/sparse/0"
_COLMAP_TRANSFORM = ((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, -1.0, 0.0))


@dataclass
class CaptureOutputs(DataparserOutputs):
    """Nerfstudio's outputs whose way back to the file's coordinates is in double precision.

    Survey coordinates are millions of metres, of which single precision keeps half metres.
    """

    def transform_poses_to_original_space(
        self, poses: Tensor, camera_convention: Literal["opengl", "opencv"] = "opencv"
    ) -> Tensor:
        return super().transform_poses_to_original_space(poses.double(), camera_convention)


def checked_captures(config: NerfstudioDataParserConfig) -> NerfstudioDataParserConfig:
    """Return the same options for the parser of this module, in place of Nerfstudio's own."""
    return dataclasses.replace(config, _target=Captures)


def find_mask(frame: Frame, folder: Path, downscale: int = 1) -> Path | None:
    """Find the mask that a frame names, if it names one.

    Args:
        frame: of a file in ``folder``.
        folder: of the scene.
        downscale: of the copies that are read.

    Raises:
        InputError: where it is missing.
    """
    if frame.mask is None:
        return None
    name = _smaller_copy(frame.mask, "masks", downscale)
    path = find_image(folder, name)
    if path is None:
        raise InputError(f"the mask {folder / name} of {frame.where} is missing.")
    return path


def depth_path(frame: Frame, folder: Path, downscale: int) -> Path | None:
    """Return where the depth map that a frame names is, or would be; None if it names none.

    Args:
        frame: of a file in ``folder``.
        folder: of the scene.
        downscale: of the copies that are read.
    """
    if frame.depth is None:
        return None
    name = _smaller_copy(frame.depth, "depths", downscale)
    return find_image(folder, name) or folder / name


@dataclass
class Captures(DataParser):
    """Reads what Nerfstudio's parser reads, lenses of each frame too, and says what is wrong with the rest.

    Poses are centred in double precision. Where a capture has no pictures to evaluate on, those of training stand in.
    Depth maps are found, and read by whoever wants them. COLMAP's points are left alone.

    Raises:
        UsageError: if there is no capture at ``data`` or an option is out of range.
        InputError: if a frame, a picture or a mask is missing, unreadable or inconsistent.
    """

    config: NerfstudioDataParserConfig
    downscale_factor: int | None = None

    def __post_init__(self) -> None:
        self._notes = Notes()

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        del kwargs
        config = self.config
        self._require_sensible_options()
        path = self._file()
        transforms = read_transforms(path)
        folder = path.parent
        downscale = self._downscale(transforms, folder)
        pictures = sorted(self._pictures(transforms, folder, downscale), key=lambda picture: picture.path)
        self._notes.tell(of_times(picture.frame for picture in pictures))
        masks = [find_mask(picture.frame, folder, downscale) for picture in pictures]
        depths = [depth_path(picture.frame, folder, downscale) for picture in pictures]
        chosen = self._split(transforms, pictures, folder, downscale, split)

        poses, to_field = self._oriented(np.stack([picture.frame.pose for picture in pictures]), transforms, path)
        scale = config.scale_factor
        if config.auto_scale_poses:
            scale /= float(np.abs(poses[:, :, 3]).max())
        poses[:, :, 3] *= scale
        applied = transforms.applied_transform
        if applied is None and (folder / _COLMAP).exists():
            applied = np.array(_COLMAP_TRANSFORM)
        if applied is not None:
            to_field = to_field @ np.concatenate([applied, [[0.0, 0.0, 0.0, 1.0]]])
        half = config.scene_scale
        return CaptureOutputs(
            image_filenames=[pictures[index].path for index in chosen],
            cameras=cameras_of([pictures[index] for index in chosen], poses[chosen], scale),
            scene_box=SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3], dtype=torch.float32)),
            dataparser_scale=scale * transforms.applied_scale,
            dataparser_transform=torch.from_numpy(to_field),
            metadata={
                "mask_color": config.mask_color,
                "masks": [masks[index] for index in chosen],
                "depths": [depths[index] for index in chosen],
                "depth_unit": config.depth_unit_scale_factor * scale * transforms.applied_scale,
                "file_paths": [pictures[index].frame.image for index in chosen],
                "crop_radii": [pictures[index].lens.crop_radius for index in chosen],
            },
        )

    def _require_sensible_options(self) -> None:
        config = self.config
        for name in ("downscale_factor", "eval_interval"):
            value = getattr(config, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
        for name in ("scale_factor", "scene_scale", "depth_unit_scale_factor"):
            if not 0 < getattr(config, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive, not {getattr(config, name)}.")
        if not 0 < config.train_split_fraction <= 1:
            raise UsageError(f"--train-split-fraction must lie in (0, 1], it is {config.train_split_fraction}.")

    def _file(self) -> Path:
        data = self.config.data
        path = data if data.suffix == ".json" else data / "transforms.json"
        if path.is_file():
            return path
        if not data.exists():
            raise UsageError(f"--data {data} is not there.")
        hint = ""
        if (data / "transforms_train.json").is_file():
            hint = " It is a scene in Blender format: leave nerfstudio-data out."
        raise UsageError(f"{data} is no capture for nerfstudio-data: it has no transforms.json.{hint}")

    def _downscale(self, transforms: Transforms, folder: Path) -> int:
        """How many times smaller the copies are that are read: ns-process-data makes some beside the pictures."""
        if self.downscale_factor is None:
            self.downscale_factor = self.config.downscale_factor
        if self.downscale_factor is None:
            first = transforms.frames[0]
            path = find_image(folder, first.image)
            factor = 1
            if path is not None:
                picture = measure(first, path)
                longer = max(picture.width, picture.height)
                while longer / factor > MAX_AUTO_RESOLUTION and find_image(
                    folder, _smaller_copy(first.image, "images", 2 * factor)
                ):
                    factor *= 2
            self.downscale_factor = factor
        return self.downscale_factor

    def _pictures(self, transforms: Transforms, folder: Path, downscale: int) -> list[Picture]:
        found = [
            (frame, find_image(folder, _smaller_copy(frame.image, "images", downscale))) for frame in transforms.frames
        ]
        missing = [frame for frame, path in found if path is None]
        if missing:
            name = folder / _smaller_copy(missing[0].image, "images", downscale)
            if downscale > 1 and len(missing) == len(found):
                raise InputError(
                    f"the pictures have no copies of 1/{downscale} of their size, as ns-process-data makes them: "
                    f"{name} is missing."
                )
            others = f", and those of {len(missing) - 1} more of {len(found)}" if len(missing) > 1 else ""
            raise InputError(
                f"the image {name} of {missing[0].where} is missing{others}: put it there, or take the frame out of "
                f"the file."
            )
        return [measure(frame, path) for frame, path in found if path is not None]

    def _split(
        self, transforms: Transforms, pictures: Sequence[Picture], folder: Path, downscale: int, split: str
    ) -> list[int]:
        """Indices of the pictures of a split."""
        if transforms.splits:
            splits = {
                name: _listed(names, pictures, folder, downscale, f'{transforms.path}: "{name}_filenames"')
                for name, names in transforms.splits.items()
            }
            rest = [i for i in range(len(pictures)) if not any(i in listed for listed in splits.values())]
            train = splits.get("train", rest)
            evaluated = splits.get(split) or splits.get({"val": "test", "test": "val"}.get(split, ""), [])
            if not evaluated and "train" in splits:
                evaluated = rest
        else:
            train, evaluated = self._split_by_option([picture.path for picture in pictures])
        if not train:
            raise InputError(f"{transforms.path} leaves no picture to train on: all of them are for evaluation.")
        if split == "train":
            return train
        if not evaluated:
            self._notes.tell(
                f"{transforms.path} has no pictures to evaluate on: those of training are used in their place, so "
                f"that metrics say how well these are fitted."
            )
        return evaluated or train

    def _split_by_option(self, paths: list[Path]) -> tuple[list[int], list[int]]:
        config = self.config
        try:
            if config.eval_mode == "fraction":
                split = dataparsers_utils.get_train_eval_split_fraction(paths, config.train_split_fraction)
            elif config.eval_mode == "filename":
                split = dataparsers_utils.get_train_eval_split_filename(paths)
            elif config.eval_mode == "interval":
                split = dataparsers_utils.get_train_eval_split_interval(paths, config.eval_interval)
            else:
                split = dataparsers_utils.get_train_eval_split_all(paths)
        except ValueError as error:
            raise InputError(
                f"--eval-mode filename needs train or eval in the name of every picture in {paths[0].parent}."
            ) from error
        train, evaluated = split
        return [int(index) for index in train], [int(index) for index in evaluated]

    def _oriented(self, poses: Matrix, transforms: Transforms, path: Path) -> tuple[Matrix, Matrix]:
        """Poses in the field's directions around its centre, and the matrix ``[3, 4]`` that brings them there.

        Nerfstudio computes both in single precision, which is enough for differences of positions.
        """
        config = self.config
        mean = poses[:, :, 3].mean(axis=0)
        centered = poses.copy()
        centered[:, :, 3] -= mean
        spread = float(np.abs(centered[:, :, 3]).max())
        if spread <= 1e-9 * max(1.0, float(np.abs(mean).max())):
            views = "its only frame" if len(poses) == 1 else f"all {len(poses)} frames"
            raise InputError(
                f"{path} shows the scene from one place alone, that of {views}, which says nothing of distances: it "
                f"takes pictures from several places."
            )
        # Brought to about 1, so that positions of any unit are numbers like those of rotations.
        homogeneous = np.concatenate([centered, np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(poses), 1, 1))], axis=1)
        homogeneous[:, :3, 3] /= spread
        try:
            _, transform = camera_utils.auto_orient_and_center_poses(
                torch.from_numpy(homogeneous).float(),
                method=transforms.orientation or config.orientation_method,  # pyright: ignore[reportArgumentType]
                center_method=config.center_method,
            )
        except RuntimeError as error:  # a singular matrix
            raise InputError(
                f"the cameras of {path} look at no common point: give --center-method poses after nerfstudio-data."
            ) from error
        turn, shift = transform[:, :3].double().numpy(), spread * transform[:, 3].double().numpy()
        if not (np.isfinite(turn).all() and np.isfinite(shift).all()):
            raise InputError(
                f"the cameras of {path} have no common direction by which the scene could be oriented: give "
                f"--orientation-method none after nerfstudio-data."
            )
        # A rotation to single precision is one of its own rounding, by which survey coordinates would be moved.
        left, _, right = np.linalg.svd(turn)
        turn = np.asarray(left @ right, dtype=np.float64)
        origin = shift + turn @ mean if config.center_method == "none" else shift
        oriented = np.concatenate(
            [turn @ centered[:, :, :3], (centered[:, :, 3] @ turn.T + origin)[:, :, None]], axis=2
        )
        return oriented, np.concatenate([turn, (origin - turn @ mean)[:, None]], axis=1)


def _smaller_copy(name: str, kind: str, downscale: int) -> str:
    """Where ns-process-data puts pictures, or masks, of a fraction of the size."""
    return name if downscale == 1 else f"{kind}_{downscale}/{name.rsplit('/', 1)[-1]}"


def _listed(names: Sequence[str], pictures: Sequence[Picture], folder: Path, downscale: int, where: str) -> list[int]:
    """Indices of the pictures that a list of file names means."""
    places = {picture.path: index for index, picture in enumerate(pictures)}
    listed = []
    for name in names:
        path = find_image(folder, _smaller_copy(name, "images", downscale))
        if path not in places:
            raise InputError(f"{where} names {name}, which is the file of no frame.")
        listed.append(places[path])
    return sorted(set(listed))
