"""Table of the seams of all families of heads whose label assignment can be distilled."""

from __future__ import annotations

from lad.errors import UnsupportedError
from lad.exchange.seams.base import Mode, Seam
from lad.exchange.seams.ddod import DDODSeam
from lad.exchange.seams.detr import DETRSeam
from lad.exchange.seams.paa import PAASeam
from lad.exchange.seams.rtmdet import RTMDetSeam
from lad.exchange.seams.tood import TOODSeam
from lad.exchange.seams.yolox import YOLOXSeam

from mmdet.models.detectors import BaseDetector

#: One entry a family; the first that fits a head is used. Insert your own entries in front.
SEAMS: list[Seam] = [PAASeam(), TOODSeam(), RTMDetSeam(), YOLOXSeam(), DDODSeam(), DETRSeam()]


def find_seam(student: BaseDetector, teacher: BaseDetector, mode: Mode = "hard") -> Seam:
    """Find the seam through which ``teacher`` can assign the labels of ``student``; both are detectors.

    Raises:
        UnsupportedError: a head decides from anchors alone or is unknown, or the two do not correspond.
    """
    heads = [getattr(model, "bbox_head", None) for model in (student, teacher)]
    families = [next((seam for seam in SEAMS if seam.fits(head)), None) for head in heads]
    own, theirs = families
    seam = own.with_teacher(theirs) if own is not None and theirs is not None else None
    if seam is not None:
        seam.check(heads[0], heads[1], mode)
        return seam
    known = ", ".join(seam.works_with for seam in SEAMS)
    names = [
        f"{role} {type(model).__name__} ({type(head).__name__ if head is not None else 'no bbox_head'})"
        for role, model, head in zip(("student", "teacher"), (student, teacher), heads, strict=True)
    ]
    raise UnsupportedError(
        f"LabelAssignmentDistillation does not fit {' with '.join(names)}: a head that decides labels from anchors "
        f"alone has nothing to learn from a teacher's assignment, and both heads must decide in the same way; "
        f"it works with {known}."
    )
