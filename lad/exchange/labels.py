"""Labels on which a dense head trains in a step, and what it divides its class loss by, recorded during that loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.heads.batched_paa_head import BatchedPAAHead
from lad.heads.dense import join_priors

import torch
from mmdet.models.dense_heads import (
    ATSSHead,
    DDODHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RetinaHead,
    RTMDetHead,
    TOODHead,
    VFNetHead,
    YOLOXHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.utils import reduce_mean
from torch import Tensor, nn

#: Order in which a head passes labels to its class loss: level by level; all at once by level, then image; or by image,
#: then level; or those of the positives alone.
Order = Literal["by level", "levels first", "images first", "positives"]
#: What a head divides the sum of its class loss by: the ``avg_factor`` that it passes to the loss (its positives,
#: counted as it counts them); the sum of its assignment's metrics, by which it divides afterwards; or, likewise
#: afterwards, its positives. The latter two are averaged over processes, and at least 1.
Divisor = Literal["avg_factor", "metrics", "positives"]


@dataclass(frozen=True)
class LossConvention:
    """How a family of heads computes its class loss.

    Attributes:
        order: Order of the labels.
        divisor: What the sum over priors is divided by.
    """

    order: Order
    divisor: Divisor = "avg_factor"


#: By the function that computes a family's losses: a head that overrides it may order its labels otherwise.
CONVENTIONS: dict[Callable, LossConvention] = {
    RetinaHead.loss_by_feat: LossConvention("by level"),
    ATSSHead.loss_by_feat: LossConvention("by level"),
    GFLHead.loss_by_feat: LossConvention("by level"),
    TOODHead.loss_by_feat: LossConvention("by level", "metrics"),
    DDODHead.loss_by_feat: LossConvention("by level"),
    RTMDetHead.loss_by_feat: LossConvention("by level", "metrics"),
    FCOSHead.loss_by_feat: LossConvention("levels first"),
    VFNetHead.loss_by_feat: LossConvention("levels first"),
    PAAHead.loss_by_feat: LossConvention("images first"),
    BatchedPAAHead.loss_by_feat: LossConvention("images first"),
    YOLOXHead.loss_by_feat: LossConvention("positives", "positives"),
}
#: For messages.
WORKS_WITH = "RetinaNet, FCOS, ATSS, PAA, GFL, VFNet, TOOD, DDOD, RTMDet and YOLOX heads"


@dataclass(frozen=True)
class DenseLabels:
    """Target classes of a head at the P priors of N images.

    Attributes:
        labels: (N, P) int64, the number of classes for background. VFNet marks the class of a positive by the IoU of
            its own box: one whose box does not overlap its object at all trains as background, and is background here.
        counts: (N, P) bool, False where a prior is ignored by the loss (near misses, padding).
        positive: (N, P) bool, True where the target is an object.
        avg_factor: What the head divides the sum of its class loss by: for most the number of positives, of which some
            heads count at least one an image and others at least one a batch; for TOOD and RTMDet the sum of their
            assignment's metrics. Averaged over processes where the head averages it.
    """

    labels: Tensor
    counts: Tensor
    positive: Tensor
    avg_factor: float | Tensor

    def joined(self, sizes: Sequence[tuple[int, int]]) -> DenseLabels:
        """The same in the order of :func:`lad.heads.dense.join_levels`, (N * A, L).

        Args:
            sizes: (height, width) of each level in cells.
        """
        labels, counts, positive = (
            join_priors(each, sizes) for each in (self.labels, self.counts, self.positive)
        )
        return replace(self, labels=labels, counts=counts, positive=positive)


def can_read_labels(head: BaseDenseHead) -> bool:
    """Whether the labels on which a head trains can be recorded."""
    return getattr(type(head), "loss_by_feat", None) in CONVENTIONS


class LabelReader:
    """Collects the labels that a head passes to its class loss; see :func:`reading_labels`."""

    def __init__(self, head: BaseDenseHead) -> None:
        self._head = head
        self.convention = CONVENTIONS[type(head).loss_by_feat]
        self._labels: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._avg_factor: float | Tensor | None = None
        self._metrics: list[Tensor] = []

    def hook(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook of the class loss."""
        # PAA computes the loss of each candidate before it decides which of them are positive.
        if kwargs.get("reduction_override") is not None:
            return
        labels = args[1][0] if isinstance(args[1], tuple) else args[1]
        if labels.dim() == 2:  # VFNet: the IoU at the class of a positive, 0 elsewhere
            quality, best = labels.max(dim=1)
            labels = torch.where(quality > 0, best, self._head.num_classes)
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        self._avg_factor = args[3] if len(args) > 3 else kwargs.get("avg_factor")
        self._labels.append(labels.reshape(-1))
        self._counts.append(
            torch.ones_like(labels, dtype=torch.bool) if weight is None else weight.reshape(-1) > 0
        )

    def metrics_of(self, function: Callable[..., tuple]) -> Callable[..., tuple]:
        """Wrap the losses of one level of TOOD or RTMDet so that the level's sum of metrics is recorded."""

        def run(*args: Any, **kwargs: Any) -> tuple:
            result = function(*args, **kwargs)
            self._metrics.append(result[2])
            return result

        return run

    def targets_of(self, function: Callable[..., tuple]) -> Callable[..., tuple]:
        """Wrap YOLOX's targets of one image so that their labels are recorded."""

        def run(*args: Any, **kwargs: Any) -> tuple:
            original, classes = self._head.sampler.sample, []

            def sample(*args: Any, **kwargs: Any) -> SamplingResult:
                sampled = original(*args, **kwargs)
                classes.append(sampled.pos_gt_labels)
                return sampled

            # Not from the class targets: they are one-hot times an IoU, and lose the class where it is 0.
            with replaced(self._head.sampler, "sample", sample):
                result = function(*args, **kwargs)
            positive = result[0]
            labels = torch.full_like(positive, self._head.num_classes, dtype=torch.long)
            # The sampler is not called for an image without objects.
            self._labels.append(labels.masked_scatter(positive, classes[0]) if classes else labels)
            self._counts.append(torch.ones_like(positive))
            return result

        return run

    def labels(self, num_images: int, sizes: Sequence[int]) -> DenseLabels:
        """Labels of the batch, ordered by image, then level, cell and prior of a cell.

        Args:
            num_images: N.
            sizes: Number of priors of each level.

        Raises:
            UnsupportedError: the head computed its class loss for another number of priors, or what it divides it by
                cannot be read.
        """
        parts = dict(labels=self._labels, counts=self._counts)
        found = sum(map(len, self._labels))
        if found != num_images * sum(sizes):
            raise UnsupportedError(
                f"{type(self._head).__name__} computed the class loss of {found} priors where the batch has "
                f"{num_images * sum(sizes)}: which labels it trains on is not known; it works with {WORKS_WITH}."
            )
        if self.convention.order in ("by level", "levels first"):
            split = {
                name: torch.cat(part).split([num_images * size for size in sizes])
                for name, part in parts.items()
            }
            whole = {
                name: torch.cat([level.view(num_images, -1) for level in levels], dim=1)
                for name, levels in split.items()
            }
        else:
            whole = {name: torch.cat(part).view(num_images, -1) for name, part in parts.items()}
        labels, counts = whole["labels"], whole["counts"]
        positive = (labels >= 0) & (labels < self._head.num_classes) & counts
        return DenseLabels(labels, counts, positive, self._read_avg_factor(positive))

    def _read_avg_factor(self, positive: Tensor) -> float | Tensor:
        if self.convention.divisor == "positives":
            return reduce_mean(positive.sum().float()).clamp(min=1)
        if self.convention.divisor == "metrics":
            return reduce_mean(torch.stack(self._metrics).sum().float()).clamp(min=1)
        if self._avg_factor is None:
            raise UnsupportedError(
                f"{type(self._head).__name__} calls its loss_cls without avg_factor: what its class loss is divided "
                f"by is not known; it works with {WORKS_WITH}."
            )
        return self._avg_factor


@contextmanager
def reading_labels(head: BaseDenseHead) -> Iterator[LabelReader]:
    """Record the labels on which a head trains while it computes its loss in the block.

    They may be decided by the head's own assigner or replayed from a teacher.

    Args:
        head: A head for which :func:`can_read_labels` is true.
    """
    reader = LabelReader(head)
    with ExitStack() as stack:
        if reader.convention.order == "positives":
            targets = reader.targets_of(head._get_targets_single)
            stack.enter_context(replaced(head, "_get_targets_single", targets))
        else:
            # TOOD has another loss for its first epochs.
            for name in ("loss_cls", "initial_loss_cls"):
                if isinstance(getattr(head, name, None), nn.Module):
                    loss = getattr(head, name)
                    stack.callback(loss.register_forward_pre_hook(reader.hook, with_kwargs=True).remove)
        if reader.convention.divisor == "metrics":
            single = reader.metrics_of(head.loss_by_feat_single)
            stack.enter_context(replaced(head, "loss_by_feat_single", single))
        yield reader
