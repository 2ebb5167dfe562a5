"""What is inside a mesh of several parts, and the distance to its surface."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from finer_nerfstudio.tasks.sdf.cleaning import without_doubles
from finer_nerfstudio.tasks.sdf.fit import distance_to
from finer_nerfstudio.tasks.sdf.sampling import SurfaceSampler
from finer_nerfstudio.tasks.sdf.shape import Shape, read_shape

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lowest and highest corner."""

CORNERS = np.array(list(product((0, 1), repeat=3)))
SIDES = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])


def boxes_file(path: Path, parts: Sequence[tuple[Box, bool]], turn: np.ndarray | None = None, digits: int = 9) -> Path:
    """An OBJ of boxes whose faces look outward, or inward where the part says so."""
    lines = []
    for (low, high), inward in parts:
        corners = np.array(low) + CORNERS * (np.array(high) - np.array(low))
        corners = corners if turn is None else corners @ turn.T
        lines += [f"v {x:.{digits}f} {y:.{digits}f} {z:.{digits}f}" for x, y, z in corners]
        sides = SIDES[:, ::-1] if inward else SIDES
        lines += ["f " + " ".join(str(i - 8) for i in side) for side in sides]
    path.write_text("\n".join(lines))
    return path


def distance_to_boxes(points: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Exact signed distances to a union of boxes: by the rectangles between cells within and without."""
    axes = [np.unique([corner[axis] for box in boxes for corner in box]) for axis in range(3)]
    centers = [np.concatenate([[-np.inf], 0.5 * (axis[1:] + axis[:-1]), [np.inf]]) for axis in axes]
    grid = np.stack(np.meshgrid(*centers, indexing="ij"), axis=-1)
    filled = np.zeros(grid.shape[:3], bool)
    for low, high in boxes:
        filled |= ((grid > low) & (grid < high)).all(axis=-1)
    nearest = np.full(len(points), np.inf)
    for axis in range(3):
        for i, j, k in np.argwhere(np.diff(filled, axis=axis)):
            cell = [i, j, k]
            low, high = np.zeros(3), np.zeros(3)
            for other in range(3):
                at = cell[other]
                low[other] = axes[other][at] if other == axis else axes[other][at - 1]
                high[other] = axes[other][at]
            nearest = np.minimum(nearest, np.linalg.norm(points - np.clip(points, low, high), axis=1))
    inside = np.zeros(len(points), bool)
    for low, high in boxes:
        inside |= ((points > low) & (points < high)).all(axis=1)
    return np.where(inside, -nearest, nearest)


def distances(shape: Shape, points: np.ndarray) -> np.ndarray:
    """In a frame of the shape's own size, in which float32 is fine enough."""
    low, extent = shape.vertices.min(axis=0), np.ptp(shape.vertices, axis=0).max()
    unit = Shape((shape.vertices - low) / extent, shape.faces, None, shape.watertight)
    return extent * distance_to(unit)(torch.from_numpy(((points - low) / extent).astype(np.float32))).numpy()


def area(shape: Shape) -> float:
    return trimesh.Trimesh(shape.vertices, shape.faces, process=False).area


def require_union(path: Path, boxes: Sequence[Box], turn: np.ndarray | None = None) -> Shape:
    shape = read_shape(path)
    low, high = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
    points = np.random.default_rng(0).uniform(low - 0.3 * (high - low), high + 0.3 * (high - low), (400, 3))
    expected = distance_to_boxes(points, boxes)
    found = distances(shape, points if turn is None else points @ turn.T)
    extent = float((high - low).max())
    clear = np.abs(expected) > 1e-4 * extent  # where rounding decides the sign
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-4 * extent)
    return shape


def test_the_reference_knows_a_box() -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (1000, 3))
    beyond = np.abs(points) - np.array([1, 0.5, 0.25])
    expected = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)
    found = distance_to_boxes(points, [((-1, -0.5, -0.25), (1, 0.5, 0.25))])
    np.testing.assert_allclose(found, expected, atol=1e-12)


