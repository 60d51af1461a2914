"""Run the parts of a detector that see the whole image, and set it to the mode in which frozen networks run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lad.base.capture import root_of
from lad.base.modes import evaluating

from mmdet.models.detectors import (
    DETR,
    BaseDetector,
    DeformableDETR,
    DetectionTransformer,
    SingleStageDetector,
    TwoStageDetector,
)
from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
from mmdet.structures import DetDataSample, SampleList
from torch import Tensor, nn

#: Heads that take the features alone.
DENSE_HEADS = ("bbox_head", "rpn_head")
#: The module of CondInst and SOLOv2 that makes mask features of the whole image out of the features alone; what else a
#: mask head does needs objects.
MASK_FEATURES = "mask_head.mask_feature_head"
#: Encoders of DETRs that take the features and the sizes of the images alone (Grounding DINO's takes text too).
ENCODERS = (DETR.forward_encoder, DeformableDETR.forward_encoder)
#: Feature extractions that are backbone, then neck, and nothing else.
PLAIN_FEATURES = (
    DetectionTransformer.extract_feat,
    SingleStageDetector.extract_feat,
    SingleStageInstanceSegmentor.extract_feat,
    TwoStageDetector.extract_feat,
)
#: Modules whose outputs change meaning with the training flag of the head alone (FCOS multiplies boxes by the
#: stride, VFNet and RepPoints return fewer tensors in eval mode).
HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "panoptic_head", "query_head")


def dense_parts(model: BaseDetector) -> set[str]:
    """Names of the parts of a detector that :func:`run_dense` can run, whether it has them all or not."""
    parts = {"backbone", "neck", *DENSE_HEADS}
    if getattr(type(model), "forward_encoder", None) in ENCODERS:
        parts.add("encoder")
    if isinstance(getattr(getattr(model, "mask_head", None), "mask_feature_head", None), nn.Module):
        parts.add(MASK_FEATURES)
    return parts


def part_of(name: str) -> str:
    """The part of a detector to which the module of a name belongs; one of :func:`dense_parts`, or another root."""
    is_mask_features = f"{name}.".replace("[", ".").replace(":", ".").startswith(f"{MASK_FEATURES}.")
    return MASK_FEATURES if is_mask_features else root_of(name)


def run_dense(
    model: BaseDetector,
    inputs: Tensor,
    heads: Iterable[str] = DENSE_HEADS,
    samples: SampleList | None = None,
) -> None:
    """Run backbone, neck, dense heads, mask features, the encoder of a DETR, for the hooks that capture their outputs.

    The heads are called here: MMDetection's ``_forward`` calls their ``forward`` past the hooks.

    Args:
        model: The detector.
        inputs: Images (N, C, H, W) as its config normalises them.
        heads: Names of the heads that run, of those that it has; ``'encoder'`` for a DETR's, :data:`MASK_FEATURES`.
        samples: Sizes of the images, which an encoder needs; by default they fill the batch.
    """
    if set(heads) == {"backbone"} and type(model).extract_feat in PLAIN_FEATURES:
        # No hook captures the neck.
        model.backbone(inputs)
        return
    features = model.extract_feat(inputs)
    for name in DENSE_HEADS:
        if name in heads and isinstance(getattr(model, name, None), nn.Module):  # SOLO's bbox_head is None
            getattr(model, name)(features)
    parts = dense_parts(model) & set(heads)
    if MASK_FEATURES in parts:
        model.mask_head.mask_feature_head(features)
    if "encoder" in parts:
        size = tuple(inputs.shape[2:])
        whole = [DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size)) for _ in inputs]
        encoder_inputs, _ = model.pre_transformer(features, samples or whole)
        model.forward_encoder(**encoder_inputs)


def set_head_flags(model: BaseDetector) -> None:
    """Set the training flag of a detector and of its heads alone, so that heads return what they do in training."""
    model.training = True
    for name in HEADS:
        if isinstance(getattr(model, name, None), nn.Module):
            getattr(model, name).training = True


@contextmanager
def frozen_mode(model: BaseDetector) -> Iterator[None]:
    """Temporarily set a detector to the mode of a frozen one: modules in eval mode, head outputs as in training."""
    with evaluating(model):
        set_head_flags(model)
        yield
