"""The paper's numbers beside ours, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finer_nerfstudio.reproduction.published import TABLE_3, TABLE_3_MEANS, TABLE_3_SCENES
from finer_nerfstudio.reproduction.radiance.pictures import frames_between_views, truth_and_rendering, write_comparison
from finer_nerfstudio.reproduction.radiance.scenes import Scene
from finer_nerfstudio.reproduction.table import write_table
from finer_nerfstudio.reproduction.table3 import notes_on, published_row, radiance_row, write_pictures
from finer_nerfstudio.runs.options import ALL_METHODS


def scene(name: str) -> Scene:
    return Scene(name, Path(f"/{name}"), 200, 200, 100, 200, "digest")


def result(psnr: float, **values: Any) -> dict[str, Any]:
    return {"psnr": psnr, "ssim": 0.9, "lpips": None, "resumed_after": None, **values}


def test_published_scenes_have_the_published_means() -> None:
    for method in ALL_METHODS:
        assert np.mean(list(TABLE_3[method].values())) == pytest.approx(TABLE_3_MEANS[method]["psnr"], abs=0.01)


def test_the_papers_mean_is_over_the_same_scenes() -> None:
    assert published_row("siren", [scene(name) for name in TABLE_3_SCENES])[0] == TABLE_3_MEANS["siren"]
    means, by_scene = published_row("finer-sine", [scene("Lego"), scene("ship")])
    assert means == {"psnr": pytest.approx((30.04 + 22.47) / 2)}
    assert by_scene == [{"psnr": 30.04}, {"psnr": 22.47}]
    assert published_row("siren", [scene("lego"), scene("demo")]) == (None, [{"psnr": 29.60}, {}])


def test_notes_say_what_is_missing() -> None:
    scenes = [scene("lego"), scene("mic")]
    rows = [
        radiance_row("siren", scenes, [result(25.0), {}]),
        radiance_row("finer-sine", scenes, [result(26.0, resumed_after=500), result(27.0)]),
    ]
    notes = "\n".join(notes_on(scenes, rows))
    assert "2 of the paper's 8 scenes" in notes
    assert "mic-siren failed" in notes
    assert "lego-finer-sine was interrupted and went on after step 500" in notes
    assert "LPIPS is not available" in notes
    eight = [scene(name) for name in TABLE_3_SCENES]
    assert notes_on(eight, [radiance_row("siren", eight, [result(25.0, lpips=0.1)] * 8)]) == []


def test_a_table_by_scene(tmp_path: Path) -> None:
    scenes = [scene("lego"), scene("mic")]
    rows = [
        radiance_row("siren", scenes, [result(25.0, minutes=3.0), {}]),
        radiance_row("finer-sine", scenes, [result(26.0, minutes=3.0), result(27.0, minutes=3.0)]),
    ]
    write_table(
        tmp_path,
        title="Table 3",
        protocol="two steps",
        rows=rows,
        items=["lego", "mic"],
        columns={"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"},
        own_columns={"minutes": "minutes"},
        by_item=True,
        notes=["A note."],
        higher_is_better=True,
    )
    text = (tmp_path / "table.md").read_text()
    assert "| siren | n/a | 31.44 | n/a | n/a | n/a | n/a | n/a |" in text, "no mean where a scene is missing"
    assert "| finer-sine | 26.50 | 32.00 | 0.9000 | n/a | n/a | n/a | 3.00 |" in text
    assert "| lego | 25.00 (29.60) | 26.00 (30.04) |" in text
    assert "| mic | n/a (33.28) | 27.00 (33.96) |" in text
    assert "**SSIM** of each" in text
    assert "**LPIPS** of each" not in text, "nothing was measured"
    assert "\nA note.\n" in text
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["rows"][1]["paper_results"] == [{"psnr": 30.04}, {"psnr": 33.96}]
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == "method,item,psnr,ssim,lpips,minutes"


def write_pair(path: Path, truth: str, rendering: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pair = Image.new("RGB", (16, 6), truth)
    pair.paste(Image.new("RGB", (8, 6), rendering), (8, 0))
    pair.save(path)
    return path


def test_truth_and_methods_stand_side_by_side(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "eval_img_0000.png", "red", "blue")
    truth, rendering = truth_and_rendering(pair)
    assert truth.shape == rendering.shape == (6, 8, 3)
    assert (truth == [255, 0, 0]).all()
    assert (rendering == [0, 0, 255]).all()
    other = write_pair(tmp_path / "other.png", "red", "lime")
    write_comparison(tmp_path / "sheet.png", {"siren": pair, "finer-sine": other})
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    centers = [np.abs(pixels - color).sum(axis=2) < 30 for color in ([255, 0, 0], [0, 0, 255], [0, 255, 0])]
    columns = [center.nonzero()[1].mean() for center in centers]
    assert columns == sorted(columns), "truth, siren, finer-sine from the left"


def test_pictures_that_are_gone_are_said(tmp_path: Path) -> None:
    found: dict[Any, Any] = {"siren": result(25.0, attempt="lego-siren/1", views=3)}
    (failure,) = write_pictures(tmp_path, [scene("lego")], tmp_path / "cells", lambda scene: found, video=False)
    assert "test views of siren are gone" in failure
    write_pair(tmp_path / "cells" / "lego-siren" / "1" / "test_views" / "eval_img_0000.png", "red", "blue")
    assert write_pictures(tmp_path, [scene("lego")], tmp_path / "cells", lambda scene: found, video=False) == []
    assert (tmp_path / "lego" / "test_view.png").exists()
    view = tmp_path / "cells" / "lego-siren" / "1" / "test_views" / "eval_img_0000.png"
    view.write_bytes(view.read_bytes()[:40])
    (failure,) = write_pictures(tmp_path, [scene("lego")], tmp_path / "cells", lambda scene: found, video=False)
    assert failure.startswith(f"lego: no test_view.png, as {view} cannot be read as an image")


def test_a_missing_ffmpeg_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write_pair(tmp_path / "cells" / "lego-siren" / "1" / "test_views" / "eval_img_0000.png", "red", "blue")
    found: dict[Any, Any] = {"siren": result(25.0, attempt="lego-siren/1", views=3, config="config.yml")}
    assert write_pictures(tmp_path, [scene("lego")], tmp_path / "cells", lambda scene: found, video=True) == []
    assert capsys.readouterr().err.splitlines()[0].endswith("ns-render needs ffmpeg, which is not installed.")


@pytest.mark.parametrize("views", [2, 3, 25, 121, 200])
def test_a_flight_takes_five_seconds_or_more(views: int) -> None:
    assert (views - 1) * frames_between_views(views) >= 5 * 24