NAMED: dict[str, list[Box]] = {
    "nested": [((-1, -1, -1), (1, 1, 1)), ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))],
    "overlapping": [((-1, -1, -1), (1, 1, 1)), ((-0.5, -0.5, -0.5), (1.5, 1.5, 1.5))],
    "flush": [((0, 0, 0), (2, 1, 1)), ((1, 0, 0), (3, 1, 1))],
    "sharing a corner": [((0, 0, 0), (2, 2, 2)), ((0, 0, 0), (1, 1, 1))],
    "touching": [((0, 0, 0), (1, 1, 1)), ((1, 0, 0), (2, 1, 1))],
    "standing on another": [((0, 0, 0), (3, 3, 1)), ((1, 1, 1), (2, 2, 2))],
    "crossing bars": [((-3, -1, -1), (3, 1, 1)), ((-1, -3, -1), (1, 3, 1)), ((-1, -1, -3), (1, 1, 3))],
    "bars of different widths": [((-3, -1, -1), (3, 1, 1)), ((-0.9, -3, -0.8), (0.9, 3, 0.8))],
    "three within each other": [((-k, -k, -k), (k, k, k)) for k in (3, 2, 1)],
    "the same twice": [((0, 0, 0), (1, 1, 1)), ((0, 0, 0), (1, 1, 1))],
}


@pytest.mark.parametrize("name", NAMED)
def test_only_the_outer_surface_counts(name: str, tmp_path: Path) -> None:
    shape = require_union(boxes_file(tmp_path / "boxes.obj", [(box, False) for box in NAMED[name]]), NAMED[name])
    assert shape.watertight
    # And its points are drawn from nowhere else.
    points, _ = SurfaceSampler(shape).points_and_normals(2000, torch.Generator().manual_seed(0))
    assert np.abs(distance_to_boxes(points.double().numpy(), NAMED[name])).max() < 1e-5


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("digits", [4, 7])
def test_also_where_rounding_keeps_parts_apart(name: str, digits: int, tmp_path: Path) -> None:
    for seed in range(3):
        turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        turn *= np.sign(np.linalg.det(turn))
        boxes = NAMED[name]
        if digits < 7 and name == "bars of different widths":
            continue
        require_union(
            boxes_file(tmp_path / "boxes.obj", [(box, False) for box in boxes], turn, max(digits, 6)), boxes, turn
        )


def whole_boxes() -> st.SearchStrategy[Box]:
    """Boxes between whole numbers, so that faces often lie in one plane."""

    def ordered(first: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
        return first, (first[0] + size[0], first[1] + size[1], first[2] + size[2])

    place, side = st.integers(0, 4), st.integers(1, 3)
    return st.builds(ordered, st.tuples(place, place, place), st.tuples(side, side, side))


@given(st.lists(whole_boxes(), min_size=1, max_size=5))
@settings(max_examples=120)
def test_unions_of_boxes_have_their_distance(tmp_path_factory: pytest.TempPathFactory, boxes: list[Box]) -> None:
    path = boxes_file(tmp_path_factory.mktemp("boxes") / "boxes.obj", [(box, False) for box in boxes])
    shape = require_union(path, boxes)
    filled = np.zeros((9, 9, 9), bool)
    for (x, y, z), (u, v, w) in boxes:
        filled[1 + x : 1 + u, 1 + y : 1 + v, 1 + z : 1 + w] = True
    assert area(shape) == pytest.approx(sum(np.diff(filled, axis=axis).sum() for axis in range(3))), "nothing is twice"


def test_a_ball_through_a_plate_against_the_formula(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=4)
    plate = trimesh.creation.box((4, 4, 0.5))
    trimesh.util.concatenate([ball, plate]).export(tmp_path / "both.ply")  # pyright: ignore[reportAttributeAccessIssue]
    shape = read_shape(tmp_path / "both.ply")
    points = np.random.default_rng(0).uniform(-2.5, 2.5, (3000, 3))
    to_ball = np.linalg.norm(points, axis=1) - 1
    beyond = np.abs(points) - np.array([2, 2, 0.25])
    to_plate = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)
    outside = np.minimum(to_ball, to_plate)
    found = distances(shape, points)
    far = outside > 0.01
    np.testing.assert_allclose(found[far], outside[far], atol=0.004)  # the ball is one of triangles
    np.testing.assert_array_equal(found[outside < -0.01] < 0, True)
    # At the centre the surface nearest is where ball and plate meet or the ball's poles, never the plate within it.
    (middle,) = distances(shape, np.zeros((1, 3)))
    assert middle == pytest.approx(-1, abs=0.01)
    expected = 4 * np.pi * (1 - 0.25) + 2 * (16 - np.pi * (1 - 0.25**2)) + 4 * 4 * 0.5
    assert area(shape) == pytest.approx(expected, rel=0.005)


