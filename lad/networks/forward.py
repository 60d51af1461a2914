"""Run the parts of a detector that see the whole image."""

from __future__ import annotations

from collections.abc import Iterable

from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from torch import Tensor, nn

# Heads that take the features alone.
DENSE_HEADS = ("bbox_head", "rpn_head")


# Ways to features that are backbone, then neck, and nothing else.
PLAIN_FEATURES = (SingleStageDetector.extract_feat, TwoStageDetector.extract_feat)


# Modules whose outputs change meaning with the training flag of the head alone (FCOS multiplies boxes by the
# stride, VFNet and RepPoints return fewer tensors in eval mode).
HEADS = ("bbox_head", "rpn_head", "roi_head", "mask_head", "query_head")


def run_dense(model: nn.Module, inputs: Tensor, heads: Iterable[str] = DENSE_HEADS) -> None:
    """Run backbone, neck and those of the dense heads that a detector has, for whoever listens to them.

    The heads are called here: MMDetection's ``_forward`` calls their ``forward`` past the hooks.
    """
    if set(heads) == {"backbone"} and type(model).extract_feat in PLAIN_FEATURES:
        # Nobody listens to the neck.
        model.backbone(inputs)
        return
    features = model.extract_feat(inputs)
    for name in DENSE_HEADS:
        if name in heads and hasattr(model, name):
            getattr(model, name)(features)
