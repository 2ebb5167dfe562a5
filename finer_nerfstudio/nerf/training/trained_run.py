"""Loading a run that ``ns-train`` left."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.utils.eval_utils import eval_load_checkpoint

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.nerf.model import FinerModel
from finer_nerfstudio.nerf.training import terminal
from finer_nerfstudio.nerf.training.checkpoint_loading import damaged_checkpoint
from finer_nerfstudio.nerf.training.run_file import read_run_config


def load_run(config: Path) -> tuple[str, int, FinerModel, VanillaDataManager]:
    """Method, trained steps, model and data of a run. Nothing in its folder is run as code.

    Args:
        config: of :func:`~finer_nerfstudio.nerf.run_folder.run_config`.

    Raises:
        InputError: where its checkpoint or its pictures are missing or damaged, and for runs of other packages.
    """
    loaded = read_run_config(config)
    # Nerfstudio looks where the run was trained; a folder that has been moved since brings its weights along.
    loaded.relative_model_dir = (config.parent / loaded.relative_model_dir.name).resolve()
    loaded.load_dir = loaded.relative_model_dir
    if not any(loaded.load_dir.glob("*.ckpt")):
        raise InputError(f"the run of {config} has no checkpoint.")
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with terminal.silence():
            pipeline = loaded.pipeline.setup(device=device, test_mode="test")
            pipeline.eval()
            _, step = eval_load_checkpoint(loaded, pipeline)
    except InputError:
        raise
    except (
        FileNotFoundError,
        PermissionError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"the run of {config} cannot be loaded ({in_one_line(error)}).") from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise damaged_checkpoint(f"of {config}", error) from error
    model, data = pipeline.model, pipeline.datamanager
    if not isinstance(model, FinerModel) or not isinstance(data, VanillaDataManager):
        raise InputError(f"{config} is a run of {loaded.method_name}, not of this package.")
    return loaded.method_name or model.config.field.method, step + 1, model, data
