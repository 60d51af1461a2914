"""Values in a config, compared with what the classes and functions take that they are given to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lad.base.config import detector_config
from lad.cli.config_types import shown
from lad.cli.setting_kinds import DICT, FLAG, NUMBER, Expected, expected_setting
from lad.detectors import DistillationDetector
from lad.errors import ConfigError

import mmcv.ops
import mmdet.registry
import mmengine.registry
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    TestLoop,
    ValLoop,
    set_random_seed,
)
from torch.utils.data import DataLoader

#: What settings without a ``type`` are given to, by their name at the top of a config.
_AT_THE_TOP: dict[str, tuple[Callable, ...]] = {
    "train_dataloader": (DataLoader,),
    "val_dataloader": (DataLoader,),
    "test_dataloader": (DataLoader,),
    "train_cfg": (EpochBasedTrainLoop, IterBasedTrainLoop),
    "val_cfg": (ValLoop,),
    "test_cfg": (TestLoop,),
    "log_processor": (LogProcessor,),
    "randomness": (set_random_seed,),
}
#: Likewise at any depth; a ``type`` in them is no name of a registry.
_ANYWHERE: dict[str, tuple[Callable, ...]] = {
    "clip_grad": (torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_),
    "nms": (mmcv.ops.nms, mmcv.ops.soft_nms),
}
_NUMBER, _FLAG = Expected(frozenset({NUMBER})), Expected(frozenset({FLAG}))
_DICT = Expected(frozenset({DICT}))
#: Settings that MMDetection 3.3 and MMEngine 0.10.7 read from dicts without a ``type`` (``train_cfg`` and ``test_cfg``
#: of detectors, ``paramwise_cfg``), where no annotation says what they take.
_UNTYPED: dict[str, Expected] = {
    **dict.fromkeys(
        (
            "score_thr", "nms_pre", "nms_post", "max_per_img", "max_per_image", "max_num", "nms_thr", "conf_thr",
            "iou_thr", "mask_thr", "mask_thr_binary", "filter_thr", "pos_weight", "allowed_border", "neg_pos_ratio",
            "mask_size",
            "num_points", "oversample_ratio", "importance_sample_ratio", "subdivision_steps", "subdivision_num_points",
            "object_mask_thr", "mask_overlap", "corner_topk", "local_maximum_kernel", "distance_threshold", "topk",
            "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult", "dwconv_decay_mult",
            "dcn_offset_lr_mult", "lr_mult", "decay_mult", "decay_rate", "base_batch_size",
        ),
        _NUMBER,
    ),
    "min_bbox_size": _NUMBER,
    "custom_keys": _DICT,
    **dict.fromkeys(
        (
            "cudnn_benchmark", "debug", "bypass_duplicate", "panoptic_on", "semantic_on", "instance_on",
            "filter_low_score", "nms_across_levels",
        ),
        _FLAG,
    ),
}  # fmt: skip


def check_settings(cfg: Config | Mapping[str, Any]) -> None:
    """Refuse values of another kind than the classes take that are built from them.

    What a class takes is read from the annotations and the defaults of its constructor and those of its bases. Only
    clear contradictions are refused, such as a text for a number: annotations are often narrower than the code.

    Args:
        cfg: A config for training or testing.

    Raises:
        ConfigError: names the setting, what it must be, and what it is.
    """
    for message in contradictions(cfg):
        raise ConfigError(message)


def contradictions(cfg: Config | Mapping[str, Any]) -> list[str]:
    """All messages of :func:`check_settings`."""
    return list(_contradictions(resolved_settings(cfg), "", _classes_by_name()))


def resolved_settings(cfg: Config | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config, with the model configs that a distillation names by their files."""
    settings = dict(cfg._cfg_dict if isinstance(cfg, Config) else cfg)
    model = settings.get("model")
    if isinstance(model, Mapping):
        settings["model"] = {key: _resolved(value, key) for key, value in model.items()}
        for key in ("networks", "teachers"):
            if isinstance(model.get(key), Mapping):
                settings["model"][key] = {name: _resolved(spec, name) for name, spec in model[key].items()}
    return settings


def has_setting(cfg: Config, path: str) -> bool:
    """Whether a config itself, without what it names by files, has a setting."""
    value: Any = cfg._cfg_dict
    for key in path.split("."):
        if isinstance(value, (list, tuple)) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            return False
    return True


def _resolved(spec: Any, role: str) -> Any:
    named = spec if role == "student" else None
    if isinstance(spec, Mapping) and "type" not in spec:
        named = spec.get("config")
    try:
        return detector_config(spec, role) if isinstance(named, str) else spec
    except ConfigError:  # the answer is that of the build
        return spec


def _classes_by_name() -> dict[str, list[Callable]]:
    """What the registries hold, by name without scope; classes of several registries may share a name."""
    known: dict[str, list[Callable]] = {}
    registries = {
        id(part): part
        for module in (mmdet.registry, mmengine.registry)
        for part in vars(module).values()
        if isinstance(part, Registry)
    }
    for registry in registries.values():
        registry.import_from_location()
        for name, kind in registry.module_dict.items():
            if kind not in known.setdefault(name, []):
                known[name].append(kind)
    return known


def _takers(settings: Mapping, path: str, known: Mapping[str, list[Callable]]) -> tuple[Callable, ...]:
    """The classes or functions that a dict of settings may be given to; none where that is unknown."""
    name = path.rpartition(".")[2]
    if name in _ANYWHERE:
        return _ANYWHERE[name]
    kind = settings.get("type")
    if kind is None:
        return _AT_THE_TOP.get(path, ())
    found = known.get(kind.rpartition(".")[2], ()) if isinstance(kind, str) else (kind,)
    # Distilling detectors check what they are given themselves, with advice.
    return tuple(one for one in found if callable(one) and one is not DistillationDetector)


def _contradictions(config: Any, path: str, known: Mapping[str, list[Callable]]) -> Iterator[str]:
    start = f"{path}." if path else ""
    if isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from _contradictions(value, f"{start}{number}", known)
    if not isinstance(config, Mapping):
        return
    name, takers = path.rpartition(".")[2], _takers(config, path, known)
    # In custom_keys the names are the parameters', and their values dicts.
    untyped = "type" not in config and path and not path.endswith("custom_keys")
    for key, value in config.items():
        if key != "type":
            says = [expected_setting(taker, str(key)) for taker in takers]
            expected = [one for one in says if one is not None]
            owner = " or ".join(sorted({getattr(taker, "__name__", str(taker)) for taker in takers}))
            if untyped and not expected and key in _UNTYPED:
                expected, owner = [_UNTYPED[key]], ""
            refused = [one.refuses(value) for one in expected]
            if name in _ANYWHERE and _is_number_as_text(value):
                continue
            # Where several classes have the name of a type, one that may take the value is enough.
            may_take = "type" in config and name not in _ANYWHERE and len(expected) < len(says)
            if refused and all(refused) and not may_take:
                yield f"{start}{key} {refused[0]}{f' ({owner})' if owner else ''}, got {shown(value)}."
                continue
        yield from _contradictions(value, f"{start}{key}", known)


def _is_number_as_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
