"""Types of the values in a config, checked before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lad.errors import ConfigError

from mmengine.config import Config
from mmengine.optim import OptimWrapper

_DICT: tuple[type, ...] = (Mapping,)
_SERIES: tuple[type, ...] = (list, tuple)
# What MMEngine's runner takes under its names; None is "not given" for all of them.
_TYPES: dict[str, tuple[type, ...]] = {
    "model": _DICT,
    "train_dataloader": _DICT,
    "val_dataloader": _DICT,
    "test_dataloader": _DICT,
    "train_cfg": _DICT,
    "val_cfg": _DICT,
    "test_cfg": _DICT,
    "optim_wrapper": _DICT,
    "auto_scale_lr": _DICT,
    "default_hooks": _DICT,
    "data_preprocessor": _DICT,
    "env_cfg": _DICT,
    "log_processor": _DICT,
    "randomness": _DICT,
    "visualizer": _DICT,
    "custom_imports": _DICT,
    "tta_model": _DICT,
    "param_scheduler": (*_DICT, *_SERIES),
    "val_evaluator": (*_DICT, *_SERIES),
    "test_evaluator": (*_DICT, *_SERIES),
    "custom_hooks": _SERIES,
    "tta_pipeline": _SERIES,
    "load_from": (str,),
    "work_dir": (str,),
    "default_scope": (str,),
    "experiment_name": (str,),
    "launcher": (str,),
    "log_level": (str, int),
    "resume": (bool,),
    "load_strict": (bool,),
}
# Likewise for values inside them, by dotted name.
_INNER_TYPES: dict[str, tuple[type, ...]] = {
    "train_dataloader.dataset": _DICT,
    "val_dataloader.dataset": _DICT,
    "test_dataloader.dataset": _DICT,
    "optim_wrapper.optimizer": _DICT,
    "optim_wrapper.paramwise_cfg": _DICT,
    "optim_wrapper.accumulative_counts": (int,),
    "randomness.seed": (int,),
    "custom_imports.imports": (str, *_SERIES),
    "auto_scale_lr.base_batch_size": (int,),
    "auto_scale_lr.enable": (bool,),
    "visualizer.vis_backends": _SERIES,
    "model.student_loss": (bool,),
    "model.keep_exits": (bool,),
}
_NAMES = {
    Mapping: "a dict",
    list: "a list",
    tuple: "",
    str: "a text",
    int: "an integer",
    bool: "True or False",
}
#: Keys whose items are configs, or None where one is disabled.
_OF_CONFIGS = ("default_hooks", "custom_hooks", "param_scheduler", "visualizer.vis_backends", "tta_pipeline")


def check_types(cfg: Config | Mapping[str, Any]) -> None:
    """Refuse values of a type that nothing can be built from.

    Args:
        cfg: A config for training or testing.

    Raises:
        ConfigError: names the setting, what it must be, and what it is.
    """
    settings = cfg._cfg_dict if isinstance(cfg, Config) else cfg
    for path, types in {**_TYPES, **_INNER_TYPES}.items():
        value = _find(settings, path)
        is_flag = isinstance(value, bool) and int in types and bool not in types
        if value is not None and (not isinstance(value, types) or is_flag):
            expected = " or ".join(filter(None, (_NAMES[kind] for kind in types)))
            raise ConfigError(f"{path} must be {expected}, got {shown(value)}.")
    wrapper = settings.get("optim_wrapper")
    if isinstance(wrapper, Mapping) and not _has_optimizer(wrapper):
        raise ConfigError(
            f"optim_wrapper must be like dict(optimizer=dict(type='SGD', lr=0.01)), got {shown(wrapper)}."
        )
    for path in _OF_CONFIGS:
        value = _find(settings, path)
        if isinstance(value, Mapping) and "type" in value:
            continue  # a single one
        keys = value if isinstance(value, Mapping) else range(len(value or ()))
        for key in keys:
            item = value[key]
            # A schedule of several optimizers is a dict of lists; objects that are built already pass.
            is_nested = path == "param_scheduler" and isinstance(item, _SERIES)
            if not (item is None or is_nested or isinstance(item, Mapping) or hasattr(item, "__dict__")):
                raise ConfigError(f"{path}.{key} must be a dict, got {shown(item)}.")
    _check_kinds(settings, "")


def _has_optimizer(wrapper: Mapping[str, Any]) -> bool:
    # Wrappers that are built already may be given by name.
    built = bool(wrapper) and all(isinstance(item, OptimWrapper) for item in wrapper.values())
    return built or not {"type", "constructor", "optimizer"}.isdisjoint(wrapper)


def _find(cfg: Mapping[str, Any], path: str) -> Any:
    value: Any = cfg
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _check_kinds(config: Any, path: str) -> None:
    """Refuse a ``type`` that is neither a name nor a class or function, at any depth."""
    start = f"{path}." if path else ""
    if isinstance(config, Mapping):
        for key in ("type", "_scope_"):
            kind = config.get(key, "")
            if not isinstance(kind, str) and not callable(kind):
                raise ConfigError(f"{start}{key} must be the name of a class, got {shown(kind)}.")
        for key, value in config.items():
            _check_kinds(value, f"{start}{key}")
    elif isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            _check_kinds(value, f"{start}{number}")


def shown(value: Any) -> str:
    """Type and beginning of a value, for messages."""
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"
