"""Localisation distillation: the teacher's edge distributions, where an object is and around it."""

from __future__ import annotations

from lad.assignment.priors import prior_grid
from lad.assignment.valuable_region import valuable_region
from lad.base.settings import check_numbers
from lad.errors import UnsupportedError
from lad.heads.dense import class_logits, flatten_levels
from lad.losses import localisation_distillation_loss
from lad.methods.base import Step
from lad.methods.response.dense import (
    DenseDistillation,
    best_probability,
    check_corresponding_priors,
    check_fit,
    check_labels_known,
    check_same_count,
    level_counts,
)
from lad.networks.routes import Teacher

import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

OWNER = "LocalisationDistillation"


@MODELS.register_module()
class LocalisationDistillation(DenseDistillation):
    """KL divergence between the edge distributions of two GFL heads, on top of the student's own loss.

    Zheng et al., "Localization Distillation for Dense Object Detection" (LD), CVPR 2022, arXiv 2102.12252. The main
    region are the student's positives, each with the student's largest class probability for its weight, as GFL
    weighs its box losses; the valuable localisation region (see :func:`valuable_region`) has weights by overlap.
    Both are sums over priors, divided by the number of images. MMDetection's ``LDHead``, which has the main region
    alone, does not divide at all: its ``loss_ld`` with a weight of 0.25 is this one with 0.25 times the number of
    images on a GPU, which is where the default comes from. The authors' code weighs the region around at a quarter.

    Args:
        loss_weight: Weight of the main region.
        vlr_weight: Weight of the region around it; 0 leaves it out.
        temperature: T of both.
        gamma: Where the region around ends; the smaller, the larger it is.
        init_cfg: As in MMEngine.
    """

    compares_classes = False

    def __init__(
        self,
        loss_weight: float = 0.5,
        vlr_weight: float = 0.125,
        temperature: float = 10.0,
        gamma: float = 0.25,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_numbers(OWNER, minimum=0, loss_weight=loss_weight, vlr_weight=vlr_weight, gamma=gamma)
        check_numbers(OWNER, above=0, temperature=temperature)
        self.loss_weight = loss_weight
        self.vlr_weight = vlr_weight
        self.temperature = temperature
        self.gamma = gamma

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads without edge distributions, and those whose distributions do not correspond."""
        heads = self.heads(student, teacher)
        works_with = "GFLHead and its subclasses, whose boxes are distributions"
        check_fit(OWNER, heads, (student, teacher.model), lambda head: isinstance(head, GFLHead), works_with)
        check_labels_known(OWNER, heads[0])
        if heads[0].reg_max != heads[1].reg_max:
            raise UnsupportedError(
                f"{OWNER}: the student's edges have {heads[0].reg_max + 1} distances and the teacher's "
                f"{heads[1].reg_max + 1}; set the same reg_max in both."
            )
        check_corresponding_priors(OWNER, heads)

    def loss_weights(self) -> dict[str, float]:
        """The factors of both terms."""
        return dict(loss_ld=self.loss_weight, loss_ld_vlr=self.vlr_weight)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_ld`` and, with a weight for it, ``loss_ld_vlr``; gradients reach the student only."""
        head, outputs = step.student.bbox_head, step.outputs["bbox_head"]
        [taught] = step.teacher.target("bbox_head")
        bins = head.reg_max + 1
        own, target = (flatten_levels(levels, 4 * bins) for levels in (outputs[1], taught[1]))
        check_same_count(OWNER, own.shape[1], target.shape[1])
        num_images, labels = len(own), self.labels(step)
        elements = localisation_distillation_loss(
            own.view(-1, 4, bins), target.view(-1, 4, bins), self.temperature
        )
        confidence = best_probability(class_logits(head, outputs).flatten(0, 1), head.use_sigmoid_cls)
        main = elements * confidence * labels.positive.flatten()
        losses = dict(loss_ld=self.loss_weight * main.sum() / num_images)
        if self.vlr_weight:
            around = elements * self.region(step).flatten()
            losses["loss_ld_vlr"] = self.vlr_weight * around.sum() / num_images
        return losses

    @torch.no_grad()
    def region(self, step: Step) -> Tensor:
        """(N, P) weight of each prior in the valuable localisation region, 0 outside."""
        head, levels = step.student.bbox_head, step.outputs["bbox_head"][0]
        gt_bboxes = [sample.gt_instances.bboxes for sample in step.data_samples]
        grid = prior_grid(head.prior_generator, [level.shape[-2:] for level in levels], levels[0].device)
        metas = [sample.metainfo for sample in step.data_samples]
        inside = grid.inside(metas, head.train_cfg["allowed_border"])
        # Padded with boxes of no area, which overlap nothing.
        padded = pad_sequence(gt_bboxes, batch_first=True)
        topk = getattr(head.assigner, "topk", 9)
        return valuable_region(grid.anchors, inside, padded, level_counts(head, levels), topk, self.gamma)
