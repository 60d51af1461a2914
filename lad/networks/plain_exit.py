"""An exit as a detector of its own: the config and the weights of a truncated plain MMDetection detector."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lad.errors import UnsupportedError
from lad.networks.exits import Exit, settings_of

import torch
from mmdet.models.backbones import CSPDarknet, CSPNeXt, RegNet, ResNet
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor, nn

#: Settings of a ResNet with one value for each stage.
_PER_STAGE = ("strides", "dilations", "stage_with_dcn", "stage_with_sac")


def plain_exit_config(exit_: Exit, network: BaseDetector, model: ConfigDict, name: str) -> ConfigDict:
    """The config of the plain detector that an exit is: its network's type with a shorter backbone.

    It is built once, to be sure that its weights are those of the exit and of its network's backbone.

    Args:
        exit_: The exit.
        network: Its network.
        model: The network's config.
        name: The exit's name, for messages.

    Raises:
        UnsupportedError: no config gives the exit's maps alone; the message names the backbone.
    """
    config = ConfigDict(copy.deepcopy(model.to_dict()))
    config.backbone = truncated_backbone(network.backbone, model.backbone, exit_.backbone.levels, name)
    config.neck = copy.deepcopy(exit_.neck_config)
    # MMDetection's detectors hand these to their heads themselves.
    config.bbox_head = ConfigDict(
        {key: value for key, value in exit_.head_config.items() if key not in ("train_cfg", "test_cfg")}
    )
    with torch.random.fork_rng(devices=[]):
        plain = MODELS.build(copy.deepcopy(config))
    known = {**_prefixed(network.backbone, "backbone."), **exit_.state_dict()}
    wanted = plain.state_dict()
    wrong = [key for key, value in wanted.items() if key not in known or known[key].shape != value.shape]
    if wrong or (left := [key for key in exit_.state_dict() if key not in wanted]):
        key = wrong[0] if wrong else left[0]
        raise UnsupportedError(
            f"exit {name}: a {type(plain).__name__} with a shorter {type(plain.backbone).__name__} has other weights "
            f"than the exit, {key} among them: leave out keep_exits."
        )
    exit_.plain_keys = tuple(wanted)
    return config


def truncated_backbone(
    backbone: nn.Module, config: Mapping[str, Any], levels: Sequence[int], name: str
) -> ConfigDict:
    """The config of a backbone without the stages behind the last of some of its maps.

    ResNets (but RegNets) and the backbones of YOLOX and RTMDet are shortened; others keep their stages and return fewer
    maps.

    Args:
        backbone: The backbone.
        config: Its config.
        levels: Numbers of its output maps.
        name: The exit's name, for messages.

    Raises:
        UnsupportedError: the backbone returns all its maps, whatever its config.
    """
    shorter = ConfigDict(copy.deepcopy(dict(config)))
    indices = getattr(backbone, "out_indices", None)
    if indices is None or "out_indices" not in settings_of(type(backbone)):
        raise UnsupportedError(
            f"exit {name}: {type(backbone).__name__} has no out_indices and returns all of its maps, of which a plain "
            "detector's neck cannot choose: leave out keep_exits."
        )
    chosen = tuple(indices[level] for level in levels)
    shorter.out_indices = chosen
    if isinstance(backbone, ResNet) and not isinstance(backbone, RegNet):
        _shorten_resnet(shorter, backbone, max(chosen) + 1)
    elif isinstance(backbone, (CSPDarknet, CSPNeXt)):
        # Stage 1 follows the stem, which is number 0.
        stages = (
            config.get("arch_ovewrite")
            or backbone.arch_settings[config.get("arch", _default(backbone, "arch"))]
        )
        shorter.arch_ovewrite = [list(stage) for stage in stages[: max(chosen)]]
        shorter.frozen_stages = min(backbone.frozen_stages, max(chosen))
    return shorter


def _shorten_resnet(config: ConfigDict, backbone: ResNet, stages: int) -> None:
    config.num_stages = stages
    config.frozen_stages = min(backbone.frozen_stages, stages)
    for key in _PER_STAGE:
        if key in settings_of(type(backbone)):
            value = config.get(key, _default(backbone, key))
            if value is not None:
                config[key] = tuple(value)[:stages]
    for plugin in config.get("plugins") or ():
        if plugin.get("stages") is not None:
            plugin["stages"] = tuple(plugin["stages"])[:stages]


def _default(backbone: nn.Module, setting: str) -> Any:
    """Default of a setting of a backbone's class."""
    for base in type(backbone).__mro__:
        init = vars(base).get("__init__")
        if init is not None and setting in inspect.signature(init).parameters:
            return inspect.signature(init).parameters[setting].default
    return None


def plain_exit_state(
    state: Mapping[str, Tensor], network: Mapping[str, Tensor], keys: Sequence[str]
) -> dict[str, Tensor]:
    """State dict of the plain detector that an exit is.

    Args:
        state: State dict of the exit: its neck and its head.
        network: State dict of its network, for the backbone.
        keys: Names of the plain detector's weights (:attr:`Exit.plain_keys`).
    """
    return {key: network[key] if key.startswith("backbone.") else state[key] for key in keys}


def _prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in module.state_dict().items()}
