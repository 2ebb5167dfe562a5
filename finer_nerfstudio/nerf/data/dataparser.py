"""Scenes in the format of the NeRF synthetic set ("Blender"), with the view stride and down-scaling of the paper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.files.images import find_image
from finer_nerfstudio.nerf.data.captures import checked_captures, find_mask
from finer_nerfstudio.nerf.data.notes import Notes
from finer_nerfstudio.nerf.data.transforms import Picture, cameras_of, measure, of_times, read_transforms

_OTHER_EVALUATION_SPLIT = {"val": "test", "test": "val"}


@dataclass
class BlenderViewsDataParserConfig(DataParserConfig):
    """Blender-format scenes (transforms_train.json, transforms_val.json, transforms_test.json)."""

    _target: type = dataclasses.field(default_factory=lambda: BlenderViews)
    data: Path = Path("data/demo")
    """Folder that holds transforms_train.json; a folder with a transforms.json is read as nerfstudio-data instead."""
    scale_factor: float = 0.8
    """Factor of the camera positions; the paper's 0.8 brings the synthetic scenes into [-1, 1]^3."""
    scene_half_extent: float = 1.0
    """The scene fills the box [-e, e]^3 after scaling."""
    train_view_stride: int = 1
    """Train on every n-th training view only; the paper's protocol is 4, which leaves 25 of 100."""
    eval_view_stride: int = 1
    """Evaluate on every n-th validation or test view only."""
    downscale_factor: int = 1
    """Average blocks of n by n pixels; the paper's protocol is 4 for the original 800x800 images."""


