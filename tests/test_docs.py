"""The documentation: links lead somewhere, the tutorial runs, the site is built, what is named exists."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import itertools
import math
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import finer_nerfstudio
from finer_nerfstudio import METHODS, preset
from finer_nerfstudio.cli.main import VERBS
from finer_nerfstudio.inr import activations
from finer_nerfstudio.inr.description import describe_activation

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
TUTORIAL = (DOCS / "tutorial.md").read_text()
MATHEMATICS = (DOCS / "mathematics.md").read_text()

# What the tutorial's commands are run with instead, in seconds.
SHORTER = {
    "--size 128 --steps 200": "--size 24 --steps 3 --width 16",
    "finer demo-scene": "finer demo-scene --size 32 --train-views 8 --val-views 2 --test-views 2 --supersampling 1",
    "--max-minutes 1": "--max-num-iterations 20 --vis tensorboard --pipeline.model.field.width 32",
}
# What test_readme.py runs, as the README has the same command.
RUN_BY_THE_README = ("ns-eval", "ns-viewer")


def prose(text: str) -> str:
    """Markdown without code and comments, which have no links and no headings."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)


def links(text: str) -> list[str]:
    """Where a page's links and pictures lead, but for those to other places of the net."""
    return re.findall(r"\]\((?!\w+:)([^)\s]+)\)", prose(text))


def anchors(text: str) -> set[str]:
    """The fragments that GitHub gives to a page's headings."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} (.+)$", prose(text), flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = "".join(c for c in words if c.isalnum() or c in "_- ").replace(" ", "-")
        number = found.get(anchor, -1) + 1
        found[anchor] = number
        if number:
            found[f"{anchor}-{number}"] = 0
    return set(found)


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    bad = []
    for link in links(page.read_text()):
        path, _, fragment = link.partition("#")
        target = page if not path else page.parent / path
        there = target.exists()
        if there and fragment:
            there = target.suffix == ".md" and fragment in anchors(target.read_text())
        if not there:
            bad.append(link)
    return bad


def blocks(language: str, text: str = TUTORIAL) -> list[str]:
    """Contents of a page's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def table(first: str, text: str = MATHEMATICS) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table whose header begins with ``first``."""
    lines = text.splitlines()
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    start = next(i for i, cells in enumerate(split) if cells and cells[0] == first)
    rows = itertools.takewhile(bool, split[start + 2 :])
    return split[start], list(rows)


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text(
        "# One `f(x)`: two, *three*\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n"
    )
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md#one-fx-two-three) [`b[0]`](other.md#twice-1) ![c](other.md) [d](#here) "
        "[e](https://example.org/none)\n<!-- [in a comment](none) -->\n\n```\n[in code](none)\n```\n"
    )
    assert broken(page) == []
    page.write_text("[a](none.md) [b](other.md#twice-2) [c](#there) [d](other.md#no-heading) ![e](none.png)\n")
    assert broken(page) == ["none.md", "other.md#twice-2", "#there", "other.md#no-heading", "none.png"]


def test_the_map_has_all_pages() -> None:
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links((DOCS / "index.md").read_text())}
    assert set(DOCS.glob("*.md")) - listed == {DOCS / "index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_exist(page: Path) -> None:
    named = re.findall(r"`((?:examples|findings|finer_nerfstudio|scripts|tests|docs)/[\w./-]*\w)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_python_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks("python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "docs/tutorial.md", "exec"), scope)
        shown = re.match(r"```\n\n```text\n(.*?)```\n", TUTORIAL[TUTORIAL.index(block) + len(block) :], re.DOTALL)
        if shown is not None:
            assert printed.getvalue() == shown[1]
    # What its sentences say of the numbers.
    assert scope["finer"].psnr > scope["siren"].psnr + 1.0
    assert scope["bias_range"] > scope["finer"].network.bias_range
    assert scope["fitted"].psnr < scope["finer"].psnr, "so large a k does less"
    with Image.open(tmp_path / "larger.png") as picture:
        assert picture.size == (256, 256)


