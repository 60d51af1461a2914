"""Non-maximum suppression of a batch with outputs of a fixed size, and its translation to ONNX."""

from __future__ import annotations

from typing import Any

from lad.errors import UnsupportedError

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

#: Settings of ``test_cfg.nms`` that the exported operator follows.
_KNOWN = {"type", "iou_threshold", "class_agnostic", "split_thr"}


def check_nms(cfg: dict, where: str) -> None:
    """Refuse a suppression that ONNX has no operator for.

    Raises:
        UnsupportedError: soft-NMS, or a setting that is not known here.
    """
    kind, more = cfg.get("type", "nms"), sorted(set(cfg) - _KNOWN)
    if kind != "nms" or more:
        what = f"type={kind!r}" if kind != "nms" else f"the settings {', '.join(more)}"
        raise UnsupportedError(
            f"{where}: {what} cannot be exported, ONNX has plain non-maximum suppression alone: set "
            "type='nms' and iou_threshold with --cfg-options, or export with onedl-mmdeploy."
        )


def best_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict, num: int) -> tuple[Tensor, Tensor]:
    """The best boxes of each image after suppression within each class, as MMCV's ``batched_nms`` finds them.

    Boxes of different classes are moved apart instead of being compared, as MMCV does: both round alike.

    Args:
        boxes: (B, K, 4) in pixels.
        scores: (B, K); a box of score 0 is none.
        labels: (B, K) long.
        cfg: ``test_cfg.nms`` of a head.
        num: N, the number of boxes that are kept of an image, at most.

    Returns:
        (B, N) long, indices of the kept boxes by descending score, -1 behind them, and (B,) long, how many they are.
    """
    if not cfg.get("class_agnostic", False):
        extent = torch.where((scores > 0)[..., None], boxes, 0).amax((1, 2))
        boxes = boxes + (labels * (extent + 1)[:, None])[..., None]
    # MMCV rounds the threshold to float32 too.
    return suppress(boxes, scores, float(np.float32(cfg["iou_threshold"])), min(num, boxes.shape[1]))


@torch.library.custom_op("lad::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, num: int) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression of each image alone; an operator, so that ONNX's can stand for it as a whole.

    Arguments and results are those of :func:`best_boxes`.
    """
    indices = boxes.new_full((len(boxes), num), -1, dtype=torch.int64)
    counts = boxes.new_zeros(len(boxes), dtype=torch.int64)
    for image in range(len(boxes)):  # the reference of the exported operator: not on the path of a training
        (present,) = (scores[image] > 0).nonzero(as_tuple=True)
        kept = present[nms(boxes[image, present], scores[image, present], iou_threshold)][:num]
        indices[image, : len(kept)] = kept
        counts[image] = len(kept)
    return indices, counts


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, num: int) -> tuple[Tensor, Tensor]:
    batch = boxes.shape[0]
    return boxes.new_empty((batch, num), dtype=torch.int64), boxes.new_empty((batch,), dtype=torch.int64)


def suppress_in_onnx(boxes: Any, scores: Any, iou_threshold: float, num: int) -> tuple[Any, Any]:
    """:func:`suppress` in ONNX's operators: ``NonMaxSuppression`` with one class, and its rows put into place.

    Its rows (image, class, box) come image by image, each by descending score, at most ``num`` of an image.
    """
    from onnxscript import opset18

    op: Any = opset18

    def axis(number: int) -> Any:
        return op.Constant(value_ints=[number])

    kept = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, axis(1)),
        axis(num),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),
    )
    image = op.Gather(kept, op.Constant(value_int=0), axis=1)
    box = op.Gather(kept, op.Constant(value_int=2), axis=1)
    batch = op.Shape(boxes, start=0, end=1)
    ones = op.Expand(op.Constant(value_int=1), op.Shape(image))
    none = op.Expand(op.Constant(value_int=0), batch)
    counts = op.ScatterElements(none, image, ones, axis=0, reduction="add")
    # The place of a row among those of its image: its number less the number of the image's first row.
    zero = op.Constant(value_int=0)
    place = op.Sub(op.CumSum(ones, zero, exclusive=1), op.Gather(op.CumSum(counts, zero, exclusive=1), image))
    where = op.Concat(op.Unsqueeze(image, axis(1)), op.Unsqueeze(place, axis(1)), axis=1)
    empty = op.Expand(op.Constant(value_int=-1), op.Concat(batch, axis(num), axis=0))
    return op.ScatterND(empty, where, box), counts


#: For ``torch.onnx.export(custom_translation_table=...)``.
TRANSLATIONS: dict[Any, Any] = {torch.ops.lad.suppress.default: suppress_in_onnx}
