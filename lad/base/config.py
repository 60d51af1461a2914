"""Read configs, and resolve a user's description of a detector into a plain model config."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from lad.errors import ConfigError, nearest

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmengine.utils import get_installed_path

#: Top-level keys of a config that are no arguments of MMEngine's ``Runner``, and that it, MMDetection or this package
#: reads.
OTHER_KEYS = {
    "activation_checkpointing",
    "bad_data",
    "compile",
    "custom_imports",
    "federation",
    "find_unused_parameters",
    "load_strict",
    "model_wrapper_cfg",
    "runner_type",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}
#: Configs and tools that come with the package, under the name where MMEngine and OpenMIM look for them.
SHIPPED = Path(__file__).resolve().parents[1] / ".mim"


def load_config(path: str) -> Config:
    """Read a config file, or one that an installed package ships (``mmdet::paa/paa_r50_fpn_1x_coco.py``).

    This package's own are ``lad::FOLDER/NAME.py``.

    Raises:
        ConfigError: there is no such file (the message names similar ones), or it cannot be read.
    """
    if "::" in path:
        package, name = path.split("::", 1)
        try:
            folder = Path(get_installed_path(package)) / ".mim" / "configs"
        except Exception as error:
            raise ConfigError(f"config {path!r}: package {package!r} is not installed.") from error
        if not (folder / name).is_file():
            known = [str(file.relative_to(folder)) for file in folder.glob("*/*.py")]
            raise ConfigError(f"there is no config {name!r} in {package}{nearest(name, known)}.")
        return _read(path, get_config)
    if not Path(path).is_file():
        known = [str(file) for file in Path(path).parent.glob("*.py")] if Path(path).parent.is_dir() else []
        raise ConfigError(f"there is no config {path!r}{nearest(path, known)}.")
    return _read(path, Config.fromfile)


def _read(path: str, read: Callable[[str], Config]) -> Config:
    try:
        return read(path)
    # A config is a program and may raise anything.
    except Exception as error:
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"config {path!r} cannot be read{where}: {type(error).__name__}: {reason}."
        ) from error


def merge_options(cfg: Config, options: Mapping[str, Any], source: str) -> None:
    """Override settings of a config, in place.

    An option may reach into a detector that the config gives by its path: ``model.student.backbone.depth=34`` makes of
    ``student='mine.py'`` the dict ``student=dict(config='mine.py', backbone=dict(depth=34))``.

    Args:
        cfg: The config.
        options: Values by dotted key.
        source: Origin of the options, for error messages.

    Raises:
        ConfigError: a key does not exist in the config.
    """
    _check_first_keys(cfg, options, source)
    for key in options:
        _open_path(cfg, key.split("."))
    try:
        cfg.merge_from_dict(copy.deepcopy(dict(options)))
    except (TypeError, KeyError, IndexError, AssertionError) as error:
        raise ConfigError(f"{source} do not fit {cfg.filename}: {error}") from error


def _check_first_keys(cfg: Config, options: Mapping[str, Any], source: str) -> None:
    """Refuse options of a top-level key that is not in the config, and that nothing reads.

    Below it, what is built from the settings refuses those that it does not take.
    """
    known = set(cfg) | set(signature(Runner.__init__).parameters) | OTHER_KEYS
    for key in options:
        first = key.split(".")[0]
        if first not in known:
            raise ConfigError(
                f"{source}: there is no setting {first!r}{nearest(first, known)}: nothing would read {key}."
            )


def _open_path(cfg: Config, key: list[str]) -> None:
    """Make a dict of the first config path that an option's key leads into."""
    holder: Any = cfg
    for name in key[:-1]:
        value = holder.get(name) if isinstance(holder, (Config, dict)) else None
        if isinstance(value, str) and value.endswith(".py") and name != "config":
            holder[name] = ConfigDict(config=value)
            return
        holder = value


def kind_of(config: Any) -> str | None:
    """Class name of a config's ``type``, without scope; the ``type`` may be a class (Python configs)."""
    kind = config.get("type") if isinstance(config, dict) else type(config)
    return kind.split(".")[-1] if isinstance(kind, str) else getattr(kind, "__name__", None)


def detector_config(spec: str | dict, role: str) -> ConfigDict:
    """Resolve the description of a detector to a plain model config.

    Args:
        spec: A config path, whose ``model`` is taken; a model config with a ``type``; or a dict with ``config``
            (a path) whose other keys override that config's ``model`` as a derived config would
            (``_delete_=True`` replaces instead of merging).
        role: Role of the detector ('student', 'teacher'), for error messages.

    Raises:
        ConfigError: the description is none of these, or the file has no ``model``.
    """
    if isinstance(spec, str):
        spec = dict(config=spec)
    if not isinstance(spec, dict):
        raise ConfigError(f"{role} must be a config path or a dict, got {type(spec).__name__}.")
    overrides: dict[str, Any] = copy.deepcopy(dict(spec))
    path = overrides.pop("config", None)
    if path is None:
        if "type" not in overrides:
            raise ConfigError(
                f"{role} needs 'config' (a path) or 'type' (a detector); got {sorted(overrides)}."
            )
        return ConfigDict(overrides)
    if not isinstance(path, str):
        raise ConfigError(
            f"{role}: config must be the path of a config file, got {type(path).__name__}; a model config itself is "
            f"given as {role}=dict(type=...)."
        )
    config = load_config(path)
    if "model" not in config:
        raise ConfigError(f"{role}: {path} has no `model`; give the config of a detector.")
    model = config.model
    if not isinstance(model, dict):
        raise ConfigError(f"{role}: `model` of {path} must be a dict, got {type(model).__name__}.")
    if {"student", "networks"} & set(model):
        raise ConfigError(f"{role}: {path} is itself a distillation config; name its student's or teacher's.")
    return ConfigDict(Config._merge_a_into_b(overrides, model))
