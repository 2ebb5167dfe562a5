"""Poses that were refined, in the coordinates of the capture's own file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from finer_nerfstudio.nerf.data.captures import checked_captures
from finer_nerfstudio.nerf.training.refined_poses import write_refined_poses


def rotation(generator: np.random.Generator) -> np.ndarray:
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    return turn * np.sign(np.linalg.det(turn))


def test_refined_poses_are_in_the_frame_and_units_of_the_file(tmp_path: Path) -> None:
    """What the optimiser turned and moved in the field's coordinates is turned and moved in the file's."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    frames = []
    for index in range(6):
        pose = np.eye(4)
        pose[:3, :3] = rotation(generator)
        pose[:3, 3] = 1000.0 + 40.0 * generator.normal(size=3)
        name = f"images/{index}.png" if index % 2 else f"beside_{index}.png"
        Image.new("RGB", (8, 6)).save(tmp_path / name)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    camera = {"w": 8, "h": 6, "fl_x": 7.0, "fl_y": 7.0, "cx": 4.0, "cy": 3.0}
    (tmp_path / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    parser = checked_captures(NerfstudioDataParserConfig(data=tmp_path, eval_mode="all")).setup()
    outputs = parser.get_dataparser_outputs("train")
    optimizer = CameraOptimizer(CameraOptimizerConfig(mode="SO3xR3"), num_cameras=6, device="cpu")
    with torch.no_grad():
        optimizer.pose_adjustment.copy_(0.1 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    correction = optimizer.get_correction_matrices().detach().double().numpy()

    path = write_refined_poses(tmp_path, optimizer, outputs)
    refined = json.loads(path.read_text())["frames"]
    to_field = outputs.dataparser_transform.double().numpy()
    scale = outputs.dataparser_scale
    in_order = sorted(frames, key=lambda frame: frame["file_path"])
    assert [frame["file_path"] for frame in refined] == [frame["file_path"] for frame in in_order]
    for frame, given, change in zip(refined, in_order, correction, strict=True):
        pose, before = np.array(frame["transform_matrix"]), np.array(given["transform_matrix"])
        turned = to_field[:, :3].T @ change[:, :3] @ to_field[:, :3] @ before[:3, :3]
        moved = before[:3, 3] + to_field[:, :3].T @ change[:, 3] / scale
        np.testing.assert_allclose(pose[:3, :3], turned, atol=1e-5)
        np.testing.assert_allclose(pose[:3, 3], moved, atol=1e-3)
        assert np.abs(pose - before).max() > 1e-2
