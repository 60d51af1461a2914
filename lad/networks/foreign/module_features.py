"""Dense features of registered modules, such as MMDetection's backbones."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import levels_of
from lad.base.config import kind_of
from lad.networks.connectors import tokens_to_map
from lad.networks.foreign.dense_features import DenseFeatures

from mmdet.registry import MODELS
from torch import Tensor


class ModuleFeatures(DenseFeatures):
    """Dense features of a registered module: those of its outputs that are chosen.

    Args:
        config: The module's config. It is called with images and returns maps (n, C, H, W) or sequences of tokens
            (n, L, C) without further tokens, in any nesting of lists, tuples and dicts.
        layers: Numbers of its outputs.
        image_scale: As for :class:`DenseFeatures`.
        multiple: Sides of images must be multiples of so many pixels.
    """

    def __init__(
        self,
        config: dict,
        layers: Sequence[int] = (-1,),
        image_scale: float = 1.0,
        multiple: int = 32,
    ) -> None:
        super().__init__(layers, image_scale)
        self.label = str(kind_of(config))
        self.net = MODELS.build(config)
        self.multiple = multiple

    def features(self, images: Tensor) -> list[Tensor]:
        """See :meth:`DenseFeatures.features`."""
        outputs = levels_of([self.net(images)])
        size = (images.shape[-2], images.shape[-1])
        chosen = [outputs[number] for number in self.numbered(len(outputs), self.label)]
        return [tokens_to_map(each, size) if each.dim() == 3 else each for each in chosen]
