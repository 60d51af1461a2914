"""Shared parts of the RPN and RoI methods: units of boxes, classes by name, the parts of their losses."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.settings import check_numbers, checked_flag
from lad.errors import ConfigError, UnsupportedError, nearest
from lad.losses import bounded_regression_loss
from lad.methods.base import DistillationMethod
from lad.networks.routes import Teacher

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from torch import Tensor, nn


class TwoStageDistillation(DistillationMethod):
    """Base of distillation of RPNs and RoI heads with the losses of Chen et al., NIPS 2017: their settings."""

    def __init__(
        self,
        mu: float = 0.5,
        nu: float = 0.5,
        margin: float = 0.0,
        reg_weight: float = 1.0,
        background_weight: float = 1.5,
        temperature: float = 1.0,
        rescale: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        check_numbers(owner, minimum=0, maximum=1, mu=mu)
        check_numbers(
            owner, minimum=0, nu=nu, margin=margin, reg_weight=reg_weight, background_weight=background_weight
        )
        check_numbers(owner, above=0, temperature=temperature)
        self.mu = mu
        self.nu = nu
        self.margin = margin
        self.reg_weight = reg_weight
        self.background_weight = background_weight
        self.temperature = temperature
        self.rescale = checked_flag(owner, "rescale", rescale)


class DeltaConversion(nn.Module):
    """Box deltas in the units of one box coder, in the units of another.

    Args:
        source: Coder of the given deltas.
        target: Coder of the wanted deltas.
        owner: Whose coders they are, for the error message.

    Raises:
        UnsupportedError: a coder is not a DeltaXYWHBBoxCoder, whose units are means and standard deviations.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, source: nn.Module, target: nn.Module, owner: str) -> None:
        super().__init__()
        for role, coder in (("teacher", source), ("student", target)):
            if type(coder) is not DeltaXYWHBBoxCoder:
                raise UnsupportedError(
                    f"{owner}: the {role}'s boxes are coded by {type(coder).__name__}; it works with "
                    "DeltaXYWHBBoxCoder."
                )
        source_mean, source_std, mean, std = (
            torch.tensor(values, dtype=torch.float32)
            for values in (source.means, source.stds, target.means, target.stds)
        )
        self.register_buffer("scale", source_std / std, persistent=False)
        self.register_buffer("shift", (source_mean - mean) / std, persistent=False)
        self.is_identity = torch.equal(source_std, std) and torch.equal(source_mean, mean)

    def forward(self, deltas: Tensor) -> Tensor:
        """(..., 4) deltas in the target's units, float32."""
        deltas = deltas.float()
        return deltas if self.is_identity else deltas * self.scale + self.shift


