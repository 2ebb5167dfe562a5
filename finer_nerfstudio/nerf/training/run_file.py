"""Reading a run's ``config.yml`` without running what it says.

Nerfstudio writes its configuration as YAML that names Python objects, and its own commands build whatever is named. The
reader here knows the classes that a run of this package consists of, and no others, so that a run folder from a
stranger is data.
"""

from __future__ import annotations

import dataclasses
import enum
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.configs.dataparser_configs import all_dataparsers
from yaml.constructor import ConstructorError

from finer_nerfstudio.errors import InputError, in_one_line
from finer_nerfstudio.nerf import configs
from finer_nerfstudio.nerf.training.former_names import current_name
from finer_nerfstudio.nerf.training.trainer import FinerTrainerConfig

# Its files are numpy arrays that may hold pickled objects.
_PARSERS_THAT_RUN_CODE = ("minimal-parser",)
_PATHS = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath")
# A configuration is some ten kilobytes long.
_LARGEST = 1 << 20


def read_run_config(path: Path) -> FinerTrainerConfig:
    """Return the configuration of a training run of this package. Options that it lacks have their defaults.

    Args:
        path: the ``config.yml`` that ``ns-train`` left.

    Raises:
        InputError: for files that cannot be read, and where something is named that no run of this package has.
    """
    try:
        is_too_large = path.stat().st_size > _LARGEST
        config = None if is_too_large else yaml.load(path.read_text(encoding="utf-8"), Loader=_RunLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is not the configuration of a run of this package ({_reason(error)}): name the "
            f"config.yml that ns-train left."
        ) from error
    if is_too_large:
        raise InputError(f"{path} is too large for the configuration of a run.")
    if not isinstance(config, FinerTrainerConfig):
        raise InputError(
            f"{path} is not the configuration of a run of this package: name the config.yml that ns-train left."
        )
    return config


def _reason(error: Exception) -> str:
    if isinstance(error, ConstructorError) and error.problem:
        return error.problem
    return in_one_line(error)


class _RunLoader(yaml.SafeLoader):
    """YAML's safe loader, with the classes, functions and enumerations of our methods' configurations."""


def _build_object(loader: _RunLoader, name: str, node: yaml.Node) -> Any:
    cls = _known(name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConstructorError(problem=f"{name} is no configuration")
    built = cls.__new__(cls)
    yield built
    values = loader.construct_mapping(node, deep=True)  # pyright: ignore[reportArgumentType]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [str(key) for key in values if key not in fields]
    if unknown:
        raise ConstructorError(problem=f"{name} has no option {unknown[0]}: was it trained with another version?")
    for field in fields.values():
        if field.name in values:
            continue
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
        else:
            raise ConstructorError(problem=f"{name} lacks {field.name}")
    built.__dict__.update({str(name): value for name, value in values.items()})


def _build_call(loader: _RunLoader, name: str, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node, deep=True)  # pyright: ignore[reportArgumentType]
    if name in _PATHS:
        return Path(*map(str, arguments))
    cls = _known(name)
    if isinstance(cls, type) and issubclass(cls, enum.Enum):
        return cls(*arguments)
    raise ConstructorError(problem=f"{name} is not to be called")


def _name(loader: _RunLoader, name: str, node: yaml.Node) -> Any:
    return _known(name)


def _tuple(loader: _RunLoader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))  # pyright: ignore[reportArgumentType]


_RunLoader.add_multi_constructor("tag:yaml.org,2002:python/object:", _build_object)
_RunLoader.add_multi_constructor("tag:yaml.org,2002:python/object/apply:", _build_call)
_RunLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", _name)
_RunLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def _known(name: str) -> Any:
    found = _parts().get(current_name(name))
    if found is None:
        raise ConstructorError(problem=f"it names {name!r}, which no run of this package has")
    return found


@cache
def _parts() -> dict[str, Any]:
    """Classes and functions that our methods' configurations consist of, by their full names."""
    found: dict[str, Any] = {}

    def add(part: Any) -> None:
        if isinstance(part, type) or callable(part):
            found[f"{part.__module__}.{part.__qualname__}"] = part
        elif dataclasses.is_dataclass(part) or isinstance(part, enum.Enum):
            add(type(part))
            if dataclasses.is_dataclass(part):
                for field in dataclasses.fields(part):
                    add(getattr(part, field.name))
        elif isinstance(part, dict):
            for value in part.values():
                add(value)
        elif isinstance(part, (list, tuple)):
            for value in part:
                add(value)

    for specification in configs.SPECIFICATIONS.values():
        add(specification.config)
    add(torch.optim.Adam)  # of runs before we had our own
    for name, parser in all_dataparsers.items():
        if name not in _PARSERS_THAT_RUN_CODE:
            add(parser)
    return found
