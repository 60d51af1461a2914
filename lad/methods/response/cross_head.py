"""CrossKD: the student's features pass through the teacher's head, whose outputs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from lad.base.replace import replaced
from lad.base.settings import check_numbers, checked_flag, is_whole
from lad.errors import ConfigError, UnsupportedError
from lad.heads.dense import class_logits, flatten_levels
from lad.losses import LDLoss, binary_kl_divergence
from lad.methods.base import Link, Step
from lad.methods.response.dense import (
    SCALE_FREE,
    DenseDistillation,
    best_probability,
    boxes_about_origin,
    check_corresponding_priors,
    check_fit,
    check_labels_known,
)
from lad.methods.response.logits import build_binary_loss
from lad.networks.connectors import build_connector
from lad.networks.routes import Teacher

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import ATSSHead, FCOSHead, GFLHead, RetinaHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from mmengine.model import ModuleList
from torch import Size, Tensor, nn

OWNER = "CrossHeadDistillation"
WORKS_WITH = "the heads of RetinaNet, FCOS, ATSS, PAA and GFL with towers of convolutions"
TOWERS = ("cls_convs", "reg_convs")
#: Which features of the towers are handed over: after the activation, or before it.
Feature = Literal["activated", "raw"]
#: Variances far below this count as none: a channel that is all but constant is not blown up, nor its gradient, which
#: half precision could not hold.
EPS = 1e-8


@MODELS.register_module()
class CrossHeadDistillation(DenseDistillation):
    """Match the teacher head's predictions from the student head's features to the teacher's own predictions.

    Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024, arXiv 2306.11369.
    The features of the student's classification and regression towers after ``depth`` convolutions go through the
    rest of the teacher's towers and its last layers. The gradient passes through those frozen layers to the student, so
    that the student's own last layers are trained by labels alone. With the teacher's largest class probability s of
    a prior:

    L_cls = sum of the quality focal loss of the class logits / n,
    L_box = sum of s times the box loss / n (GFL: KL of the edge distributions, over the sum of s, at least 1),

    where n is what the student's head divides its own class loss by, its number of positives
    (:attr:`lad.exchange.labels.DenseLabels.avg_factor`).

    As in the authors' code the features are brought to the mean and the standard deviation of the teacher's, channel by
    channel over each process's images (as batch norm does), and then rectified; priors that the student's own loss
    passes over are passed over, and heads of ATSS' family learn the teacher's centreness at the positives (as a KL
    divergence, which has the gradient of their cross-entropy and is 0 at its least). For FCOS their code divides both
    losses by the sum of the positives' targets of centreness, which is smaller than their number.

    Which features are aligned is ``feature``. The authors' code stores a convolution's output before its activation,
    which then overwrites it in place: what is aligned, and what their results were made with, are activated features.

    Args:
        depth: How many convolutions of the student's towers come before; at least 1, and as many as the towers have at
            most. By default all but the last, as in the paper's GFL, RetinaNet and ATSS (3 of 4); its FCOS has 2.
        loss_cls: Loss of (n, C) logits without labels, such as ``KDLoss``; by default ``QualityKDLoss``.
        loss_bbox: ``IoULoss`` or ``GIoULoss`` of boxes, or ``LDLoss`` of edges. By default ``LDLoss`` at T = 1 with a
            weight of 4 for GFL and ``GIoULoss`` for others.
        centerness_weight: Weight of the centreness term of ATSS' family.
        align: Whether to bring the features to the teacher's statistics.
        feature: Which features of both towers are aligned: ``'activated'``, after the ReLU of convolution ``depth``, or
            ``'raw'``, before it. A ReLU follows in either case.
        connector: Config of a layer from the student's channels to the teacher's, where they differ.
        init_cfg: As in MMEngine.
    """

    compares_classes = False
    #: The rest of a head runs on one teacher's features.
    ensembles = False

    def __init__(
        self,
        depth: int | None = None,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        centerness_weight: float = 1.0,
        align: bool = True,
        feature: Feature = "activated",
        connector: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if feature not in get_args(Feature):
            raise ConfigError(
                f"{OWNER}: feature must be one of {', '.join(get_args(Feature))}, got {feature!r}."
            )
        if depth is not None and not is_whole(depth):
            raise ConfigError(
                f"{OWNER}: depth must be a whole number of convolutions or None, got {depth!r:.60}."
            )
        self.depth = depth
        self.loss_cls = build_binary_loss(
            OWNER,
            loss_cls or dict(type="QualityKDLoss", beta=1.0),
            "the teacher's classes may be others than the student's",
        )
        self.loss_bbox_config = loss_bbox
        check_numbers(OWNER, minimum=0, centerness_weight=centerness_weight)
        self.centerness_weight = centerness_weight
        self.align = checked_flag(OWNER, "align", align)
        self.feature = feature
        self.connector = connector

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads whose towers cannot be joined; find where they are."""
        heads = self.heads(student, teacher)
        check_fit(OWNER, heads, (student, teacher.model), has_towers, WORKS_WITH)
        check_labels_known(OWNER, heads[0])
        if not heads[1].use_sigmoid_cls:
            raise UnsupportedError(
                f"{OWNER}: the teacher's classifier is softmax, and the quality focal loss needs sigmoid; take a "
                "teacher with a sigmoid loss_cls."
            )
        check_corresponding_priors(OWNER, heads)
        self.depth = self._checked_depth(heads)
        if self.feature == "activated":
            self._check_rectified(heads, self.depth)
        self._build_connectors(heads, self.depth)
        self.student_modules = (*before_activation(heads[0], self.depth), "bbox_head")
        self.teacher_modules = (*before_activation(heads[1], self.depth), "bbox_head")
        self.loss_bbox = self._build_box_loss(heads[1])

    def _checked_depth(self, heads: Sequence[BaseDenseHead]) -> int:
        """The number of convolutions before the towers are joined; by default all but the last."""
        convs = [min(len(getattr(head, tower)) for tower in TOWERS) for head in heads]
        depth = self.depth if self.depth is not None else max(1, min(convs) - 1)
        if not 1 <= depth <= min(convs):
            raise ConfigError(
                f"{OWNER}: depth must be between 1 and {min(convs)}, the convolutions of the towers (student "
                f"{convs[0]}, teacher {convs[1]}), got {depth}."
            )
        return depth

    def _check_rectified(self, heads: Sequence[BaseDenseHead], depth: int) -> None:
        """Refuse activations that change what they have activated: aligned features are activated once more."""
        for head in heads:
            for tower in TOWERS:
                activate = getattr(head, tower)[depth - 1].activate
                if not isinstance(activate, nn.ReLU):
                    raise UnsupportedError(
                        f"{OWNER}: activated features are rectified after the alignment, and {type(head).__name__}'s "
                        f"towers have {type(activate).__name__}; set feature='raw', or use ReLU."
                    )

    def _build_connectors(self, heads: Sequence[BaseDenseHead], depth: int) -> None:
        """Build a connector for each tower, where the config has one."""
        channels = [[getattr(head, tower)[depth - 1].conv.out_channels for tower in TOWERS] for head in heads]
        if channels[0] != channels[1] and self.connector is None:
            raise UnsupportedError(
                f"{OWNER}: the student's towers have {channels[0][0]} channels after convolution {depth} and the "
                f"teacher's {channels[1][0]}; set connector=dict(type='ConvConnector'), or feat_channels alike."
            )
        if self.connector is not None:
            shapes = zip(*[[Size((2, width, 4, 4)) for width in widths] for widths in channels], strict=True)
            self.connectors = ModuleList(build_connector(self.connector, *pair) for pair in shapes)

    def _build_box_loss(self, head: BaseDenseHead) -> nn.Module:
        """Build the box loss, by default the one of the paper for the teacher's head."""
        is_gfl = isinstance(head, GFLHead)
        default: dict[str, Any] = dict(type="GIoULoss")
        if is_gfl:
            default = dict(type="LDLoss", temperature=1.0, average_bins=False, loss_weight=4.0)
        loss = MODELS.build(self.loss_bbox_config or default)
        if not isinstance(loss, (*SCALE_FREE, LDLoss)):
            raise UnsupportedError(
                f"{OWNER}: {type(loss).__name__} depends on the shape of a prior, and boxes are compared in "
                "units of their priors; use IoULoss, GIoULoss or, for GFL, LDLoss."
            )
        if isinstance(loss, LDLoss) and not is_gfl:
            raise UnsupportedError(
                f"{OWNER}: LDLoss compares edge distributions, which the teacher's {type(head).__name__} has not; "
                "use GIoULoss."
            )
        return loss

    def links(self) -> list[Link]:
        """The places where the towers are joined."""
        how = type(self.connectors[0]).__name__ if self.connector is not None else "none"
        pairs = zip(self.student_modules[:2], self.teacher_modules[:2], strict=True)
        return [Link(own, taught, f"{how}, then the rest of the teacher's head") for own, taught in pairs]

    def loss_weights(self) -> dict[str, float]:
        """The factors of the terms."""
        return dict(
            loss_cross_cls=getattr(self.loss_cls, "loss_weight", 1.0),
            loss_cross_bbox=getattr(self.loss_bbox, "loss_weight", 1.0),
        )

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_cross_cls``, ``loss_cross_bbox`` and, for ATSS' family, ``loss_cross_centerness``."""
        head = step.teacher.model.bbox_head
        cross = self.cross_predictions(step)
        [taught] = step.teacher.target("bbox_head")
        logits, target = (class_logits(head, outputs).flatten(0, 1) for outputs in (cross, taught))
        labels = self.labels(step)
        counted = labels.counts.flatten().float()
        loss_cls = self.loss_cls(logits, target, weight=counted, avg_factor=labels.avg_factor)
        confidence = best_probability(target, use_sigmoid=True) * counted
        is_gfl = isinstance(head, GFLHead)
        avg_factor = reduce_mean(confidence.sum()).clamp(min=1) if is_gfl else labels.avg_factor
        pair = [self._boxes(head, outputs[1]) for outputs in (cross, taught)]
        # Weighted out here: MMDetection's losses test whether any weight is positive, which waits for the device.
        elements = self.loss_bbox(*pair, reduction_override="none")
        losses = dict(
            loss_cross_cls=loss_cls,
            loss_cross_bbox=weight_reduce_loss(elements, confidence, avg_factor=avg_factor),
        )
        if isinstance(head, ATSSHead):
            pair = [flatten_levels(outputs[2], 1).flatten() for outputs in (cross, taught)]
            elements = self.centerness_weight * binary_kl_divergence(pair[0], pair[1])
            losses["loss_cross_centerness"] = weight_reduce_loss(
                elements, labels.positive.flatten().float(), avg_factor=labels.avg_factor
            )
        return losses

    def cross_predictions(self, step: Step) -> Sequence[Any]:
        """Outputs of the teacher's head for the student's features."""
        towers = []
        for number, (own, taught) in enumerate(
            zip(self.student_modules, self.teacher_modules[:2], strict=False)
        ):
            features = step.outputs.calls(own)
            if self.feature == "activated":
                features = [level.relu() for level in features]
            if self.connector is not None:
                features = [self.connectors[number](level) for level in features]
            if self.align:
                targets = step.teacher.target(taught)
                if self.feature == "activated":
                    targets = [level.relu() for level in targets]
                pairs = zip(features, targets, strict=True)
                features = [align_statistics(*pair) for pair in pairs]
            towers.append(features)
        return step.teacher.forward_through(finish_head, *towers, self.depth)

    def _boxes(self, head: BaseDenseHead, levels: Sequence[Tensor]) -> Tensor:
        """(n, 4, bins) edges for ``LDLoss``, otherwise (n, 4) boxes."""
        if isinstance(self.loss_bbox, LDLoss):
            return flatten_levels(levels, 4 * (head.reg_max + 1)).flatten(0, 1).unflatten(1, (4, -1))
        return boxes_about_origin(head, levels)


