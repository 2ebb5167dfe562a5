"""Which folders are scenes, what they are called, and how their images come to the paper's size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from finer_nerfstudio.errors import InputError, UsageError
from finer_nerfstudio.reproduction.radiance.scenes import read_scene, require_different_names, scenes_in


def write_scene(folder: Path, *, size: tuple[int, int] = (8, 8), splits: tuple[str, ...] = ("train", "test")) -> Path:
    folder.mkdir(parents=True)
    Image.new("RGBA", size).save(folder / "r_0.png")
    for split in splits:
        frames = [{"file_path": "./r_0"}] * (5 if split == "train" else 9)
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    return folder


def test_a_folder_of_scenes_is_expanded_by_name(tmp_path: Path) -> None:
    for name in ("lego", "chair", "mic"):
        write_scene(tmp_path / "blender" / name)
    (tmp_path / "blender" / "README").mkdir()
    assert [scene.name for scene in scenes_in(tmp_path / "blender")] == ["chair", "lego", "mic"]
    (alone,) = scenes_in(tmp_path / "blender" / "lego")
    assert (alone.name, alone.train_views, alone.test_views) == ("lego", 5, 9)
    assert alone.folder.is_absolute()


def test_a_scene_named_by_a_dot_has_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_scene(tmp_path / "ship.v2"))
    assert read_scene(Path()).name == "ship.v2"


@pytest.mark.parametrize(("size", "factor"), [((800, 800), 4), ((200, 200), 1), ((400, 400), 2), ((48, 32), 1)])
def test_images_are_averaged_to_the_papers_size(tmp_path: Path, size: tuple[int, int], factor: int) -> None:
    assert read_scene(write_scene(tmp_path / "scene", size=size)).downscale_factor == factor


@pytest.mark.parametrize("size", [(300, 300), (800, 600), (1000, 200)])
def test_sizes_that_do_not_divide_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    scene = read_scene(write_scene(tmp_path / "scene", size=size))
    with pytest.raises(UsageError, match=f"{size[0]}x{size[1]}.*multiple"):
        _ = scene.downscale_factor


def test_a_scene_is_itself_wherever_it_lies(tmp_path: Path) -> None:
    here = read_scene(write_scene(tmp_path / "here" / "lego"))
    there = read_scene(write_scene(tmp_path / "there" / "lego"))
    assert here.identity() == there.identity()
    path = there.folder / "transforms_test.json"
    path.write_text(path.read_text().replace("0.7", "0.6"))
    assert read_scene(there.folder).identity() != here.identity()


def test_photographs_of_a_scene_may_leave_out_another_suffix(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "scene")
    (folder / "r_0.png").unlink()
    Image.new("RGB", (16, 12)).save(folder / "r_0.JPG", "JPEG")
    scene = read_scene(folder)
    assert (scene.width, scene.height) == (16, 12)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"frames": ' + "9" * 5000 + "}", "{}", '{"frames": [1]}'])
def test_files_without_frames_are_named(tmp_path: Path, content: str) -> None:
    folder = write_scene(tmp_path / "scene")
    (folder / "transforms_test.json").write_text(content)
    with pytest.raises(InputError, match=r"transforms_test\.json cannot be read"):
        read_scene(folder)


def test_what_is_no_scene_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scene at"):
        scenes_in(tmp_path / "nowhere")
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture" / "transforms.json").write_text("{}")
    with pytest.raises(UsageError, match="Blender format"):
        scenes_in(tmp_path / "capture")


def test_damaged_scenes_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"transforms_test\.json is missing"):
        read_scene(write_scene(tmp_path / "untested", splits=("train",)))
    scene = write_scene(tmp_path / "scene")
    (scene / "r_0.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"r_0\.png .*cannot be read"):
        read_scene(scene)
    (scene / "r_0.png").unlink()
    with pytest.raises(InputError, match=r"r_0 .*missing"):
        read_scene(scene)
    (scene / "transforms_train.json").write_text('{"frames": []}')
    with pytest.raises(InputError, match="no frames"):
        read_scene(scene)


def test_two_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    twins = [read_scene(write_scene(tmp_path / place / "lego")) for place in ("here", "there")]
    require_different_names(twins[:1])
    with pytest.raises(UsageError, match="both be called lego"):
        require_different_names(twins)
