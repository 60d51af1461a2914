"""Match a student's queries with a teacher's, one to one: the answers that are alike correspond."""

from __future__ import annotations

from lad.exchange.seams.detr import pixel_bboxes
from lad.methods.transformers.decoding import Answers

import numpy as np
import torch
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_overlaps
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

#: What a pair costs whose answers are no numbers, as in MMDetection's Hungarian assigner.
WORST = 100.0


@torch.no_grad()
def pair_costs(
    student: Answers, teacher: Answers, samples: SampleList, cls: float, bbox: float, iou: float
) -> Tensor:
    """How far each answer of a student is from each of a teacher's; 0 for the same answer, never below.

    cls KL(p_t || p_s) + bbox |b_t - b_s| + iou (1 - GIoU), with the binary KL divergence summed over classes: the cross
    entropy is linear in p_t, so that all pairs are one matrix product.

    Args:
        student: (L, N, Q, ...) its answers.
        teacher: (L, N, K, ...) the teacher's, of the student's classes.
        samples: Sizes of the N images.
        cls, bbox, iou: Factors of the three parts.

    Returns:
        (L, N, Q, K) float32 costs.
    """
    # Rounding to 16 bits, as autocast does in products, would exchange queries that are nearly alike.
    with torch.autocast(student.cls_scores.device.type, enabled=False):
        own, taught = (answers.cls_scores.float() for answers in (student, teacher))
        target = taught.sigmoid()
        entropy = (F.softplus(taught) - target * taught).sum(dim=-1)
        divergence = F.softplus(own).sum(dim=-1, keepdim=True) - own @ target.mT - entropy.unsqueeze(-2)
        own_boxes, boxes = (answers.bbox_preds.float() for answers in (student, teacher))
        shapes = [sample.img_shape for sample in samples]
        overlaps = bbox_overlaps(pixel_bboxes(own_boxes, shapes), pixel_bboxes(boxes, shapes), mode="giou")
        # A direct computation: by products it would lose the differences of boxes that are nearly the same.
        distance = torch.cdist(own_boxes, boxes, p=1)
        return cls * divergence + bbox * distance + iou * (1 - overlaps)


def match(costs: Tensor, weight: Tensor) -> Tensor:
    """The student's query for each of the teacher's, so that the weighted sum of the costs is least.

    It waits for the device once: the problem is solved on the host.

    Args:
        costs: (L, N, Q, K) costs of pairs, Q >= K.
        weight: (N, K) of the teacher's answers. One of weight 0 takes no query from another.

    Returns:
        (L, N, K) numbers of the student's queries, each once.
    """
    num_layers, num_images, _, num_taught = costs.shape
    weighted = torch.nan_to_num(costs * weight.unsqueeze(-2), nan=WORST, posinf=WORST, neginf=WORST)
    # The assignment problem is solved on the host, an image of a layer at a time, as in MMDetection's own Hungarian
    # matching; the costs of all are copied at once.
    both = torch.cat([weighted.flatten(0, 1), weight.repeat(num_layers, 1).unsqueeze(1).to(weighted)], dim=1)
    problems = both.cpu().numpy()
    found = torch.empty(len(problems), num_taught, dtype=torch.long)
    for problem, queries in zip(problems, found.numpy(), strict=True):
        # What has no weight gets the queries that are left, whichever: a smaller problem is solved sooner.
        counts = problem[-1] > 0
        rows, columns = linear_sum_assignment(problem[:-1, counts])
        queries[np.flatnonzero(counts)[columns]] = rows
        rest = np.setdiff1d(np.arange(len(problem) - 1), rows)
        queries[~counts] = rest[: num_taught - len(rows)]
    return found.view(num_layers, num_images, num_taught).to(costs.device, non_blocking=True)


def gather(answers: Answers, queries: Tensor) -> Answers:
    """The answers (L, N, K, ...) of the queries (L, N, K) among (L, N, Q, ...)."""
    return Answers(
        *(values.gather(2, queries.unsqueeze(-1).expand(-1, -1, -1, values.shape[-1])) for values in answers)
    )
