"""Suppression with outputs of a fixed size, against MMCV's."""

from lad.errors import UnsupportedError
from lad.export.candidates import topk_of_fixed_size
from lad.export.nms import best_boxes, check_nms

import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.models.utils import filter_scores_and_topk


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_kept_boxes_are_those_of_batched_nms(class_agnostic):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 80, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 80, 2, generator=generator) * 30], 2)
    scores = torch.rand(3, 80, generator=generator)
    scores[0, ::2] = 0
    scores[2] = 0
    labels = torch.randint(0, 3, (3, 80), generator=generator)
    cfg = dict(type="nms", iou_threshold=0.4, class_agnostic=class_agnostic)
    indices, counts = best_boxes(boxes, scores, labels, cfg, 20)
    for image in range(3):
        (present,) = (scores[image] > 0).nonzero(as_tuple=True)
        if not len(present):
            assert (counts[image], indices[image].max()) == (0, -1)
            continue
        own = dict(cfg)
        _, keep = batched_nms(
            boxes[image, present],
            scores[image, present],
            labels[image, present],
            own,
            own.pop("class_agnostic"),
        )
        expected = present[keep][:20]
        assert counts[image] == len(expected)
        assert indices[image].tolist() == expected.tolist() + [-1] * (20 - len(expected))
    assert counts[0] == 20


@pytest.mark.parametrize("topk", [7, 1000, -1])
def test_best_pairs_are_mmdetections(topk):
    scores = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    priors = torch.arange(20)
    expected = filter_scores_and_topk(scores, 0.6, topk if topk > 0 else 60, dict(priors=priors))
    found = topk_of_fixed_size(scores, 0.6, topk, dict(priors=priors))
    num = len(expected[0])
    assert len(found[0]) == (7 if topk == 7 else 60)
    assert num < 60
    for own, other in zip(expected[:3], found[:3], strict=True):
        torch.testing.assert_close(other[:num], own)
    torch.testing.assert_close(found[3]["priors"][:num], expected[3]["priors"])
    assert not found[0][num:].any()


@pytest.mark.parametrize("cfg", [dict(type="soft_nms", iou_threshold=0.5), dict(iou_threshold=0.5, offset=1)])
def test_other_suppressions_are_refused(cfg):
    with pytest.raises(UnsupportedError, match=r"soft_nms|offset"):
        check_nms(cfg, "bbox_head.test_cfg.nms")
