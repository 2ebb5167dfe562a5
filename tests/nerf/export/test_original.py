"""Exports in the coordinates of the data: against what was done to them, in double precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.exporter.exporter_utils import collect_camera_poses_for_dataset
from PIL import Image
from plyfile import PlyData, PlyElement

from finer_nerfstudio.cli.main import main
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.data.captures import checked_captures
from finer_nerfstudio.nerf.data.images import SceneImages
from finer_nerfstudio.nerf.export import harmonics
from finer_nerfstudio.nerf.export.placement import placement_of
from finer_nerfstudio.nerf.export.splats import Splats

# What ns-process-data did to the poses before they were written.
APPLIED = np.array([[0.0, 0, 1, 2], [1, 0, 0, -1], [0, 1, 0, 0.5], [0, 0, 0, 1]])
CENTER = np.array([512345.678, 5432109.876, 312.5])


def poses() -> np.ndarray:
    """Cameras [6, 4, 4] as the data had them, about a place in survey coordinates."""
    found = []
    for index in range(6):
        back = np.array([np.cos(2.4 * index), np.sin(2.4 * index), 0.4 + 0.1 * index])
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 0, 1], back)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(back, right), back, CENTER + 30 * back], axis=1)
        found.append(pose)
    return np.array(found)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> DataparserOutputs:
    folder = tmp_path_factory.mktemp("capture")
    frames = []
    for index, pose in enumerate(poses()):
        Image.new("RGB", (8, 6)).save(folder / f"{index}.png")
        frames.append({"file_path": f"{index}.png", "transform_matrix": (APPLIED @ pose).tolist()})
    content = {"camera_angle_x": 0.7, "applied_transform": APPLIED[:3].tolist(), "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return checked_captures(NerfstudioDataParserConfig(data=folder)).setup().get_dataparser_outputs("train")


@pytest.fixture
def run(outputs: DataparserOutputs, tmp_path: Path) -> Path:
    """A run's folder as ns-train leaves it, as far as it matters."""
    (tmp_path / "config.yml").write_text("")
    outputs.save_dataparser_transform(tmp_path / "dataparser_transforms.json")
    return tmp_path


def into_the_field(points: np.ndarray, outputs: DataparserOutputs) -> np.ndarray:
    transform = outputs.dataparser_transform.double().numpy()
    return outputs.dataparser_scale * (points @ transform[:, :3].T + transform[:, 3])


