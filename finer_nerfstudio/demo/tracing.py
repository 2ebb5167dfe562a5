"""Sphere tracing: which object a ray meets and where, and what light arrives there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finer_nerfstudio.demo.distances import Array
from finer_nerfstudio.demo.objects import distance_to_scene, solids
from finer_nerfstudio.demo.patterns import linear_colour, mix

_HIT_DISTANCE = 4e-4  # a surface is reached at this distance: about 1/70 of a pixel of the default images
_RAYS_AT_ONCE = 100_000  # many, so that NumPy's cost per call is small beside the arithmetic


def _dot(a: Array, b: Array) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vectors: Array) -> Array:
    return vectors / np.sqrt(_dot(vectors, vectors))


def _chord(origins: Array, directions: Array, radius: float) -> tuple[Array, Array]:
    """Where rays enter and leave a sphere about the origin, [n] each; enter > leave for those that miss."""
    half = _dot(origins, directions)
    square = half * half - _dot(origins, origins) + np.float32(radius * radius)
    root = np.where(square > 0, np.sqrt(np.maximum(square, 0)), -np.float32(np.inf))
    return -half - root, -half + root


def _nearest_hits(origin: Array, directions: Array) -> tuple[Array, NDArray[np.int8]]:
    """The first surface along each ray.

    Args:
        origin: ``[3, 1]`` common start of the rays, outside every object.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]`` along the rays (infinite if nothing is met) and indices ``[n]`` of the objects met
        (-1 for none).
    """
    nearest = np.full(directions.shape[1], np.inf, dtype=np.float32)
    which = np.full(directions.shape[1], -1, dtype=np.int8)
    # One object at a time: most rays miss the sphere about most objects, and a march evaluates one shape.
    for index, solid in enumerate(solids()):
        start, heading = solid.to_local(origin), solid.turn(directions)
        enter, leave = _chord(start, heading, solid.bound)
        leave = np.minimum(leave, nearest)
        rays = np.flatnonzero(enter < leave)
        t, end, heading = enter[rays], leave[rays], heading[:, rays]
        for _ in range(24):
            if not rays.size:
                break
            # Rays that have arrived or left march on harmlessly, so it is enough to drop them now and then.
            for _ in range(3):
                distance = solid.distance(start + t * heading)
                t = t + distance
            hit = (distance < _HIT_DISTANCE) & (t < end)
            nearest[rays[hit]] = t[hit]
            which[rays[hit]] = index
            going = ~hit & (t < end)
            rays, t, end, heading = rays[going], t[going], end[going], heading[:, going]
    return nearest, which


def _visibility(points: Array, towards: Array) -> Array:
    """Share [n] in [0, 1] of a soft light in direction ``towards`` [3, 1] that ``points`` [3, n] see.

    The penumbra is estimated from the narrowest gap the shadow ray passes (Quilez, "Soft shadows in
    raymarched SDFs", 2010): one march instead of a bundle of rays over the light's disc.
    """
    sharpness = np.float32(14.0)
    reach = 0.12  # how far from an object its penumbra still shows
    visible = np.ones(points.shape[1], dtype=np.float32)
    for solid in solids():
        start, heading = solid.to_local(points), solid.turn(towards)
        enter, leave = _chord(start, heading, solid.bound + reach)
        enter = np.maximum(enter, np.float32(0.02))
        rays = np.flatnonzero((enter < leave) & (visible > 0.02))
        t, end, start = enter[rays], leave[rays], start[:, rays]
        light = visible[rays]
        for _ in range(10):
            if not rays.size:
                break
            for _ in range(3):
                gap = solid.distance(start + t * heading)
                light = np.minimum(light, np.maximum(sharpness * gap / t, 0))
                t = t + np.maximum(gap, np.float32(0.012))
            visible[rays] = light
            going = (light > 0.02) & (t < end)
            rays, t, end, start, light = rays[going], t[going], end[going], start[:, going], light[going]
    return visible * visible * (3 - 2 * visible)


def _openness(points: Array, normals: Array) -> Array:
    """Share [n] in [0, 1] of the surroundings that light comes from, judged by what lies just above."""
    blocked = np.zeros(points.shape[1], dtype=np.float32)
    for height, weight in ((0.05, 3.2), (0.13, 1.5), (0.28, 0.7)):
        above = points + np.float32(height) * normals
        blocked += np.float32(weight) * (np.float32(height) - distance_to_scene(above))
    return np.clip(1 - blocked, 0.12, 1)


def _normals(points: Array, which: NDArray[np.int8]) -> Array:
    """Outward unit normals [3, n] of the given objects, by differences over the corners of a tetrahedron."""
    normals = np.zeros_like(points)
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=np.float32)
    for index, solid in enumerate(solids()):
        own = np.flatnonzero(which == index)
        if own.size:
            here = points[:, own]
            gradient = np.zeros_like(here)
            for corner in corners[:, :, None]:
                gradient += corner * solid.distance(solid.to_local(here + corner * np.float32(1e-3)))
            normals[:, own] = _unit(gradient)
    return normals


def _direction(x: float, y: float, z: float) -> Array:
    return _unit(np.array([[x], [y], [z]], dtype=np.float32))


_KEY_LIGHT, _KEY_COLOUR = _direction(0.35, -0.42, 1.0), np.array([[1.7], [1.55], [1.32]], dtype=np.float32)
_FILL_LIGHT, _FILL_COLOUR = _direction(-0.8, 0.5, 0.35), np.array([[0.24], [0.3], [0.4]], dtype=np.float32)


def _surroundings(directions: Array) -> Array:
    """Light [3, n] that metals reflect: a bright sky with a broad lamp, over a dim warm floor."""
    up = np.clip(directions[2] * 1.6 + 0.35, 0, 1)
    lamp = np.maximum(_dot(directions, _KEY_LIGHT), 0) ** 6
    return mix(linear_colour("5b4636"), linear_colour("e4eef8"), up) + np.float32(0.8) * lamp


def _shade(points: Array, directions: Array, which: NDArray[np.int8]) -> Array:
    """Encoded (sRGB-like) colours [3, n] in [0, 1] of points seen along unit ``directions`` [3, n]."""
    scene = solids()
    albedo = np.zeros_like(points)
    for index, solid in enumerate(scene):
        own = np.flatnonzero(which == index)
        if own.size:
            albedo[:, own] = solid.pattern(solid.to_local(points[:, own]))
    gloss, shininess, metal = (
        np.array([getattr(solid, name) for solid in scene], dtype=np.float32)[which]
        for name in ("gloss", "shininess", "metal")
    )
    normals = _normals(points, which)
    openness = _openness(points, normals)
    lifted = points + np.float32(4e-3) * normals  # keeps a shadow ray from meeting the surface it starts on

    facing = _dot(normals, _KEY_LIGHT)
    lit = np.flatnonzero(facing > 0)
    key = np.zeros_like(facing)
    key[lit] = facing[lit] * _visibility(lifted[:, lit], _KEY_LIGHT)
    fill = np.maximum(_dot(normals, _FILL_LIGHT), 0) * openness
    ambient = mix(linear_colour("5e544d"), linear_colour("8fa2bd"), 0.5 + 0.5 * normals[2]) * openness
    colour = albedo * (1 - np.float32(0.75) * metal) * (_KEY_COLOUR * key + _FILL_COLOUR * fill + ambient)

    tint = 1 + (albedo - 1) * metal
    for towards, light, amount in ((_KEY_LIGHT, _KEY_COLOUR, key), (_FILL_LIGHT, _FILL_COLOUR, fill)):
        halfway = _unit(towards - directions)
        highlight = np.maximum(_dot(normals, halfway), 0) ** shininess
        # Fading with the received light hides the edge where a surface turns away from the lamp.
        colour += tint * light * (gloss * highlight * np.minimum(4 * amount, 1))
    mirrored = directions - 2 * _dot(directions, normals) * normals
    grazing = (1 - np.clip(-_dot(directions, normals), 0, 1)) ** 5
    reflectance = metal + (1 - metal) * np.float32(0.35) * gloss * grazing
    colour += tint * _surroundings(mirrored) * (reflectance * openness * np.float32(0.75))
    return developed(colour)


def developed(light: Array) -> Array:
    """Encoded (sRGB-like) colours in [0, 1] of linear ones in [0, inf), of any shape."""
    # A soft shoulder keeps highlights from clipping to flat white discs.
    toned = light * (1 + light / 6) / (1 + 0.75 * light) * np.float32(1.15)
    return np.clip(toned, 0, 1) ** np.float32(1 / 2.2)


def see_objects(origin: Array, directions: Array) -> tuple[Array, Array]:
    """Return what rays meet first.

    Args:
        origin: ``[3, 1]`` common start of the rays, outside every object.
        directions: ``[3, n]`` unit directions.

    Returns:
        Distances ``[n]``, infinite where nothing is met, and encoded colours ``[3, n]``, 0 there.
    """
    t, which = _nearest_hits(origin, directions)
    met = np.flatnonzero(which >= 0)
    colours = np.zeros_like(directions)
    if met.size:
        colours[:, met] = _shade(origin + t[met] * directions[:, met], directions[:, met], which[met])
    return t, colours


def sunlight(points: Array) -> Array:
    """Share [n] in [0, 1] of the main lamp that the objects leave to points [3, n] outside of them."""
    return _visibility(points, _KEY_LIGHT)


def render_view(
    camera_to_world: NDArray[np.floating],
    size: int,
    focal: float,
    supersampling: int = 3,
) -> Array:
    """Render one square image of the scene.

    Args:
        camera_to_world: ``[4, 4]`` (or ``[3, 4]``) pose in the OpenGL convention: x right, y up, looking down
            -z. The camera must be outside every object.
        size: Width and height in pixels. Pixel (0, 0) is the upper left one; its centre lies at (0.5, 0.5).
        focal: Focal length in pixels.
        supersampling: Rays along each side of a pixel, so its square is the number of rays per pixel.

    Returns:
        ``[size, size, 4]`` encoded (sRGB-like) colour and straight alpha in [0, 1], all 0 where no object is.
    """
    pose = np.asarray(camera_to_world, dtype=np.float32)
    origin = pose[:3, 3:4]
    image = np.zeros((size, size, 4), dtype=np.float32)
    rows_at_once = max(1, _RAYS_AT_ONCE // (size * supersampling**2))
    across = ((np.arange(size * supersampling, dtype=np.float32) + 0.5) / supersampling - size / 2) / focal
    for first in range(0, size, rows_at_once):
        rows = min(rows_at_once, size - first)
        down = across[first * supersampling : (first + rows) * supersampling]
        y, x = (a.ravel() for a in np.meshgrid(-down, across, indexing="ij"))
        turned = [pose[i, 0] * x + pose[i, 1] * y - pose[i, 2] for i in range(3)]
        directions = _unit(np.stack(turned).astype(np.float32))
        t, colours = see_objects(origin, directions)
        samples = np.concatenate([colours, np.isfinite(t)[None].astype(np.float32)])
        # Encoded colours are averaged, because trainers and viewers composite encoded colours as well. With 0
        # for the rays that meet nothing, the mean is premultiplied by alpha; that is undone below.
        block = samples.reshape(4, rows, supersampling, size, supersampling).mean(axis=(2, 4))
        image[first : first + rows] = np.moveaxis(block, 0, -1)
    image[..., :3] /= np.maximum(image[..., 3:], np.float32(0.5 / supersampling**2))
    return image