@dataclass
class BlenderViews(DataParser):
    """Reads :class:`BlenderViewsDataParserConfig` scenes. Images keep their alpha channel.

    Raises:
        UsageError: if the folder is no scene or an option is out of range.
        InputError: if a split file, a frame or an image is missing, unreadable or inconsistent.
    """

    config: BlenderViewsDataParserConfig

    def __post_init__(self) -> None:
        self._notes = Notes()

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        config = self.config
        for name in ("train_view_stride", "eval_view_stride", "downscale_factor"):
            if getattr(config, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(config, name)}.")
        # ns-render gives it as a floating-point number.
        if config.downscale_factor != int(config.downscale_factor):
            raise UsageError(f"--downscale-factor must be a whole number, not {config.downscale_factor}.")
        config.downscale_factor = int(config.downscale_factor)
        for name in ("scale_factor", "scene_half_extent"):
            if not (math.isfinite(getattr(config, name)) and getattr(config, name) > 0):
                raise UsageError(f"--{name.replace('_', '-')} must be positive, not {getattr(config, name)}.")
        # The file itself may be named in place of its folder.
        data = config.data
        folder = data.parent if data.name == "transforms_train.json" and data.is_file() else data
        if not (folder / "transforms_train.json").is_file():
            if (folder / "transforms.json").is_file() or (data.suffix == ".json" and data.is_file()):
                _refuse_changed_options(config)
                capture = checked_captures(NerfstudioDataParserConfig(data=data)).setup()
                return capture.get_dataparser_outputs(split, **kwargs)
            if not folder.is_dir():
                what = "is a file, and no transforms.json" if folder.exists() else "does not exist"
                raise UsageError(f"--data {folder} {what}: name a scene's folder, or make one with finer demo-scene.")
            raise UsageError(
                f"--data {folder} is not a scene: it holds neither transforms_train.json (Blender format) nor "
                f"transforms.json (nerfstudio-data)."
            )
        pictures = self._pictures(folder, split)
        _require_common_lens(pictures)
        width, height = pictures[0].width, pictures[0].height
        factor = config.downscale_factor
        if width // factor < 1 or height // factor < 1:
            raise UsageError(f"--downscale-factor {factor} leaves nothing of images of {width}x{height} pixels.")
        self._notes.tell(of_times(picture.frame for picture in pictures))
        poses = np.stack([picture.frame.pose for picture in pictures])
        poses[:, :, 3] *= config.scale_factor
        extent = config.scene_half_extent
        return DataparserOutputs(
            image_filenames=[picture.path for picture in pictures],
            cameras=cameras_of(pictures, poses, config.scale_factor, factor),
            alpha_color=None,
            scene_box=SceneBox(aabb=torch.tensor([[-extent] * 3, [extent] * 3], dtype=torch.float32)),
            dataparser_scale=config.scale_factor,
            metadata={
                "downscale_factor": factor,
                "unbounded": False,
                "masks": [find_mask(picture.frame, folder) for picture in pictures],
                "file_paths": [picture.frame.image for picture in pictures],
                "crop_radii": [picture.lens.crop_radius for picture in pictures],
            },
        )

    def _pictures(self, folder: Path, split: str) -> list[Picture]:
        """The chosen views of a split; views of another one where those to evaluate on have no pictures.

        Programs that only make a camera path for others to look at write poses without pictures.
        """
        wanted = folder / f"transforms_{split}.json"
        if split == "train":
            return self._views(wanted, self.config.train_view_stride, all_needed=True)
        for name in (split, _OTHER_EVALUATION_SPLIT.get(split, split)):
            path = folder / f"transforms_{name}.json"
            if path.is_file():
                found = self._views(path, self.config.eval_view_stride, all_needed=False)
                if found:
                    if path != wanted:
                        self._notes.tell(f"{wanted} has no pictures: using the {name} views in their place.")
                    return found
        self._notes.tell(
            f"{folder} has no pictures to evaluate on: those of training are used in their place, so that metrics say "
            f"how well these are fitted."
        )
        return self._views(folder / "transforms_train.json", self.config.train_view_stride, all_needed=True)

    def _views(self, path: Path, stride: int, *, all_needed: bool) -> list[Picture]:
        """Every ``stride``-th view of a file, without those that have no picture unless all need one."""
        frames = read_transforms(path).frames[::stride]
        found = [(frame, find_image(path.parent, frame.image)) for frame in frames]
        missing = [frame for frame, file in found if file is None]
        if missing and all_needed:
            # The synthetic set leaves the extension out.
            name = missing[0].image if Path(missing[0].image).suffix else f"{missing[0].image}.png"
            raise InputError(
                f"the image {path.parent / name} of {missing[0].where} is missing: put it there, or take the frame out."
            )
        if missing:
            self._notes.tell(f"{len(missing)} of {len(frames)} views of {path} have no picture, and are left out.")
        return [measure(frame, file) for frame, file in found if file is not None]


def _refuse_changed_options(config: BlenderViewsDataParserConfig) -> None:
    """None of this parser's options reaches the one that reads transforms.json."""
    for option in dataclasses.fields(BlenderViewsDataParserConfig):
        if option.name not in ("_target", "data") and getattr(config, option.name) != option.default:
            raise UsageError(
                f"--{option.name.replace('_', '-')} is for Blender-format scenes, but {config.data} holds a "
                f"transforms.json: leave it out, or give options of nerfstudio-data after that word."
            )


def _require_common_lens(pictures: Sequence[Picture]) -> None:
    """Refuse what the format cannot hold: pictures of several sizes, and lens distortion."""
    first = pictures[0]
    for picture in pictures:
        where = f"the image {picture.path} of {picture.frame.where}"
        if (picture.width, picture.height) != (first.width, first.height):
            raise InputError(
                f"{where} has {picture.width}x{picture.height} pixels, but that of {first.frame.where} has "
                f"{first.width}x{first.height}: all frames of a split must have one size."
            )
        if picture.lens.distorts_by is not None:
            raise InputError(
                f'{picture.frame.where} has lens distortion ("{picture.lens.distorts_by}"), which Blender-format '
                f"scenes cannot have: undistort the images, or describe them in a transforms.json (nerfstudio-data)."
            )


blender_views = DataParserSpecification(
    config=BlenderViewsDataParserConfig(),
    description="Blender-format scene with view stride and area-averaged down-scaling.",
)
