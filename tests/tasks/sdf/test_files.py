"""Readers of meshes and clouds, against shapes that are known and against other programs' readers."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.meshes.raw import RawShape
from finer_nerfstudio.files.meshes.reading import read_raw
from finer_nerfstudio.tasks.sdf.polygons import triangles_of
from finer_nerfstudio.tasks.sdf.shape import read_shape

Polygons = Sequence[Sequence[int]]

CUBE = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
CUBE_SIDES: Polygons = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
CUBE_TRIANGLES = np.array([t for q in CUBE_SIDES for t in (q[:3], (q[0], q[2], q[3]))])

# A bar bent to a U: its ends are polygons of eight corners, twice not convex.
U = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
BAR = np.array([(x, y, z) for z in (0, 1) for x, y in U], float)
BAR_SIDES: Polygons = [range(8)[::-1], range(8, 16), *((i, (i + 1) % 8, 8 + (i + 1) % 8, 8 + i) for i in range(8))]
# A cube of which three sides are cut into triangles.
MIXED_SIDES: Polygons = [*CUBE_SIDES[:3], *(t for q in CUBE_SIDES[3:] for t in (q[:3], (q[0], q[2], q[3])))]
# A bar whose ends have a notch: quads that are not convex.
DART = np.array([(x, y, z) for z in (0, 1) for x, y in ((0, 0), (2, -1), (0.5, 0), (2, 1))], float)
DART_SIDES: Polygons = [(3, 2, 1, 0), (4, 5, 6, 7), *((i, (i + 1) % 4, 4 + (i + 1) % 4, 4 + i) for i in range(4))]


def area_and_volume(vertices: np.ndarray, faces: np.ndarray) -> tuple[float, float]:
    corners = np.asarray(vertices, float)[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return 0.5 * float(np.linalg.norm(cross, axis=1).sum()), float(np.einsum("ij,ij->", corners[:, 0], cross)) / 6


def measures(raw: RawShape) -> tuple[float, float]:
    return area_and_volume(raw.vertices, triangles_of(raw.vertices, raw.corners, raw.sizes))


# Writers


def obj(vertices: np.ndarray, sides: Polygons) -> bytes:
    lines = ["v " + " ".join(map(str, vertex)) for vertex in vertices]
    return "\n".join([*lines, *("f " + " ".join(str(i + 1) for i in side) for side in sides)]).encode()


def off(vertices: np.ndarray, sides: Polygons) -> bytes:
    lines = ["OFF", f"{len(vertices)} {len(sides)} 0", *(" ".join(map(str, vertex)) for vertex in vertices)]
    return "\n".join([*lines, *(f"{len(side)} " + " ".join(map(str, side)) for side in sides)]).encode() + b"\n"


def ply(vertices: np.ndarray, sides: Polygons, order: str = "", extra: bool = False) -> bytes:
    """As text, or binary with ``order`` < or >; with colours and a list of texture coordinates if ``extra``."""
    name = {"": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    lines = ["ply", f"format {name} 1.0", "comment made by a test", f"element vertex {len(vertices)}"]
    lines += [f"property double {axis}" for axis in "xyz"] + ["property uchar red"] * extra
    lines += [f"element face {len(sides)}", "property list uchar int vertex_indices"]
    lines += ["property list uchar float texcoord"] * extra + ["end_header\n"]
    rows: list[list[tuple[str, float]]] = [
        [*(("d", float(value)) for value in vertex), *[("B", 7.0)] * extra] for vertex in vertices
    ]
    rows += [
        [("B", len(side)), *(("i", i) for i in side), *([("B", 2), ("f", 0.5), ("f", 0.25)] if extra else [])]
        for side in sides
    ]
    if not order:
        text = "\n".join(" ".join(f"{v:g}" if k in "df" else str(int(v)) for k, v in row) for row in rows)
        return ("\n".join(lines) + text + "\n").encode()
    binary = b"".join(struct.pack(order + k, v if k in "df" else int(v)) for row in rows for k, v in row)
    return "\n".join(lines).encode() + binary


def stl(vertices: np.ndarray, triangles: np.ndarray, header: bytes = b"made by a test") -> bytes:
    rows = b"".join(struct.pack("<12fH", 0, 0, 0, *vertices[t].reshape(-1), 0) for t in triangles)
    return header.ljust(80) + struct.pack("<I", len(triangles)) + rows


def text_stl(vertices: np.ndarray, triangles: np.ndarray) -> bytes:
    facets = [
        "facet normal 0 0 0\n outer loop\n"
        + "".join("  vertex {} {} {}\n".format(*corner) for corner in vertices[t])
        + " endloop\nendfacet\n"
        for t in triangles
    ]
    return ("solid test\n" + "".join(facets) + "endsolid test\n").encode()


class Gltf:
    """A glTF file that is put together piece by piece."""

    def __init__(self) -> None:
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [], "meshes": [],
            "accessors": [], "bufferViews": [], "buffers": [{}],
        }  # fmt: skip
        self.binary = b""

    def accessor(self, values: np.ndarray, type: str, **more: Any) -> int:
        component = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}[values.dtype.str[1:]]
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": values.nbytes}
        self.binary += values.tobytes()
        self.json["bufferViews"].append(view)
        accessor = {"bufferView": len(self.json["bufferViews"]) - 1, "componentType": component}
        self.json["accessors"].append({**accessor, "count": len(values), "type": type, **more})
        return len(self.json["accessors"]) - 1

    def primitive(self, vertices: np.ndarray, index: np.ndarray | None, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"attributes": {"POSITION": self.accessor(vertices, "VEC3", **more.pop("of", {}))}}
        if index is not None:
            found["indices"] = self.accessor(index.reshape(-1).astype("<u2"), "SCALAR")
        return {**found, **more}

    def node(self, *primitives: dict[str, Any], **more: Any) -> int:
        if primitives:
            self.json["meshes"].append({"primitives": list(primitives)})
            more["mesh"] = len(self.json["meshes"]) - 1
        self.json["nodes"].append(more)
        return len(self.json["nodes"]) - 1

    def glb(self) -> bytes:
        self.json["buffers"][0]["byteLength"] = len(self.binary)
        text = json.dumps(self.json).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        size = 20 + len(text) + 8 + len(binary)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
        return struct.pack("<4sII", b"glTF", 2, size) + chunks


CUBE_FLOATS = CUBE.astype("<f4")


# Polygons


@pytest.mark.parametrize(
    ("vertices", "sides", "area", "volume"),
    [(CUBE, CUBE_SIDES, 24, 8), (CUBE, MIXED_SIDES, 24, 8), (BAR, BAR_SIDES, 30, 7), (DART, DART_SIDES, None, 0.5)],
    ids=["cube", "triangles and quads", "concave", "concave quads"],
)
@pytest.mark.parametrize("format", ["obj", "off", "ply", "ply<", "ply>", "ply extra", "ply< extra"])
def test_polygons_are_what_they_are(
    vertices: np.ndarray, sides: Polygons, area: float | None, volume: float, format: str, tmp_path: Path
) -> None:
    suffix, _, extra = format.partition(" ")
    write: dict[str, Callable[[], bytes]] = {"obj": lambda: obj(vertices, sides), "off": lambda: off(vertices, sides)}
    order = suffix.removeprefix("ply")
    path = tmp_path / f"shape.{suffix.rstrip('<>')}"
    path.write_bytes(write.get(suffix, lambda: ply(vertices, sides, order, bool(extra)))())
    raw = read_raw(path)
    np.testing.assert_allclose(raw.vertices, vertices)
    assert [list(side) for side in np.split(raw.corners, np.cumsum(raw.sizes)[:-1])] == [list(side) for side in sides]
    found_area, found_volume = measures(raw)
    assert found_volume == pytest.approx(volume)
    if area is not None:
        assert found_area == pytest.approx(area)
    assert read_shape(path).watertight


@pytest.mark.parametrize("suffix", ["obj", "off", "ply"])
def test_open3d_reads_polygons_as_we_do(suffix: str, tmp_path: Path) -> None:
    import open3d

    content = {"obj": obj, "off": off, "ply": lambda *shape: ply(*shape, order="<")}[suffix](BAR, BAR_SIDES)
    (tmp_path / f"bar.{suffix}").write_bytes(content)
    read: Any = open3d.io.read_triangle_mesh if suffix == "ply" else open3d.t.io.read_triangle_mesh
    seen: Any = read(str(tmp_path / f"bar.{suffix}"))
    theirs = (
        (np.asarray(seen.vertices), np.asarray(seen.triangles))
        if suffix == "ply"
        else (seen.vertex.positions.numpy(), seen.triangle.indices.numpy())
    )
    assert measures(read_raw(tmp_path / f"bar.{suffix}")) == pytest.approx(area_and_volume(*theirs))


def test_a_corner_in_the_middle_of_a_straight_side_stays_one() -> None:
    vertices = np.array([(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0), (0, 0.5, 0)], float)
    for shift in range(6):
        corners = np.roll(np.arange(6), shift)
        faces = triangles_of(vertices, corners, np.array([6]))
        assert set(faces.reshape(-1)) == set(range(6))
        area, _ = area_and_volume(vertices, faces)
        assert area == pytest.approx(2)


def test_turned_and_star_shaped_polygons_have_their_area() -> None:
    generator = np.random.default_rng(0)
    for count in (4, 5, 9, 30):
        angles = np.sort(generator.uniform(0, 2 * np.pi, count))
        radii = generator.uniform(0.2, 1.0, count)
        flat = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        if np.diff(np.append(angles, angles[0] + 2 * np.pi)).max() > 3:
            continue  # the centre is not inside
        x, y = flat.T
        expected = 0.5 * np.abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))
        turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        vertices = np.column_stack([flat, np.zeros(count)]) @ turn.T
        faces = triangles_of(vertices, np.arange(count), np.array([count]))
        assert len(faces) == count - 2
        assert area_and_volume(vertices, faces)[0] == pytest.approx(expected)


def test_a_polygon_around_a_hole_and_one_that_crosses_itself() -> None:
    # A square with a square hole, as one polygon that goes to the hole and back on the same way.
    keyhole = np.array([(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)], float)
    for shift in range(10):
        vertices = np.column_stack([np.roll(keyhole, shift, axis=0), np.zeros(10)])
        faces = triangles_of(vertices, np.arange(10), np.array([10]))
        area, _ = area_and_volume(vertices, faces)
        assert (len(faces), area) == (8, pytest.approx(12))
    generator = np.random.default_rng(0)
    for count in (4, 5, 8, 50):
        for _ in range(50):  # points of a grid, some of them twice, in any order
            vertices = generator.integers(0, 4, (count, 3)).astype(float)
            corners = generator.integers(0, count, count)
            faces = triangles_of(vertices, corners, np.array([count]))
            assert faces.shape == (count - 2, 3)
            assert set(faces.reshape(-1)) <= set(corners)


def test_a_comb_is_cut_between_its_teeth() -> None:
    # Combs, whose teeth see nothing of each other.
    for teeth in (3, 40):
        across = np.arange(2 * teeth + 1)
        top = np.stack([across, np.where(across % 2, 5.0, 1.0)], axis=1)[::-1]
        flat = np.concatenate([[(0, 0), (2 * teeth, 0)], top]).astype(float)
        vertices = np.column_stack([flat, np.zeros(len(flat))])
        faces = triangles_of(vertices, np.arange(len(flat)), np.array([len(flat)]))
        area, _ = area_and_volume(vertices, faces)
        assert area == pytest.approx(2 * teeth * 3)
        assert (np.cross(*np.moveaxis(np.diff(vertices[faces], axis=1), 1, 0))[:, 2] > 0).all()


# OBJ


def two_cubes(relative: bool) -> bytes:
    lines = []
    for shift in (0, 5):
        lines += [f"v {x + shift} {y} {z}" for x, y, z in CUBE]
        first = 1 + 8 * (shift > 0)
        lines += ["f " + " ".join(str(i - 8 if relative else i + first) for i in side) for side in CUBE_SIDES]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("relative", [True, False])
def test_relative_indices_count_from_the_face(relative: bool, tmp_path: Path) -> None:
    path = tmp_path / "two.obj"
    path.write_bytes(two_cubes(relative))
    assert measures(read_raw(path)) == pytest.approx((48, 16))
    shape = read_shape(path)
    assert (shape.vertices.min(), shape.vertices.max()) == (-1, 6)


def test_what_else_stands_in_obj_files(tmp_path: Path) -> None:
    content = (
        "\ufeff# a comment\r\nmtllib missing.mtl\r\no cube\r\ng side\r\ns 1\r\nusemtl missing\r\nvt 0 0\r\nvn 0 0 1\r\n"
        + "".join(f"v {x} {y} {z} 0.5 0.5 0.5\r\n" for x, y, z in CUBE)
        + "l 1 2 3\r\np 1\r\n"
        + "".join("f " + " ".join(f"{i + 1}/1/1" for i in q) + " # a side\r\n" for q in CUBE_SIDES[:3])
        + "".join("f " + " \\\r\n".join(f"{i - 8}//1" for i in q) + "\r\n" for q in CUBE_SIDES[3:])
    )
    (tmp_path / "cube.obj").write_bytes(content.encode("utf-8"))
    assert measures(read_raw(tmp_path / "cube.obj")) == pytest.approx((24, 8))


# STL


@pytest.mark.parametrize("header", [b"binary", b"solid by a CAD program", b"solid facet vertex"])
def test_binary_stl_is_told_by_its_length(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "cube.stl").write_bytes(stl(CUBE, CUBE_TRIANGLES, header))
    assert measures(read_raw(tmp_path / "cube.stl")) == pytest.approx((24, 8))


@pytest.mark.parametrize(
    ("change", "triangles", "note"),
    [
        (lambda content: content + b"\0" * 10, 12, "last 10 bytes"),
        (lambda content: content + b"\r\n", 12, "last 2 bytes"),
        (lambda content: content[:-20], 11, "promises 12 triangles, and the 11"),
        (lambda content: content[: 84 + 50 * 4], 4, "promises 12 triangles, and the 4"),
        (lambda content: content[:80] + bytes(4) + content[84:], 12, "promises no triangle, and the 12"),
    ],
)
def test_stl_of_another_length_than_promised(
    change: Callable[[bytes], bytes], triangles: int, note: str, tmp_path: Path
) -> None:
    (tmp_path / "cube.stl").write_bytes(change(stl(CUBE, CUBE_TRIANGLES)))
    shape = read_shape(tmp_path / "cube.stl")
    assert len(shape.faces) == triangles
    assert any(note in sentence for sentence in shape.notes)


def test_stl_as_text_whole_and_cut(tmp_path: Path) -> None:
    content = text_stl(CUBE, CUBE_TRIANGLES)
    (tmp_path / "cube.stl").write_bytes(content)
    assert read_shape(tmp_path / "cube.stl").notes == ()
    (tmp_path / "cube.stl").write_bytes(content.upper().replace(b"\n", b"\r\n"))
    assert len(read_shape(tmp_path / "cube.stl").faces) == 12
    (tmp_path / "cube.stl").write_bytes(content[:-60])
    shape = read_shape(tmp_path / "cube.stl")
    assert len(shape.faces) == 11
    assert any("cut short: the 11 triangles" in note for note in shape.notes)


# OFF


@pytest.mark.parametrize(
    ("header", "vertex"),
    [
        ("OFF\n# a comment\n\n8 6 0", "{} {} {}"),
        ("OFF8 6 0", "{} {} {}"),
        ("OFF 8 6", "{} {} {}"),
        ("COFF\n8 6 0", "{} {} {} 255 0 0 255"),
        ("NOFF\n8 6 0", "{} {} {} 0 0 1"),
        ("STCN4OFF\n8 6 0", "{} {} {} 1 0 0 1 9 9 9 9 0 0"),
    ],
)
def test_variants_of_off(header: str, vertex: str, tmp_path: Path) -> None:
    lines = [header, *(vertex.format(*corner) for corner in CUBE)]
    lines += [f"{len(side)} " + " ".join(map(str, side)) + "  0.1 0.2 0.3" for side in CUBE_SIDES]
    (tmp_path / "cube.off").write_text("\n".join(lines))
    assert measures(read_raw(tmp_path / "cube.off")) == pytest.approx((24, 8))


# PLY


def test_triangle_strips_of_ply(tmp_path: Path) -> None:
    strip = [0, 1, 2, 3, 6, 7, 4, 5, -1, 2, 6, 0, 4, 1, 5, 3, 7]
    header = [
        "ply", "format binary_big_endian 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyz"),
        "element tristrips 1", "property list int int vertex_indices", "end_header\n",
    ]  # fmt: skip
    body = CUBE.astype(">f4").tobytes() + struct.pack(f">i{len(strip)}i", len(strip), *strip)
    (tmp_path / "strip.ply").write_bytes("\n".join(header).encode() + body)
    raw = read_raw(tmp_path / "strip.ply")
    assert len(raw.sizes) == 6 + 6
    assert list(raw.corners[:6]) == [0, 1, 2, 2, 1, 3]


# glTF


def test_quantised_positions(tmp_path: Path) -> None:
    # A box of 1 x 2 x 3: integers that stand for [-1, 1] or [0, 1], under a node that undoes it.
    expected = pytest.approx((22, 6))
    for kind, low in (("<i2", -1), ("<u2", 0), ("i1", -1), ("u1", 0)):
        largest = np.iinfo(kind).max
        stored = np.where(CUBE > 0, largest, low * largest).astype(kind)
        padded = np.zeros((8, 4), kind)
        padded[:, :3] = stored
        gltf = Gltf()
        primitive = gltf.primitive(padded, CUBE_TRIANGLES, of={"normalized": True})
        gltf.json["bufferViews"][0]["byteStride"] = padded.strides[0]
        span = 1 - low
        gltf.node(primitive, scale=[1 / span, 2 / span, 3 / span], translation=[10, 0, 0])
        gltf.json["extensionsUsed"] = gltf.json["extensionsRequired"] = ["KHR_mesh_quantization"]
        (tmp_path / "box.glb").write_bytes(gltf.glb())
        shape = read_shape(tmp_path / "box.glb")
        assert area_and_volume(shape.vertices, shape.faces) == expected
        np.testing.assert_allclose(np.ptp(shape.vertices, axis=0), (1, 2, 3))
    # Integers that are not normalized are what they are.
    gltf = Gltf()
    gltf.node(gltf.primitive((CUBE * 100).astype("<i2"), CUBE_TRIANGLES), scale=[0.01, 0.01, 0.01])
    gltf.json["bufferViews"][0]["byteStride"] = 6
    (tmp_path / "box.glb").write_bytes(gltf.glb())
    assert measures(read_raw(tmp_path / "box.glb")) == pytest.approx((24, 8))


def test_nodes_turn_scale_and_mirror(tmp_path: Path) -> None:
    half = 2**-0.5
    gltf = Gltf()
    cube = gltf.primitive(CUBE_FLOATS, CUBE_TRIANGLES)
    gltf.node(translation=[10, 0, 0], rotation=[0, 0, half, half], children=[1, 2])
    gltf.node(cube, scale=[1, 2, 3])
    matrix = np.array([[-1, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    gltf.node(cube, matrix=matrix.T.reshape(-1).tolist())
    gltf.node(cube, translation=[99, 0, 0])  # in no scene
    (tmp_path / "nodes.glb").write_bytes(gltf.glb())
    raw = read_raw(tmp_path / "nodes.glb")
    assert measures(raw) == pytest.approx((88 + 24, 48 + 8)), "mirrored faces look outward too"
    np.testing.assert_allclose((raw.vertices.min(0), raw.vertices.max(0)), ((8, -1, -3), (12, 7, 3)), atol=1e-12)
    seen: Any = trimesh.load(tmp_path / "nodes.glb", process=False)
    theirs = seen.to_geometry()
    assert measures(raw) == pytest.approx(area_and_volume(theirs.vertices, theirs.faces))


def test_a_mesh_among_lines_and_points(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.node(children=[1, 2, 3, 4])
    for mode in (1, 2, 3):
        gltf.node(gltf.primitive(50 * CUBE_FLOATS, np.arange(8), mode=mode))
    gltf.node(
        gltf.primitive(CUBE_FLOATS, CUBE_TRIANGLES[:6]),
        gltf.primitive(50 * CUBE_FLOATS, None, mode=0),
        gltf.primitive(CUBE_FLOATS, CUBE_TRIANGLES[6:]),
    )
    (tmp_path / "drawing.glb").write_bytes(gltf.glb())
    shape = read_shape(tmp_path / "drawing.glb")
    assert shape.watertight
    assert area_and_volume(shape.vertices, shape.faces) == pytest.approx((24, 8))
    assert any("4 sets of lines or points" in note for note in shape.notes)


def test_strips_fans_and_sparse_positions(tmp_path: Path) -> None:
    gltf = Gltf()
    strip = np.array([0, 1, 2, 3, 6, 7, 4, 5, 0, 1])
    primitives = [gltf.primitive(CUBE_FLOATS, strip, mode=5)]
    primitives += [gltf.primitive(CUBE_FLOATS, np.array(side), mode=6) for side in ((0, 2, 6, 4), (1, 5, 7, 3))]
    moved = gltf.accessor(np.array([7], "<u2"), "SCALAR"), gltf.accessor(np.array([[1, 1, 1]], "<f4"), "VEC3")
    views = [gltf.json["accessors"][i]["bufferView"] for i in moved]
    for primitive in primitives[:1]:  # a corner that is somewhere else in the file, and put right by a sparse value
        gltf.json["accessors"][primitive["attributes"]["POSITION"]]["sparse"] = {
            "count": 1,
            "indices": {"bufferView": views[0], "componentType": 5123},
            "values": {"bufferView": views[1]},
        }
    gltf.node(*primitives)
    content = gltf.glb()
    wrong = CUBE_FLOATS.copy()
    wrong[7] = 33
    assert content.count(CUBE_FLOATS.tobytes()) == 3
    (tmp_path / "cube.glb").write_bytes(content.replace(CUBE_FLOATS.tobytes(), wrong.tobytes(), 1))
    shape = read_shape(tmp_path / "cube.glb")
    assert shape.watertight
    assert area_and_volume(shape.vertices, shape.faces) == pytest.approx((24, 8))


def test_gltf_with_its_data_beside_it_and_within(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.node(gltf.primitive(CUBE_FLOATS, CUBE_TRIANGLES))
    gltf.json["images"] = [{"uri": "missing.png"}]
    gltf.json["textures"] = [{"source": 0}]
    gltf.json["buffers"] = [{"uri": "the%20data.bin", "byteLength": len(gltf.binary)}]
    (tmp_path / "cube.gltf").write_text(json.dumps(gltf.json))
    with pytest.raises(InputError, match=r"'the data\.bin', is not beside it"):
        read_shape(tmp_path / "cube.gltf")
    (tmp_path / "the data.bin").write_bytes(gltf.binary)
    assert measures(read_raw(tmp_path / "cube.gltf")) == pytest.approx((24, 8))
    gltf.json["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(gltf.binary).decode()
    (tmp_path / "cube.gltf").write_text(json.dumps(gltf.json))
    assert measures(read_raw(tmp_path / "cube.gltf")) == pytest.approx((24, 8))
    for elsewhere in ("../the data.bin", "/etc/hostname", "https://example.org/data.bin"):
        gltf.json["buffers"][0]["uri"] = elsewhere
        (tmp_path / "cube.gltf").write_text(json.dumps(gltf.json))
        with pytest.raises(InputError, match="only files beside it"):
            read_shape(tmp_path / "cube.gltf")


@pytest.mark.parametrize(
    ("extension", "name"),
    [
        ("KHR_draco_mesh_compression", "Draco"),
        ("EXT_meshopt_compression", "meshopt"),
        ("KHR_meshopt_compression", "meshopt"),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_compressions_are_named(extension: str, name: str, required: bool, tmp_path: Path) -> None:
    gltf = Gltf()
    primitive = gltf.primitive(CUBE_FLOATS, CUBE_TRIANGLES)
    gltf.node(primitive)
    gltf.json["extensionsUsed"] = [extension]
    if required:
        gltf.json["extensionsRequired"] = [extension]
    elif name == "Draco":
        primitive["extensions"] = {extension: {"bufferView": 0, "attributes": {"POSITION": 0}}}
        del gltf.json["accessors"][0]["bufferView"]
    else:
        gltf.json["bufferViews"][0]["extensions"] = {extension: {"buffer": 0}}
    (tmp_path / "cube.glb").write_bytes(gltf.glb())
    with pytest.raises(InputError, match=rf"compressed by {name} \({extension}\).*without compression"):
        read_shape(tmp_path / "cube.glb")


def test_a_mesh_that_is_repeated_without_end_is_refused(tmp_path: Path) -> None:
    gltf = Gltf()
    many = np.tile(CUBE_TRIANGLES, (20_000, 1))
    gltf.node(gltf.primitive(CUBE_FLOATS, many))
    gltf.json["nodes"] *= 1000
    gltf.json["scenes"] = [{"nodes": list(range(1000))}]
    (tmp_path / "many.glb").write_bytes(gltf.glb())
    with pytest.raises(InputError, match=r"more than [0-9,]+ triangles"):
        read_shape(tmp_path / "many.glb")


# Clouds


def cloud(count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    normals = np.random.default_rng(0).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return 2 * normals + [10, 0, 0], normals


def table(columns: Sequence[np.ndarray], separator: str = " ", first: str = "") -> str:
    return first + "\n".join(separator.join(f"{value:.5f}" for value in row) for row in np.column_stack(columns)) + "\n"


@pytest.mark.parametrize(
    ("separator", "first", "order"),
    [
        (" ", "", "pn"),
        (",", "", "pn"),
        ("; ", "", "pn"),
        ("\t", "# made by a test\n", "pn"),
        (" ", "600\n", "pn"),
        (" ", "//X Y Z Nx Ny Nz\n", "pn"),
        (",", "x,y,z,nx,ny,nz\n", "pn"),
        (" ", "#X Y Z normal_x normal_y normal_z\n", "pn"),
        (",", '"X","Y","Z","R","G","B","Nx","Ny","Nz"\n', "pcn"),
        (",", "Nx,Ny,Nz,X,Y,Z\n", "np"),
        (" ", "", "pcn"),
        (" ", "", "pnc"),
        (" ", "", "psn"),
        (" ", "", "pcsn"),
    ],
)
@pytest.mark.parametrize("suffix", ["xyz", "csv"])
def test_clouds_as_lines_of_numbers(separator: str, first: str, order: str, suffix: str, tmp_path: Path) -> None:
    points, normals = cloud()
    generator = np.random.default_rng(1)
    columns = {
        "p": points, "n": normals, "c": generator.integers(0, 256, (600, 3)), "s": generator.uniform(0, 5, (600, 1)),
    }  # fmt: skip
    (tmp_path / f"cloud.{suffix}").write_text(table([columns[letter] for letter in order], separator, first))
    shape = read_shape(tmp_path / f"cloud.{suffix}")
    np.testing.assert_allclose(shape.vertices, points, atol=1e-5)
    assert shape.normals is not None
    np.testing.assert_allclose(shape.normals, normals, atol=2e-5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda p, n: table([p, np.tile([200, 120, 40], (len(p), 1))]), "colours"),
        (lambda p, n: table([p, np.random.default_rng(2).integers(0, 256, p.shape)]), "colours"),
        (lambda p, n: table([p, np.random.default_rng(2).uniform(0, 1, p.shape)]), "colours"),
        (lambda p, n: table([p, np.tile([0, 0, 1], (len(p), 1))]), "all look the same way"),
        (lambda p, n: table([p, n], first="//X Y Z R G B\n"), "neither faces nor normals"),
        (lambda p, n: table([p, p[:, :2]]), "neither faces nor normals"),
        (lambda p, n: table([p[:, :2]]), "2 numbers per line"),
        (lambda p, n: table([p, n], " ").replace(".", ","), "commas within its numbers"),
        (lambda p, n: table([p, n]) + "1 2 3\n", "line 601 has 3 numbers"),
        (lambda p, n: table([p, n]) + "the end\n", "line 601: 'the end' is no line of numbers"),
        (lambda p, n: "700\n" + table([p, n]), "promises 700 points and has 600"),
    ],
)
def test_lines_that_are_no_cloud_with_normals(
    content: Callable[[np.ndarray, np.ndarray], str], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "cloud.xyz").write_text(content(*cloud()))
    with pytest.raises(InputError, match=reason):
        read_shape(tmp_path / "cloud.xyz")


@pytest.mark.parametrize("names", [("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("NX", "NY", "NZ")])
def test_names_of_normals_in_ply(names: Sequence[str], tmp_path: Path) -> None:
    points, normals = cloud()
    header = ["ply", "format ascii 1.0", "element vertex 600"]
    header += [f"property float {name}" for name in ("x", "y", "z", *names)] + ["end_header\n"]
    (tmp_path / "cloud.ply").write_text("\n".join(header) + table([points, normals]))
    shape = read_shape(tmp_path / "cloud.ply")
    assert shape.normals is not None
    np.testing.assert_allclose(shape.normals, normals, atol=2e-5)


@pytest.mark.parametrize("suffix", ["obj", "off", "glb"])
def test_clouds_in_files_of_meshes(suffix: str, tmp_path: Path) -> None:
    points, normals = cloud()
    rows = [(" ".join(map(str, p)), " ".join(map(str, n))) for p, n in zip(points, normals, strict=True)]
    gltf = Gltf()
    primitive = gltf.primitive(points.astype("<f4"), None, mode=0)
    primitive["attributes"]["NORMAL"] = gltf.accessor(normals.astype("<f4"), "VEC3")
    gltf.node(primitive, scale=[1, 1, 2])
    content = {
        "obj": "".join(f"v {p}\nvn {n}\n" for p, n in rows).encode(),
        "off": ("NOFF\n600 0 0\n" + "".join(f"{p} {n}\n" for p, n in rows)).encode(),
        "glb": gltf.glb(),
    }[suffix]
    (tmp_path / f"cloud.{suffix}").write_bytes(content)
    shape = read_shape(tmp_path / f"cloud.{suffix}")
    stretch = np.array([1, 1, 2 if suffix == "glb" else 1])
    expected = normals / stretch
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(shape.vertices, points * stretch, rtol=1e-6, atol=1e-6)
    assert shape.normals is not None
    np.testing.assert_allclose(shape.normals, expected, atol=1e-6)


# Damage


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.obj", b"v 0 0 0\nf 0 1 2\n", "line 2: vertices are counted from 1"),
        ("back.obj", b"v 0 0 0\nf -1 -2 -1\n", "line 2: there are 1 vertices before it"),
        ("word.obj", b"v 0 0 zero\n", "line 1: .*zero"),
        ("short.obj", b"v 0 0\n", "line 1: v has 2 numbers"),
        ("comma.obj", b"v 0,5 1,0 2,0\n", "line 1: .*0,5"),
        ("digits.obj", b"v " + b"9" * 400 + b" 0 0\nv 0 0 0\nv 1 1 1\nf 1 2 3\n", "not finite"),
        ("index.obj", b"v 0 0 0\nf 1 1 " + b"9" * 400 + b"\n", "line 2"),
        ("index.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 " + b"9" * 5000 + b"\n", "line 6"),
        ("cut.off", off(CUBE, CUBE_SIDES)[:-15], "promises 8 vertices and 6 faces, and 13 lines"),
        ("binary.off", b"OFF BINARY\n\0\0\0\1", "binary OFF"),
        ("cut.ply", ply(CUBE, MIXED_SIDES, "<")[:-5], "ends within its 9 rows of the element face"),
        ("cut_vertices.ply", ply(CUBE, MIXED_SIDES, "<")[:250], "ends within its 8 rows of the element vertex"),
        ("cut_text.ply", ply(CUBE, MIXED_SIDES)[:-30], "element face"),
        ("header.ply", b"ply\nformat ascii 1.0\nelement vertex 8\n", "header does not end"),
        ("type.ply", b"ply\nformat ascii 1.0\nelement vertex 8\nproperty quad x\nend_header\n", "quad x"),
        ("beyond.ply", ply(CUBE, [(0, 1, 9)], "<"), "not there"),
        ("other.ply", b"solid cube\n", "does not begin with ply"),
        ("short.stl", b"12345", "too short"),
        ("nan.stl", stl(np.full((8, 3), np.nan), CUBE_TRIANGLES), "not finite"),
        ("deep.gltf", b"[" * 100_000, "nested too deeply|JSON"),
        ("deep.gltf", b'{"asset":{"version":"2.0"},"nodes":' + b"[" * 100_000, "nested too deeply|JSON"),
        ("other.gltf", b"[1, 2]", "not that of a glTF"),
        ("digits.gltf", b'{"asset":{"version":"2.0"},"scene":' + b"9" * 5000 + b"}", "digits|JSON"),
        ("old.glb", b"glTF\1\0\0\0\x20\0\0\0\0\0\0\0JSON{}", "version 1"),
        ("empty.gltf", b'{"asset":{"version":"2.0"}}', "no mesh"),
        ("loop.gltf", b'{"asset":{"version":"2.0"},"nodes":[{"children":[0]}],"scenes":[{"nodes":[0]}]}', "below more"),
    ],
)  # fmt: skip
def test_damage_is_said_in_a_sentence(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_shape(tmp_path / name)
    assert len(str(caught.value)) < 250 + len(str(tmp_path)) + 100
    assert str(caught.value).isprintable()


def test_sizes_beyond_all_numbers_are_refused(tmp_path: Path) -> None:
    for scale in (1e160, 1e-160, 1e300):
        (tmp_path / "cube.obj").write_bytes(obj(scale * CUBE, CUBE_SIDES))
        with pytest.raises(InputError, match="use units"):
            read_shape(tmp_path / "cube.obj")
    for scale in (1e25, 1e-25):
        (tmp_path / "cube.obj").write_bytes(obj(scale * CUBE, CUBE_SIDES))
        assert read_shape(tmp_path / "cube.obj").watertight


def test_paths_that_no_file_can_have() -> None:
    for path in (Path("x" * 5000 + ".obj"), Path("/".join(["y" * 200] * 50)) / "mesh.ply"):
        with pytest.raises(InputError, match="cannot be opened"):
            read_shape(path)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.node(gltf.primitive(CUBE_FLOATS, CUBE_TRIANGLES))
    whole = {
        "a.obj": obj(BAR, BAR_SIDES), "b.off": off(BAR, BAR_SIDES), "c.ply": ply(BAR, BAR_SIDES),
        "d.ply": ply(CUBE, MIXED_SIDES, "<", extra=True), "e.stl": stl(CUBE, CUBE_TRIANGLES),
        "f.stl": text_stl(CUBE, CUBE_TRIANGLES), "g.glb": gltf.glb(), "h.xyz": table(cloud(40)).encode(),
    }  # fmt: skip
    words = [b"-1", b"1e400", b"nan", b"9" * 400, b"4294967295", b"[" * 999, b"{", b"\xff" * 4, b"\0\0\x80\x7f", b" "]
    chance = random.Random(0)
    read = 0
    for _ in range(400):
        name = chance.choice(sorted(whole))
        content = bytearray(whole[name])
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(content))
            action = chance.randrange(4)
            if action == 0:
                content[at] = chance.randrange(256)
            elif action == 1:
                del content[at : at + chance.randrange(1, 30)]
            elif action == 2:
                content[at : at + chance.randrange(3)] = chance.choice(words)
            else:
                content[at:at] = content[at : at + 100]
            content = content or bytearray(b"x")
        (tmp_path / name).write_bytes(content)
        try:
            shape = read_shape(tmp_path / name)
        except InputError:
            continue
        read += 1
        assert np.isfinite(shape.vertices).all()
        assert not len(shape.faces) or shape.faces.max() < len(shape.vertices)
    assert read > 20


def test_splats_are_no_shape(tmp_path: Path) -> None:
    path = tmp_path / "splats.ply"
    names = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0")
    header = [
        "ply",
        "format ascii 1.0",
        "element vertex 2",
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    row = " ".join("0.5" for _ in names)
    path.write_text("\n".join([*header, row, row]) + "\n")
    with pytest.raises(InputError, match=r"splats\.ply .*holds Gaussian splats.*finer view"):
        read_shape(path)