def vertices(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points as the data had them, and directions."""
    generator = np.random.default_rng(1)
    normals = generator.normal(size=(count, 3))
    return CENTER + 20 * generator.normal(size=(count, 3)), normals / np.linalg.norm(normals, axis=1, keepdims=True)


def test_points_and_directions_come_back(outputs: DataparserOutputs) -> None:
    points, _ = vertices(50)
    placement = placement_of(outputs)
    inside = into_the_field(points, outputs)
    np.testing.assert_allclose(placement.points(inside), points, atol=1e-6)
    ahead = into_the_field(points + np.array([0, 0, 1.0]), outputs) - inside
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    np.testing.assert_allclose(placement.directions(ahead), np.tile([0, 0, 1.0], (50, 1)), atol=1e-6)
    np.testing.assert_allclose(placement.matrix[:3, :3] @ inside[0] + placement.matrix[:3, 3], points[0], atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_splats_look_the_same_from_where_the_data_were(outputs: DataparserOutputs, degree: int) -> None:
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    normals = torch.nn.functional.normalize(drawn(20, 3), dim=-1)
    colors = drawn(20, harmonics.terms(degree), 3)
    splats = Splats(drawn(20, 3), normals, drawn(20, 4), drawn(20, 3), drawn(20), colors)
    placement, offset = placement_of(outputs).near_the_origin(2.0)
    moved = placement.splats(splats)
    assert (offset != 0).all()
    np.testing.assert_allclose(into_the_field(moved.means.numpy() + offset, outputs), splats.means, atol=1e-6)
    turn, scale = torch.from_numpy(placement.turn), placement.scale
    expected = scale**2 * turn @ splats.covariances() @ turn.T
    torch.testing.assert_close(moved.covariances(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(moved.normals, normals @ turn.T, atol=1e-9, rtol=0)
    seen = torch.nn.functional.normalize(drawn(20, 3), dim=-1)
    before, after = harmonics.colors(colors, seen), harmonics.colors(moved.harmonics, seen @ turn.T)
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)


def test_small_coordinates_have_no_offset(outputs: DataparserOutputs) -> None:
    small = placement_of(outputs)
    near, offset = type(small)(small.turn, small.scale, np.array([3.0, -2.0, 0.5])).near_the_origin(2.0)
    assert (offset == 0).all()
    assert near.shift.tolist() == [3.0, -2.0, 0.5]


@pytest.mark.parametrize("kind", ["cloud", "mesh"])
def test_ply_files_keep_what_else_they_hold(outputs: DataparserOutputs, run: Path, kind: str) -> None:
    points, normals = vertices(30)
    placement = placement_of(outputs)
    rows = np.zeros(30, dtype=[(name, "f4") for name in ("x", "y", "z", "nx", "ny", "nz")] + [("red", "u1")])
    for names, values in (("xyz", into_the_field(points, outputs)), (("nx", "ny", "nz"), normals @ placement.turn)):
        for name, column in zip(names, values.T, strict=True):
            rows[name] = column
    rows["red"] = np.arange(30)
    elements = [PlyElement.describe(rows, "vertex")]
    if kind == "mesh":
        faces = np.array([([0, 1, 2],), ([3, 4, 5],)], dtype=[("vertex_indices", "i4", (3,))])
        elements.append(PlyElement.describe(faces, "face"))
    PlyData(elements).write(str(run / "point_cloud.ply"))
    main(["export", "original", str(run / "point_cloud.ply"), "--load-config", str(run)])
    moved = PlyData.read(str(run / "point_cloud_original.ply"))
    for names, values, tolerance in (("xyz", points, 2e-4), (("nx", "ny", "nz"), normals, 1e-6)):
        found = np.stack([moved["vertex"][name] for name in names], axis=1)
        np.testing.assert_allclose(found, values, atol=tolerance)
    assert moved["vertex"]["red"].tolist() == list(range(30))
    if kind == "mesh":
        assert [list(face) for face in moved["face"]["vertex_indices"]] == [[0, 1, 2], [3, 4, 5]]


def test_obj_meshes_keep_their_textures(outputs: DataparserOutputs, run: Path) -> None:
    points, normals = vertices(3)
    placement = placement_of(outputs)
    text = ["mtllib material_0.mtl", "# a comment"]
    for name, values in (("v", into_the_field(points, outputs)), ("vn", normals @ placement.turn)):
        text += [" ".join([name, *map(repr, row)]) for row in values.tolist()]
    text += ["vt 0.25 0.5", "usemtl material_0", "f 1/1/1 2/1/2 3/1/3"]
    (run / "mesh.obj").write_text("\n".join(text))
    main(["export", "original", str(run / "mesh.obj"), "--load-config", str(run), "-o", str(run / "there.obj")])
    written = (run / "there.obj").read_text().splitlines()
    assert [line for line in written if line[:2] not in ("v ", "vn")] == [
        line for line in text if line[:2] not in ("v ", "vn")
    ]
    mesh = trimesh.load(run / "there.obj", process=False, skip_materials=True)
    assert isinstance(mesh, trimesh.Trimesh)
    np.testing.assert_allclose(mesh.vertices, points, atol=1e-4)
    np.testing.assert_allclose(mesh.vertex_normals, normals, atol=1e-6)


def test_camera_poses_are_those_before_anything_was_done(outputs: DataparserOutputs, run: Path) -> None:
    """What ns-export cameras collects."""
    frames = collect_camera_poses_for_dataset(SceneImages(outputs))
    (run / "transforms_train.json").write_text(json.dumps(frames))
    main(["export", "original", str(run / "transforms_train.json"), "--load-config", str(run)])
    moved = json.loads((run / "transforms_train_original.json").read_text())
    expected = {f"{index}.png": pose[:3] for index, pose in enumerate(poses())}
    assert len(moved) == 6
    for frame in moved:
        pose = np.array(frame["transform"])
        np.testing.assert_allclose(pose[:, 3], expected[Path(frame["file_path"]).name][:, 3], atol=1e-4)
        np.testing.assert_allclose(pose[:, :3], expected[Path(frame["file_path"]).name][:, :3], atol=1e-5)


def test_what_stretches_or_mirrors_is_refused(outputs: DataparserOutputs) -> None:
    for change in (np.diag([1.0, 1.0, -1.0]), np.diag([1.0, 2.0, 1.0])):
        transform = outputs.dataparser_transform.double().numpy() @ np.block(
            [[change, np.zeros((3, 1))], [np.zeros((1, 3)), 1]]
        )
        changed = DataparserOutputs([], outputs.cameras, dataparser_transform=torch.from_numpy(transform))
        with pytest.raises(InputError, match="applied_transform"):
            placement_of(changed)


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("mesh.stl", "solid", 2, "none of .ply, .obj, .json"),
        ("cloud.ply", "ply but no more", 1, "cannot be read"),
        ("poses.json", "[{}]", 1, "cannot be read"),
        ("mesh.obj", "v 1 two 3", 1, "cannot be read"),
    ],
)
def test_files_that_cannot_be_moved_get_a_sentence(
    run: Path, name: str, content: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["export", "original", str(run / name), "--load-config", str(run)])
    assert stop.value.code == code
    assert words in capsys.readouterr().err


def test_a_run_that_does_not_say_where_its_data_were(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "mesh.obj").write_text("v 1 2 3")
    (run / "dataparser_transforms.json").write_text('{"transform": [[1]], "scale": 1}')
    with pytest.raises(SystemExit):
        main(["export", "original", str(run / "mesh.obj"), "--load-config", str(run)])
    assert "does not say where the data were" in capsys.readouterr().err
