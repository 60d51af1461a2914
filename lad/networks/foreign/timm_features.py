"""Dense features of timm's models."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lad.errors import CheckpointError, ConfigError, UnsupportedError, nearest
from lad.networks.foreign.dense_features import DenseFeatures
from lad.networks.foreign.packages import require

from mmdet.registry import MODELS
from torch import Tensor, nn

#: Settings with which timm's families take images of any size; none where they do anyway (convolutions).
ANY_SIZE: tuple[dict[str, bool], ...] = (dict(dynamic_img_size=True), dict(strict_img_size=False), {})


@MODELS.register_module(name="timm")
class TimmFeatures(DenseFeatures):
    """Dense features of a timm model, by its ``forward_intermediates``; extra ``foundation``.

    Args:
        name: timm's name of it, such as ``'vit_small_patch14_dinov2.lvd142m'``.
        pretrained: Let timm download its weights.
        norm: Apply the final norm of a vision transformer to every layer, as DINOv2 does.
        layers, image_scale: As for :class:`DenseFeatures`. Layers are blocks of a transformer, stages of others.
        settings: Further arguments of ``timm.create_model``.

    Raises:
        ConfigError: timm has no such model.
        CheckpointError: its weights cannot be had.
        UnsupportedError: it does not tell its features.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        norm: bool = True,
        layers: Sequence[int] = (-1,),
        image_scale: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(layers, image_scale)
        self.name = name
        self.net = _create(name, pretrained, settings)
        forward = getattr(self.net, "forward_intermediates", None)
        if forward is None:
            raise UnsupportedError(
                f"timm's {name} has no forward_intermediates, so its features cannot be had; take another model."
            )
        info: Any = self.net.feature_info
        self._numbers = self.numbered(len(info), f"timm's {name}")
        self._is_vit = hasattr(self.net, "num_prefix_tokens")
        self._settings: dict[str, Any] = dict(
            indices=sorted(set(self._numbers)), norm=norm and self._is_vit, intermediates_only=True
        )
        if "stop_early" in inspect.signature(forward).parameters:
            self._settings["stop_early"] = True
        strides = [int(info[number]["reduction"]) for number in self._numbers]
        self.multiple = math.lcm(*strides)
        data = require("timm.data").resolve_model_data_config(self.net)
        self.mean, self.std = (tuple(255 * value for value in data[key]) for key in ("mean", "std"))

    def features(self, images: Tensor) -> list[Tensor]:
        """See :meth:`DenseFeatures.features`."""
        maps = self.net.forward_intermediates(images, **self._settings)  # type: ignore[operator]  # timm's
        by_number = dict(zip(self._settings["indices"], maps, strict=True))
        return [by_number[number] for number in self._numbers]

    def load(self, state: Mapping[str, Tensor], source: str) -> None:
        """See :meth:`DenseFeatures.load`; the classifier is passed over, as dense features need none."""
        classifier = (getattr(self.net, "pretrained_cfg", None) or {}).get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        own = self.net.state_dict().keys()
        kept = {
            key: value
            for key, value in state.items()
            if key in own or not any(key.startswith(f"{name}.") for name in names)
        }
        super().load(kept, source)


def _create(name: str, pretrained: bool, settings: Mapping[str, Any]) -> nn.Module:
    """The model without its classifier, for images of any size as far as its family can."""
    timm = require("timm")
    if not isinstance(name, str) or not timm.is_model(name):
        raise ConfigError(
            f"timm has no model {name!r}{nearest(str(name), timm.list_models())}; timm.list_models() has them all."
        )
    for any_size in ANY_SIZE:
        try:
            return timm.create_model(
                name, pretrained=pretrained, **dict(any_size, num_classes=0) | dict(settings)
            )
        except TypeError as error:
            # What a family does not take it names; a wrong setting of the config's is one until the end.
            if not any_size or not any(key in str(error) for key in any_size):
                raise ConfigError(f"timm's {name}: {' '.join(str(error).split())[:200]}.") from error
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"timm's {name}: its weights cannot be had ({' '.join(str(error).split())[:200]}); download them "
                "and give teacher=dict(checkpoint=FILE)."
            ) from error
    raise AssertionError("the last of ANY_SIZE returns or raises")
