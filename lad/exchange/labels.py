"""Which labels a dense head trains on in a step, read while it computes its own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.heads.batched_paa_head import BatchedPAAHead

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
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.utils import reduce_mean
from torch import Tensor, nn

#: How a head hands labels to its class loss: level by level; all at once by level, then image; or by image, then level;
#: or those of the positives alone.
Order = Literal["by level", "levels first", "images first", "positives"]

#: By the function that computes a family's losses; who replaces it may order its labels otherwise.
ORDERS: dict[Callable, Order] = {
    RetinaHead.loss_by_feat: "by level",
    ATSSHead.loss_by_feat: "by level",
    GFLHead.loss_by_feat: "by level",
    TOODHead.loss_by_feat: "by level",
    DDODHead.loss_by_feat: "by level",
    RTMDetHead.loss_by_feat: "by level",
    FCOSHead.loss_by_feat: "levels first",
    VFNetHead.loss_by_feat: "levels first",
    PAAHead.loss_by_feat: "images first",
    BatchedPAAHead.loss_by_feat: "images first",
    YOLOXHead.loss_by_feat: "positives",
}
#: For messages.
WORKS_WITH = "RetinaNet, FCOS, ATSS, PAA, GFL, VFNet, TOOD, DDOD, RTMDet and YOLOX heads"


@dataclass(frozen=True)
class DenseLabels:
    """The classes that a head is to predict at the P priors of N images.

    Attributes:
        labels: (N, P) int64, the number of classes for background. VFNet says with an IoU of its own box what class a
            positive has: one whose box does not overlap its object at all trains as background, and is one here.
        counts: (N, P) bool, False where a prior takes no part (near misses, padding).
        positive: (N, P) bool, where an object is to be seen.
    """

    labels: Tensor
    counts: Tensor
    positive: Tensor

    def num_pos(self) -> Tensor:
        """How many positives there are, averaged over processes, at least 1."""
        return reduce_mean(self.positive.sum().float()).clamp(min=1)


def knows_labels_of(head: nn.Module) -> bool:
    """Whether the labels that a head trains on can be read."""
    return getattr(type(head), "loss_by_feat", None) in ORDERS


class LabelReader:
    """Collects what a head hands to its class loss; see :func:`reading_labels`."""

    def __init__(self, head: nn.Module) -> None:
        self._head = head
        self._order = ORDERS[type(head).loss_by_feat]
        self._labels: list[Tensor] = []
        self._counts: list[Tensor] = []

    def hook(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook of the class loss."""
        # PAA asks for the loss of each candidate before it decides which of them are positive.
        if kwargs.get("reduction_override") is not None:
            return
        labels = args[1][0] if isinstance(args[1], tuple) else args[1]
        if labels.dim() == 2:  # VFNet: the IoU at the class of a positive, 0 elsewhere
            quality, best = labels.max(dim=1)
            labels = torch.where(quality > 0, best, self._head.num_classes)
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        self._labels.append(labels.reshape(-1))
        self._counts.append(
            torch.ones_like(labels, dtype=torch.bool) if weight is None else weight.reshape(-1) > 0
        )

    def targets_of(self, function: Callable[..., tuple]) -> Callable[..., tuple]:
        """YOLOX's own targets of one image, written down on the way."""

        def run(*args: Any, **kwargs: Any) -> tuple:
            ask, classes = self._head.sampler.sample, []

            def sample(*args: Any, **kwargs: Any) -> SamplingResult:
                sampled = ask(*args, **kwargs)
                classes.append(sampled.pos_gt_labels)
                return sampled

            # Not from the class targets: they are one-hot times an IoU, and say nothing where it is 0.
            with replaced(self._head.sampler, "sample", sample):
                result = function(*args, **kwargs)
            positive = result[0]
            labels = torch.full_like(positive, self._head.num_classes, dtype=torch.long)
            # Nobody is asked for an image without objects.
            self._labels.append(labels.masked_scatter(positive, classes[0]) if classes else labels)
            self._counts.append(torch.ones_like(positive))
            return result

        return run

    def labels(self, num_images: int, sizes: Sequence[int]) -> DenseLabels:
        """The labels of the batch, by image, then level, place and prior of a place.

        Args:
            num_images: N.
            sizes: Number of priors of each level.

        Raises:
            UnsupportedError: the head asked its class loss for others.
        """
        parts = dict(labels=self._labels, counts=self._counts)
        found = sum(map(len, self._labels))
        if found != num_images * sum(sizes):
            raise UnsupportedError(
                f"{type(self._head).__name__} computed the class loss of {found} priors where the batch has "
                f"{num_images * sum(sizes)}: which labels it trains on is not known; it works with {WORKS_WITH}."
            )
        if self._order in ("by level", "levels first"):
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
        return DenseLabels(labels, counts, positive)


@contextmanager
def reading_labels(head: nn.Module) -> Iterator[LabelReader]:
    """Read the labels that a head trains on while it computes its loss in the block.

    What decides them makes no difference: the head's own assigner, or a teacher in its place.

    Args:
        head: One that :func:`knows_labels_of` knows.
    """
    reader = LabelReader(head)
    with ExitStack() as stack:
        if reader._order == "positives":
            targets = reader.targets_of(head._get_targets_single)
            stack.enter_context(replaced(head, "_get_targets_single", targets))
        else:
            # TOOD has another loss for its first epochs.
            for name in ("loss_cls", "initial_loss_cls"):
                if isinstance(getattr(head, name, None), nn.Module):
                    loss = getattr(head, name)
                    stack.callback(loss.register_forward_pre_hook(reader.hook, with_kwargs=True).remove)
        yield reader
