"""Cross-entropy with a teacher's probabilities as targets, weighted by class."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.settings import check_numbers
from lad.errors import ConfigError
from lad.losses.logits import soften_logits
from lad.losses.precision import upcast
from lad.losses.weighted import WeightedLoss

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor


def soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    class_weight: Tensor | None = None,
    temperature: float = 1.0,
    rescale: bool = False,
) -> Tensor:
    """Class-weighted cross-entropy of two softmax classifiers:  L_soft = -sum_c w_c P_t(c) log P_s(c).

    P = softmax(logits / T). Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation",
    NIPS 2017, Eq. 3. Computed from logits in float32: nothing overflows, and a probability of 0 costs nothing.

    Args:
        student: (n, C) logits of any float dtype.
        teacher: (n, C) logits; no gradient flows to them.
        class_weight: (C,) weight w of each class; 1 if None. The paper gives the background 1.5 and the others 1.
        temperature: T, above 0; the paper uses 1.
        rescale: Multiply by T^2, so that the gradients keep their size when T changes (Hinton et al., 2015).

    Returns:
        (n,) float32, the loss of each sample.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import soft_cross_entropy
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> soft_cross_entropy(student, teacher, class_weight=torch.tensor([1.0, 1.5]))
        tensor([0.9465])
    """
    student, teacher = soften_logits(student, teacher, temperature)
    terms = teacher.softmax(dim=-1) * student.log_softmax(dim=-1)
    if class_weight is not None:
        terms = terms * class_weight
    loss = -terms.sum(dim=-1)
    return loss * temperature**2 if rescale else loss


def binary_soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    positive_weight: float | Tensor = 1.0,
    negative_weight: float | Tensor = 1.0,
    temperature: float = 1.0,
    rescale: bool = False,
) -> Tensor:
    """:func:`soft_cross_entropy` of sigmoid classifiers:  -(w_p p_t log p_s + w_n (1 - p_t) log(1 - p_s)).

    p = sigmoid(logit / T). For an RPN's objectness the background is the complement 1 - p, and its weight is
    ``negative_weight``; then it equals :func:`soft_cross_entropy` of the logits (z, 0).

    Args:
        student: Logits of any shape and float dtype.
        teacher: Logits of the same shape; no gradient flows to them.
        positive_weight, negative_weight: Weights of p and of its complement; they broadcast with the logits.
        temperature: T, above 0.
        rescale: Multiply by T^2.

    Returns:
        The loss of each element, float32.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import binary_soft_cross_entropy
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> binary_soft_cross_entropy(student, teacher, negative_weight=1.5)
        tensor([[0.8664, 0.7864]])
    """
    logits, teacher = soften_logits(student, teacher, temperature)
    target = teacher.sigmoid()
    loss = -(
        positive_weight * target * F.logsigmoid(logits)
        + negative_weight * (1 - target) * F.logsigmoid(-logits)
    )
    return loss * temperature**2 if rescale else loss


@MODELS.register_module()
class SoftCrossEntropyLoss(WeightedLoss):
    """:func:`soft_cross_entropy` with a weight and a reduction, called as MMDetection's losses are.

    Args:
        use_sigmoid: Each channel is a binary classifier whose complement is the background; otherwise softmax with
            the background as the last class.
        background_weight: Weight of the background.
        class_weight: Weight of each other class: a number for all, or one for each.
        temperature: T.
        rescale: Multiply by T^2.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import SoftCrossEntropyLoss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> SoftCrossEntropyLoss(background_weight=1.5)(student, teacher)
        tensor(0.9465)
    """

    logit_forms = frozenset({"sigmoid", "softmax"})
    any_shape = True
    made_for = "RPNDistillation, RCNNDistillation, DenseLogitDistillation or RoILogitDistillation"

    def __init__(
        self,
        use_sigmoid: bool = False,
        background_weight: float = 1.5,
        class_weight: float | Sequence[float] = 1.0,
        temperature: float = 1.0,
        rescale: bool = False,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers(type(self).__name__, minimum=0, background_weight=background_weight)
        check_numbers(type(self).__name__, above=0, temperature=temperature)
        each = class_weight if isinstance(class_weight, (list, tuple)) else [class_weight]
        for weight in each:
            check_numbers(type(self).__name__, minimum=0, class_weight=weight)
        self.use_sigmoid = use_sigmoid
        self.background_weight = background_weight
        self.class_weight = class_weight
        self.temperature = temperature
        self.rescale = rescale

    def class_weights(self, logits: Tensor) -> Tensor:
        """(C,) weights of the classes, or (C + 1,) with the background's last where the logits have it."""
        foreground = logits.shape[-1] - (not self.use_sigmoid)
        dtype = upcast(logits).dtype
        if isinstance(self.class_weight, Sequence):
            if len(self.class_weight) != foreground:
                raise ConfigError(
                    f"{type(self).__name__}: class_weight has {len(self.class_weight)} numbers for {foreground} "
                    "classes: give one for each, in their order."
                )
            weights = torch.tensor(self.class_weight, dtype=dtype).to(logits.device, non_blocking=True)
        else:
            weights = logits.new_full((foreground,), self.class_weight, dtype=dtype)
        return weights if self.use_sigmoid else F.pad(weights, (0, 1), value=self.background_weight)

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(...) the loss of each sample; the channels of a sigmoid classifier are summed, as in MMDetection."""
        weights, more = self.class_weights(pred), (self.temperature, self.rescale)
        if self.use_sigmoid:
            return binary_soft_cross_entropy(pred, target, weights, self.background_weight, *more).sum(dim=-1)
        return soft_cross_entropy(pred, target, weights, *more)