def test_a_mesh_that_crosses_itself_is_cut_too(tmp_path: Path) -> None:
    # A tube along an eight, which passes through itself in the middle at a right angle.
    radius, rows, columns = 0.2, 240, 32
    along = 2 * np.pi * np.arange(rows) / rows
    path = np.stack([np.sin(along), 0.5 * np.sin(2 * along), 0 * along], axis=-1)
    ahead = np.stack([np.cos(along), np.cos(2 * along), 0 * along], axis=-1)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    aside = np.cross([0, 0, 1], ahead)
    around = 2 * np.pi * np.arange(columns) / columns
    ring = np.cos(around)[None, :, None] * aside[:, None] + np.sin(around)[None, :, None] * np.array([0, 0, 1.0])
    vertices = (path[:, None] + radius * ring).reshape(-1, 3)
    i, j = (values.reshape(-1) for values in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    a, b = i * columns + j, (i + 1) % rows * columns + j
    c, d = (i + 1) % rows * columns + (j + 1) % columns, i * columns + (j + 1) % columns
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    shape = read_shape(write_obj(tmp_path / "eight.obj", vertices, faces))
    assert any("that others cross were cut" in note for note in shape.notes)
    points = np.random.default_rng(0).uniform((-1.4, -0.9, -0.4), (1.4, 0.9, 0.4), (3000, 3))
    finely = 2 * np.pi * np.arange(4000) / 4000
    finer = np.stack([np.sin(finely), 0.5 * np.sin(2 * finely), 0 * finely], axis=-1)
    expected = np.linalg.norm(points[:, None] - finer[None, ::4], axis=-1).min(axis=1) - radius
    found = distances(shape, points)
    outside = expected > 0.01
    np.testing.assert_allclose(found[outside], expected[outside], atol=0.005)
    assert (found[expected < -0.01] < 0).all()
    # On the axis of one branch and the wall of the other, which is inside.
    buried = radius * 0.5**0.5 * np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0.0]])
    np.testing.assert_allclose(distances(shape, buried), -radius, atol=0.02)


# Cavities and orientation


OUTER: Box = ((-1, -1, -1), (1, 1, 1))
INNER: Box = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
CORE: Box = ((-0.2, -0.2, -0.2), (0.2, 0.2, 0.2))
BESIDE: Box = ((2, -0.5, -0.5), (3, 0.5, 0.5))


@pytest.mark.parametrize(
    ("parts", "inside", "turned"),
    [
        ([(OUTER, False), (INNER, True)], [False, True, False], False),
        ([(OUTER, True), (INNER, False)], [False, True, False], True),
        ([(OUTER, False), (INNER, False)], [True, True, False], False),
        ([(OUTER, True), (INNER, True)], [True, True, False], True),
        ([(OUTER, False), (INNER, True), (CORE, False)], [True, True, False], False),
        ([(OUTER, True), (INNER, False), (CORE, True)], [True, True, False], True),
        ([(OUTER, False), (INNER, True), (CORE, True)], [True, True, False], True),
        ([(OUTER, True), (BESIDE, False)], [True, True, True], True),
        ([(OUTER, False), (BESIDE, True)], [True, True, True], True),
        ([(OUTER, True), (BESIDE, True), (INNER, False)], [False, True, True], True),
        ([(OUTER, False), (BESIDE, True), (INNER, True)], [False, True, True], True),
    ],
)
def test_every_part_is_turned_by_itself(
    parts: list[tuple[Box, bool]], inside: list[bool], turned: bool, tmp_path: Path
) -> None:
    places = np.array([[0, 0, 0], [0.75, 0, 0], [2.5, 0, 0]])
    for order in (parts, parts[::-1]):
        shape = read_shape(boxes_file(tmp_path / "parts.obj", order))
        assert list(distances(shape, places) < 0) == inside
        assert any("turned" in note for note in shape.notes) == turned


def cut_ball(side: int, cut: float = 0.5, inward: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A ball without its cap towards +x or -x, faces outward unless ``inward``."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    vertices = np.array(ball.vertices) * [side, 1, 1]
    faces = np.array(ball.faces)[:, ::-1] if side < 0 else np.array(ball.faces)
    faces = (
        faces[side * vertices[faces][:, :, 0].max(axis=1) < cut]
        if side > 0
        else faces[vertices[faces][:, :, 0].min(axis=1) > -cut]
    )
    return vertices, faces[:, ::-1] if inward else faces


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    path.write_text(
        "".join("v {!r} {!r} {!r}\n".format(*map(float, vertex)) for vertex in vertices)
        + "".join("f {} {} {}\n".format(*(face + 1)) for face in faces)
    )
    return path


@pytest.mark.parametrize("inward", [False, True])
@pytest.mark.parametrize("cut", [0.5, 0.05])
@pytest.mark.parametrize("shift", [(0, 0, 0), (5, 0, 0), (-5, 3, 100), (0, 0, -1e4)])
def test_an_open_mesh_is_turned_by_its_shape_wherever_it_opens(
    inward: bool, cut: float, shift: Sequence[float], tmp_path: Path
) -> None:
    found = []
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (2000, 3))
    for side in (1, -1):
        vertices, faces = cut_ball(side, cut, inward)
        shape = read_shape(write_obj(tmp_path / "ball.obj", vertices + shift, faces))
        assert any("looked inward" in note for note in shape.notes) == inward
        assert any("not watertight" in note for note in shape.notes)
        corners = shape.vertices[shape.faces] - shift
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (np.einsum("ij,ij->i", normals, corners.mean(axis=1)) > 0).all(), "all faces look outward"
        found.append(distances(shape, points * [side, 1, 1] + shift))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3 if max(map(abs, shift)) < 1000 else 1e-2)
    deep = (points[:, 0] < -0.2) & (np.linalg.norm(points, axis=1) < 0.9)
    assert (found[0][deep] < 0).all()