def has_towers(head: BaseDenseHead | None) -> bool:
    """Whether a head runs two towers of convolutions, each a ``ConvModule``, level by level."""
    known = (RetinaHead, FCOSHead, ATSSHead, GFLHead)
    for name in ("forward", "forward_single"):
        if getattr(type(head), name, None) not in [getattr(kind, name) for kind in known]:
            return False
    convs = [conv for tower in TOWERS for conv in getattr(head, tower)]
    return bool(convs) and all(
        isinstance(conv, ConvModule) and conv.order == ("conv", "norm", "act") and conv.with_activation
        for conv in convs
    )


def before_activation(head: BaseDenseHead, depth: int) -> tuple[str, str]:
    """Names of the modules whose outputs are the towers' features after ``depth`` convolutions, not activated.

    The activation would overwrite them in place, so its ``inplace`` is set to False, which changes no value.
    """
    names = []
    for tower in TOWERS:
        conv = getattr(head, tower)[depth - 1]
        if hasattr(conv.activate, "inplace"):
            conv.activate.inplace = False
        names.append(f"bbox_head.{tower}.{depth - 1}.{conv.norm_name or 'conv'}")
    return names[0], names[1]


def align_statistics(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's features with the mean and the standard deviation that the teacher's have in each channel.

    Over images and places of a batch; the student's own where the two have the same already.

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C, H', W').
    """
    own, taught = student.float(), teacher.detach().float()
    var, mean = torch.var_mean(own, dim=(0, 2, 3), keepdim=True, correction=0)
    taught_var, taught_mean = torch.var_mean(taught, dim=(0, 2, 3), keepdim=True, correction=0)
    scale = ((taught_var + EPS) / (var + EPS)).sqrt()
    return ((own - mean) * scale + taught_mean).to(student.dtype)


class Handed(nn.Module):
    """First layers of a tower with given outputs: returns the features of one level a call."""

    def __init__(self, levels: Sequence[Tensor]) -> None:
        super().__init__()
        self._levels = iter(levels)

    def forward(self, inputs: Tensor) -> Tensor:
        """The features of the next level, whatever comes in."""
        return next(self._levels)


def finish_head(
    model: BaseDetector, cls_features: Sequence[Tensor], reg_features: Sequence[Tensor], depth: int
) -> Sequence[Any]:
    """Finish a detector's head from features of its towers after ``depth`` convolutions, before their activation."""
    head = model.bbox_head
    towers = []
    for tower, features in zip(TOWERS, (cls_features, reg_features), strict=True):
        convs = getattr(head, tower)
        activated = [convs[depth - 1].activate(level) for level in features]
        towers.append([Handed(activated), *convs[depth:]])
    with replaced(head, TOWERS[0], towers[0]), replaced(head, TOWERS[1], towers[1]):
        return head(tuple(cls_features))
