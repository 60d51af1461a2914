"""A config for those who have MMDetection and not this package."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from lad.base.config import kind_of
from lad.datasets import DigitsDataset
from lad.detectors.configs import deployed_name, is_distillation, trained_configs
from lad.engine.defaults import HOOKS, LOOPS
from lad.networks.exits import Exit
from lad.networks.plain_exit import plain_exit_config

import mmdet.registry
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner


class _Plain(NamedTuple):
    """MMEngine's or MMDetection's own type in the place of one of this package, and the settings that it lacks."""

    name: str
    lacks: tuple[str, ...] = ()


PLAIN = {
    **{own: _Plain(plain) for plain, own in (HOOKS | LOOPS).items()},
    "LoadCheckedImageFromFile": _Plain("LoadImageFromFile", ("on_error", "max_skips")),
    # `tools/train.py --amp` on a CPU.
    "BFloat16OptimWrapper": _Plain("OptimWrapper"),
    # Only the training uses it; weights and detections are PAAHead's.
    "BatchedPAAHead": _Plain("PAAHead", ("box_loss_weight",)),
    # Under MMDetection's own name; the backends' results are equal.
    "CocoMetric": _Plain("CocoMetric", ("backend", "frequencies")),
    "CocoDataset": _Plain("CocoDataset", ("labelled",)),
    "DigitsDataset": _Plain("CocoDataset", ("labelled",)),
}
# Of a config's variables those that something is built from.
_BUILT = (*inspect.signature(Runner.__init__).parameters, "tta_model", "tta_pipeline")


def standalone(cfg: Config) -> Config:
    """A copy of a plain detector's config without types of this package, unless it needs them.

    What this package put into the place of MMEngine's and MMDetection's own types is given back, and its hooks are left
    out; weights, evaluation and detections stay what they are. ``custom_imports`` names this package only where
    something else is its own, such as a ``PAACOPHead``.
    """
    cfg = copy.deepcopy(cfg)
    for node in _typed(cfg._cfg_dict):
        _give_back(node)
    hooks = cfg.get("default_hooks") or {}
    for name in [name for name, hook in hooks.items() if isinstance(hook, dict) and _is_own(hook)]:
        del hooks[name]
    if cfg.get("custom_hooks"):
        cfg.custom_hooks = [
            hook for hook in cfg.custom_hooks if not (isinstance(hook, dict) and _is_own(hook))
        ]
    imports = cfg.get("custom_imports")
    if imports and not any(_is_own(node) for key in _BUILT for node in _typed(cfg.get(key))):
        names = [imports["imports"]] if isinstance(imports["imports"], str) else imports["imports"]
        cfg.custom_imports["imports"] = [name for name in names if name.split(".")[0] != "lad"]
        if not cfg.custom_imports["imports"]:
            cfg.pop("custom_imports")
    return cfg


def _typed(config: Any) -> Iterator[dict]:
    """Every ``dict(type=...)`` of a config, however deep."""
    if isinstance(config, dict):
        if "type" in config:
            yield config
        for value in config.values():
            yield from _typed(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _typed(value)


def _give_back(node: dict) -> None:
    name = kind_of(node)
    if name not in PLAIN:
        return
    node["type"] = PLAIN[name].name
    for setting in PLAIN[name].lacks:
        node.pop(setting, None)
    if name == "DigitsDataset":
        node["metainfo"] = {**DigitsDataset.METAINFO, **(node.get("metainfo") or {})}


def _is_own(node: dict) -> bool:
    """Whether the type of a ``dict(type=...)`` is of this package."""
    kind, name = node["type"], kind_of(node)
    if name in {plain.name for plain in PLAIN.values()}:
        return False  # CocoMetric here is this package's, and elsewhere MMDetection's
    known = [kind]
    for registry in vars(mmdet.registry).values():
        if isinstance(registry, Registry):
            known += [part.module_dict.get(name) for part in (registry, registry.parent) if part is not None]
    return any(getattr(value, "__module__", "").split(".")[0] == "lad" for value in known)


#: Hooks that work on several networks and mean nothing in a plain detector's config.
NETWORK_HOOKS = ("RoleSwitchHook", "SaveNetworksHook", "SaveExitsHook")
#: Default hooks that a distillation has and a plain detector's training has not.
DISTILLATION_HOOKS = ("teacher_check", "phases", "exits")


def student_only(cfg: Config) -> Config:
    """The same config with a distillation's deployed network as its plain model; others are returned as they are.

    A distillation leaves a plain checkpoint of the deployed network: testing it needs no teacher. A config that
    predicts with an ensemble is returned as it is too: its test needs all networks.
    """
    if not is_distillation(cfg.model) or cfg.model.get("predict_with") is not None:
        return cfg
    return plain_configs(cfg)[deployed_name(cfg.model)]


def plain_configs(cfg: Config) -> dict[str, Config]:
    """The plain configs of the networks that a training leaves behind, by name; none if it is itself plain.

    For users of a checkpoint: ``mmdet.apis.init_detector(student.py, checkpoint)``. They test with this package's own
    types; :func:`standalone` makes them MMDetection's.
    """
    if not is_distillation(cfg.model):
        return {}
    return {name: plain_config(cfg, detector) for name, detector in trained_configs(cfg.model).items()}


def kept_exit_configs(cfg: Config) -> dict[str, Config]:
    """The plain configs of the exits that a training keeps (``keep_exits=True``), as ``NETWORK_EXIT``; else none.

    Their networks are built, to know which maps of their backbones exits read.
    """
    if not is_distillation(cfg.model) or not cfg.model.get("keep_exits"):
        return {}
    trained = trained_configs(cfg.model)
    init_default_scope("mmdet")
    configs = {}
    for name, exits in (cfg.model.get("exits") or {}).items():
        network = MODELS.build(copy.deepcopy(trained[name]))
        for own, spec in exits.items():
            exit_ = Exit(network, trained[name], spec, f"{name}.{own}")
            model = plain_exit_config(exit_, network, trained[name], f"{name}.{own}")
            configs[f"{name}_{own}"] = plain_config(cfg, model)
    return configs


def plain_config(cfg: Config, model: ConfigDict) -> Config:
    """The config of a training of several networks, with a plain detector in their place.

    Args:
        cfg: The training's.
        model: The detector's.
    """
    plain = Config(cfg._cfg_dict.to_dict(), filename=cfg.filename)
    plain.model = model
    # A run of its own, not the distillation's next part.
    plain.resume, plain.load_from = False, None
    for hook in DISTILLATION_HOOKS:
        (plain.get("default_hooks") or {}).pop(hook, None)
    plain.custom_hooks = [
        hook for hook in cfg.get("custom_hooks") or [] if kind_of(hook) not in NETWORK_HOOKS
    ]
    return plain
