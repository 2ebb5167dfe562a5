"""Poses that were refined along with a field, as a file that other programs read."""

from __future__ import annotations

from pathlib import Path

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from finer_nerfstudio.files.atomic import write_json

NAME = "refined_poses.json"
"""Of the file, in a run's folder."""


@torch.no_grad()
def refined_poses(optimizer: CameraOptimizer, outputs: DataparserOutputs) -> Tensor:
    """Return the poses of training pictures as they were refined, in the frame and the units of the capture's file.

    Args:
        optimizer: that was trained.
        outputs: of the parser, for these pictures.

    Returns:
        ``[pictures, 3, 4]`` camera to world, x right, y up, looking along -z.
    """
    correction = optimizer.get_correction_matrices().cpu().double()
    poses = outputs.cameras.camera_to_worlds[:, :3].cpu().double()
    turned = correction[:, :, :3] @ poses[:, :, :3]
    moved = poses[:, :, 3:] + correction[:, :, 3:]
    return outputs.transform_poses_to_original_space(torch.cat([turned, moved], dim=2), camera_convention="opengl")


def write_refined_poses(folder: Path, optimizer: CameraOptimizer, outputs: DataparserOutputs) -> Path:
    """Write refined poses beside a run, as frames of a transforms.json, and return the file's path.

    Args:
        folder: of the run.
        optimizer: that was trained.
        outputs: of the parser, for the training pictures.
    """
    poses = refined_poses(optimizer, outputs).tolist()
    # As the capture's file names them; parsers of other formats do not say.
    names = outputs.metadata.get("file_paths") or [str(path) for path in outputs.image_filenames]
    frames = [
        {"file_path": name, "transform_matrix": [*pose, [0.0, 0.0, 0.0, 1.0]]}
        for name, pose in zip(names, poses, strict=True)
    ]
    path = folder / NAME
    write_json(path, {"frames": frames})
    return path