def test_commands_of_the_tutorial(tmp_path: Path) -> None:
    script = "\n".join(blocks("sh"))
    readme = module_of(ROOT / "tests" / "test_readme.py")
    for line in script.splitlines():
        if line.startswith(RUN_BY_THE_README):
            assert line in readme.commands()
            assert line not in readme.ELSEWHERE
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    script = "\n".join(line for line in script.splitlines() if not line.startswith(RUN_BY_THE_README))
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    environment = {**os.environ, "TERM": "dumb", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", f"{script}\ntest -f $RUN/config.yml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for file in set(re.findall(r"`((?:outputs|data)/[\w./-]+)`", TUTORIAL)):
        assert (tmp_path / file).exists(), file
    with Image.open(tmp_path / "large.png") as picture:
        assert picture.size == (96, 96)


def test_the_reference_has_everything_with_docstrings() -> None:
    """Every export once, where it is defined, and each of its public methods said in words."""
    paths = re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE)
    listed = {path.rsplit(".", 1)[1]: pkgutil.resolve_name(path) for path in paths}
    assert len(listed) == len(paths)
    assert listed.keys() | {"__version__"} == set(finer_nerfstudio.__all__)
    for path, (name, target) in zip(paths, listed.items(), strict=True):
        assert target is getattr(finer_nerfstudio, name)
        if callable(target):
            assert path == f"{target.__module__}.{name}"
            # A dataclass without one gets its signature.
            assert target.__doc__
            assert not target.__doc__.startswith(f"{name}(")
        for member, method in vars(target).items() if isinstance(target, type) else ():
            if inspect.isfunction(method) and not member.startswith("_"):
                assert inspect.getdoc(getattr(target, member)), f"{name}.{member}"


def test_all_methods_are_among_the_tasks() -> None:
    listed = {row[0].strip("`") for row in table("method", (DOCS / "tasks.md").read_text())[1]}
    assert listed == METHODS.keys()


def test_the_version_is_the_same_everywhere() -> None:
    version = finer_nerfstudio.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0] == version


def test_adding_something_touches_the_files_that_contributing_names() -> None:
    """A method is added in tests/inr/test_methods.py, by what two files get."""
    package = ROOT / "finer_nerfstudio"
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(package.rglob("*.py"))}
    rows = dict(table("to add", (ROOT / "CONTRIBUTING.md").read_text())[1])
    # Who else knows of a kernel, and of an export, is one file.
    (of_kernels,) = (name for name, text in sources.items() if re.search(r"import .*\btriton_program\b", text))
    exports = {name for name, text in sources.items() if "bake_grid_to" in text}
    (of_exports,) = (name for name in exports if "/nerf/export/" not in name)
    for row, folder, other in (
        ("a kernel", "finer_nerfstudio/inr/kernels", of_kernels),
        ("an export", "finer_nerfstudio/nerf/export", of_exports),
    ):
        assert rows[row] == f"a new file in `{folder}`, `{other}`"
    assert all((package / "cli" / f"{verb.replace('-', '_')}.py").exists() for verb in VERBS)


def build_site(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the documentation whose configuration lies in a folder."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[dev]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_site_is_built(tmp_path: Path) -> None:
    done = build_site(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in DOCS.glob("*.md"):
        text = (tmp_path / f"{page.stem}.html").read_text()
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)|<link[^>]* href=\"([^\"]+)", text)
        assert [link for pair in fetched for link in pair if link.startswith(("http", "//"))] == []
    assert not (tmp_path / "templates").exists()
    reference = re.sub(r"<details.*?</details>", "", (tmp_path / "reference.html").read_text(), flags=re.DOTALL)
    assert not re.search(r":[a-z]+:(?:`|<code>)", reference), "roles are links, or code"
    assert 'href="#finer_nerfstudio.tasks.signal.array.fit_array"' in reference
    for name in finer_nerfstudio.__all__:
        assert re.search(rf'id="finer_nerfstudio[\w.]*\.{name}"', reference) or name == "__version__"


