"""What the queue reads: a scene's views, images and a shape, small enough to be carried to a machine without a network.

A bundle is a folder of three files of NumPy arrays and ``bundle.json``, which is written last. Pictures are kept as
PNG, training points of the shape as whole numbers (:mod:`finer_nerfstudio.tasks.sdf.pool`), masks as bits.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finer_nerfstudio.benchmarks.gpu.shapes import PreparedShape
from finer_nerfstudio.errors import InputError, argument, in_one_line
from finer_nerfstudio.files.atomic import replacing, write_json
from finer_nerfstudio.nerf.captured.views import Views
from finer_nerfstudio.tasks.image.files import SourceImage
from finer_nerfstudio.tasks.sdf.fit import HALVES
from finer_nerfstudio.tasks.sdf.pool import PointPool
from finer_nerfstudio.tasks.sdf.shape import Shape

_FORMAT = 1
_FILES = _MANIFEST, _VIEWS, _IMAGES, _SHAPE = "bundle.json", "views.npz", "images.npz", "shape.npz"
_SPLITS = ("train", "test")
_KEYS = {"quick", "scene", "views", "images", "shape", "watertight", "inside", "contents", "digests"}


@dataclass(frozen=True)
class Contents:
    """All that a bundle holds.

    Attributes:
        scene: its name.
        views: of the scene, which fills [-1, 1]^3: "train" and "test".
        images: by name.
        shape_name: of the shape.
        shape: the shape.
        quick: whether all of it is a toy.
    """

    scene: str
    views: Mapping[str, Views]
    images: Mapping[str, SourceImage]
    shape_name: str
    shape: PreparedShape
    quick: bool = False


def write_bundle(folder: Path, contents: Contents) -> dict[str, int]:
    """Write a bundle in the place of an older one.

    Args:
        folder: made if need be.
        contents: to be kept.

    Returns:
        Bytes by the names of its files.

    Raises:
        InputError: for a folder with files of these names that are no bundle's.
    """
    if taken := [name for name in _FILES if (folder / name).exists()]:
        try:
            Bundle(folder)
        except InputError:
            raise InputError(
                f"{folder} holds {taken[0]}, but no bundle: choose another folder, or move that file away."
            ) from None
    (folder / _MANIFEST).unlink(missing_ok=True)
    views: dict[str, np.ndarray] = {}
    for split in _SPLITS:
        found = contents.views[split]
        views |= {f"{split}_{name}": array for name, array in _packed(list(found.images)).items()}
        views[f"{split}_poses"] = found.poses.astype(np.float32)
        views[f"{split}_focal"] = np.array(found.focal)
    _write_arrays(folder / _VIEWS, views)
    _write_arrays(folder / _IMAGES, _packed([image.pixels for image in contents.images.values()]))
    prepared = contents.shape
    _write_arrays(
        folder / _SHAPE,
        {
            "vertices": prepared.shape.vertices,
            "faces": prepared.shape.faces.astype(np.int32),
            "positions": prepared.pool.positions,
            "distances": prepared.pool.distances,
            **{f"inside_{half:g}": np.packbits(prepared.inside[half]) for half in HALVES},
        },
    )
    manifest = {
        "format": _FORMAT,
        "quick": contents.quick,
        "scene": contents.scene,
        "views": {split: len(contents.views[split].images) for split in _SPLITS},
        "images": list(contents.images),
        "shape": contents.shape_name,
        "watertight": prepared.shape.watertight,
        "inside": {"resolution": prepared.inside_resolution, "sides": [len(prepared.inside[half]) for half in HALVES]},
        "contents": {
            "views": {split: contents.views[split].description for split in _SPLITS},
            "images": {name: image.description for name, image in contents.images.items()},
            "shape": {"mesh": prepared.shape.description, "pool": prepared.pool.description},
        },
        "digests": {name: _digest(folder / name) for name in (_VIEWS, _IMAGES, _SHAPE)},
    }
    write_json(folder / _MANIFEST, manifest)
    return sizes_of(folder)


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the bytes of a bundle's files.

    Raises:
        InputError: where one is missing.
    """
    try:
        return {name: (folder / name).stat().st_size for name in _FILES}
    except OSError as error:
        raise InputError(f"{error.filename} is missing ({in_one_line(error)}): copy the bundle again.") from error


