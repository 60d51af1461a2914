"""Detectors as modules of tensors alone: images in, boxes, scores and labels out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import NamedTuple

from lad.assignment.score_voting import voting_weights
from lad.base.replace import replaced
from lad.export.candidates import Candidates, clip, dense_candidates
from lad.export.nms import best_boxes

import torch
from mmdet.models.dense_heads import PAAHead, TOODHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torch.nn.functional import grid_sample
from torchvision.ops import roi_align


class Found(NamedTuple):
    """Detections of a batch, in the order of the exported file's outputs.

    Attributes:
        boxes: (B, N, 4) float, x1, y1, x2, y2 in pixels of the input; 0 behind an image's last.
        scores: (B, N) float; 0 behind an image's last.
        labels: (B, N) long, numbers of the classes; -1 behind an image's last.
        num: (B,) long, how many an image has.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num: Tensor


class ExportableDetector(nn.Module):
    """A detector with its normalisation, decoding and suppression, for a batch of any size.

    Args:
        detector: A plain detector in eval mode that :func:`lad.export.refusal` has no objection to.
        shape: (height, width) of the input images, in pixels.
        num: Number of detections of an image, at most.
    """

    def __init__(self, detector: BaseDetector, shape: tuple[int, int], num: int) -> None:
        super().__init__()
        self.detector, self.shape, self.num = detector, shape, num

    def forward(self, images: Tensor) -> Found:
        """Detect on (B, C, H, W) images as the test pipeline loads them, 0 to 255, uint8 or float."""
        inputs = self.normalise(images.float())
        features = self.detector.extract_feat(inputs)
        if hasattr(self.detector, "roi_head"):
            return self._two_stage(features)
        return self._one_stage(features)

    def normalise(self, images: Tensor) -> Tensor:
        """What the data preprocessor does to the pixels."""
        preprocessor = self.detector.data_preprocessor
        if preprocessor._channel_conversion:
            images = images.flip(1)
        if preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        return images

    def _one_stage(self, features: tuple[Tensor, ...]) -> Found:
        head = self.detector.bbox_head
        candidates = dense_candidates(head, run_head(head, features), self.shape)
        pairs = candidates.per_class()
        assert pairs.labels is not None
        indices, num = best_boxes(pairs.boxes, pairs.scores, pairs.labels, head.test_cfg.nms, self.num)
        found = pick(pairs, indices, num)
        voting = isinstance(head, PAAHead) and head.with_score_voting
        return vote(candidates, found, head.test_cfg.score_thr) if voting else found

    def _two_stage(self, features: tuple[Tensor, ...]) -> Found:
        rpn, roi_head = self.detector.rpn_head, self.detector.roi_head
        cfg = rpn.test_cfg
        proposed = dense_candidates(rpn, rpn(features), self.shape)
        assert proposed.labels is not None
        indices, _ = best_boxes(proposed.boxes, proposed.scores, proposed.labels, cfg.nms, cfg.max_per_img)
        regions = take(proposed.boxes, indices)
        image = torch.arange(regions.shape[0], device=regions.device).to(regions.dtype)
        image = image[:, None, None].expand(-1, regions.shape[1], 1)
        rois = torch.cat([image, regions], dim=2).flatten(0, 1)
        head = roi_head.bbox_head
        cls_scores, deltas = head(pooled(roi_head.bbox_roi_extractor, features, rois))
        # All regions of the batch as if of one image: each is decoded alone. Clipped here, as in dense_candidates.
        # MMEngine's InstanceData takes the length of what it holds, which would fix the batch size.
        with replaced(sys.modules[BBoxHead.__module__], "InstanceData", SimpleNamespace):
            decoded = head._predict_by_feat_single(rois, cls_scores, deltas, dict(img_shape=None))
        # The last class is background; an index below 0 is no proposal.
        scores = decoded.scores[:, :-1].unflatten(0, indices.shape) * (indices >= 0)[..., None]
        scores = torch.where(scores > roi_head.test_cfg.score_thr, scores, 0)
        boxes = decoded.bboxes.view(rois.shape[0], -1, 4).unflatten(0, indices.shape)
        boxes = clip(boxes, self.shape) if getattr(head.bbox_coder, "clip_border", True) else boxes
        num_classes = scores.shape[2]
        labels = torch.arange(num_classes, device=scores.device).expand(scores.shape).flatten(1)
        # Boxes of each class, or one for all classes.
        boxes = boxes.expand(-1, -1, num_classes, -1).flatten(1, 2)
        pairs = Candidates(boxes, scores.flatten(1), labels)
        indices, num = best_boxes(boxes, pairs.scores, labels, roi_head.test_cfg.nms, self.num)
        return pick(pairs, indices, num)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Of (B, K, ...) those at (B, N) indices; 0 where an index is -1."""
    index = indices.clamp(min=0)
    present = indices >= 0
    if values.dim() == 3:
        index, present = index[..., None].expand(-1, -1, values.shape[2]), present[..., None]
    return torch.where(present, values.gather(1, index), 0)


def pick(candidates: Candidates, indices: Tensor, num: Tensor) -> Found:
    """The candidates that were kept, as :func:`lad.export.nms.best_boxes` returns them."""
    assert candidates.labels is not None
    labels = torch.where(indices >= 0, take(candidates.labels, indices), -1)
    return Found(take(candidates.boxes, indices), take(candidates.scores, indices), labels, num)


def vote(candidates: Candidates, found: Found, score_thr: float) -> Found:
    """Average each box with the candidates of its class that it overlaps, as PAA does.

    As :func:`lad.assignment.score_voting.vote_boxes`, for a batch and in the order given: by score, where MMDetection
    sorts by class.

    Args:
        candidates: With scores (B, P, C) for each class.
        found: Detections among them.
        score_thr: Lowest score, exclusive, of a candidate that votes.
    """
    labels = found.labels.clamp(min=0)[:, None].expand(-1, candidates.boxes.shape[1], -1)
    scores = candidates.scores.gather(2, labels).transpose(1, 2)
    own = found.boxes.permute(2, 0, 1)[..., None]
    weights = voting_weights(own, candidates.boxes.permute(2, 0, 1)[:, :, None], scores)
    weights = torch.where(scores > score_thr, weights, 0)
    total = weights.sum(2, keepdim=True)
    voted = torch.where(total > 0, weights @ candidates.boxes / total, found.boxes)
    return found._replace(boxes=torch.where(found.labels[..., None] >= 0, voted, 0))


def pooled(extractor: SingleRoIExtractor, features: tuple[Tensor, ...], rois: Tensor) -> Tensor:
    """Features of regions, each from the level of its size; as ``SingleRoIExtractor`` without its loop's conditions.

    Args:
        extractor: MMDetection's ``SingleRoIExtractor`` of ``RoIAlign`` layers.
        features: (B, channels, H, W) a level.
        rois: (R, 5), number of the image and box.
    """
    features = features[: extractor.num_inputs]
    levels = extractor.map_roi_levels(rois, len(features))
    layer = extractor.roi_layers[0]
    result = features[0].new_zeros(rois.shape[0], features[0].shape[1], *layer.output_size)
    for level, (feature, layer) in enumerate(zip(features, extractor.roi_layers, strict=True)):
        (index,) = (levels == level).nonzero(as_tuple=True)
        aligned = roi_align(
            feature, rois[index], layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
        )
        result = result.index_put((index,), aligned)
    return result


def run_head(head: BaseDenseHead, features: tuple[Tensor, ...]) -> tuple:
    """The outputs of a head's ``forward``, traced for any batch size."""
    if not isinstance(head, TOODHead):
        return head(features)
    with _tood_for_any_batch(head, features[0].shape[0]):
        return head(features)