def test_a_site_with_a_broken_link_is_not_built(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "finer_nerfstudio").symlink_to(ROOT / "finer_nerfstudio")
    with (tmp_path / "docs" / "viewer.md").open("a") as page:
        page.write("\n[Nowhere](speed.md#nowhere)\n")
    done = build_site(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "nowhere" in done.stderr


def test_names_in_the_mathematics_exist() -> None:
    names = set(re.findall(r"`(finer_nerfstudio(?:\.\w+)+)`", MATHEMATICS))
    assert len(names) > 30
    for name in sorted(names):
        assert pkgutil.resolve_name(name) is not None
    for row in table("family")[1]:
        assert isinstance(getattr(activations, row[1].strip("`")), type)


def test_tables_of_the_mathematics_are_those_of_the_presets() -> None:
    values = {"1": 1.0, "1/√2": math.sqrt(1 / 2), "1/√3": math.sqrt(1 / 3)}
    header, rows = table("k")
    assert {row[0] for row in rows} == {method for method in METHODS if preset(method, "image").bias_range}
    for method, *cells in rows:
        for task, cell in zip(header[1:], cells, strict=True):
            assert preset(method, task).bias_range == pytest.approx(values[cell])  # pyright: ignore[reportArgumentType]
    _, rows = table("image")
    assert [row[0] for row in rows] == list(METHODS)
    names = {"ω0": "omega_0", "s0": "s_0", "ωf": "omega_f"}
    for method, rate, activation in rows:
        published = preset(method, "image")
        described = describe_activation(published.activation)
        described |= described.pop("variable_periodic", {})
        expected = {name: described[name] for name in names.values() if described.get(name) is not None}
        stated = {names[name]: float(value) for name, value in re.findall(r"(\w+) = ([\d.]+)", activation)}
        assert stated == expected
        assert float(rate) == published.learning_rate
        assert (f"{published.encoding_frequencies} octaves" in activation) == bool(published.encoding_frequencies)


def test_bumps_are_where_the_mathematics_has_them() -> None:
    s_0, omega_f = 30.0, 10.0
    repeated = activations.variable_periodic(activations.Gauss(s_0), omega_f=omega_f)
    n = torch.arange(6, dtype=torch.float64)
    centres = (torch.sqrt(1 + 4 * n * math.pi / omega_f) - 1) / 2
    assert torch.allclose(repeated.value(centres), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(repeated.value(-centres), torch.ones(6, dtype=torch.float64))
    # There a bump is the base activation made 2 |x_n| + 1 times narrower.
    offset = 1e-4
    nearby = repeated.value(centres + offset)
    narrowed = activations.Gauss(s_0).value((2 * centres + 1) * offset)
    assert torch.allclose(1 - nearby, 1 - narrowed, rtol=2e-3)
    valleys = (torch.sqrt(1 + 4 * (n + 0.5) * math.pi / omega_f) - 1) / 2
    assert torch.allclose(repeated.value(valleys), torch.full_like(valleys, math.exp(-((s_0 / omega_f) ** 2))))


def test_defaults_of_radiance_fields_are_those_in_the_mathematics() -> None:
    from finer_nerfstudio.nerf.configs import finer_sine

    start = MATHEMATICS.index("### Radiance fields")
    seen = 0
    for _, paper, default, options in table("", MATHEMATICS[start:])[1]:
        for option in re.findall(r"--([\w.-]+)", options):
            place: Any = finer_sine.config
            if "blender-views" in options:
                place = place.pipeline.datamanager.dataparser
            for name in option.replace("-", "_").split("."):
                place = place[name] if isinstance(place, dict) else getattr(place, name)
            cell = paper if default.startswith("the same") else default
            numbers = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", cell)]
            if isinstance(place, (int, float)) and numbers:
                assert place in numbers, option
                seen += 1
    assert seen >= 9
