"""Run the parts of a detector that see the whole image, and set it to the mode in which frozen networks run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lad.base.modes import evaluating

from mmdet.models.detectors import DETR, BaseDetector, DeformableDETR, SingleStageDetector, TwoStageDetector
from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
from mmdet.structures import DetDataSample, SampleList
from torch import Tensor, nn

#: Heads that take the features alone.
DENSE_HEADS = ("bbox_head", "rpn_head")
#: Encoders of DETRs that take the features and the sizes of the images alone (Grounding DINO's takes text too).
ENCODERS = (DETR.forward_encoder, DeformableDETR.forward_encoder)
#: Feature extractions that are backbone, then neck, and nothing else.
PLAIN_FEATURES = (
    SingleStageDetector.extract_feat,
    SingleStageInstanceSegmentor.extract_feat,
    TwoStageDetector.extract_feat,
)
#: Modules whose outputs change meaning with the training flag of the head alone (FCOS multiplies boxes by the
#: stride, VFNet and RepPoints return fewer tensors in eval mode).
HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "panoptic_head", "query_head")


def dense_parts(model: BaseDetector) -> set[str]:
    """Names of the parts of a detector that :func:`run_dense` can run, whether it has them all or not."""
    encoder = ["encoder"] if getattr(type(model), "forward_encoder", None) in ENCODERS else []
    return {"backbone", "neck", *DENSE_HEADS, *encoder}


def run_dense(
    model: BaseDetector,
    inputs: Tensor,
    heads: Iterable[str] = DENSE_HEADS,
    samples: SampleList | None = None,
) -> None:
    """Run backbone, neck, dense heads and the encoder of a DETR, for the hooks that capture their outputs.

    The heads are called here: MMDetection's ``_forward`` calls their ``forward`` past the hooks.

    Args:
        model: The detector.
        inputs: Images (N, C, H, W) as its config normalises them.
        heads: Names of the heads that run, of those that it has; ``'encoder'`` for a DETR's.
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
    if "encoder" in heads and "encoder" in dense_parts(model):
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
