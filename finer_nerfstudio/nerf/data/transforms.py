"""The cameras and pictures of a scene, as its transforms.json has them: read and checked before anything is trained.

The format is shared by NeRF's synthetic scenes, instant-ngp, Nerfstudio and the programs that write for them. What a
frame says of its lens counts before what the file says of all.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.files.images import read_header

Matrix = npt.NDArray[np.float64]

# Thousands of frames take a few megabytes.
_LARGEST_FILE = 1 << 26
_LONGEST_NAME = 1024
_FARTHEST = 1e12
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_LENS_FLAGS = {"is_fisheye": CameraType.FISHEYE, "equirectangular": CameraType.EQUIRECTANGULAR}
_FOR_TWO_EYES = ("OMNIDIRECTIONALSTEREO_L", "OMNIDIRECTIONALSTEREO_R", "VR180_L", "VR180_R")
# Of which Nerfstudio's rays know no distortion.
_WITHOUT_DISTORTION = (CameraType.EQUIRECTANGULAR, CameraType.ORTHOPHOTO)
_TRAINED_ON = [model for model in CAMERA_MODEL_TO_TYPE if model not in _FOR_TWO_EYES]
_ORIENTATIONS = ("pca", "up", "vertical", "none")


class _Values:
    """Values of a frame, or else of the file that it stands in, with sentences for those of a wrong kind.

    Args:
        objects: the innermost first.
        where: they stand, for sentences.
    """

    def __init__(self, objects: Sequence[dict[str, Any]], where: str) -> None:
        self._objects = objects
        self.where = where

    def innermost(self, *names: str) -> _Values:
        """Return the values of the innermost object alone that has any of ``names``."""
        return _Values([item for item in self._objects if any(name in item for name in names)][:1], self.where)

    def get(self, name: str) -> Any:
        return next((item[name] for item in self._objects if name in item), None)

    def number(self, name: str) -> float | None:
        """Return a finite number, or None where there is none."""
        if not any(name in item for item in self._objects):
            return None
        value = self.get(name)
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise InputError(f'{self.where}: "{name}" must be a finite number, it is {_shown(value)}.')
        return number

    def positive(self, name: str) -> float | None:
        value = self.number(name)
        if value is not None and value <= 0:
            raise InputError(f'{self.where}: "{name}" must be positive, it is {value:g}.')
        return value

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or _has_controls(value):
            raise InputError(
                f'{self.where}: "{name}" must be a text of 1 to {_LONGEST_NAME} characters, it is {_shown(value)}.'
            )
        return value

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value not in (None, False, True, 0, 1):
            raise InputError(f'{self.where}: "{name}" must be true or false, it is {_shown(value)}.')
        return bool(value)

    def matrix(self, name: str) -> Matrix | None:
        """Return a matrix ``[3, 4]`` of finite numbers, written with or without its last row 0 0 0 1."""
        value = self.get(name)
        if value is None:
            return None
        where = f'{self.where}: "{name}"'
        try:
            matrix = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{where} is not a matrix of numbers.") from error
        if matrix.shape not in ((4, 4), (3, 4)):
            shape = "x".join(map(str, matrix.shape)) or "a number"
            raise InputError(f"{where} must be 4x4, it is {shape}.")
        if not np.isfinite(matrix).all():
            raise InputError(f"{where} holds NaN or infinity.")
        if len(matrix) == 4 and np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
            raise InputError(f"{where} has the last row {_numbers(matrix[3])} and not 0 0 0 1: is it transposed?")
        if np.abs(matrix[:3]).max() > _FARTHEST:
            raise InputError(f"{where} holds {np.abs(matrix).max():g}: no scene is as large as that.")
        return matrix[:3]


@dataclass(frozen=True)
class Lens:
    """A lens in pixels.

    Attributes:
        model: Nerfstudio's kind of camera.
        focal: lengths along x and y.
        center: principal point, from the upper left corner of the picture.
        distortion: k1, k2, k3, k4, p1 and p2 of OpenCV's models, or the twelve numbers of FISHEYE624.
        crop_radius: what is farther from the picture's middle shows nothing.
    """

    model: CameraType
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, ...]
    crop_radius: float | None

    @property
    def distorts_by(self) -> str | None:
        """The first coefficient that bends rays, if any does."""
        if len(self.distortion) != len(_DISTORTION):
            return "distortion_params" if any(self.distortion) else None
        return next((name for name, value in zip(_DISTORTION, self.distortion, strict=True) if value), None)


@dataclass(frozen=True)
class Frame:
    """A frame of a file, checked but for its picture.

    Attributes:
        where: the frame for sentences.
        image: file of the picture, relative to the scene's folder, with slashes; its suffix may be missing.
        mask: likewise of the mask, if there is one.
        depth: likewise of the depth map, if there is one.
        pose: camera-to-world matrix ``[3, 4]``, a rotation and a position; the camera looks along -z, y is up.
        time: of a scene that moves.
        values: what it says of its lens, the file's values where it says nothing.
    """

    where: str
    image: str
    mask: str | None
    depth: str | None
    pose: Matrix
    time: float | None
    values: _Values

    def lens_of(self, width: int, height: int) -> Lens:
        """Return the lens in pixels of a picture, which may have been scaled since the file was written.

        Args:
            width: of the picture on disk, pixels.
            height: likewise.

        Raises:
            InputError: where the lens is unknown, or the file is about pictures of another shape.
        """
        values = self.values
        model = _model(values)
        scale_x, scale_y = _scales(values, width, height)
        focal_x, focal_y = _focal_lengths(values, model, width / scale_x, height / scale_y)
        center_x, center_y = values.number("cx"), values.number("cy")
        lens = Lens(
            model,
            (scale_x * focal_x, scale_y * focal_y),
            (
                width / 2 if center_x is None else scale_x * center_x,
                height / 2 if center_y is None else scale_y * center_y,
            ),
            _distortion(values, model),
            _crop_radius(values, model, math.sqrt(scale_x * scale_y)),
        )
        if min(lens.focal) < 1e-3 or max(map(abs, (*lens.focal, *lens.center, *lens.distortion))) > 1e9:
            raise InputError(
                f"{self.where} has a lens that cannot be: its focal length is {_numbers(lens.focal)}, its center "
                f"{_numbers(lens.center)} pixels, and its distortion {_numbers(lens.distortion)}."
            )
        if lens.distorts_by is not None and model in _WITHOUT_DISTORTION:
            raise InputError(
                f'{self.where} has lens distortion ("{lens.distorts_by}"), which pictures of type {model.name} cannot '
                f"have: undistort them, or give the lens that they were taken with."
            )
        return lens


@dataclass(frozen=True)
class Transforms:
    """A file of frames.

    Attributes:
        path: the file.
        frames: in its order, at least one.
        splits: files named for "train", "val" and "test", where the file has such lists.
        applied_transform: ``[3, 4]``, what was done to the poses before they were written.
        applied_scale: likewise.
        orientation: how to orient the scene, where the file insists on it.
    """

    path: Path
    frames: tuple[Frame, ...]
    splits: dict[str, tuple[str, ...]]
    applied_transform: Matrix | None
    applied_scale: float
    orientation: str | None


@dataclass(frozen=True)
class Picture:
    """A picture on disk with the frame that names it, and its lens."""

    frame: Frame
    path: Path
    width: int
    height: int
    lens: Lens


def read_transforms(path: Path) -> Transforms:
    """Read a transforms.json or one of transforms_train.json and its kin.

    Raises:
        InputError: where the file, a pose or a number is missing, damaged or impossible.
    """
    content = _json(path)
    if not isinstance(content, dict):
        raise InputError(f'{path} must hold a JSON object with "camera_angle_x" and "frames".')
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f'{path} has no frames: its list "frames" is missing or empty.')
    scene = _Values([content], str(path))
    orientation = scene.text("orientation_override")
    if orientation not in (None, *_ORIENTATIONS):
        raise InputError(
            f'{path}: "orientation_override" must be one of {", ".join(_ORIENTATIONS)}, it is {_shown(orientation)}.'
        )
    return Transforms(
        path,
        tuple(_frame(frame, content, f"frame {index} of {path}") for index, frame in enumerate(frames)),
        dict(_splits(content, path)),
        scene.matrix("applied_transform"),
        scene.positive("applied_scale") or 1.0,
        orientation,
    )


def measure(frame: Frame, path: Path) -> Picture:
    """Look at the size of a frame's picture, without decoding it.

    Raises:
        InputError: where it cannot be read, or does not go with its lens.
    """
    header = read_header(path)
    return Picture(frame, path, header.width, header.height, frame.lens_of(header.width, header.height))


def of_times(frames: Iterable[Frame]) -> str | None:
    """Return a sentence on frames of different times, if they are."""
    times = {frame.time for frame in frames if frame.time is not None}
    if len(times) < 2:
        return None
    return (
        f"The frames have times from {min(times):g} to {max(times):g}, which the field does not know: what moves "
        f"becomes a blur of all its places."
    )


def cameras_of(
    pictures: Sequence[Picture], poses: npt.NDArray[np.floating], scale: float, downscale: int = 1
) -> Cameras:
    """Return Nerfstudio's cameras of pictures whose blocks of ``downscale`` by ``downscale`` pixels are averaged.

    Args:
        pictures: at least one.
        poses: camera-to-world matrices ``[pictures, 3, 4]`` in the coordinates of the field.
        scale: units of the field in one of the file, by which the pixels of an ORTHOPHOTO shrink.
        downscale: a remainder at the right and the bottom is cut off.

    Raises:
        InputError: for kinds of lenses that cannot be in one scene.
    """

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).div(downscale).float()[:, None]

    lenses = [picture.lens for picture in pictures]
    models = {lens.model for lens in lenses}
    if {
        CameraType.ORTHOPHOTO,
        CameraType.FISHEYE624,
    } <= models:  # Nerfstudio asks which kinds there are, not which it is
        raise InputError("pictures of type ORTHOPHOTO and FISHEYE624 cannot be in one capture: make two of them.")
    units = [scale if lens.model is CameraType.ORTHOPHOTO else 1.0 for lens in lenses]
    longest = max(len(lens.distortion) for lens in lenses)
    distortion = torch.tensor([lens.distortion + (0.0,) * (longest - len(lens.distortion)) for lens in lenses])
    return Cameras(
        camera_to_worlds=torch.from_numpy(np.ascontiguousarray(poses)).float(),
        fx=column([lens.focal[0] / unit for lens, unit in zip(lenses, units, strict=True)]),
        fy=column([lens.focal[1] / unit for lens, unit in zip(lenses, units, strict=True)]),
        cx=column([lens.center[0] for lens in lenses]),
        cy=column([lens.center[1] for lens in lenses]),
        width=torch.tensor([[picture.width // downscale] for picture in pictures]),
        height=torch.tensor([[picture.height // downscale] for picture in pictures]),
        distortion_params=distortion if CameraType.FISHEYE624 in models or any(map(_distorts, lenses)) else None,
        camera_type=torch.tensor([[lens.model.value] for lens in lenses]),
    )


def _distorts(lens: Lens) -> bool:
    return lens.distorts_by is not None


def _json(path: Path) -> Any:
    try:
        is_too_large = path.stat().st_size > _LARGEST_FILE
        content = (
            None if is_too_large else json.loads(path.read_bytes().decode("utf-8-sig"))
        )  # Windows' editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {in_one_line(error)}.") from error
    except RecursionError as error:
        raise InputError(f"{path} is not valid JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON: {str(error).split(';')[0]}. Correct it, or export the scene again."
        ) from error
    if is_too_large:
        raise InputError(f"{path} has more than {_LARGEST_FILE >> 20} MB, which is no list of cameras.")
    return content


def _frame(frame: Any, scene: dict[str, Any], where: str) -> Frame:
    if not isinstance(frame, dict):
        raise InputError(f"{where} must be a JSON object, it is {_shown(frame)}.")
    own = _Values([frame], where)
    image, pose = own.text("file_path"), own.matrix("transform_matrix")
    mask, depth = own.text("mask_path"), own.text("depth_file_path")
    if image is None:
        raise InputError(f'{where} has no "file_path".')
    if pose is None:
        raise InputError(f'{where} has no "transform_matrix".')
    return Frame(
        where,
        _portable(image),
        None if mask is None else _portable(mask),
        None if depth is None else _portable(depth),
        _camera_pose(pose, f'{where}: "transform_matrix"'),
        None if own.get("time") is None else own.number("time"),
        _Values([frame, scene], where),
    )


def _camera_pose(matrix: Matrix, where: str) -> Matrix:
    """The matrix without the size of the camera, which is of no account to what it sees."""
    rotation = matrix[:, :3]
    size = float(np.linalg.norm(rotation, axis=0).mean())
    if size < 1e-9 or abs(np.linalg.det(rotation / size)) < 1e-6:
        raise InputError(f"{where} is singular, so it is no camera pose.")
    rotation = rotation / size
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2:
        raise InputError(f"{where} stretches or shears, its upper left 3x3 must be a rotation.")
    if np.linalg.det(rotation) < 0:
        raise InputError(
            f"{where} mirrors (its determinant is negative), as no camera can: one axis was turned round on the way "
            f"from the program that wrote it."
        )
    return np.concatenate([rotation, matrix[:, 3:]], axis=1)


def _splits(content: dict[str, Any], path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for split in ("train", "val", "test"):
        names = content.get(f"{split}_filenames")
        if names is None:
            continue
        if not isinstance(names, list):
            raise InputError(f'{path}: "{split}_filenames" must be a list of file names, it is {_shown(names)}.')
        texts = [_Values([{"filenames": name}], f"{path}, {split}").text("filenames") for name in names]
        yield split, tuple(_portable(text) for text in texts if text is not None)


def _model(values: _Values) -> CameraType:
    model = values.get("camera_model")
    flags = [kind for flag, kind in _LENS_FLAGS.items() if values.flag(flag)]
    if model is None:
        return flags[0] if flags else CameraType.PERSPECTIVE
    known = CAMERA_MODEL_TO_TYPE.get(model) if isinstance(model, str) else None
    if known is None:
        raise InputError(
            f'{values.where}: the "camera_model" {_shown(model)} is not known, only {", ".join(_TRAINED_ON)}: '
            f"undistort the pictures, or estimate another model."
        )
    if model in _FOR_TWO_EYES:
        raise InputError(
            f'{values.where}: pictures of the "camera_model" {model} show two places at once, those of two eyes: a '
            f"field renders such pictures, but is not trained on them. Convert them to EQUIRECTANGULAR or PINHOLE."
        )
    if flags and known is not flags[0]:
        raise InputError(f'{values.where} has the "camera_model" {model}, and is {flags[0].name} by another word.')
    return known


def _focal_lengths(values: _Values, model: CameraType, width: float, height: float) -> tuple[float, float]:
    """Along x and y, in pixels of pictures of ``width`` by ``height``."""
    given = values.innermost("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
    focal_x, focal_y = given.positive("fl_x"), given.positive("fl_y")
    if focal_x is not None or focal_y is not None:
        return focal_x or focal_y or 0.0, focal_y or focal_x or 0.0
    if model is CameraType.EQUIRECTANGULAR:
        return width / 2, height
    for name, length in (("camera_angle_x", width), ("camera_angle_y", height)):
        angle = given.number(name)
        if angle is None:
            continue
        if model is not CameraType.PERSPECTIVE:
            raise InputError(
                f'{values.where}: "{name}" is not enough for a lens of type {model.name}: give its "fl_x".'
            )
        if not 0 < angle < math.pi:
            raise InputError(f'{values.where}: "{name}" must lie between 0 and pi, it is {angle:g}.')
        focal = 0.5 * length / math.tan(0.5 * angle)
        return focal, focal
    raise InputError(
        f'{values.where} has neither "camera_angle_x" nor "fl_x", so the focal length is unknown: add one.'
    )


def _scales(values: _Values, width: int, height: int) -> tuple[float, float]:
    """Pixels of the picture on disk for one of those that the file counts, along x and y."""
    full_width, full_height = values.positive("w"), values.positive("h")
    if full_width is None and full_height is None:
        return 1.0, 1.0
    scale_x = width / full_width if full_width is not None else height / (full_height or 1.0)
    scale_y = height / full_height if full_height is not None else scale_x
    # Scaling rounds both sides to whole pixels.
    if abs(scale_x - scale_y) > scale_x / width + scale_y / height:
        full = f"{full_width:g}x{full_height:g}"
        turned = " (turned by its EXIF orientation?)" if (full_width, full_height) == (height, width) else ""
        raise InputError(
            f"{values.where} is about a picture of {full} pixels, but the one on disk has {width}x{height}{turned}: "
            f"its lens is that of another picture."
        )
    return scale_x, scale_y


def _distortion(values: _Values, model: CameraType) -> tuple[float, ...]:
    listed = values.innermost("distortion_params", *_DISTORTION).get("distortion_params")
    expected = 12 if model is CameraType.FISHEYE624 else 6
    if listed is None and model is CameraType.FISHEYE624:
        raise InputError(
            f'{values.where}: a lens of type FISHEYE624 needs its "distortion_params", {expected} numbers.'
        )
    if listed is None:
        return tuple(values.number(name) or 0.0 for name in _DISTORTION)
    if not isinstance(listed, list) or len(listed) != expected:
        raise InputError(f'{values.where}: "distortion_params" must be a list of {expected} numbers.')
    numbers = [_Values([{"distortion_params": number}], values.where).number("distortion_params") for number in listed]
    return tuple(number or 0.0 for number in numbers)


def _crop_radius(values: _Values, model: CameraType, scale: float) -> float | None:
    radius = values.positive("fisheye_crop_radius")
    # Nerfstudio's files may have it for any lens, and mean those of a fish eye.
    return None if radius is None or model not in (CameraType.FISHEYE, CameraType.FISHEYE624) else scale * radius


def _portable(name: str) -> str:
    return name.replace("\\", "/")


def _has_controls(text: str) -> bool:
    """Whether a terminal would take some of it for orders, or has no letter for it."""
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _shown(value: Any) -> str:
    """A value as it may stand in a sentence: short, and without control characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:40]} ..."
