"""Pearson correlation distillation loss."""

from __future__ import annotations

from collections.abc import Sequence

from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast, upcast_pair

import torch
from mmdet.registry import MODELS
from mmengine.dist import get_world_size
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

#: Deviations below this part of a channel's mean are rounding errors of half precision, not a pattern.
RELATIVE = 1e-4
#: Deviations below this count as none. The authors' code has 1e-6, and a gradient for a dead channel that is too large
#: for half precision.
ABSOLUTE = 1e-4


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with a gradient; the tensor itself where there is one process."""
    if get_world_size() == 1:
        return values
    # In the backward pass the gradients are added up over the processes, and DDP then averages them.
    return all_reduce(values)


def together(parts: Sequence[Tensor], sync: bool) -> list[Tensor]:
    """Vectors, each summed over all processes if ``sync``, in one message; without gradient what had none before."""
    total = torch.cat(list(parts))
    total = sum_over_processes(total) if sync else total
    sums = total.split([len(part) for part in parts])
    return [whole if part.requires_grad else whole.detach() for part, whole in zip(parts, sums, strict=True)]


def standardised(maps: Sequence[Tensor], sync: bool = False) -> tuple[list[Tensor], Tensor]:
    """Each channel with mean 0 and variance 1 over the positions of all images; 0 where it is constant.

    Args:
        maps: Each (N, C, H, W), any float dtype, of one shape.
        sync: Take the images of all processes together, however many positions each has; two messages for all maps.

    Returns:
        Each (N, C, H, W), float32; and (1,) the number of positions that the statistics are of.
    """
    maps = [upcast(features) for features in maps]
    num, _, height, width = maps[0].shape
    sums = [features.sum(dim=(0, 2, 3)) for features in maps]
    # Images of other processes may be of another size.
    *sums, count = together([*sums, sums[0].new_full((1,), num * height * width)], sync)
    means = [(total / count)[:, None, None] for total in sums]
    centred = [features - mean for features, mean in zip(maps, means, strict=True)]
    squares = together([values.square().sum(dim=(0, 2, 3)) for values in centred], sync)
    floors = [(RELATIVE * mean.detach()).square() + ABSOLUTE**2 for mean in means]
    scaled = [
        values * torch.rsqrt((total / count)[:, None, None] + floor)
        for values, total, floor in zip(centred, squares, floors, strict=True)
    ]
    return scaled, count


def pearson_distillation_loss(student: Tensor, teacher: Tensor, sync: bool = False) -> Tensor:
    """Half the squared difference of standardised features; its mean is 1 - r, averaged over the channels.

    Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient", NeurIPS
    2022, arXiv 2207.02039, Sec. 3: for a channel of student and teacher, both with mean 0 and variance 1 over the
    positions of a batch, L = 1 / (2 m) sum (s_i - t_i)^2 = 1 - r, r their Pearson correlation. A channel may be
    multiplied by a positive number, and a number may be added to it, without a change. A channel that is constant in
    both costs nothing, in one of them 1/2. Computed in float32.

    The authors' code divides by the standard deviation with Bessel's correction, which makes no difference to speak
    of, and takes statistics of each process alone.

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C, H, W); no gradient flows to it.
        sync: Statistics over the images of all processes.

    Returns:
        (N, C, H, W) float32.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import pearson_distillation_loss
        >>> student, teacher = torch.tensor([[[[-1.0, 0.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 3.0]]]])
        >>> pearson_distillation_loss(student, teacher).mean()
        tensor(0.1340)
    """
    return _loss_and_count(student, teacher, sync)[0]


def _loss_and_count(student: Tensor, teacher: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
    """The loss of each element, and (1,) the number of positions that its statistics are of."""
    check_maps(student, teacher)
    (own, taught), count = standardised(upcast_pair(student, teacher), sync)
    return 0.5 * (own - taught).square(), count


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    """:func:`pearson_distillation_loss`, averaged over everything.

    Args:
        sync: Statistics over the images of all processes, so that the loss does not depend on how a batch is split;
            two small messages for each map. The authors' code has none.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result. The authors have 6 for two-stage and 10 for one-stage detectors, on
            each of the four finest levels.

    Example:
        >>> import torch
        >>> from lad.losses import PKDLoss
        >>> student, teacher = torch.tensor([[[[-1.0, 0.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 3.0]]]])
        >>> PKDLoss(loss_weight=6.0)(student, teacher)
        tensor(0.8038)
    """

    def __init__(self, sync: bool = True, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.sync = sync

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss of maps of student and teacher; ``weight`` has four dimensions, or none."""
        loss, count = _loss_and_count(pred, target, self.sync)
        if weight is None and avg_factor is None and (reduction_override or self.reduction) == "mean":
            # The mean over the processes is 1 - r only if all divide by the same, whatever the size of their images.
            processes = get_world_size() if self.sync else 1
            avg_factor = count.squeeze() * loss.shape[1] / processes
        return self.reduced(loss, weight, avg_factor, reduction_override)
