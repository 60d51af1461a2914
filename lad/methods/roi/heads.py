"""Run MMDetection's RoI heads on given boxes, and check which of them can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import Outputs
from lad.errors import UnsupportedError

from mmdet.models.detectors import BaseDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, DoubleHeadRoIHead, StandardRoIHead
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor, nn

WORKS_WITH = "StandardRoIHead, DoubleHeadRoIHead and CascadeRoIHead with the losses of BBoxHead"


def score_rois(
    model: BaseDetector, outputs: Outputs, features: str, stage: int, rois: Tensor, normalised: bool = False
) -> tuple[Tensor, Tensor]:
    """Score boxes by a detector's RoI head on captured features: class logits and box deltas.

    Args:
        model: The detector.
        outputs: Captured outputs of its modules.
        features: Name of the module whose output is pooled.
        stage: Of a cascade.
        rois: (n, 5), the image's number and a box in pixels.
        normalised: Return the logits of a softmax as log-probabilities, which are on one scale for all detectors.
    """
    scores, deltas = forward_stage(model.roi_head, stage, pooled_levels(outputs, features), rois)
    if normalised and not is_sigmoid(stages_of(model)[stage]):
        # In half precision the logarithms of small probabilities would lose more than the logits have.
        scores = scores.float().log_softmax(dim=-1)
    return scores, deltas


def mask_rois(model: BaseDetector, outputs: Outputs, features: str, stage: int, rois: Tensor) -> Tensor:
    """Masks (n, C, h, w) of (n, 5) boxes by a detector's RoI head on captured features; see :func:`score_rois`."""
    return forward_masks(model.roi_head, stage, pooled_levels(outputs, features), rois)


def pooled_levels(outputs: Outputs, features: str) -> tuple[Tensor, ...]:
    """The captured maps that a RoI head pools, in the layout that it can read.

    mmcv's compiled RoIAlign reads memory as (N, C, H, W) whatever the strides are (mmcv issue 2203), and a teacher may
    run in another layout.
    """
    return tuple(level.contiguous() for level in outputs[features])


def forward_stage(
    roi_head: BaseRoIHead, stage: int, features: Sequence[Tensor], rois: Tensor
) -> tuple[Tensor, Tensor]:
    """Class logits and deltas of (n, 5) boxes by one stage of a RoI head."""
    stages = (stage,) if isinstance(roi_head, CascadeRoIHead) else ()
    results = roi_head._bbox_forward(*stages, features, rois)
    return results["cls_score"], results["bbox_pred"]


def forward_masks(roi_head: BaseRoIHead, stage: int, features: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Masks (n, C, h, w) of (n, 5) boxes by one stage of a RoI head."""
    stages = (stage,) if isinstance(roi_head, CascadeRoIHead) else ()
    return roi_head._mask_forward(*stages, features, rois)["mask_preds"]


def of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """(n, 4) deltas of each proposal's class out of (n, C, 4), or (n, 1, 4) that serve every class."""
    classes = deltas.shape[1]
    if classes == 1:
        return deltas[:, 0]
    # Background has no box: its place is taken by the last class's, with a weight of 0.
    index = labels.clamp(max=classes - 1)[:, None, None].expand(-1, 1, 4)
    return deltas.gather(1, index)[:, 0]


def stages_of(model: BaseDetector) -> list[BBoxHead]:
    """The box heads of a detector's RoI head, one a stage."""
    heads = model.roi_head.bbox_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def is_sigmoid(head: BBoxHead) -> bool:
    """Whether a box head's classes are binary classifiers."""
    return bool(getattr(head.loss_cls, "use_sigmoid", False))


def channels_of(head: BBoxHead) -> int:
    """Number of logits of a box head's classifier."""
    classes = head.num_classes
    return head.loss_cls.get_cls_channels(classes) if head.custom_cls_channels else classes + 1


def check_roi_head(role: str, model: BaseDetector, owner: str) -> None:
    """Refuse a detector whose RoI head is run or trained in another way than a method expects.

    Args:
        role: ``'student'`` or ``'teacher'``.
        model: The detector.
        owner: The method, for the message.

    Raises:
        UnsupportedError: names the detector, its heads, and what would work.
    """
    roi_head = getattr(model, "roi_head", None)
    problem = None
    if roi_head is None:
        problem = "no roi_head"
    elif not _is_known(roi_head, trains=role == "student"):
        problem = type(roi_head).__name__
    elif role == "student" and type(model).loss is not TwoStageDetector.loss:
        # Trident's, for instance, has several images' worth of proposals for each image.
        problem = "a loss of its own"
    else:
        for head in stages_of(model):
            own = all(
                getattr(type(head), name, None) is getattr(BBoxHead, name)
                for name in ("loss", "get_targets", "loss_and_target")
            )
            if not own or not head.with_cls or not head.with_reg:
                problem = f"{type(roi_head).__name__} with {type(head).__name__}"
    if problem:
        raise UnsupportedError(
            f"{owner} does not fit {role} {type(model).__name__} ({problem}); it works with {WORKS_WITH}."
        )


def _is_known(roi_head: BaseRoIHead, trains: bool) -> bool:
    """Whether a RoI head calls its box head, and (for a student) computes its loss, as this method expects."""
    kind = type(roi_head)
    forwards = [known._bbox_forward for known in (StandardRoIHead, DoubleHeadRoIHead, CascadeRoIHead)]
    if getattr(kind, "_bbox_forward", None) not in forwards:
        return False
    known = CascadeRoIHead if isinstance(roi_head, CascadeRoIHead) else StandardRoIHead
    return not trains or (kind.loss is known.loss and kind.bbox_loss is known.bbox_loss)


def check_classifiers(student: BBoxHead, teacher: BBoxHead, owner: str) -> None:
    """Refuse two box heads whose class probabilities do not correspond.

    Raises:
        UnsupportedError: names their kinds.
    """
    kinds = []
    for role, head in (("student", student), ("teacher", teacher)):
        extra, sigmoid = channels_of(head) - head.num_classes, is_sigmoid(head)
        if extra not in ((0, 1) if sigmoid else (1,)):
            raise UnsupportedError(
                f"{owner}: the {role}'s {type(head.loss_cls).__name__} has {channels_of(head)} logits for "
                f"{head.num_classes} classes; it works with softmax over classes and background, and with sigmoid."
            )
        kinds.append(("sigmoid" if sigmoid else "softmax") + (" with background" if extra else ""))
    if kinds[0] != kinds[1]:
        raise UnsupportedError(
            f"{owner}: the student's classifier is {kinds[0]} and the teacher's {kinds[1]}: their "
            "probabilities do not correspond; set the same loss_cls in both."
        )
