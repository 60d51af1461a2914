"""Exits: auxiliary predictors on a truncated backbone, which are trained with their network and not deployed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lad.base.capture import levels_of
from lad.base.modes import evaluating
from lad.base.replace import replaced
from lad.errors import ConfigError, UnsupportedError
from lad.networks.dry_run import DRY_RUN_SIZE, dry_run

from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector, DetectionTransformer, SingleStageDetector
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor, nn

#: What an exit's config may set.
KEYS = ("levels", "neck", "bbox_head")


class TruncatedBackbone(nn.Module):
    """Some of the feature maps of another network's backbone, whose weights it does not own.

    Within :meth:`sharing` they are the maps that the network has computed already; elsewhere its backbone runs.

    Args:
        backbone: The network's backbone; not registered here.
        levels: Numbers of its output maps.
    """

    def __init__(self, backbone: nn.Module, levels: Sequence[int]) -> None:
        super().__init__()
        self._backbone = (backbone,)
        self.levels = tuple(levels)
        self.maps: Sequence[Tensor] | None = None

    def sharing(self, maps: Sequence[Tensor]) -> AbstractContextManager:
        """A context in which the maps of the backbone are given."""
        return replaced(self, "maps", maps)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The chosen maps of images (N, C, H, W)."""
        maps = self._run(inputs) if self.maps is None else self.maps
        return tuple(maps[level] for level in self.levels)

    def _run(self, inputs: Tensor) -> Sequence[Tensor]:
        """All maps of the backbone, whose batch norms must not learn where the exit is in eval mode."""
        backbone = self._backbone[0]
        with nullcontext() if self.training else evaluating(backbone):
            return backbone(inputs)


class Exit(SingleStageDetector):
    """Dense detector of a truncated backbone: a neck and a head of its own on the maps of its network.

    By default the neck is MMDetection's ``ChannelMapper``, which makes as many levels as the head has strides, and the
    head is the network's with a single convolution in its towers, so that its priors are the network's. (Auxiliary
    classifiers of Zhang et al., "Be Your Own Teacher", ICCV 2019.)

    Args:
        network: The trained network, a single-stage detector.
        model: Its config.
        config: ``levels``, the numbers of the backbone's output maps; optionally ``neck`` and ``bbox_head``, settings
            that override the defaults.
        name: For messages.

    Attributes:
        neck_config, head_config: Configs of its neck and its head.
        plain_config: Config of the plain detector that it is, where exits are kept; else None. See
            :func:`lad.networks.plain_exit.plain_exit_config`.
        plain_keys: Names of that detector's weights.

    Raises:
        ConfigError: unknown keys or levels.
        UnsupportedError: the network has no dense head whose priors an exit could share.
    """

    plain_config: ConfigDict | None = None
    plain_keys: tuple[str, ...] = ()

    def __init__(self, network: BaseDetector, model: ConfigDict, config: dict, name: str) -> None:
        BaseDetector.__init__(self)
        check_exit(network, config, name)
        maps = levels_of(dry_run(network, ["backbone"]).calls("backbone"))
        levels = config["levels"]
        if not all(type(level) is int and 0 <= level < len(maps) for level in levels) or not levels:
            raise ConfigError(
                f"exit {name}: levels must be numbers of the backbone's {len(maps)} output maps, 0 to {len(maps) - 1}, "
                f"got {levels!r}."
            )
        head = network.bbox_head
        check_levels(head, maps, levels, name)
        self.backbone = TruncatedBackbone(network.backbone, levels)
        neck = dict(
            type="ChannelMapper",
            in_channels=[maps[level].shape[1] for level in levels],
            out_channels=head.in_channels,
            kernel_size=3,
            num_outs=len(head.prior_generator.strides),
        )
        self.neck_config = ConfigDict(neck | dict(config.get("neck") or {}))
        self.head_config = ConfigDict(head_config(model) | dict(config.get("bbox_head") or {}))
        self.neck = MODELS.build(copy.deepcopy(self.neck_config))
        self.bbox_head = MODELS.build(copy.deepcopy(self.head_config))
        self.train_cfg, self.test_cfg = network.train_cfg, network.test_cfg
        check_outputs(self, network, name)


