"""A bundle holds what the scene's parser, the images and the mesh give, and says when it is damaged."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finer_nerfstudio.benchmarks.gpu.bundle import Bundle, sizes_of, write_bundle
from finer_nerfstudio.benchmarks.gpu.cell import Place
from finer_nerfstudio.benchmarks.gpu.fields import write_scene
from finer_nerfstudio.benchmarks.gpu.preparing import TOY, BundleSizes, scene_views
from finer_nerfstudio.benchmarks.gpu.shapes import CHECKPOINT, fit_and_measure
from finer_nerfstudio.cli.main import main
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.images import read_stored_image
from finer_nerfstudio.inr.methods import preset
from finer_nerfstudio.nerf.data.dataparser import BlenderViewsDataParserConfig
from finer_nerfstudio.nerf.data.images import SceneImages
from finer_nerfstudio.tasks.image.files import read_image
from finer_nerfstudio.tasks.sdf.distance import mesh_distance
from finer_nerfstudio.tasks.sdf.effort import Effort
from finer_nerfstudio.tasks.sdf.fit import HALVES, ShapeOptions, fit_shape, in_unit_frame, measure_shape, surface_of
from finer_nerfstudio.tasks.sdf.pool import PooledDraws, make_pool, places_of
from finer_nerfstudio.tasks.sdf.sampling import COARSE_SCALE, FINE_SCALE, SurfaceSampler
from finer_nerfstudio.tasks.sdf.shape import read_shape


@pytest.fixture
def bundle(toy: Any) -> Bundle:
    return Bundle(toy.folder)


def test_views_are_those_of_the_parser(bundle: Bundle, toy: Any) -> None:
    for split, stride in (("train", 4), ("test", 1)):
        config = BlenderViewsDataParserConfig(data=toy.scene, train_view_stride=stride)
        parsed = config.setup().get_dataparser_outputs(split)
        dataset, found = SceneImages(parsed), bundle.views[split]
        assert len(found.images) == 2
        for number, image in enumerate(found.images):
            assert np.array_equal(image, dataset.get_numpy_image(number))
        assert np.array_equal(found.poses, parsed.cameras.camera_to_worlds[:2].numpy())
        assert found.focal == pytest.approx(float(parsed.cameras.fx[0]))
    assert bundle.descriptions["views"]["train"] == bundle.views["train"].description


def test_larger_views_are_averaged_down(toy: Any) -> None:
    half, whole = (scene_views(toy.scene, "test", BundleSizes(scene_side=side)) for side in (12, 24))
    assert half.images.shape[1:3] == (12, 12)
    assert half.focal == pytest.approx(whole.focal / 2)
    alpha = whole.images[..., 3].reshape(len(whole.images), 12, 2, 12, 2).mean(axis=(2, 4))
    assert np.abs(half.images[..., 3] - alpha).max() <= 1


def test_a_scene_written_from_views_is_read_as_these(bundle: Bundle, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", bundle.views["train"], bundle.views["test"])
    config = BlenderViewsDataParserConfig(data=tmp_path / "scene")
    for split in ("train", "test"):
        parsed = config.setup().get_dataparser_outputs(split)
        assert torch.allclose(parsed.cameras.camera_to_worlds, torch.from_numpy(bundle.views[split].poses), atol=1e-6)
        assert float(parsed.cameras.fx[0]) == pytest.approx(bundle.views[split].focal)
        stored = read_stored_image(parsed.image_filenames[1], upright=False).values
        assert np.array_equal(stored, bundle.views[split].images[1])


def test_images_are_those_of_the_files(bundle: Bundle, toy: Any) -> None:
    assert bundle.image_names == [path.stem for path in toy.images]
    for path in toy.images:
        wanted = read_image(path, size=TOY.image_side)
        assert np.array_equal(bundle.images[path.stem].pixels, wanted.pixels)
        assert bundle.descriptions["images"][path.stem] == wanted.description


def test_the_shape_and_what_was_computed_of_it(bundle: Bundle, toy: Any) -> None:
    unit, _ = in_unit_frame(read_shape(toy.shape))
    found = bundle.shape
    assert np.array_equal(found.shape.vertices, unit.vertices)
    assert np.array_equal(found.shape.faces, unit.faces)
    assert found.shape.watertight
    for half in HALVES:
        assert np.array_equal(found.inside[half], toy.contents.shape.inside[half])
        assert found.inside[half].any()
    assert found.shape.description == toy.contents.shape.shape.description
    assert bundle.descriptions["shape"]["pool"] == found.pool.description
    again, _ = in_unit_frame(found.shape)
    assert np.abs(again.vertices - unit.vertices).max() < 1e-14, "fits take it for a shape in units of its own"


def test_distances_of_the_pool_are_those_at_its_places(bundle: Bundle) -> None:
    pool, shape = bundle.shape.pool, bundle.shape.shape
    distance = mesh_distance(shape.vertices, shape.faces)
    for kind in range(2):
        places = places_of(pool.positions[kind])
        assert places.dtype == torch.float32
        assert places.double().mul(65536).frac().abs().max() == 0, "float32 has every place exactly"
        error = np.abs(pool.distances[kind].astype(np.float64) - distance(places).double().numpy())
        assert (error <= 2.0**-11 * np.abs(pool.distances[kind]) + 2.0**-24).all(), "half a unit of half precision"


def test_fine_points_keep_the_papers_noise(bundle: Bundle) -> None:
    """Steps of 2^-16 leave the distribution of the distances of fine points as it is without them."""
    shape = bundle.shape.shape
    surface = SurfaceSampler(shape)
    pool = make_pool(surface, mesh_distance(shape.vertices, shape.faces), 20_000, torch.Generator().manual_seed(1))
    fine = np.abs(pool.distances[1].astype(np.float64))
    # Along a normal, the sum of three Laplace variables weighted by it: between 0.7 and 1 scales on average.
    assert 0.6 * FINE_SCALE < fine.mean() < 1.1 * FINE_SCALE
    assert len(np.unique(pool.distances[1])) > 5_000
    assert np.abs(pool.distances[0].astype(np.float64)).mean() > 0.1 * COARSE_SCALE


def test_draws_repeat_and_alternate(bundle: Bundle) -> None:
    pool = bundle.shape.pool
    draws = PooledDraws(pool, 1000, torch.device("cpu"))
    first, second = (draws.draw(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    coarse, fine = (first[1][kind::2].abs().mean() for kind in range(2))
    assert fine < 0.1 * coarse
    known = {tuple(row) for row in pool.positions[1].tolist()}
    assert all(tuple(row) in known for row in ((first[0][1::2] + 0.5) * 65536).long().tolist())
    other = draws.draw(torch.Generator().manual_seed(5))
    assert not torch.equal(first[0], other[0])


def test_a_shape_is_fitted_and_measured_without_its_distance(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    found, effort = bundle.shape, Effort(iou_resolution=24, samples=1000)
    network = preset("siren", "sdf").network(3, 1, width=16, depth=1, generator=torch.Generator().manual_seed(0))
    vertices, faces = found.shape.vertices, found.shape.faces
    with_distance = measure_shape(network, found.shape, vertices, faces, effort=effort)

    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("finer_nerfstudio.tasks.sdf.fit.distance_to", refused)
    assert measure_shape(network, found.shape, vertices, faces, effort=effort, inside=found.inside) == with_distance
    options = ShapeOptions(method="siren", steps=150, width=32, batch_size=500, learning_rate=2e-3)
    fitted = fit_shape(found.shape, options, pool=found.pool)
    assert fitted.training.curve[-1][1] < 0.1 * fitted.training.curve[0][1]
    surface_of(fitted.network, 24)


def test_the_command_makes_the_same_bundle(toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = map(str, toy.images)
    options = ["--scene", str(toy.scene), "--images", *images, "--shape", str(toy.shape), "--quick"]
    main(["gpu-queue", "--prepare", str(tmp_path / "b"), *options])
    sizes = sizes_of(tmp_path / "b")
    printed = capsys.readouterr().out
    assert all(f"{size:,} bytes" in printed for size in (*sizes.values(), sum(sizes.values())))
    assert Bundle(tmp_path / "b").descriptions == Bundle(toy.folder).descriptions


def test_a_damaged_bundle_gets_a_sentence(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no bundle"):
        Bundle(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(bundle.folder, folder)
    content = (folder / "shape.npz").read_bytes()
    (folder / "shape.npz").write_bytes(content[: len(content) // 2])
    copied = Bundle(folder)
    assert len(copied.images) == 2
    with pytest.raises(InputError, match=r"shape\.npz is damaged .*copy it again"):
        _ = copied.shape
    manifest = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(manifest.replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="another version"):
        Bundle(folder)
    assert sum(sizes_of(bundle.folder).values()) > 10_000


@pytest.mark.parametrize("name", ["bundle.json", "images.npz"])
def test_files_of_others_are_not_replaced(name: str, toy: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match=f"holds {name}, but no bundle"):
        write_bundle(tmp_path, toy.contents)
    assert (tmp_path / name).read_text() == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_bundle_that_is_not_whole_gets_a_sentence(toy: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy.folder, folder)
    (folder / "views.npz").unlink()
    with pytest.raises(InputError, match=r"views\.npz is missing"):
        sizes_of(folder)
    (folder / "bundle.json").write_text('{"format": 1, "quick": true}')
    with pytest.raises(InputError, match=r"no bundle .*lacks contents, digests"):
        Bundle(folder)


def test_a_damaged_checkpoint_is_no_obstacle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(bytes(range(250)) * 4)
    options = ShapeOptions(method="finer-sine", steps=60, width=16, batch_size=500, learning_rate=2e-3)
    effort = Effort(resolution=24, iou_resolution=24, samples=500)
    place = Place(torch.device("cpu"), tmp_path, time.monotonic() + 600)
    assert fit_and_measure("toy", bundle.shape, options, effort, place)["steps"] == 60
