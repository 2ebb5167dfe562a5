"""Runs are read as data: all that ours consist of comes back as it was, and nothing else is built or called."""

from __future__ import annotations

import copy
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.configs.dataparser_configs import all_dataparsers

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf import configs
from finer_nerfstudio.nerf.run_folder import run_config
from finer_nerfstudio.nerf.training.run_file import read_run_config
from finer_nerfstudio.nerf.training.trained_run import load_run

METHODS = {name: value.config for name, value in configs.SPECIFICATIONS.items()}
PARSERS = sorted(set(all_dataparsers) - {"minimal-parser"})


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_configuration_comes_back(method: str, tmp_path: Path) -> None:
    config = METHODS[method]
    assert read_run_config(written(tmp_path, yaml.dump(config))) == config


@pytest.mark.parametrize("parser", PARSERS)
def test_every_parsers_configuration_comes_back(parser: str, tmp_path: Path) -> None:
    config = copy.deepcopy(METHODS["finer-sine"])
    config.pipeline.datamanager.dataparser = all_dataparsers[parser]  # pyright: ignore[reportAttributeAccessIssue]
    config.data = Path("somewhere/else")
    assert read_run_config(written(tmp_path, yaml.dump(config))) == config


def test_options_that_an_older_version_did_not_have_get_their_defaults(tmp_path: Path) -> None:
    lines = yaml.dump(METHODS["finer-sine"]).splitlines()
    kept = [line for line in lines if "max_minutes" not in line and "color_depth" not in line]
    assert len(kept) == len(lines) - 2
    assert read_run_config(written(tmp_path, "\n".join(kept))) == METHODS["finer-sine"]


def test_runs_with_pytorchs_adam_are_read(tmp_path: Path) -> None:
    text = yaml.dump(METHODS["finer-sine"])
    assert "finer_nerfstudio.nerf.training.optimizer.Adam" in text
    former = text.replace("finer_nerfstudio.nerf.training.optimizer.Adam", "torch.optim.adam.Adam")
    found = read_run_config(written(tmp_path, former))
    assert found.optimizers["fields"]["optimizer"]._target is torch.optim.Adam


# As they stand in config.yml of version 0.1.
FORMER_NAMES = (
    "batches.SceneBatches",
    "dataparser.BlenderViews",
    "dataparser.BlenderViewsDataParserConfig",
    "field.FinerFieldConfig",
    "growing_field.GrowingFieldConfig",
    "model.FinerModelConfig",
    "pipeline.FinerPipeline",
    "pipeline.FinerPipelineConfig",
    "trainer.AdamConfig",
    "trainer.DecayOverTraining",
    "trainer.DecayOverTrainingConfig",
    "trainer.FinerTrainer",
    "trainer.FinerTrainerConfig",
)


def test_runs_of_version_0_1_are_read(tmp_path: Path) -> None:
    configs = [METHODS["finer-sine"], METHODS["finer-sine-stream"]]
    text = yaml.dump(configs)
    for name in FORMER_NAMES:
        text, found = re.subn(rf"finer_nerfstudio\.nerf\.([a-z_]+\.)*{name}\b", f"finer_nerfstudio.nerf.{name}", text)
        assert found, name
    assert yaml.load(text, Loader=yaml.Loader) == configs, "as Nerfstudio's own commands do"
    for config in configs:
        text = yaml.dump(config)
        for name in FORMER_NAMES:
            text = re.sub(rf"finer_nerfstudio\.nerf\.([a-z_]+\.)*{name}\b", f"finer_nerfstudio.nerf.{name}", text)
        assert read_run_config(written(tmp_path, text)) == config


@pytest.mark.parametrize(
    "value",
    [
        "!!python/name:builtins.print ''",
        "!!python/object/apply:builtins.print ['built']",
        "!!python/object/apply:nerfstudio.engine.trainer.Trainer [1]",
        "!!python/object:nerfstudio.data.dataparsers.minimal_dataparser.MinimalDataParserConfig {}",
        "!!python/object/new:builtins.print ['built']",
        "!!python/module:this ''",
    ],
)
def test_what_no_run_has_is_neither_built_nor_called(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = yaml.dump(METHODS["finer-sine"]).replace("max_minutes: null", f"max_minutes: {value}")
    with pytest.raises(InputError, match=r"config\.yml is not the configuration of a run of this package \(") as raised:
        read_run_config(written(tmp_path, text))
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == ""


@given(st.data())
def test_damaged_configurations_get_a_sentence(data: st.DataObject) -> None:
    text = bytearray(yaml.dump(METHODS["finer-sine"]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yml"
        path.write_bytes(text)
        with suppress(InputError):
            read_run_config(path)


@pytest.mark.parametrize("text", ["", "[]", "a: 1", "!!python/tuple [1]", "? {}\n: 1", "&a [*a]", "- " * 5000])
def test_other_yaml_is_no_run(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the configuration of a run"):
        read_run_config(written(tmp_path, text))


def test_a_run_without_checkpoint_gets_a_sentence(tmp_path: Path) -> None:
    written(tmp_path, yaml.dump(METHODS["finer-sine"]))
    with pytest.raises(InputError, match="has no checkpoint"):
        load_run(run_config(tmp_path))
