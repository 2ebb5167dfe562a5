"""Scenes in the format of the NeRF synthetic set ("Blender"), with the view stride and down-scaling of the paper."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image, UnidentifiedImageError

from finer_nerfstudio.errors import InputError, UsageError

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

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        config = self.config
        for name in ("train_view_stride", "eval_view_stride", "downscale_factor"):
            if getattr(config, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(config, name)}.")
        for name in ("scale_factor", "scene_half_extent"):
            if not (math.isfinite(getattr(config, name)) and getattr(config, name) > 0):
                raise UsageError(f"--{name.replace('_', '-')} must be positive, not {getattr(config, name)}.")
        folder = config.data
        if not (folder / "transforms_train.json").is_file():
            if (folder / "transforms.json").is_file():
                _refuse_changed_options(config)
                return NerfstudioDataParserConfig(data=folder).setup().get_dataparser_outputs(split, **kwargs)
            if not folder.is_dir():
                raise UsageError(f"--data {folder} is not a folder that exists.")
            raise UsageError(
                f"--data {folder} is not a scene: it holds neither transforms_train.json (Blender format) nor "
                f"transforms.json (nerfstudio-data)."
            )
        path = _split_file(folder, split)
        scene = _read_scene(path)
        stride = config.train_view_stride if split == "train" else config.eval_view_stride
        chosen = list(range(0, len(scene["frames"]), stride))
        poses = torch.stack([_pose(scene["frames"][index], index, path) for index in chosen])
        images = [_image_file(folder, scene["frames"][index], index, path) for index in chosen]
        width, height = _common_size(images, chosen, path)
        factor = config.downscale_factor
        if width // factor < 1 or height // factor < 1:
            raise UsageError(f"--downscale-factor {factor} leaves nothing of images of {width}x{height} pixels.")
        focal_x, focal_y, center_x, center_y = _intrinsics(scene, width, height, path)

        poses[:, :, 3] *= config.scale_factor
        extent = config.scene_half_extent
        return DataparserOutputs(
            image_filenames=images,
            cameras=Cameras(
                camera_to_worlds=poses,
                fx=focal_x / factor,
                fy=focal_y / factor,
                cx=center_x / factor,
                cy=center_y / factor,
                width=width // factor,
                height=height // factor,
                camera_type=CameraType.PERSPECTIVE,
            ),
            alpha_color=None,
            scene_box=SceneBox(aabb=torch.tensor([[-extent] * 3, [extent] * 3], dtype=torch.float32)),
            dataparser_scale=config.scale_factor,
            metadata={"downscale_factor": factor, "unbounded": False},
        )


def _refuse_changed_options(config: BlenderViewsDataParserConfig) -> None:
    """None of this parser's options reaches Nerfstudio's own, which reads transforms.json."""
    for option in dataclasses.fields(BlenderViewsDataParserConfig):
        if option.name not in ("_target", "data") and getattr(config, option.name) != option.default:
            raise UsageError(
                f"--{option.name.replace('_', '-')} is for Blender-format scenes, but {config.data} holds a "
                f"transforms.json: leave it out, or give options of nerfstudio-data after that word."
            )


def _split_file(folder: Path, split: str) -> Path:
    path = folder / f"transforms_{split}.json"
    if path.is_file():
        return path
    other = _OTHER_EVALUATION_SPLIT.get(split)
    if other is not None and (folder / f"transforms_{other}.json").is_file():
        CONSOLE.print(f"{path} is missing: using the {other} views in its place.", style="yellow")
        return folder / f"transforms_{other}.json"
    raise InputError(f"{path} is missing: a Blender-format scene needs views of its {split} split.")


def _read_scene(path: Path) -> dict[str, Any]:
    try:
        scene = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(scene, dict):
        raise InputError(f'{path} must hold a JSON object with "camera_angle_x" and "frames".')
    if not isinstance(scene.get("frames"), list) or not scene["frames"]:
        raise InputError(f'{path} has no frames: its list "frames" is missing or empty.')
    return scene


def _pose(frame: Any, index: int, path: Path) -> Float[torch.Tensor, "3 4"]:
    """Camera-to-world matrix of a frame (camera looks along -z, y up)."""
    where = f"frame {index} of {path}"
    if not isinstance(frame, dict) or "transform_matrix" not in frame:
        raise InputError(f'{where} has no "transform_matrix".')
    try:
        matrix = np.asarray(frame["transform_matrix"], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f'{where}: "transform_matrix" is not a matrix of numbers.') from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise InputError(f'{where}: "transform_matrix" must be 4x4, it is {"x".join(map(str, matrix.shape))}.')
    if not np.isfinite(matrix).all():
        raise InputError(f'{where}: "transform_matrix" holds NaN or infinity.')
    rotation = matrix[:3, :3]
    if abs(np.linalg.det(rotation)) < 1e-6:
        raise InputError(f'{where}: "transform_matrix" is singular, so it is no camera pose.')
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2:
        raise InputError(f'{where}: "transform_matrix" scales or shears, its upper left 3x3 must be a rotation.')
    return torch.from_numpy(matrix[:3]).float()


def _image_file(folder: Path, frame: dict[str, Any], index: int, path: Path) -> Path:
    name = frame.get("file_path")
    if not isinstance(name, str) or not name:
        raise InputError(f'frame {index} of {path} has no "file_path".')
    # The synthetic set leaves the extension out.
    for candidate in (folder / name, folder / f"{name}.png"):
        if candidate.is_file():
            return candidate
    missing = folder / (name if Path(name).suffix else f"{name}.png")
    raise InputError(f"the image {missing} of frame {index} of {path} is missing.")


def _common_size(images: list[Path], indices: list[int], path: Path) -> tuple[int, int]:
    """Width and height that all images share; only their headers are read."""
    sizes: list[tuple[int, int]] = []
    for image, index in zip(images, indices, strict=True):
        try:
            with Image.open(image) as header:
                sizes.append(header.size)
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"the image {image} of frame {index} of {path} cannot be read.") from error
        if sizes[-1] != sizes[0]:
            (width, height), (first_width, first_height) = sizes[-1], sizes[0]
            raise InputError(
                f"the image {image} of frame {index} of {path} has {width}x{height} pixels, but frame {indices[0]} "
                f"has {first_width}x{first_height}: all frames of a split must have one size."
            )
    return sizes[0]


def _intrinsics(scene: dict[str, Any], width: int, height: int, path: Path) -> tuple[float, float, float, float]:
    """Focal lengths and principal point in pixels, from ``fl_x`` etc. if they are given, else from the angle.

    Given values count pixels of pictures of ``w`` by ``h``, from which those on disk may have been scaled.
    """
    try:
        for name in ("k1", "k2", "k3", "k4", "p1", "p2"):
            if float(scene.get(name, 0.0)) != 0.0:
                raise InputError(
                    f'{path} has lens distortion ("{name}"), which Blender-format scenes cannot have: undistort the '
                    f"images, or describe them in a transforms.json (nerfstudio-data)."
                )
        scale_x = width / float(scene["w"]) if "w" in scene else 1.0
        scale_y = height / float(scene["h"]) if "h" in scene else scale_x
        center_x = scale_x * float(scene["cx"]) if "cx" in scene else width / 2
        center_y = scale_y * float(scene["cy"]) if "cy" in scene else height / 2
        if "fl_x" in scene:
            focal_x = scale_x * float(scene["fl_x"])
            focal_y = scale_y * float(scene.get("fl_y", scene["fl_x"]))
        elif "camera_angle_x" in scene:
            angle = float(scene["camera_angle_x"])
            if not 0 < angle < math.pi:
                raise InputError(f'{path}: "camera_angle_x" must lie between 0 and pi, it is {angle}.')
            focal_x = focal_y = 0.5 * width / math.tan(0.5 * angle)
        else:
            raise InputError(f'{path} has neither "camera_angle_x" nor "fl_x", so the focal length is unknown.')
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: the camera's intrinsics are not numbers ({error}).") from error
    if not all(map(math.isfinite, (focal_x, focal_y, center_x, center_y))) or min(focal_x, focal_y) <= 0:
        raise InputError(f"{path}: the camera's intrinsics must be finite and its focal length positive.")
    return focal_x, focal_y, center_x, center_y


blender_views = DataParserSpecification(
    config=BlenderViewsDataParserConfig(),
    description="Blender-format scene with view stride and area-averaged down-scaling.",
)
