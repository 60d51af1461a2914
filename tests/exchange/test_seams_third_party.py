"""A head and an assigner of one's own: one row of the table, as docs/lad_beyond_paa.md says."""

from __future__ import annotations

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.seams import SEAMS, AssignerSeam, find_seam
from lad.heads import DensePredictions, flatten_levels, level_sizes

import pytest
import torch
from helpers import build, make_batch
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.task_modules import AssignResult, BaseAssigner
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps, distance2bbox
from mmengine.structures import InstanceData
from seam_detectors import distil, loss_of

BATCH = dict(objects=(3, 0, 7), size=(128, 160))


@TASK_UTILS.register_module(force=True)
class BestScoreAssigner(BaseAssigner):
    """For each object the three priors of highest score for its class among those whose box overlaps it."""

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):
        overlaps = bbox_overlaps(pred_instances.bboxes, gt_instances.bboxes)
        gt_inds = torch.zeros(len(pred_instances), dtype=torch.long)
        labels = torch.full_like(gt_inds, -1)
        best = (
            (pred_instances.scores[:, gt_instances.labels].sigmoid() * (overlaps > 0)).topk(3, dim=0).indices
        )
        for number, priors in enumerate(best.T):
            gt_inds[priors], labels[priors] = number + 1, gt_instances.labels[number]
        quality = (
            overlaps.gather(1, (gt_inds - 1).clamp(min=0)[:, None])[:, 0]
            if len(gt_instances)
            else overlaps.sum(1)
        )
        return AssignResult(len(gt_instances), gt_inds, quality, labels)


@MODELS.register_module(force=True)
class BestScoreHead(FCOSHead):
    """FCOS with labels chosen by BestScoreAssigner; the class target of a positive is its overlap."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.assigner = TASK_UTILS.build(dict(type="BestScoreAssigner"))

    def loss_by_feat(self, cls_scores, bbox_preds, centernesses, gts, metas, ignored=None):
        sizes = level_sizes(cls_scores)
        priors = torch.cat(self.prior_generator.grid_priors(sizes, device=cls_scores[0].device))
        scores, distances = flatten_levels(cls_scores, self.num_classes), flatten_levels(bbox_preds, 4)
        bboxes = distance2bbox(priors, distances)
        loss = sum(centerness.sum() * 0 for centerness in centernesses)
        for image, gt_instances in enumerate(gts):
            own = InstanceData(scores=scores[image].detach(), bboxes=bboxes[image].detach(), priors=priors)
            found = self.assigner.assign(own, gt_instances, None)
            positive = found.gt_inds > 0
            target = torch.zeros_like(scores[image])
            target[positive, found.labels[positive]] = found.max_overlaps[positive]
            loss = loss + (scores[image].sigmoid() - target).square().sum()
        return dict(loss_cls=loss, loss_bbox=bboxes.sum() * 0)


class BestScoreSeam(AssignerSeam):
    """The row."""

    heads = (BestScoreHead,)
    works_with = "BestScoreHead"

    def predictions(self, head, outputs):
        cls_scores, bbox_preds, _ = outputs
        sizes = level_sizes(cls_scores)
        priors = torch.cat(head.prior_generator.grid_priors(sizes, device=cls_scores[0].device))
        return DensePredictions(
            scores=flatten_levels(cls_scores, head.num_classes),
            bboxes=distance2bbox(priors, flatten_levels(bbox_preds, 4)),
            sizes=sizes,
        )


def detector(base=8):
    thin = dict(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=3)
    return dict(
        type="FCOS",
        data_preprocessor=dict(type="DetDataPreprocessor"),
        backbone=dict(type="ResNet", depth=18, base_channels=base, norm_eval=False),
        neck=dict(
            type="FPN", in_channels=[base, base * 2, base * 4, base * 8], out_channels=32, start_level=1,
            add_extra_convs="on_output", num_outs=5,
        ),
        bbox_head=dict(type="BestScoreHead", norm_on_bbox=True, **thin),
    )  # fmt: skip


@pytest.fixture
def row():
    SEAMS.insert(0, BestScoreSeam())
    yield
    del SEAMS[0]


def test_without_a_row_the_head_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"FCOS \(BestScoreHead\).*works with PAAHead"):
        distil(detector(), detector(), tmp_path)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_with_a_row_the_teacher_decides_and_its_own_weights_change_nothing(row, mode, tmp_path):
    model = distil(detector(), detector(), tmp_path, weights=(0, 0), mode=mode)
    batch = make_batch(**BATCH)
    plain, taught = loss_of(model.student, batch), loss_of(model, batch)
    assert all(torch.equal(taught[name], plain[name]) for name in plain)

    model = distil(detector(), detector(base=16), tmp_path, mode=mode)
    found = {}
    for who, network in (("student", model), ("teacher", model.teacher.model), ("alone", model.student)):
        seen = found[who] = []
        assigner = network.bbox_head.assigner
        sign = type(assigner).assign

        def remember(pred_instances, gt_instances, *args, seen=seen, assigner=assigner, sign=sign, **kwargs):
            seen.append(sign(assigner, pred_instances, gt_instances, *args, **kwargs))
            return seen[-1]

        with replaced(assigner, "assign", remember):
            loss_of(network, batch)
    for taught, wanted, alone in zip(found["student"], found["teacher"], found["alone"], strict=True):
        assert torch.equal(taught.gt_inds, wanted.gt_inds)
        if len(wanted.gt_inds.unique()) > 1:
            assert not torch.equal(taught.gt_inds, alone.gt_inds), "the control"


class EarlyHead(BestScoreHead):
    """Looks at one image only."""

    def loss_by_feat(self, cls_scores, bbox_preds, centernesses, gts, metas, ignored=None):
        first = ([level[:1] for level in levels] for levels in (cls_scores, bbox_preds, centernesses))
        return super().loss_by_feat(*first, gts[:1], metas[:1])


def test_head_that_does_not_ask_for_every_image_is_found_out(row, tmp_path):
    model = distil(detector(), detector(), tmp_path)
    model.bbox_head.__class__ = EarlyHead
    with pytest.raises(
        UnsupportedError, match=r"EarlyHead\.assigner was called 1 times and not for image 2 of 3"
    ):
        loss_of(model, make_batch(**BATCH))


def test_assigner_with_another_signature_is_refused_when_built(row, tmp_path):
    class Batched:
        def assign(self, pred_bboxes, pred_scores, priors, gt_labels, gt_bboxes, pad_bbox_flag):
            raise AssertionError

    student = build(detector())
    student.bbox_head.assigner = Batched()
    with pytest.raises(
        UnsupportedError, match=r"BestScoreHead\.assigner is a Batched without assign\(pred_instances"
    ):
        find_seam(student, build(detector()))
