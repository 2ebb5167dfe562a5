"""Loading a run that ``ns-train`` left."""

from __future__ import annotations

from pathlib import Path

from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.eval_utils import eval_setup
from yaml import YAMLError

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.model import FinerModel


def run_config(run: Path) -> Path:
    """The config.yml of a run that is named by it or by its folder.

    Raises:
        InputError: where there is none.
    """
    path = run / "config.yml" if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"{run} is no trained run: name the folder with its config.yml, which ns-train prints.")
    return path


def load_run(config: Path) -> tuple[str, int, FinerModel, VanillaDataManager]:
    """Method, trained steps, model and data of a run.

    Args:
        config: of :func:`run_config`.

    Raises:
        InputError: where its checkpoint or its pictures are missing, and for runs of other packages.
    """

    def beside_config(trainer: TrainerConfig) -> TrainerConfig:
        # Nerfstudio looks where the run was trained; a folder that has been moved since brings its weights along.
        trainer.relative_model_dir = (config.parent / trainer.relative_model_dir).resolve()
        return trainer

    try:
        loaded, pipeline, _, step = eval_setup(config, update_config_callback=beside_config)
    except SystemExit:
        raise InputError(f"the run of {config} has no checkpoint.") from None
    except (OSError, ValueError, AssertionError, KeyError, RuntimeError, YAMLError) as error:
        raise InputError(f"the run of {config} cannot be loaded ({error}).") from error
    model, data = pipeline.model, pipeline.datamanager
    if not isinstance(model, FinerModel) or not isinstance(data, VanillaDataManager):
        raise InputError(f"{config} is a run of {loaded.method_name}, not of this package.")
    return loaded.method_name or model.config.field.method, step + 1, model, data