def check_outputs(exit_: Exit, network: BaseDetector, name: str) -> None:
    """Refuse an exit whose predictions have other shapes than its network's.

    Raises:
        ConfigError: names the settings to change.
    """
    shapes = []
    try:
        for model in (exit_, network):
            outputs = dry_run(model, ["bbox_head"]).calls("bbox_head")
            shapes.append([tuple(level.shape) for level in levels_of(outputs)])
    except (AssertionError, RuntimeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(f"exit {name}: its neck and bbox_head do not fit together: {reason}.") from error
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"exit {name}: it predicts {len(shapes[0])} maps {shapes[0][:1]} for zero images and its network "
            f"{len(shapes[1])} maps {shapes[1][:1]}: leave out what changes classes, levels or priors in its neck and "
            "bbox_head."
        )


def check_levels(head: BaseDenseHead, maps: Sequence[Tensor], levels: Sequence[int], name: str) -> None:
    """Refuse maps of other strides than the head's first levels, whose priors an exit would not share.

    Args:
        head: The network's head.
        maps: The maps of the network's backbone in a dry run.
        levels: Numbers of the exit's.
        name: For messages.

    Raises:
        ConfigError: names the levels that would work.
    """
    strides = [stride[0] if isinstance(stride, tuple) else stride for stride in head.prior_generator.strides]
    own = [DRY_RUN_SIZE[0] // each.shape[-2] for each in maps]
    if [own[level] for level in levels] != strides[: len(levels)]:
        first = own.index(strides[0]) if strides[0] in own else None
        fitting = "its network's neck makes its first level itself" if first is None else f"levels=[{first}]"
        raise ConfigError(
            f"exit {name}: the backbone's maps {list(levels)} have strides {[own[level] for level in levels]} and the "
            f"head's first levels {strides[: len(levels)]}; begin where the head does: {fitting}."
        )


def head_config(model: ConfigDict) -> dict[str, Any]:
    """The config of an exit's head: the network's, with a single convolution in its towers."""
    head = copy.deepcopy(model.bbox_head.to_dict())
    head |= {key: copy.deepcopy(model.get(key)) for key in ("train_cfg", "test_cfg")}
    if "stacked_convs" in settings_of(MODELS.get(head["type"])):
        head["stacked_convs"] = 1
    return ConfigDict(head)


def settings_of(kind: type) -> set[str]:
    """Names of the settings of a class and of the classes whose ``**kwargs`` it passes on."""
    inits = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    return {name for init in inits for name in inspect.signature(init).parameters}


def check_exit(network: BaseDetector, config: Any, name: str) -> None:
    """Refuse an exit's config and a network that cannot have exits.

    Raises:
        ConfigError, UnsupportedError: see :class:`Exit`.
    """
    if not isinstance(config, dict) or "levels" not in config or set(config) - set(KEYS):
        raise ConfigError(
            f"exit {name}: an exit is dict(levels=[1]), optionally with neck=dict(...) and bbox_head=dict(...), got "
            f"{config!r}."
        )
    for part in ("neck", "bbox_head"):
        if not isinstance(config.get(part, {}), dict):
            raise ConfigError(f"exit {name}: {part} must be a dict of settings, got {config[part]!r}.")
    if not isinstance(config["levels"], (list, tuple)):
        raise ConfigError(f"exit {name}: levels must be a list such as [1], got {config['levels']!r}.")
    dense = isinstance(network, SingleStageDetector) and not isinstance(network, DetectionTransformer)
    head = getattr(network, "bbox_head", None)
    one_width = isinstance(getattr(head, "in_channels", None), int)  # SSD's has a width a level
    if not dense or not one_width or not hasattr(head, "prior_generator"):
        raise UnsupportedError(
            f"exit {name}: {type(network).__name__} has no dense head whose priors an exit could share; exits work on "
            "single-stage detectors such as RetinaNet, FCOS, ATSS, GFL, PAA, TOOD and RTMDet."
        )
