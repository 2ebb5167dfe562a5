"""Scenes to train on: where they are, what they are called, and how they come to the paper's 200x200 pixels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finer_nerfstudio.errors import InputError, UsageError, argument
from finer_nerfstudio.files.images import find_image, read_header

# The paper's images, averages of the originals of 800x800.
PAPER_SIZE = 200


@dataclass(frozen=True)
class Scene:
    """A scene in Blender format.

    Attributes:
        name: of its folder.
        folder: absolute, since runs may start elsewhere.
        width: of its images.
        height: of its images.
        train_views: their number.
        test_views: their number.
        digest: of the files that describe its cameras.
    """

    name: str
    folder: Path
    width: int
    height: int
    train_views: int
    test_views: int
    digest: str

    @property
    def downscale_factor(self) -> int:
        """Length of the blocks of pixels whose averages are the paper's images; smaller images stay as they are.

        Raises:
            UsageError: for images that have no such blocks.
        """
        width, height = self.width, self.height
        if max(width, height) <= PAPER_SIZE:
            return 1
        if width != height or width % PAPER_SIZE:
            raise UsageError(
                f"the images of {self.folder} have {width}x{height} pixels, which {PAPER_SIZE}x{PAPER_SIZE} does not "
                f"divide into equal blocks to average: scale them to a multiple of that."
            )
        return width // PAPER_SIZE

    @property
    def size(self) -> str:
        """Width and height that it is trained at."""
        factor = self.downscale_factor
        return f"{self.width // factor}x{self.height // factor}"

    def identity(self) -> dict[str, Any]:
        """Return what makes it this scene, wherever it lies."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


def scenes_in(path: Path) -> list[Scene]:
    """The scene itself, or all scenes of a folder, by name.

    Raises:
        InputError: where there is none, or one that cannot be used.
    """
    if (path / "transforms_train.json").is_file():
        return [read_scene(path)]
    if (path / "transforms.json").is_file():
        raise UsageError(
            f"{path} holds a transforms.json: the table takes scenes in Blender format, which have views for training "
            f"and for testing (transforms_train.json, transforms_test.json)."
        )
    found = sorted(entry.parent for entry in path.glob("*/transforms_train.json"))
    if not found:
        raise InputError(
            f"there is no scene at {path}: {argument('path', option='--scenes')} takes folders in Blender format "
            f"(transforms_train.json and its siblings) and folders of them; finer demo-scene makes one."
        )
    return [read_scene(folder) for folder in found]


def read_scene(folder: Path) -> Scene:
    """The scene in this folder.

    Raises:
        InputError: for files that are missing or damaged.
    """
    digest = hashlib.sha256()
    views: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for split in ("train", "test"):
        path = folder / f"transforms_{split}.json"
        if not path.is_file():
            raise InputError(f"{path} is missing: methods are trained and measured on the views of both splits.")
        try:
            content = path.read_bytes()
            frames = json.loads(content)["frames"]
            first = str(frames[0]["file_path"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError(f"{path} cannot be read: it lists no frames with their file_path.") from error
        digest.update(content)
        views[split] = len(frames)
        sizes[split] = _image_size(folder, first, path)
    if sizes["train"] != sizes["test"]:
        raise InputError(f"training and test images of {folder} differ in size: {sizes['train']}, {sizes['test']}.")
    width, height = sizes["train"]
    resolved = folder.resolve()
    return Scene(resolved.name, resolved, width, height, views["train"], views["test"], digest.hexdigest()[:16])


def _image_size(folder: Path, name: str, path: Path) -> tuple[int, int]:
    image = find_image(folder, name)
    if image is None:
        raise InputError(f"the image {folder / name} of {path} is missing.")
    header = read_header(image)
    return header.width, header.height


def require_different_names(scenes: list[Scene]) -> None:
    """Tables and folders call scenes by name.

    Raises:
        UsageError: where two have the same one.
    """
    by_name: dict[str, Scene] = {}
    for scene in scenes:
        other = by_name.setdefault(scene.name, scene)
        if other is not scene:
            raise UsageError(
                f"{other.folder} and {scene.folder} would both be called {scene.name} in the table: name one of them "
                f"alone, or rename it."
            )
