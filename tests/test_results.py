"""Numbers in the documentation are those of the stored results."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finer_nerfstudio.analysis import frequencies
from finer_nerfstudio.analysis.outcome import write_outcome
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.inr.methods import PROTOCOLS
from finer_nerfstudio.reproduction.published import TABLE_1, TABLE_2_ARMADILLO, TABLE_3

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCRIPT = ROOT / "scripts" / "make_results.py"
PAGE = """Before.

<!-- results
| a | {{ results["one"].a | decimals(2) }} |
{% for name in results["deep/two"].names %}
| {{ name }} | {{ results["one"].small | scientific }} |
{% endfor %}
-->
| a | 1.00 |
<!-- end -->
After {{ as it is }}.
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "results" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "one.json").write_text(json.dumps({"a": 1234.5678, "small": 7.1103e-6}))
    (tmp_path / "docs" / "results" / "deep" / "two.json").write_text(json.dumps({"names": ["b", "c"]}))
    (tmp_path / "README.md").write_text(PAGE)
    return tmp_path


def made(root: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), "--root", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_documentation_is_up_to_date() -> None:
    code, output = made(ROOT, "--check")
    assert code == 0, output


def test_templates_are_filled_in_and_stay(project: Path) -> None:
    code, output = made(project, "--check")
    assert code == 1
    assert "README.md" in output
    assert (project / "README.md").read_text() == PAGE
    assert made(project)[0] == 0
    text = (project / "README.md").read_text()
    shown = text[text.index("-->\n") + 4 : text.index("<!-- end")]
    assert shown == "| a | 1,234.57 |\n| b | 7.11e-6 |\n| c | 7.11e-6 |\n"
    assert text.replace(shown, "| a | 1.00 |\n") == PAGE
    assert made(project, "--check")[0] == 0


def test_figures_are_drawn_again_from_their_numbers(project: Path) -> None:
    options = frequencies.FrequenciesOptions(width=32, bias_ranges=(1.0, 5.0))
    outcome = frequencies.study(options, lambda *_: None)
    folder = project / "docs" / "results" / "analysis" / "frequencies-finer-sine"
    figure, *_ = write_outcome(folder, outcome, frequencies.draw(outcome))
    figure.unlink()
    assert made(project, "--check")[0] == 1
    assert not figure.exists(), "checking draws nothing"
    assert made(project)[0] == 0
    drawn = figure.read_bytes()
    assert made(project)[0] == 0
    assert figure.read_bytes() == drawn
    (folder / "other.json").write_text("{}")
    code, output = made(project)
    assert code == 1
    assert "other.json cannot be read as the outcome of an analysis" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("wrong", ['{{ results["none"].a }}', '{{ results["one"].none }}', "{% for %}", "{{ 1 / 0 }}"])
def test_a_wrong_template_gets_a_sentence(wrong: str, project: Path) -> None:
    (project / "README.md").write_text(f"\n\n<!-- results\n{wrong}\n-->\n<!-- end -->\n")
    code, output = made(project)
    assert code == 1
    assert "Traceback" not in output
    assert "none.json" in output or "README.md, line 3" in output


def test_verdicts() -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    verdict = script["verdict"]
    assert verdict(True, True) == "holds"
    assert verdict(False) == "not reproduced"
    assert verdict(True, False, True) == "in part (2 of 3)"
    assert script["decimals"](None) == "n/a"
    with pytest.raises(InputError, match="cannot be read"):
        script["Results"](ROOT / "no-such-folder")["one"]


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
            f"{run['test']['psnr']:.2f}",
            *([f"{TABLE_3[name]['lego']:.2f}"] if not nerfacto else [""]),
            f"{run['training']['parameters']:,}",
            f"{run['training']['rays_per_second']:,.0f}",
        ]
    images = {row["method"]: row for row in stored["table1_quick"]["rows"]}
    shape, stream = stored["armadillo_10_minutes"], stored["stream_div2k_00"]["ways"]["finer-sine"]
    cases = stored["benchmark_cpu"]["cases"]["image"]
    speeds = {method: row["step"]["plain_over_ours"] for method, row in cases.items()}
    sine, siren = (images[method] for method in ("finer-sine", "siren"))
    text = " ".join(README.split())
    for sentence in (
        f"A network of {4 * fields['finer-sine']['training']['parameters'] / 1000:.0f} kB",
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
