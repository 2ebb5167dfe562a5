"""Numbers in the documentation are those of the stored results."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finer_nerfstudio.analysis import frequencies
from finer_nerfstudio.analysis.outcome import Outcome, Table, read_outcome, write_outcome
from finer_nerfstudio.benchmarks.fits import allowed_precisions
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.methods import PROTOCOLS
from finer_nerfstudio.reproduction.published import TABLE_1, TABLE_2_ARMADILLO, TABLE_3

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCRIPT = ROOT / "scripts" / "make_results.py"
TEMPLATE = """# One

| a | {{ results["one"].a | decimals(2) }} |
{% for name in results["deep/two"].names %}
| {{ name }} | {{ results["one"].small | scientific }} | {{ claims.verdict(true, name == "b") }} |
{% endfor %}

`{braces}` stay.
"""
PAGE = """# One

| a | 1,234.57 |
| b | 7.11e-6 | holds |
| c | 7.11e-6 | in part (1 of 2) |

`{braces}` stay.
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "results" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "one.json").write_text(json.dumps({"a": 1234.5678, "small": 7.1103e-6}))
    (tmp_path / "docs" / "results" / "deep" / "two.json").write_text(json.dumps({"names": ["b", "c"]}))
    (tmp_path / "docs" / "templates").mkdir()
    (tmp_path / "docs" / "templates" / "page.md").write_text(TEMPLATE)
    return tmp_path


def made(root: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), "--root", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_documentation_is_up_to_date() -> None:
    code, output = made(ROOT, "--check")
    assert code == 0, output


def test_rendered_pages_hold_no_template() -> None:
    templates = sorted((ROOT / "docs" / "templates").glob("*.md"))
    assert templates
    for template in templates:
        page = (ROOT / "docs" / template.name).read_text()
        assert not re.search(r"\{\{|\{%|\{#|<!-- results", page)
        assert f"templates/{template.name}" in page.splitlines()[0], "says where it is to be edited"


def test_stored_results_stay_small() -> None:
    files = [path for path in (ROOT / "docs" / "results").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".png"}
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_templates_are_filled_in(project: Path) -> None:
    page = project / "docs" / "page.md"
    code, output = made(project, "--check")
    assert code == 1
    assert "page.md" in output
    assert not page.exists(), "checking writes nothing"
    assert made(project)[0] == 0
    note, _, text = page.read_text().partition("\n")
    assert "templates/page.md" in note
    assert text == PAGE
    assert (project / "docs" / "templates" / "page.md").read_text() == TEMPLATE
    assert made(project, "--check")[0] == 0
    page.write_text(page.read_text().replace("1,234.57", "1,234.58"))
    code, output = made(project, "--check")
    assert code == 1
    assert "run python scripts/make_results.py" in " ".join(output.split())


def test_figures_are_drawn_again_from_their_numbers(project: Path) -> None:
    options = frequencies.FrequenciesOptions(width=32, bias_ranges=(1.0, 5.0))
    outcome = frequencies.study(options, lambda *_: None)
    folder = project / "docs" / "results" / "analysis" / "frequencies-finer-sine"
    figure, *_ = write_outcome(folder, outcome, frequencies.draw(outcome))
    figure.unlink()
    assert made(project, "--check")[0] == 1
    assert not figure.exists(), "checking draws nothing"
    assert made(project)[0] == 0
    with Image.open(figure) as picture:
        assert picture.mode == "P"
    numbers = folder / "frequencies.json"
    drawn, stored = figure.read_bytes(), numbers.read_bytes()
    assert made(project)[0] == 0
    assert (figure.read_bytes(), numbers.read_bytes()) == (drawn, stored)
    assert read_outcome(numbers).numbers == outcome.numbers, "what pages say is kept in full"
    (folder / "other.json").write_text("{}")
    code, output = made(project)
    assert code == 1
    assert "other.json cannot be read as the outcome of an analysis" in output
    assert "Traceback" not in output


def test_tables_are_thinned_to_what_their_figures_show() -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    thinned = script["thinned"]
    curve = {"step": list(range(1001)), "scale 5": [math.sqrt(step) for step in range(1001)]}
    columns = thinned(Outcome("gap", {}, {}, {"curves": Table(curve)})).tables["curves"].columns
    assert columns["step"] == list(range(0, 1001, 6))
    assert columns["scale 5"] == pytest.approx([math.sqrt(step) for step in columns["step"]], rel=5e-4)

    matrix = {str(8 * j): [math.cos(i - j) * 1e3 for i in range(128)] for j in range(128)}
    kernel = Outcome("ntk", {}, {}, {"kernel k = 1": Table(matrix)})
    columns = thinned(kernel).tables["kernel k = 1"].columns
    assert list(columns) == [str(16 * j) for j in range(64)]
    for j, (name, column) in enumerate(columns.items()):
        assert column == pytest.approx([math.cos(2 * i - 2 * j) * 1e3 for i in range(64)], abs=20), name
        assert column[j] == max(column), "the diagonal stays the diagonal"

    rows = [(layer, part, step) for layer in (1, 2) for part in ("real", "imaginary") for step in range(1001)]
    names = ("layer", "part", "pre_activation")
    densities = Table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    once = thinned(Outcome("utilization", {}, {}, {"activation wire": densities}))
    columns = once.tables["activation wire"].columns
    assert set(columns["part"]) == {"real"}
    assert [columns["layer"].count(layer) for layer in (1, 2)] == [251, 251]
    assert columns["pre_activation"][:2] == [0, 4]

    for outcome in (kernel, once):
        assert thinned(thinned(outcome)) == thinned(outcome), "a second time changes nothing"


