"""Reading shapes: what is repaired, what is refused, and the paper's frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.meshes.mesh import Mesh
from finer_nerfstudio.files.meshes.writing import write_ply
from finer_nerfstudio.tasks.sdf.shape import Shape, normalization_of, read_shape, sample_shape


@given(
    arrays(np.float64, st.tuples(st.integers(4, 20), st.just(3)), elements=st.floats(-1e6, 1e6)).filter(
        lambda points: float(np.ptp(points - points.mean(axis=0))) > 1e-3
    )
)
def test_the_frame_spans_the_papers_range_and_back(points: np.ndarray) -> None:
    normalization = normalization_of(points)
    unit = normalization.to_unit(points)
    assert unit.min() == pytest.approx(-0.45, abs=1e-6)
    assert unit.max() == pytest.approx(0.45, abs=1e-6)
    scale = np.abs(points).max()
    np.testing.assert_allclose(normalization.to_source(unit), points, atol=1e-9 * scale + 1e-12)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "off", "glb"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=2.0)
    mesh.export(tmp_path / f"ball.{suffix}")
    shape = read_shape(tmp_path / f"ball.{suffix}")
    assert shape.watertight
    assert len(shape.faces) == len(mesh.faces)
    assert len(shape.vertices) == len(mesh.vertices)
    assert shape.notes == ()


def test_a_scene_keeps_its_parts_in_place(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.icosphere(subdivisions=1))
    scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.export(tmp_path / "two.glb")
    shape = read_shape(tmp_path / "two.glb")
    assert shape.vertices[:, 0].max() == pytest.approx(5.5)
    assert any("2 separate parts" in note for note in shape.notes)


def test_a_mesh_with_a_hole_is_said_to_have_one(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.update_faces(np.arange(len(mesh.faces)) > 0)
    mesh.export(tmp_path / "open.ply")
    shape = read_shape(tmp_path / "open.ply")
    assert not shape.watertight
    assert any("not watertight (3 edges" in note for note in shape.notes)


def test_inward_faces_are_turned(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.invert()
    mesh.export(tmp_path / "inward.ply")
    shape = read_shape(tmp_path / "inward.ply")
    assert trimesh.Trimesh(shape.vertices, shape.faces).volume > 0
    assert any("inward" in note for note in shape.notes)


def test_disagreeing_faces_are_turned(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    faces = np.array(mesh.faces)
    faces[::3] = faces[::3, ::-1]
    trimesh.Trimesh(mesh.vertices, faces, process=False).export(tmp_path / "mixed.ply")
    shape = read_shape(tmp_path / "mixed.ply")
    assert trimesh.Trimesh(shape.vertices, shape.faces).volume == pytest.approx(mesh.volume)
    assert any("disagreed" in note for note in shape.notes)


def test_degenerate_faces_are_left_out(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    faces = np.concatenate([mesh.faces, [[0, 0, 1], [2, 3, 3]], mesh.faces[:1]])
    trimesh.Trimesh(mesh.vertices, faces, process=False).export(tmp_path / "degenerate.ply")
    shape = read_shape(tmp_path / "degenerate.ply")
    assert len(shape.faces) == len(mesh.faces)
    assert any(note.startswith("3 of 83 faces") for note in shape.notes)


def sphere_cloud(count: int = 400) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def write_ply_cloud(path: Path, points: np.ndarray, normals: np.ndarray | None, *, binary: bool = False) -> None:
    columns = ["x", "y", "z"] + (["nx", "ny", "nz"] if normals is not None else [])
    rows = points if normals is None else np.concatenate([points, normals], axis=1)
    header = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {name}" for name in columns] + ["end_header\n"]
    content = (
        rows.astype("<f4").tobytes() if binary else "\n".join(" ".join(map(str, row)) for row in rows).encode() + b"\n"
    )
    path.write_bytes("\n".join(header).encode() + content)


@pytest.mark.parametrize("binary", [True, False])
def test_clouds_with_normals(binary: bool, tmp_path: Path) -> None:
    points = sphere_cloud()
    write_ply_cloud(tmp_path / "cloud.ply", 3 * points, points, binary=binary)
    shape = read_shape(tmp_path / "cloud.ply")
    assert shape.is_cloud
    assert shape.normals is not None
    np.testing.assert_allclose(shape.normals, points, atol=1e-5)
    np.savetxt(tmp_path / "cloud.xyz", np.concatenate([points, 2 * points], axis=1))
    assert read_shape(tmp_path / "cloud.xyz").vertices.shape == (400, 3)


def test_clouds_without_normals_are_refused(tmp_path: Path) -> None:
    write_ply_cloud(tmp_path / "cloud.ply", sphere_cloud(), None)
    np.savetxt(tmp_path / "cloud.xyz", sphere_cloud())
    for name in ("cloud.ply", "cloud.xyz"):
        with pytest.raises(InputError, match="without normals"):
            read_shape(tmp_path / name)


VERTICES = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.obj", b"", "zero bytes"),
        ("text.obj", b"this is no mesh at all\n", "no vertices|cannot be read"),
        ("noise.ply", bytes(range(256)) * 4, "cannot be read"),
        ("cut.glb", b"glTF\x02\x00\x00\x00\xff\xff\x00\x00", "cannot be read"),
        ("unknown.format", b"something", "cannot be read"),
        ("points.obj", VERTICES.encode(), "neither faces nor normals|cannot be read|no vertices|without normals"),
        ("nan.obj", (VERTICES + "v nan 0 0\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 5\n").encode(), "finite"),
        ("flat.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nf 1 2 3\nf 2 4 3\n", "flat"),
        ("degenerate.obj", (VERTICES + "f 1 1 2\nf 2 2 3\n").encode(), "no face with an area|cannot be read"),
        ("one_place.obj", b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "no face with an area|one place"),
        ("beyond.obj", (VERTICES + "f 1 2 9\nf 1 2 3\n").encode(), "not there|cannot be read"),
    ],
)
def test_what_is_no_shape_is_named(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_shape(tmp_path / name)
    assert name in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shape"):
        read_shape(tmp_path / "missing.obj")
    with pytest.raises(InputError, match="folder"):
        read_shape(tmp_path)


def test_the_sample_is_closed() -> None:
    shape = sample_shape(48)
    assert trimesh.Trimesh(shape.vertices, shape.faces, process=False).is_watertight


def test_the_shared_bunny_has_a_hole(shared_shapes: Path) -> None:
    shape = read_shape(shared_shapes / "bunny_lowpoly.obj")
    assert not shape.watertight
    assert any("not watertight" in note for note in shape.notes)
    assert read_shape(shared_shapes / "armadillo.obj").watertight


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 1e6])
def test_small_units_lose_no_face(size: float, tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=3)
    content = "".join(f"v {x:.12e} {y:.12e} {z:.12e}\n" for x, y, z in ball.vertices * size)
    content += "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in ball.faces)
    (tmp_path / "ball.obj").write_text(content)
    shape = read_shape(tmp_path / "ball.obj")
    assert len(shape.faces) == len(ball.faces)
    assert shape.watertight
    assert float(np.ptp(shape.vertices[:, 0])) == pytest.approx(2 * size, rel=1e-3)


def origin_of(path: Path) -> np.ndarray:
    """What the header says has to be added to the vertices."""
    header = path.read_bytes().partition(b"end_header")[0].decode()
    stated = re.search(r"^comment origin (\S+) (\S+) (\S+)$", header, re.MULTILINE)
    return np.zeros(3) if stated is None else np.array([float(value) for value in stated.groups()])


@pytest.mark.parametrize(
    "offset", [(0.0, 0.0, 0.0), (20.0, 0.0, -9.0), (512_345.678, 5_432_109.876, 312.5), (1e9, 0, 0)]
)
@pytest.mark.parametrize("size", [1e-3, 1.0, 40.0])
def test_a_written_mesh_keeps_its_surface_wherever_it_is(offset: Sequence[float], size: float, tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    vertices = size * ball.vertices + np.array(offset)
    origin = write_ply(tmp_path / "ball.ply", Mesh(vertices, np.asarray(ball.faces)))
    np.testing.assert_array_equal(origin_of(tmp_path / "ball.ply"), origin)
    again = trimesh.load(tmp_path / "ball.ply", process=False)
    assert isinstance(again, trimesh.Trimesh)
    assert b"property float x" in (tmp_path / "ball.ply").read_bytes()
    np.testing.assert_allclose(again.vertices + origin, vertices, atol=1e-5 * size + 1e-15 * np.abs(vertices).max())
    np.testing.assert_array_equal(again.faces, ball.faces)
    if max(map(abs, offset)) < 10 * size:
        assert not origin.any(), "near the origin it stays where it is"
    # Other programs see the same.
    import open3d

    seen = open3d.io.read_triangle_mesh(tmp_path / "ball.ply")
    np.testing.assert_allclose(np.asarray(seen.vertices) + origin, vertices, atol=1e-5 * size + 1e-9 * max(offset))


def test_a_mesh_is_written_in_double_precision_on_request(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    vertices = ball.vertices + np.array([500_000.0, 5_400_000.0, 100.0])
    assert not write_ply(tmp_path / "ball.ply", Mesh(vertices, np.asarray(ball.faces)), double=True).any()
    again = trimesh.load(tmp_path / "ball.ply", process=False)
    assert isinstance(again, trimesh.Trimesh)
    np.testing.assert_array_equal(again.vertices, vertices)


def test_normals_belong_to_a_cloud() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    faces = np.zeros((0, 3), np.int64)
    descriptions = [Shape(points, faces, sign * normals, False).description for sign in (1.0, -1.0)]
    assert descriptions[0] != descriptions[1]
