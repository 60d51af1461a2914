"""Label assignments of heads for a batch, object by object, for drawing.

They are computed by the code that training uses. Losses are not computed, so no collective operation runs, and the
heads are left unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.analysis.pictures.assigner_decisions import match_images, match_jointly
from lad.analysis.pictures.decision_parts import Decisions, JointDecisions, Teacher
from lad.analysis.pictures.paa_decisions import decide_paa, decide_paa_jointly
from lad.errors import UnsupportedError
from lad.exchange.co_learning import CoLearning
from lad.exchange.seams import SEAMS, AssignerSeam, PAASeam
from lad.exchange.seams.assigner import TeacherPredictions
from lad.exchange.switching import Switch

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures import SampleList

#: Labels of the costs of each family of heads.
COSTS = {
    "PAASeam": "loss of the candidate as a positive",
    "TOODSeam": r"$1 - s^\alpha u^\beta$  (s score, u IoU)",
    "RTMDetSeam": "matching cost: class + IoU + distance",
    "YOLOXSeam": "SimOTA cost: class + IoU",
    "DDODSeam": r"$1 - s^{1-\alpha} u^\alpha$ for the classes (s score, u IoU)",
}


def seam_of(head: BaseDenseHead | None) -> PAASeam | AssignerSeam:
    """Find the seam of a head whose assignment can be drawn.

    Raises:
        UnsupportedError: it decides from anchors alone, or by queries.
    """
    seam = next((seam for seam in SEAMS if seam.fits(head)), None)
    if isinstance(seam, (PAASeam, AssignerSeam)):
        return seam
    name = "a detector without bbox_head" if head is None else type(head).__name__
    known = ", ".join(seam.works_with for seam in SEAMS if isinstance(seam, (PAASeam, AssignerSeam)))
    raise UnsupportedError(
        f"the assignment of {name} cannot be drawn: it has no priors whose assignment depends on predictions; "
        f"it works with {known}."
    )


def cost_of(head: BaseDenseHead) -> str:
    """Label of the costs of a head's candidates."""
    seam = seam_of(head)
    # Seams defined outside of this package have no label here.
    return COSTS.get(type(seam).__name__, "cost")


@torch.no_grad()
def decide(
    head: BaseDenseHead, outputs: Any, samples: SampleList, teacher: Teacher | None = None
) -> Decisions:
    """Compute a head's label assignment from its own predictions or from a teacher's.

    Args:
        head: The head, whose priors, settings and assigner decide.
        outputs: What its ``forward`` returned for the batch.
        samples: Ground truth and metadata.
        teacher: Teacher whose predictions are used; None for its own.

    Raises:
        UnsupportedError: see :func:`seam_of`; or the head has no assigner.
        FloatingPointError: predictions are not finite.
    """
    seam = seam_of(head)
    if getattr(head, "train_cfg", None) is None or not hasattr(
        head, getattr(seam, "sites", ("assigner",))[0]
    ):
        raise UnsupportedError(f"{type(head).__name__} has no assigner: give its config a `train_cfg`.")
    if isinstance(seam, PAASeam):
        return decide_paa(head, outputs, samples, teacher)
    source = None
    if teacher is not None:
        assert isinstance(teacher.seam, AssignerSeam)  # it is the student's, with the teacher's
        source = TeacherPredictions(teacher.seam, head, teacher.head, lambda images: teacher.outputs, samples)
    matchings = match_images(head, seam, outputs, samples, source)
    return [() if matching is None else matching.candidates() for matching in matchings]


@torch.no_grad()
def decide_jointly(
    co_learning: CoLearning,
    heads: Sequence[BaseDenseHead],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> JointDecisions:
    """Compute the shared label assignment of heads that learn together.

    Args:
        co_learning: How they share their assignment.
        heads: The heads.
        outputs: What each returned for the batch.
        samples: Ground truth and metadata.
        switch: Chooses the teachers.
    """
    seam = seam_of(heads[0])
    if isinstance(seam, PAASeam):
        return decide_paa_jointly(co_learning, heads, outputs, samples, switch)
    return match_jointly(seam, heads, outputs, samples, switch)