@pytest.mark.parametrize("wrong", ['{{ results["none"].a }}', '{{ results["one"].none }}', "{% for %}", "{{ 1 / 0 }}"])
def test_a_wrong_template_gets_a_sentence(wrong: str, project: Path) -> None:
    (project / "docs" / "templates" / "page.md").write_text(f"\n\n{wrong}\n")
    code, output = made(project)
    assert code == 1
    assert "Traceback" not in output
    assert "none.json" in output or "page.md, line 3" in " ".join(output.split())


def test_missing_results_and_templates_get_a_sentence(tmp_path: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    with pytest.raises(InputError, match="cannot be read"):
        script["Results"](ROOT / "no-such-folder")["one"]
    code, output = made(tmp_path)
    assert code == 1
    assert "has no templates" in output
    assert "Traceback" not in output


def test_the_readme_is_short_and_no_program() -> None:
    assert len(README.splitlines()) < 150
    assert not re.search(r"\{[{%#]|<!--", README)


def test_numbers_of_the_readme() -> None:
    stored = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs" / "results").glob("*.json")}
    fields = stored["nerf_lego_15_minutes"]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in README.splitlines() if line.startswith("|")]
    rows = {name: cells for name, *cells in table}
    for name, run in fields.items():
        nerfacto = name == "bounded-nerfacto"
        assert rows["nerfacto, in torch" if nerfacto else name] == [
            f"{run['psnr']:.2f}",
            *([f"{TABLE_3[name]['lego']:.2f}"] if not nerfacto else [""]),
            f"{run['parameters']:,}",
            f"{run['rays_per_second']:,.0f}",
        ]
    images = {row["method"]: row for row in stored["table1_quick"]["rows"]}
    shape, stream = stored["armadillo_10_minutes"], stored["stream_div2k_00"]["ways"]["finer-sine"]
    cases = stored["benchmark_cpu"]["cases"]["image"]
    speeds = {method: row["step"]["plain_over_ours"] for method, row in cases.items()}
    sine, siren = (images[method] for method in ("finer-sine", "siren"))
    text = " ".join(README.split())
    for sentence in (
        f"A network of {4 * fields['finer-sine']['parameters'] / 1000:.0f} kB",
        f"nerfacto was measured on {fields['bounded-nerfacto']['views']} test views instead of "
        f"{fields['finer-sine']['views']}",
        f"`finer-sine` {sine['mean']['psnr']:.2f} dB, `siren` {siren['mean']['psnr']:.2f} dB",
        f"The paper has {TABLE_1['finer-sine']['psnr']:.2f} and {TABLE_1['siren']['psnr']:.2f} for 512\u00d7512",
        f"an IoU of {shape['iou_paper']:.3f}, where the paper has "
        f"{TABLE_2_ARMADILLO['finer-wavelet']['iou']:.3f} after "
        f"{PROTOCOLS['sdf'].steps / shape['steps']:.0f} times as many steps",
        f"{stream[0]['psnr']:.2f} dB from the first {stream[0]['bytes']:,} bytes, {stream[-1]['psnr']:.2f} dB from all "
        f"{stream[-1]['bytes']:,}. JPEG has {stream[-1]['jpeg_psnr_at_these_bytes']:.2f} dB there",
        f"{speeds['finer-sine']:.1f} times (`finer-sine`) to {speeds['finer-wavelet']:.1f} times (`finer-wavelet`)",
    ):
        assert sentence in text


def test_the_default_precision_on_gpus_is_one_that_the_fits_allow() -> None:
    pytest.importorskip("triton", reason="the choice is made beside the kernels")
    from finer_nerfstudio.inr.kernels.triton_program import DEFAULT_PRECISION

    studies = sorted((ROOT / "docs" / "results").glob("fits_precision*.json"))
    fits = [found for study in studies for found in json.loads(study.read_text())["fits"].values()]
    assert DEFAULT_PRECISION in ["float32", *allowed_precisions(fits)]
    assert f"The default is `{DEFAULT_PRECISION}`" in (ROOT / "docs" / "speed.md").read_text()
