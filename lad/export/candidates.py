"""Boxes of a dense head before suppression, for a batch of any size, by the head's own decoding."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from lad.base.replace import replaced
from lad.export.batching import for_each_image

import torch
from mmdet.models.dense_heads import YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.gfl_head import Integral
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Scored boxes of a batch.

    Attributes:
        boxes: (B, K, 4) x1, y1, x2, y2 in pixels of the input.
        scores: (B, K), or (B, K, C) where a box has a score for each class; 0 where it is below the threshold.
        labels: (B, K) long, classes (levels in an RPN); None where scores are for each class.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor | None

    def per_class(self) -> Candidates:
        """A box and class for each score, (B, K * C)."""
        if self.labels is not None:
            return self
        num_classes = self.scores.shape[2]
        labels = torch.arange(num_classes, device=self.scores.device)
        return Candidates(
            boxes=self.boxes.repeat_interleave(num_classes, dim=1),
            scores=self.scores.flatten(1),
            labels=labels.repeat(self.boxes.shape[1]).expand(self.scores.flatten(1).shape),
        )


def topk_of_fixed_size(
    scores: Tensor, score_thr: float, topk: int, results: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """MMDetection's ``filter_scores_and_topk`` with results of a fixed size: scores that are too low become 0.

    Args:
        scores: (P, C) of the priors of one level.
        score_thr: Lowest score, exclusive.
        topk: How many pairs of a prior and a class are kept, at most; -1 for all.
        results: (P, ...) each, what else is known about the priors.

    Returns:
        (K,) scores in descending order, (K,) labels, (K,) priors, and the results of these priors.
    """
    flat = torch.where(scores > score_thr, scores, 0).flatten()
    best, index = flat.topk(flat.numel() if topk < 0 else min(topk, flat.numel()))
    prior = torch.div(index, scores.shape[1], rounding_mode="floor")
    return best, index % scores.shape[1], prior, {name: value[prior] for name, value in results.items()}


@contextmanager
def _fixed_sizes(head: BaseDenseHead) -> Iterator[list[tuple[int, int]]]:
    """Within the block the head predicts its candidates, as many as there can be, and does not suppress any.

    Yields:
        The shapes to which its coder was asked to clip; it does not, as its slices with a step fix the batch size.
    """
    shapes: list[tuple[int, int]] = []
    own = head.bbox_coder.decode

    def decode(*args: Any, max_shape: tuple[int, int] | None = None, **kwargs: Any) -> Tensor:
        if max_shape is not None and getattr(head.bbox_coder, "clip_border", True):
            shapes.append(max_shape)
        return own(*args, **kwargs)

    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("mmdet.models.dense_heads.") and hasattr(module, "filter_scores_and_topk")
    ]
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(replaced(module, "filter_scores_and_topk", topk_of_fixed_size))
        stack.enter_context(replaced(head, "_bbox_post_process", lambda results, *args, **kwargs: results))
        stack.enter_context(replaced(head.bbox_coder, "decode", decode))
        if hasattr(head, "integral"):
            stack.enter_context(replaced(head.integral, "forward", partial(_integral, head.integral)))
        yield shapes


def dense_candidates(
    head: BaseDenseHead, outputs: tuple[list[Tensor] | None, ...], shape: tuple[int, int]
) -> Candidates:
    """What a head's own ``predict_by_feat`` has before its post-processing.

    Args:
        head: A one-stage head, or an RPN.
        outputs: What its ``forward`` returned, (B, channels, H, W) a level.
        shape: Height and width of the input, in pixels; boxes are clipped to it where the head's are.
    """
    if isinstance(head, YOLOXHead):
        return _yolox_candidates(head, outputs)
    lengths = [None if levels is None else len(levels) for levels in outputs]
    fields: list[str] = []

    def predict(*levels: Tensor) -> tuple[Tensor, ...]:
        rest = iter(levels)
        one = [None if n is None else [next(rest)[None] for _ in range(n)] for n in lengths]
        (results,) = head.predict_by_feat(*one, batch_img_metas=[dict(img_shape=shape)])
        fields[:] = [name for name in _FIELDS if name in results]
        return tuple(results[name] for name in fields)

    with _fixed_sizes(head) as clipped:
        tensors = for_each_image(predict, *(level for levels in outputs for level in levels or ()))
    named = dict(zip(fields, tensors, strict=True))
    boxes = clip(named["bboxes"], shape) if clipped else named["bboxes"]
    scores = named["scores"]
    cfg = head.test_cfg
    if scores.dim() == 3:  # PAA: a score for each class, multiplied by the IoU in the root
        scores = (scores * named["score_factors"][..., None]).sqrt()
        scores = torch.where(scores > cfg.score_thr, scores, 0)
        return Candidates(boxes, scores, None)
    if "score_factors" in named:
        scores = scores * named["score_factors"]
    if cfg.get("min_bbox_size", -1) >= 0:
        size = boxes[..., 2:] - boxes[..., :2]
        scores = torch.where((size > cfg.min_bbox_size).all(-1), scores, 0)
    return Candidates(boxes, scores, named["labels"] if "labels" in named else named["level_ids"])


def _integral(own: Integral, logits: Tensor) -> Tensor:
    """GFL's mean distances; its own ``linear`` with a vector as weight trips PyTorch's exporter up.

    Args:
        own: The head's module.
        logits: (..., 4 * (n + 1)) of the distances 0 to n.

    Returns:
        (-1, 4).
    """
    return (logits.reshape(-1, 4, own.reg_max + 1).softmax(-1) * own.project).sum(-1)


#: Of the results of MMDetection's heads.
_FIELDS = ("bboxes", "scores", "labels", "level_ids", "score_factors")


def _yolox_candidates(head: YOLOXHead, outputs: tuple[list[Tensor] | None, ...]) -> Candidates:
    """YOLOX filters within its loop over images, so its steps before that are made here, with its own decoding."""
    cls_scores, bbox_preds, objectnesses = outputs
    assert cls_scores is not None
    assert bbox_preds is not None
    assert objectnesses is not None
    priors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in cls_scores],
        dtype=cls_scores[0].dtype,
        device=cls_scores[0].device,
        with_stride=True,
    )
    boxes = head._bbox_decode(torch.cat(priors), _flat(bbox_preds))
    scores, labels = _flat(cls_scores).sigmoid().max(-1)
    scores = scores * _flat(objectnesses)[..., 0].sigmoid()
    return Candidates(boxes, torch.where(scores >= head.test_cfg.score_thr, scores, 0), labels)


def _flat(levels: list[Tensor]) -> Tensor:
    """(B, P, channels) of one prior a cell; the length of a tensor would fix the batch size."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def clip(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) within an image of (height, width) pixels."""
    height, width = shape
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
