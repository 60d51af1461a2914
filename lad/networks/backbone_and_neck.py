"""Backbone and neck of a detector without its heads."""

from __future__ import annotations

from typing import Any

from lad.base.config import detector_config
from lad.errors import ConfigError, UnsupportedError
from lad.networks.gives import FEATURES

import torch
from mmdet.models.detectors import BaseDetector, SingleStageDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmengine.config import ConfigDict
from torch import Tensor

#: Settings of a data preprocessor that concern labels, or change the size of a batch's images and boxes together.
OF_LABELS = ("batch_augments", "pad_mask", "mask_pad_value", "pad_seg", "seg_pad_value", "boxtype2tensor")


@MODELS.register_module()
class BackboneAndNeck(BaseDetector):
    """Backbone and neck of a detector; its state dict has the keys that they have in the detector.

    Args:
        backbone, neck, data_preprocessor: Configs, as in the detector's.
        init_cfg: As in MMEngine.
    """

    gives = (FEATURES,)
    # Backbone, then neck.
    extract_feat = SingleStageDetector.extract_feat

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        if neck is not None:
            self.neck = MODELS.build(neck)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Refused: it has no head to train."""
        raise UnsupportedError("backbone and neck alone have no loss: train them by a method without labels.")

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs: Any) -> SampleList:
        """Refused: it has no head that detects."""
        raise UnsupportedError(
            "backbone and neck without heads detect nothing: set val_dataloader, val_cfg and val_evaluator to None."
        )

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> Any:
        return self.extract_feat(batch_inputs)


def backbone_and_neck_config(spec: str | dict, role: str) -> ConfigDict:
    """The config of :class:`BackboneAndNeck` of a detector.

    Args:
        spec: Description of the detector, as :func:`lad.base.config.detector_config` takes it.
        role: Its role, for messages.

    Raises:
        ConfigError: it describes no detector with a backbone.
    """
    config = detector_config(spec, role)
    if not isinstance(config.get("backbone"), dict):
        raise ConfigError(
            f"{role}: {config.get('type')} has no `backbone` of MMDetection's to train; give another detector."
        )
    preprocessor = {
        key: value for key, value in (config.get("data_preprocessor") or {}).items() if key not in OF_LABELS
    }
    preprocessor.setdefault("type", "DetDataPreprocessor")
    return ConfigDict(
        type="BackboneAndNeck",
        backbone=config.backbone,
        neck=config.get("neck"),
        data_preprocessor=preprocessor,
    )


def pooled_features(network: BaseDetector, inputs: Tensor) -> Tensor:
    """Mean of each feature map, those of all levels side by side: (N, sum of the levels' channels).

    Args:
        network: A detector.
        inputs: Images (N, C, H, W) as its config normalises them.

    Raises:
        UnsupportedError: backbone and neck give something else than a series of maps.
    """
    features = network.extract_feat(inputs)
    levels = (features,) if isinstance(features, Tensor) else tuple(features)
    if not levels or not all(isinstance(level, Tensor) and level.dim() == 4 for level in levels):
        raise UnsupportedError(
            f"{type(network).__name__}: backbone and neck do not give a series of feature maps (N, C, H, W); give a "
            "detector whose neck does, or leave the neck out with neck=None."
        )
    # Levels differ in size, and there are at most six.
    return torch.cat([level.mean(dim=(2, 3)) for level in levels], dim=1)