class Bundle:
    """A bundle on disk; each part is read when it is first asked for.

    Args:
        folder: that :func:`write_bundle` filled.

    Raises:
        InputError: for a folder that holds none, here or when a part is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        option = argument("bundle")
        try:
            self._manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
            known = self._manifest["format"] == _FORMAT
            missing = _KEYS - self._manifest.keys() if known else set()
            if missing:
                raise KeyError(f"{_MANIFEST} lacks {', '.join(sorted(missing))}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{option} {folder} is no bundle ({in_one_line(error)}): make one, {argument('prepare')} does."
            ) from error
        if not known:
            raise InputError(
                f"{option} {folder} was written by another version: make it anew, {argument('prepare')} does."
            )

    @property
    def quick(self) -> bool:
        """Whether all of it is a toy."""
        return bool(self._manifest["quick"])

    @property
    def scene(self) -> str:
        """The scene's name."""
        return str(self._manifest["scene"])

    @property
    def shape_name(self) -> str:
        """The shape's name."""
        return str(self._manifest["shape"])

    @property
    def image_names(self) -> list[str]:
        """Names of the images, in their order."""
        return [str(name) for name in self._manifest["images"]]

    @property
    def descriptions(self) -> dict[str, Any]:
        """What tells this bundle's views, images and shape from others: sizes and digests of their contents."""
        return self._manifest["contents"]

    @cached_property
    def views(self) -> dict[str, Views]:
        """The scene's views, "train" and "test"."""
        arrays = self._arrays(_VIEWS)
        return {
            split: Views(
                np.stack(_unpacked(arrays[f"{split}_bytes"], arrays[f"{split}_lengths"])),
                arrays[f"{split}_poses"],
                float(arrays[f"{split}_focal"]),
            )
            for split in _SPLITS
        }

    @cached_property
    def images(self) -> dict[str, SourceImage]:
        """The images, by name."""
        arrays = self._arrays(_IMAGES)
        pictures = _unpacked(arrays["bytes"], arrays["lengths"])
        return {name: SourceImage(pixels) for name, pixels in zip(self.image_names, pictures, strict=True)}

    @cached_property
    def shape(self) -> PreparedShape:
        """The shape and what was computed of it."""
        arrays = self._arrays(_SHAPE)
        shape = Shape(arrays["vertices"], arrays["faces"].astype(np.int64), None, bool(self._manifest["watertight"]))
        inside = {}
        for half, side in zip(HALVES, self._manifest["inside"]["sides"], strict=True):
            bits = np.unpackbits(arrays[f"inside_{half:g}"], count=side**3)
            inside[half] = bits.reshape(side, side, side).astype(bool)
        pool = PointPool(arrays["positions"], arrays["distances"])
        return PreparedShape(shape, pool, inside, int(self._manifest["inside"]["resolution"]))

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.folder / name
        try:
            if _digest(path) != self._manifest["digests"][name]:
                raise ValueError("its content is not what was written")
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is damaged ({in_one_line(error)}): copy it again.") from error


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _packed(pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures as PNG, one after the other in one array, and their lengths."""
    encoded = []
    for pixels in pictures:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="png", optimize=True)
        encoded.append(content.getvalue())
    return {
        "bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "lengths": np.array([len(content) for content in encoded], np.int64),
    }


def _unpacked(content: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(lengths)
    pictures = []
    for start, end in zip(ends - lengths, ends, strict=True):
        with Image.open(io.BytesIO(content[start:end].tobytes())) as picture:
            pixels = np.array(picture)
        pixels.setflags(write=False)
        pictures.append(pixels)
    return pictures
