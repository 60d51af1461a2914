"""Which heads of a detector predict instance masks, and whether a pipeline loads what they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.datasets.configured import loads_masks, transforms_of
from lad.errors import ConfigError

from mmdet.models.data_preprocessors import BoxInstDataPreprocessor
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from torch import nn

#: What MMDetection calls the modules that predict instance masks, in a detector or in one of its heads.
MASK_HEADS = ("mask_head", "mask_iou_head", "point_head", "panoptic_head")


def mask_heads(model: BaseDetector) -> dict[str, nn.Module]:
    """The heads of a detector that predict instance masks, by their names in it; of all that it trains.

    A cascade has one for each stage, ``roi_head.mask_head.0`` and so on. Frozen teachers are no modules of a
    distillation detector: ask for theirs with ``mask_heads(teacher.model)``.

    Args:
        model: A plain detector, or a distillation detector, whose names begin with ``student.`` or ``peers.NAME.``.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if _is_mask_head(name) and not isinstance(module, nn.ModuleList)
    }


def _is_mask_head(name: str) -> bool:
    *_, owner, own = ["", *name.split(".")]
    return own in MASK_HEADS or (own.isdecimal() and owner in MASK_HEADS)


def predicts_masks(model: BaseDetector) -> bool:
    """Whether a detector, or one of the networks that it trains, predicts instance masks."""
    return bool(mask_heads(model))


def learns_from_masks(model: BaseDetector) -> bool:
    """Whether the own loss of a detector needs ``gt_instances.masks`` of the data; BoxInst makes masks from boxes."""
    return predicts_masks(model) and not isinstance(model.data_preprocessor, BoxInstDataPreprocessor)


def num_mask_classes(head: nn.Module) -> int | None:
    """Number of classes that a mask head tells apart: labels must be below; None if masks do not depend on the class.

    Args:
        head: One of :func:`mask_heads`.
    """
    if getattr(head, "class_agnostic", False):
        return None
    # MaskFormer counts regions that are no objects as well.
    count = getattr(head, "num_things_classes", getattr(head, "num_classes", None))
    return count if isinstance(count, int) else None


def samples_for(network: BaseDetector, data_samples: SampleList) -> SampleList:
    """Data samples for one of several networks, whose loss may change the ground truth that it is given.

    Heads of RTMDet-Ins replace the masks by tensors, and RTMDet's assigner cannot read masks that are none: a network
    that predicts no masks gets none.

    Args:
        network: The network or exit.
        data_samples: Those of all networks; left as they are.
    """
    own, wants_masks = [], predicts_masks(network)
    for sample in data_samples:  # of objects on the host
        twin = sample.clone()
        twin.gt_instances = sample.gt_instances.clone()
        if "masks" in twin.gt_instances and not wants_masks:
            del twin.gt_instances.masks
        own.append(twin)
    return own


def check_loads_masks(model: BaseDetector, pipeline: Sequence[Any], where: str = "train_dataloader") -> None:
    """Refuse a training pipeline that leaves out the masks that a detector learns from.

    Annotations that no transform of a known kind loads are passed over.

    Args:
        model: The detector that is trained.
        pipeline: The pipeline's transforms, as dicts; also those inside of others.
        where: What to call the pipeline in the message.

    Raises:
        ConfigError: names the mask head and the transform.
    """
    if not learns_from_masks(model):
        return
    loads = [loaded for step in transforms_of(pipeline) if (loaded := loads_masks(step)) is not None]
    if loads and not any(loads):
        name, head = next(iter(mask_heads(model).items()))
        raise ConfigError(
            f"{name.removeprefix('student.')} ({type(head).__name__}) learns masks, and the pipeline of {where} loads "
            "none: set with_mask=True of its LoadAnnotations."
        )