class ClassMapping(nn.Module):
    """A teacher's classes in the student's order; those that the student does not have are its background.

    Args:
        classes: The student's class names.
        taught: The teacher's, as its checkpoint records them.

    Raises:
        ConfigError: a class is unknown to the teacher, or named twice.
    """

    index: Tensor
    others: Tensor

    def __init__(self, classes: Sequence[str], taught: Sequence[str]) -> None:
        super().__init__()
        if len(set(classes)) != len(classes):
            raise ConfigError(f"classes names a class twice: {', '.join(classes)}.")
        for name in classes:
            if name not in taught:
                raise ConfigError(
                    f"the teacher knows no class {name!r}{nearest(name, taught)}; it was trained on "
                    f"{', '.join(taught[:5])}{', ...' if len(taught) > 5 else ''}."
                )
        index = [taught.index(name) for name in classes]
        others = [number for number in range(len(taught)) if number not in index]
        self.is_identity = index == list(range(len(taught)))
        self.register_buffer("index", torch.tensor(index), persistent=False)
        self.register_buffer("others", torch.tensor([*others, len(taught)]), persistent=False)

    def logits(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """(..., C_t + 1) softmax logits as (..., C + 1): the probabilities of the other classes join the background's.

        Probabilities at the given temperature, so that softmax(result / temperature) is what joins.
        """
        if self.is_identity:
            return logits
        logits = logits.float()
        background = (logits[..., self.others] / temperature).logsumexp(dim=-1, keepdim=True) * temperature
        return torch.cat([logits[..., self.index], background], dim=-1)

    def binary_logits(self, logits: Tensor) -> Tensor:
        """(..., C_t) logits of one binary classifier a class as (..., C)."""
        return logits if self.is_identity else logits[..., self.index]

    def deltas(self, deltas: Tensor) -> Tensor:
        """(n, C_t, 4) boxes of each class as (n, C, 4)."""
        return deltas if self.is_identity else deltas[:, self.index]


def find_class_mapping(
    owner: str,
    classes: Sequence[str] | None,
    num_classes: int,
    num_taught: int,
    teacher: Teacher,
) -> ClassMapping:
    """The teacher's classes in the student's order.

    Args:
        owner: The method, for messages.
        classes: The student's class names; None: the teacher has the same in the same order.
        num_classes: How many classes the student has.
        num_taught: How many the teacher's head has.
        teacher: Whose checkpoint records its class names.

    Raises:
        UnsupportedError: the numbers differ and no names are given.
        ConfigError: the names do not fit.
    """
    if classes is None:
        if num_classes != num_taught:
            raise UnsupportedError(
                f"{owner}: the student has {num_classes} classes and the teacher {num_taught}; name the student's "
                "classes (classes=...) to find them among the teacher's."
            )
        names = [str(number) for number in range(num_classes)]
        return ClassMapping(names, names)
    if len(classes) != num_classes:
        raise ConfigError(
            f"{owner}: classes names {len(classes)} and the student has {num_classes}; name all of the student's "
            "classes in its order."
        )
    if teacher.classes is None or len(teacher.classes) != num_taught:
        known = "none" if teacher.classes is None else f"{len(teacher.classes)} for {num_taught} classes"
        raise ConfigError(
            f"{owner}: classes are looked up by name, but the teacher's checkpoint records {known}; leave out classes, "
            "or write its dataset_meta."
        )
    return ClassMapping(classes, list(teacher.classes))


def scale_hard(losses: dict, mu: float, reg_weight: float) -> dict:
    """A head's own losses as the hard part of a distillation's: scaled, and called so.

    Args:
        losses: By name; a tensor, or a list with one a level. What is no loss (accuracy) stays as it is.
        mu: Factor of the classification losses (``loss_cls``, ``loss_rpn_cls``).
        reg_weight: Factor of the others.
    """
    scaled = {}
    for name, value in losses.items():
        if "loss" not in name:
            scaled[name] = value
            continue
        factor = mu if "cls" in name else reg_weight
        is_tensor = isinstance(value, Tensor)
        scaled[f"{name}_hard"] = value * factor if is_tensor else [part * factor for part in value]
    return scaled


def averaged_over_ranks(*counts: Tensor | float, like: Tensor) -> tuple[Tensor, ...]:
    """Normalisers of all processes' batches: several processes then train as one with the same total batch.

    Every process has to call it equally often, one without anything to count too.

    Args:
        counts: This process's, each a number.
        like: A tensor on the device of the losses.

    Returns:
        Each one's average over the processes, float32 without dimensions; where all counts are 0, the value for one
        object in all of them.
    """
    own = [
        count.float() if isinstance(count, Tensor) else like.new_full((), count, dtype=torch.float32)
        for count in counts
    ]
    return reduce_mean(torch.stack(own)).clamp(min=1 / get_world_size()).unbind()


def bounded_part(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    weight: Tensor,
    avg_factor: Tensor,
    margin: float,
) -> Tensor:
    """The teacher-bounded loss of the boxes with a weight above 0, over MMDetection's normaliser or its average.

    Args:
        student, teacher, target: (n, 4) deltas in the same units; anything where the weight is 0.
        weight: (n,).
        avg_factor: What the sum is divided by.
        margin: m.
    """
    chosen = weight > 0
    # What a box coder makes of an empty box need not be finite, and 0 times that is not 0.
    teacher, target = (deltas.masked_fill(~chosen[:, None], 0) for deltas in (teacher, target))
    loss = bounded_regression_loss(student, teacher, target, margin)
    return weight_reduce_loss(loss, weight, avg_factor=avg_factor)


def imitated_part(
    head: BBoxHead | RPNHead,
    priors: Tensor,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    avg_factor: Tensor,
    nu: float,
) -> Tensor:
    """The box loss without labels: the head's own plus nu times the bounded one, with the teacher's box as the truth.

    With y = R_t the teacher's error is 0, so that L_b is ||R_s - R_t||^2.

    Args:
        head: Whose box loss and coder it is.
        priors: (n, 4) anchors or proposals.
        student, teacher: (n, 4) deltas in the same units.
        weight: (n,), 0 where the teacher sees no object.
        avg_factor: What the sums are divided by.
        nu: Weight of the squared distance.
    """
    bounded = weight_reduce_loss(
        bounded_regression_loss(student, teacher, teacher), weight, avg_factor=avg_factor
    )
    pred, target = student, teacher
    if head.reg_decoded_bbox:
        pred, target = (
            get_box_tensor(head.bbox_coder.decode(priors, deltas)) for deltas in (student, teacher)
        )
    own = head.loss_bbox(pred, target, weight[:, None].expand_as(pred), avg_factor=avg_factor)
    return own + nu * bounded


def target_deltas(head: BBoxHead | RPNHead, priors: Tensor | None, bbox_targets: Tensor) -> Tensor:
    """(n, 4) targets as deltas, where a head regresses decoded boxes too (IoU losses)."""
    return head.bbox_coder.encode(priors, bbox_targets) if head.reg_decoded_bbox else bbox_targets
