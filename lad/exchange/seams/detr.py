"""Seam of DETRs: the predictions that enter each decoder layer's Hungarian matching are exchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lad.assignment.finite import check_finite
from lad.errors import UnsupportedError
from lad.exchange.replay import AssignerCall, replace_assigners
from lad.exchange.seams.base import Memory, Mode, Seam, TeacherOutputs, check_same_classes

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.task_modules import AssignResult
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor


class DETRSeam(Seam):
    """Seam of DETRs, which match queries and objects one to one, in each decoder layer by that layer's predictions.

    The student's own assigner matches its own objects with the predictions of the teacher's decoder layer of the same
    number. Matches of the encoder's proposals (two-stage) are the student's own, as proposals are positions in its own
    feature maps. Denoising queries have fixed targets and need no assigner.

    No quality of a match enters the losses, so modes ``'hard'`` and ``'soft'`` are the same.

    Args:
        inherited: Whether the queries of student and teacher correspond.
    """

    heads = (DETRHead,)
    works_with = "DeformableDETRHead and DINOHead (both with inherit_queries=True)"

    def __init__(self, inherited: bool = False) -> None:
        self.inherited = inherited

    def check(self, student: DETRHead, teacher: DETRHead, mode: Mode) -> None:  # noqa: D102
        if not self.inherited:
            raise UnsupportedError(
                f"the student's {type(student).__name__} matches objects to queries, and queries of two networks do "
                "not correspond: query 7 of the teacher attends elsewhere than query 7 of the student; let the student "
                "inherit the teacher's queries, LabelAssignmentDistillation(inherit_queries=True), which works for "
                "DeformableDETR and DINO."
            )
        check_same_classes(student, teacher)
        if student.cls_out_channels != teacher.cls_out_channels:
            raise UnsupportedError(
                f"the student's {type(student).__name__} scores {student.cls_out_channels} channels and the teacher's "
                f"{teacher.cls_out_channels}: one uses sigmoid and the other softmax; give both the same loss_cls."
            )
        layers = num_decoder_layers(student), num_decoder_layers(teacher)
        if layers[0] != layers[1]:
            raise UnsupportedError(
                f"the student's decoder has {layers[0]} layers and the teacher's {layers[1]}: matches are replayed "
                "layer by layer; give both the same decoder.num_layers."
            )
        if getattr(student, "assigner", None) is None:
            raise UnsupportedError(
                f"the student's {type(student).__name__} has no assigner: give its config a `train_cfg`."
            )

    @contextmanager
    def replay(  # noqa: D102
        self,
        student: DETRHead,
        teacher: DETRHead,
        teacher_outputs: TeacherOutputs,
        samples: SampleList,
        mode: Mode = "hard",
        memory: Memory | None = None,
    ) -> Iterator[None]:
        cls_scores, bbox_preds = teacher_outputs(range(len(samples)))
        # Waits for the device, as the matching itself does for every image.
        metas = [sample.metainfo for sample in samples]
        check_finite(metas, cls_scores.transpose(0, 1), bbox_preds.transpose(0, 1))
        bboxes = pixel_bboxes(bbox_preds, [sample.img_shape for sample in samples])

        def assign(call: AssignerCall) -> AssignResult:
            layer, image = divmod(call.image, len(samples))
            if layer == len(cls_scores):
                return call.assign()
            own = call.pred_instances
            if len(own) != cls_scores.shape[2]:
                raise UnsupportedError(
                    f"the student's {type(student).__name__} matches {len(own)} queries in decoder layer {layer} and "
                    f"the teacher has {cls_scores.shape[2]}: give this head a seam of its own."
                )
            taught = copy.copy(own)
            taught.scores = cls_scores[layer, image].to(own.scores.dtype)
            taught.bboxes = bboxes[layer, image].to(own.bboxes.dtype)
            return call.assign(pred_instances=taught)

        # A DETR calls its assigner for every image in each decoder layer, then for the encoder's proposals.
        rounds = num_decoder_layers(student) + int(student.as_two_stage)
        gt_instances = [sample.gt_instances for sample in samples] * rounds
        with replace_assigners(student, ("assigner",), gt_instances, assign):
            yield


def num_decoder_layers(head: DETRHead) -> int:
    """Number of decoder layers for which a head of the Deformable-DETR family has losses."""
    return head.num_pred_layer - int(head.as_two_stage)


def pixel_bboxes(bbox_preds: Tensor, img_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Convert normalised boxes to the pixel boxes that assigners take.

    Args:
        bbox_preds: (L, N, Q, 4) cxcywh, relative to the image, of L layers and N images.
        img_shapes: (height, width) of each image.

    Returns:
        (L, N, Q, 4) xyxy in pixels.
    """
    factors = torch.tensor([(width, height) * 2 for height, width in img_shapes], dtype=bbox_preds.dtype)
    return bbox_cxcywh_to_xyxy(bbox_preds) * factors.to(bbox_preds.device, non_blocking=True)[:, None]
