"""Heavier class loss in and around objects: JITNet weighs pixels in enlarged boxes five times as much as others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from lad.base.replace import replaced

import torch
from mmdet.models.dense_heads import AnchorHead, ATSSHead, GFLHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from torch import Tensor, nn


class _Place(NamedTuple):
    """Where the boxes are among the arguments of a head's targets of an image, and the label weights in the result."""

    boxes: int
    weights: int


#: By the function that makes the targets of an image: a head that overrides it may weigh in another way.
_DENSE: dict[Callable, _Place] = {
    AnchorHead._get_targets_single: _Place(boxes=2, weights=1),
    ATSSHead._get_targets_single: _Place(boxes=3, weights=2),
    GFLHead._get_targets_single: _Place(boxes=3, weights=2),
}
#: For messages.
WORKS_WITH = (
    "RetinaNet and other anchor heads, ATSS, GFL, RPN and the box heads of Faster R-CNN and Cascade R-CNN"
)


def object_weights(
    priors: Tensor, boxes: Tensor, weights: Tensor, factor: float = 5.0, enlarged: float = 0.15
) -> Tensor:
    """Weights of priors whose centres are in enlarged boxes, multiplied; the sum of all weights stays.

    Args:
        priors: (P, 4) x1, y1, x2, y2 in pixels: anchors or proposals.
        boxes: (G, 4) likewise.
        weights: (P,) weights before; 0 where a prior does not count.
        factor: What priors in boxes weigh, relative to the others.
        enlarged: By how much of its width and height a box is enlarged, about its centre.

    Returns:
        (P,). Without boxes, the weights as they were.

    Example:
        >>> priors = torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14]])
        >>> object_weights(priors, torch.tensor([[9.0, 9, 15, 15]]), torch.ones(2))
        tensor([0.3333, 1.6667])
    """
    centres = (priors[:, :2] + priors[:, 2:]) / 2
    middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    offsets = (centres[:, None] - middles).abs()
    inside = (offsets <= halves * (1 + enlarged)).all(dim=2).any(dim=1)
    heavier = torch.where(inside, factor * weights, weights)
    return heavier * (weights.sum() / heavier.sum().clamp(min=torch.finfo(weights.dtype).tiny))


class ObjectWeighting:
    """Weighs the class losses of a detector's heads by :func:`object_weights` of the objects of a batch.

    It holds for heads that make their targets as MMDetection's anchor heads, ATSS, GFL or box heads of regions do.
    Others (FCOS, PAA, TOOD, RTMDet, YOLOX, DETR) have no label weights that stay what they are until the loss.

    Args:
        detector: The detector.
        factor: See :func:`object_weights`; 1 changes nothing.
        enlarged: Likewise.

    Attributes:
        unsupported: Class names of the heads that train without such weights.
    """

    def __init__(self, detector: BaseDetector, factor: float = 5.0, enlarged: float = 0.15) -> None:
        self._factor, self._enlarged = factor, enlarged
        self._dense: list[tuple[Any, _Place]] = []
        self._regions: list[Any] = []
        self.unsupported: list[str] = []
        if factor == 1:
            return
        for head in _heads(detector):
            single = getattr(type(head), "_get_targets_single", None)
            if single in _DENSE:
                self._dense.append((head, _DENSE[single]))
            elif getattr(type(head), "get_targets", None) is BBoxHead.get_targets:
                self._regions.append(head)
            else:
                self.unsupported.append(type(head).__name__)

    @contextmanager
    def applied(self, boxes: Sequence[Tensor]) -> Iterator[None]:
        """Weigh the losses that are computed in the block.

        Args:
            boxes: (G, 4) boxes of each image of the batch, in pixels of the network's input.
        """
        with ExitStack() as stack:
            for head, place in self._dense:
                weighted = self._weighted_dense(head._get_targets_single, place)
                stack.enter_context(replaced(head, "_get_targets_single", weighted))
            for head in self._regions:
                stack.enter_context(
                    replaced(head, "get_targets", self._weighted_regions(head.get_targets, boxes))
                )
            yield

    def _weights(self, priors: Tensor | BaseBoxes, boxes: Tensor | BaseBoxes, weights: Tensor) -> Tensor:
        boxes = get_box_tensor(boxes).to(weights.device, non_blocking=True)
        return object_weights(get_box_tensor(priors), boxes, weights, self._factor, self._enlarged)

    def _weighted_dense(self, function: Callable[..., tuple], place: _Place) -> Callable[..., tuple]:
        def targets(*args: Any, **kwargs: Any) -> tuple:
            result = list(function(*args, **kwargs))
            result[place.weights] = self._weights(args[0], args[place.boxes].bboxes, result[place.weights])
            return tuple(result)

        return targets

    def _weighted_regions(
        self, function: Callable[..., tuple], boxes: Sequence[Tensor]
    ) -> Callable[..., tuple]:
        def targets(sampling_results: list, *args: Any, **kwargs: Any) -> tuple:
            labels, weights, *others = function(sampling_results, *args, **kwargs)
            concatenated = isinstance(weights, Tensor)
            counts = [len(result.priors) for result in sampling_results]
            images = weights.split(counts) if concatenated else weights
            found = [
                self._weights(result.priors, own, image)
                for result, own, image in zip(sampling_results, boxes, images, strict=True)
            ]
            return (labels, torch.cat(found) if concatenated else found, *others)

        return targets


def _heads(detector: BaseDetector) -> list[nn.Module]:
    """The heads of a detector that classify: dense ones, the RPN's, those of regions."""
    found = [
        head for name in ("rpn_head", "bbox_head") if (head := getattr(detector, name, None)) is not None
    ]
    regions = getattr(getattr(detector, "roi_head", None), "bbox_head", None)
    if regions is not None:
        found += list(regions) if isinstance(regions, nn.ModuleList) else [regions]
    return found
