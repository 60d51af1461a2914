"""Models of dense features in the place of a detector that teaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.base.config import kind_of
from lad.base.modes import evaluating
from lad.errors import ConfigError, LadError, UnsupportedError
from lad.networks.channels import zero_images
from lad.networks.foreign.dense_features import DenseFeatures
from lad.networks.foreign.module_features import ModuleFeatures
from lad.networks.foreign.weights import read_weights, without_prefix
from lad.networks.gives import FEATURES
from lad.networks.speed import TeacherSpeed

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from torch import Tensor

#: Height and width of the image that a model is tried with, in pixels. In a smaller one Swin's windows of 7 do not fit
#: into the last stage.
TRIED = (256, 320)


@MODELS.register_module()
class FeatureTeacher(BaseDetector):
    """Teacher of dense features that is no detector, such as a foundation model.

    It has a ``backbone`` and nothing else: the maps of its layers are ``'backbone[0]'``, ``'backbone[1]'`` and so on.
    Its images are normalised as the model itself wants them, and resized to what its patches divide.

    Args:
        model: ``dict(type='timm', name=...)`` (:class:`lad.networks.foreign.timm_features.TimmFeatures`),
            ``dict(type='transformers', name=...)``
            (:class:`lad.networks.foreign.transformers_features.TransformersFeatures`), or the config of a registered
            module that returns maps, such as ``dict(type='ResNet', depth=50)``.
        layers: Numbers of the layers (blocks, stages, or outputs of a registered module) whose maps it gives.
        mean, std: Normalisation of images in pixel values from 0 to 255, for RGB; by default the model's own.
        bgr: Whether the model wants BGR images.
        image_scale: Factor of the size of its images: 0.875 gives patches of 14 pixels the stride 16.
        data_preprocessor: Not used; ``mean``, ``std`` and ``bgr`` make it.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: the model does not tell its normalisation, or has no such layer.
    """

    gives = (FEATURES,)

    def __init__(
        self,
        model: dict,
        layers: int | Sequence[int] = (-1,),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr: bool = False,
        image_scale: float = 1.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if not isinstance(model, dict) or not model.get("type"):
            raise ConfigError(
                "FeatureTeacher: model must be like dict(type='timm', name='vit_small_patch14_dinov2'), "
                f"dict(type='transformers', name=...) or the config of a registered module, got {model!r:.80}."
            )
        settings: dict[str, Any] = dict(
            layers=(layers,) if isinstance(layers, int) else layers, image_scale=image_scale
        )
        kind = MODELS.get(model["type"]) if isinstance(model["type"], str) else model["type"]
        own = isinstance(kind, type) and issubclass(kind, DenseFeatures)
        backbone = _build(dict(model, **settings)) if own else ModuleFeatures(model, **settings)
        mean, std = (backbone.mean if mean is None else mean), (backbone.std if std is None else std)
        if mean is None or std is None:
            raise ConfigError(
                f"FeatureTeacher: {kind_of(model)} does not tell how its images are normalised: give mean and std in "
                "pixel values, such as mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]."
            )
        super().__init__(
            data_preprocessor=dict(
                type="DetDataPreprocessor", mean=list(mean), std=list(std), bgr_to_rgb=not bgr
            ),
            init_cfg=init_cfg,
        )
        self.backbone = backbone

    def prepare(self, path: str | None, speed: TeacherSpeed, owner: str) -> dict:
        """Load a file of the model's weights, key by key, and see that the model takes the teacher's options.

        Args:
            path: A file of safetensors or of PyTorch; None where the model has fetched its own weights.
            speed: The options.
            owner: Whose weights they are, for messages.

        Returns:
            An empty dict: such files record no class names.

        Raises:
            CheckpointError: missing, unexpected or mismatched keys; an unreadable file.
            ConfigError: an option that does not go with such models.
            UnsupportedError: the model takes images of one size alone, or gives no maps.
        """
        if speed.fuse:
            raise ConfigError(
                f"{owner}: speed=dict(fuse=True) folds batch norms as MMDetection orders them, and other models may "
                "have an activation in theirs: leave out fuse."
            )
        if path is not None:
            state = without_prefix(read_weights(path, owner), self.backbone.net.state_dict())
            self.backbone.load(state, f"{owner}: checkpoint {path}")
        self._try(owner)
        return {}

    @torch.no_grad()
    def _try(self, owner: str) -> None:
        """Refuse a model that a small image that is no square cannot be shown to."""
        images = zero_images(self, num=1, size=TRIED)
        try:
            with evaluating(self):
                maps = self.backbone(images)
        except LadError:
            raise
        # Any model of any package may come here.
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise UnsupportedError(
                f"{owner}: images of {TRIED[0]} x {TRIED[1]} pixels cannot be shown to it ({type(error).__name__}: "
                f"{reason}): take a model for images of any size, and layers that it has."
            ) from error
        if any(not isinstance(each, Tensor) or each.dim() != 4 for each in maps):
            raise UnsupportedError(
                f"{owner}: its layers are no feature maps; take other layers, or another model."
            )

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """Maps of the chosen layers."""
        return self.backbone(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Refused: it is not trained."""
        raise UnsupportedError("FeatureTeacher has no loss: it teaches, teacher=dict(type='FeatureTeacher').")

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs: Any) -> SampleList:
        """Refused: it has no head that detects."""
        raise UnsupportedError("FeatureTeacher has no head, so it detects nothing.")

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> Any:
        return self.extract_feat(batch_inputs)


def _build(config: dict) -> Any:
    try:
        return MODELS.build(config)
    except TypeError as error:
        raise ConfigError(f"FeatureTeacher: model: {error}.") from error


def fetches_weights(spec: Any) -> bool:
    """Whether a teacher's config is that of a model that fetches its own weights when it is built."""
    model = spec.get("model") if isinstance(spec, dict) else None
    return kind_of(spec) == FeatureTeacher.__name__ and bool(
        isinstance(model, dict) and model.get("pretrained")
    )
