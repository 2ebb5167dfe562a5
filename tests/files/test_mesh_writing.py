"""Meshes on disk: by the rules of their formats, and as other programs read them."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from finer_nerfstudio.files.meshes.gltf import read_gltf
from finer_nerfstudio.files.meshes.mesh import Mesh, face_areas, parts_of, vertex_normals
from finer_nerfstudio.files.meshes.writing import linear_from_srgb, write_glb, write_ply

UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Turns z up to y up."""


def ball(size: tuple[float, float, float] = (1.0, 2.0, 3.0), offset: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """An ellipsoid with other colours at every vertex, dark ones among them."""
    made = trimesh.creation.icosphere(subdivisions=2)
    colors = np.clip((made.vertices + 1.0) / 2.0, 0.0, 1.0) ** 2
    return Mesh(made.vertices * np.array(size) + np.array(offset), np.asarray(made.faces, np.int64), colors)


def glb(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk of a file, whose frame is as glTF 2.0 has it (§4.4)."""
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    text_length, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert text_length % 4 == 0
    data_length, kind = struct.unpack_from("<I4s", content, 20 + text_length)
    assert kind == b"BIN\0"
    assert data_length % 4 == 0
    assert 28 + text_length + data_length == len(content)
    return json.loads(content[20 : 20 + text_length]), content[28 + text_length :]


def values_of(document: dict[str, Any], data: bytes, number: int) -> np.ndarray:
    """Rows of an accessor, which is within its view and aligned (§3.6.2)."""
    accessor = document["accessors"][number]
    view = document["bufferViews"][accessor["bufferView"]]
    kind = np.dtype({5126: "<f4", 5125: "<u4", 5123: "<u2"}[accessor["componentType"]])
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
    assert view["byteOffset"] % kind.itemsize == 0
    assert width * kind.itemsize % 4 == 0, "rows of attributes are whole words"
    assert view["byteLength"] == accessor["count"] * width * kind.itemsize
    assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"] == len(data)
    return np.frombuffer(data, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)


def test_a_glb_keeps_to_the_rules_of_gltf(tmp_path: Path) -> None:
    mesh = ball()
    write_glb(tmp_path / "ball.glb", mesh)
    document, data = glb(tmp_path / "ball.glb")
    assert document["asset"]["version"] == "2.0"
    (primitive,) = document["meshes"][0]["primitives"]
    attributes = {name: values_of(document, data, i) for name, i in primitive["attributes"].items()}
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_array_equal(position["min"], attributes["POSITION"].min(axis=0))
    np.testing.assert_array_equal(position["max"], attributes["POSITION"].max(axis=0))
    np.testing.assert_allclose(attributes["POSITION"], mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(attributes["NORMAL"], axis=1), 1.0, atol=1e-5)
    # Outward, as those of an ellipsoid are: the gradient of its equation.
    outward = mesh.vertices / np.array([1.0, 2.0, 3.0]) ** 2
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (np.einsum("nc,nc->n", outward, attributes["NORMAL"]) > 0.95).all()
    indices = values_of(document, data, primitive["indices"])
    np.testing.assert_array_equal(indices.reshape(-1, 3), mesh.faces)
    views = [document["bufferViews"][accessor["bufferView"]] for accessor in document["accessors"]]
    assert [view["target"] for view in views] == [34962, 34962, 34962, 34963]
    ends = sorted((view["byteOffset"], view["byteOffset"] + view["byteLength"]) for view in views)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends)), "views do not overlap"
    rotation = document["nodes"][document["scenes"][document["scene"]]["nodes"][0]]["rotation"]
    assert np.linalg.norm(rotation) == pytest.approx(1.0)


def test_colors_of_a_glb_are_linear_light(tmp_path: Path) -> None:
    mesh = ball()
    write_glb(tmp_path / "ball.glb", mesh)
    document, data = glb(tmp_path / "ball.glb")
    number = document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    assert document["accessors"][number]["normalized"] is True
    found = values_of(document, data, number) / 65535.0
    np.testing.assert_array_equal(found[:, 3], 1.0)
    # Back to sRGB, by the standard's formula the other way round.
    back = np.where(found <= 0.0031308, 12.92 * found, 1.055 * found ** (1 / 2.4) - 0.055)[:, :3]
    assert mesh.colors is not None
    np.testing.assert_allclose(back, mesh.colors, atol=2e-4)
    # Middle grey, and the two ends.
    np.testing.assert_allclose(linear_from_srgb(np.array([0.0, 0.5, 1.0])), [0.0, 0.21404114, 1.0], atol=1e-7)


def test_a_glb_stands_upright_and_has_the_meshs_own_numbers(tmp_path: Path) -> None:
    mesh = ball(offset=(5.0, 0.0, 1.0))
    write_glb(tmp_path / "ball.glb", mesh)
    scene = trimesh.load(tmp_path / "ball.glb", process=False)
    assert isinstance(scene, trimesh.Scene)
    (own,) = scene.geometry.values()
    assert isinstance(own, trimesh.Trimesh)
    np.testing.assert_allclose(own.vertices, mesh.vertices, atol=1e-6)
    turned = mesh.vertices @ UP.T
    np.testing.assert_allclose(scene.bounds, [turned.min(axis=0), turned.max(axis=0)], atol=1e-6)
    np.testing.assert_allclose(read_gltf((tmp_path / "ball.glb").read_bytes(), tmp_path).vertices, turned, atol=1e-6)


@pytest.mark.parametrize("offset", [(512_345.678, 5_432_109.876, 312.5), (0.0, -1e9, 0.0)])
def test_a_glb_keeps_its_surface_far_from_the_origin(offset: tuple[float, float, float], tmp_path: Path) -> None:
    mesh = ball(offset=offset)
    origin = write_glb(tmp_path / "ball.glb", mesh)
    assert origin.any()
    shape = read_gltf((tmp_path / "ball.glb").read_bytes(), tmp_path)
    np.testing.assert_allclose(shape.vertices @ UP, mesh.vertices, atol=1e-5 + 1e-15 * np.abs(offset).max())


@pytest.mark.parametrize("write", [write_glb, write_ply])
def test_a_mesh_without_colors_and_with_flat_faces_is_written(write: Callable[..., Any], tmp_path: Path) -> None:
    square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [3, 0, 0]])
    path = tmp_path / f"flat.{write.__name__[-3:]}"
    write(path, Mesh(square, np.array([[0, 1, 2], [1, 3, 4]])))  # the second is a line
    read = trimesh.load(path, process=False, force="mesh")
    assert isinstance(read, trimesh.Trimesh)
    assert len(read.faces) == 2
    if write is write_glb:
        document, data = glb(path)
        attributes = document["meshes"][0]["primitives"][0]["attributes"]
        assert attributes.keys() == {"POSITION", "NORMAL"}
        np.testing.assert_allclose(np.linalg.norm(values_of(document, data, attributes["NORMAL"]), axis=1), 1.0)


def test_a_ply_has_the_colors_of_pictures(tmp_path: Path) -> None:
    import open3d

    mesh = ball()
    assert mesh.colors is not None
    write_ply(tmp_path / "ball.ply", mesh)
    read = trimesh.load(tmp_path / "ball.ply", process=False)
    assert isinstance(read, trimesh.Trimesh)
    colors: Any = read.visual
    np.testing.assert_array_equal(colors.vertex_colors[:, :3], np.round(255 * mesh.colors))
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-6)
    other = open3d.io.read_triangle_mesh(tmp_path / "ball.ply")
    np.testing.assert_allclose(np.asarray(other.vertex_colors), mesh.colors, atol=0.51 / 255)


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Any]]:
    """What Khronos' validator says of a .glb, and three.js makes of it."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no npm on this machine, which has Khronos' validator and three.js")
    folder = tmp_path_factory.mktemp("npm")
    packages = ("gltf-validator@2.0.0-dev.3.10", "three@0.170.0")
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=20000")
    try:
        done = subprocess.run(
            [npm, "install", "--prefix", folder, *options, *packages], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the registry of npm does not answer")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install: {done.stderr[-300:]}")
    script = shutil.copy(Path(__file__).with_name("look_at_gltf.mjs"), folder)

    def look_at(path: Path) -> dict[str, Any]:
        done = subprocess.run([node, script, path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return look_at


@pytest.mark.parametrize("offset", [(5.0, 0.0, 1.0), (512_345.0, 5_432_109.0, 312.0)])
def test_khronos_validator_and_three_js_find_nothing_wrong(
    offset: tuple[float, float, float], look: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    mesh = ball(offset=offset)
    write_glb(tmp_path / "ball.glb", mesh)
    found = look(tmp_path / "ball.glb")
    assert found["issues"]["messages"] == []
    (shown,) = found["meshes"]
    assert (shown["vertices"], shown["faces"]) == (len(mesh.vertices), len(mesh.faces))
    turned = mesh.vertices @ UP.T
    np.testing.assert_allclose([found["min"], found["max"]], [turned.min(axis=0), turned.max(axis=0)], atol=1e-4)
    np.testing.assert_allclose(shown["first"], turned[0], atol=1e-4)
    np.testing.assert_allclose(shown["normal"], vertex_normals(mesh.vertices, mesh.faces)[0] @ UP.T, atol=1e-4)
    assert mesh.colors is not None
    np.testing.assert_allclose(shown["srgb"], mesh.colors[0], atol=2e-4)
    assert shown["material"] == "MeshBasicMaterial", "drawn without any light"
    assert shown["vertexColors"] is True


# What can be said of triangles


def test_parts_share_vertices_and_areas_add_up() -> None:
    first, second = ball(), ball(offset=(10.0, 0.0, 0.0))
    faces = np.concatenate([first.faces, second.faces + len(first.vertices)])
    order = np.random.default_rng(0).permutation(len(faces))
    vertices = np.concatenate([first.vertices, second.vertices])
    part = parts_of(faces[order], len(vertices))
    is_second = order >= len(first.faces)
    assert len(np.unique(part)) == 2
    assert len(np.unique(part[is_second])) == len(np.unique(part[~is_second])) == 1
    true = trimesh.Trimesh(first.vertices, first.faces, process=False)
    np.testing.assert_allclose(face_areas(first.vertices, first.faces), true.area_faces)
    alone = Mesh(vertices, faces[order]).of_faces(part == part[np.flatnonzero(is_second)[0]])
    assert len(alone.vertices) == len(second.vertices)
    kept = trimesh.Trimesh(alone.vertices, alone.faces, process=False)
    assert kept.is_watertight
    np.testing.assert_allclose(kept.bounds, [second.vertices.min(axis=0), second.vertices.max(axis=0)])