def test_a_sheet_stays_as_it_faces(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 30), np.linspace(-1, 1, 30), indexing="ij")
    vertices = np.stack([x, y, 0.1 * np.sin(3 * x) * np.cos(2 * y)], axis=-1).reshape(-1, 3)
    i, j = (values.reshape(-1) for values in np.meshgrid(np.arange(29), np.arange(29), indexing="ij"))
    a, b, c, d = i * 30 + j, (i + 1) * 30 + j, (i + 1) * 30 + j + 1, i * 30 + j + 1
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    for sides in (faces, faces[:, ::-1]):
        shape = read_shape(write_obj(tmp_path / "sheet.obj", vertices, sides))
        assert not any("turned" in note for note in shape.notes)
        assert len(shape.faces) == len(faces)
        up = np.cross(*np.moveaxis(np.diff(shape.vertices[shape.faces], axis=1), 1, 0))[:, 2]
        assert (up > 0).all() == (sides is faces)


def test_patches_that_do_not_hang_together_are_turned_together(tmp_path: Path) -> None:
    # The sides of a ball, each with vertices of its own that are a little apart from those of its neighbours.
    for inward in (False, True):
        vertices, faces = [], []
        ball = trimesh.creation.icosphere(subdivisions=3)
        largest = np.abs(ball.triangles_center).argmax(axis=1) * 2 + (
            np.take_along_axis(ball.triangles_center, np.abs(ball.triangles_center).argmax(axis=1)[:, None], 1)[:, 0]
            > 0
        )
        for patch in range(6):
            mine = np.asarray(ball.faces)[largest == patch]
            faces.append((mine[:, ::-1] if inward else mine) + len(ball.vertices) * patch)
            vertices.append(ball.vertices * (1 + 1e-4 * patch))
        shape = read_shape(write_obj(tmp_path / "ball.obj", np.concatenate(vertices), np.concatenate(faces)))
        assert any("inward" in note and "turned" in note for note in shape.notes) == inward
        np.testing.assert_allclose(distances(shape, np.zeros((1, 3))), -1, atol=0.02)


@pytest.mark.parametrize("shape", ["ball", "open ball", "half doubled"])
def test_faces_given_both_ways_round_do_not_cancel(shape: str, tmp_path: Path) -> None:
    vertices, faces = cut_ball(1, 2.0 if shape != "open ball" else 0.5)
    back = faces[:, ::-1]
    if shape == "half doubled":
        back = back[vertices[back][:, :, 1].mean(axis=1) > 0]
    found = read_shape(write_obj(tmp_path / "ball.obj", vertices, np.concatenate([faces, back])))
    assert len(found.faces) == len(faces)
    assert any(f"{len(back):,} faces were there both ways round" in note for note in found.notes)
    (middle,) = distances(found, np.array([[-0.1, 0, 0]]))
    assert middle == pytest.approx(-0.9 if shape != "open ball" else -0.87, abs=0.05)


def test_a_wall_between_two_parts_is_left_out() -> None:
    # Two cubes whose triangles on the common side are the same, once each way round.
    triangles = np.concatenate([SIDES[:, :3], SIDES[:, [0, 2, 3]]])
    renumbered = np.array([4, 5, 6, 7, 8, 9, 10, 11])  # the second cube's low side is the first one's high side
    second = renumbered[triangles]
    low = np.isin(second, (4, 5, 6, 7)).all(axis=1)
    high = np.isin(triangles, (4, 5, 6, 7)).all(axis=1)
    second[low] = triangles[high][:, ::-1]
    kept, both, walls = without_doubles(np.concatenate([triangles, second]))
    assert (len(kept), both, walls) == (20, 0, 2)
    assert not np.isin(kept, (4, 5, 6, 7)).all(axis=1).any()