@contextmanager
def _tood_for_any_batch(head: TOODHead, batch: int) -> Iterator[None]:
    """Within the block TOOD's ``forward`` repeats its anchors, and samples, without a loop over the images."""
    own = head.prior_generator.single_level_grid_priors

    def repeated(*args: object, **kwargs: object) -> Tensor:
        return own(*args, **kwargs).repeat(batch, 1)

    with ExitStack() as stack:
        # It concatenates the anchors `for _ in range(batch size)`, which fixes the size: once is enough, as they come
        # repeated.
        stack.enter_context(replaced(sys.modules[TOODHead.__module__], "range", lambda _: (0,)))
        stack.enter_context(replaced(head.prior_generator, "single_level_grid_priors", repeated))
        stack.enter_context(replaced(head, "deform_sampling", sample_at_offsets))
        yield


def sample_at_offsets(features: Tensor, offsets: Tensor) -> Tensor:
    """TOOD's ``deform_sampling`` by ``grid_sample``, which ONNX Runtime has an operator for.

    Args:
        features: (B, C, H, W).
        offsets: (B, 2C, H, W), dy and dx of each channel, in cells.

    Returns:
        (B, C, H, W), each channel read at its own offset, bilinear, 0 outside.
    """
    _, channels, height, width = features.shape
    dy, dx = offsets.unflatten(1, (channels, 2)).flatten(0, 1).unbind(1)
    y = torch.arange(height, device=dy.device, dtype=dy.dtype)[:, None] + dy
    x = torch.arange(width, device=dx.device, dtype=dx.dtype) + dx
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    sampled = grid_sample(features.flatten(0, 1)[:, None], grid, align_corners=False)
    return sampled[:, 0].unflatten(0, (-1, channels))
