"""Focal losses with their gradients in closed form.

Probabilities are floored at float32's smallest normal number before the logarithm, as in mmcv, so that a
confident mistake has a loss of at most 87.3 times its weight. A label that is no class, such as MMDetection's
background, has class weight 1; mmcv would read beyond the weights there.
"""

from __future__ import annotations

from lad.mmcv_ops.precision import upcast

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """One binary focal loss per class, filled into ``output`` ``(N, C)``.

    Args:
        input: Logits ``(N, C)``.
        target: Class indices ``(N,)``; any other number, such as C, is background.
        weight: Class weights ``(C,)``, or empty for none; a row takes its target's weight.
        output: ``(N, C)``.
        gamma: Focusing exponent.
        alpha: Weight of the positive class; 1 - alpha that of the negatives.
    """
    (logits,) = upcast(input)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    negative = -(1 - alpha) * p**gamma * (1 - p).clamp(min=TINY).log()
    output.copy_(torch.where(_is_target(target, p), positive, negative) * _row_weight(weight, target, p))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of each element of the forward's output, filled into ``grad_input`` ``(N, C)``."""
    (logits,) = upcast(input)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=TINY).log())
    negative = -(1 - alpha) * p**gamma * (gamma * (1 - p) * (1 - p).clamp(min=TINY).log() - p)
    grad_input.copy_(torch.where(_is_target(target, p), positive, negative) * _row_weight(weight, target, p))


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of the target's probability, filled into ``output`` ``(N,)``.

    Args:
        softmax: Class probabilities ``(N, C)``.
        target: Class indices ``(N,)``; a row with any other number has loss 0.
        weight: Class weights ``(C,)``, or empty for none.
        output: ``(N,)``.
        gamma: Focusing exponent.
        alpha: Factor of the loss.
    """
    (probabilities,) = upcast(softmax)
    p, valid = _target_probability(probabilities, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    output.copy_((loss[:, None] * _row_weight(weight, target, p))[:, 0].masked_fill(~valid, 0))


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Derivative of each row's loss with respect to its logits, filled into ``grad_input`` ``(N, C)``.

    ``buff`` ``(N,)`` is filled with the derivative by the target's log-probability.
    """
    (probabilities,) = upcast(softmax)
    p, valid = _target_probability(probabilities, target)
    focus = gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=TINY).log() - (1 - p) ** gamma
    slope = (alpha * focus[:, None] * _row_weight(weight, target, p)).masked_fill(~valid[:, None], 0)
    buff.copy_(slope[:, 0])
    grad_input.copy_(slope * (_is_target(target, probabilities).to(p) - probabilities))


def _is_target(target: Tensor, like: Tensor) -> Tensor:
    """``(N, C)``: whether the column is the row's class."""
    return target[:, None] == torch.arange(like.shape[1], device=target.device)


def _target_probability(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's probability of its target, and whether that is a class."""
    classes = probabilities.shape[1]
    valid = (target >= 0) & (target < classes)
    return probabilities.gather(1, target.clamp(0, classes - 1)[:, None])[:, 0], valid


def _row_weight(weight: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """``(N, 1)`` weight of each row's target; 1 without weights and for labels that are no class."""
    if weight.numel() == 0:
        return like.new_ones(1, 1)
    classes = len(weight)
    padded = F.pad(weight.to(like.dtype), (0, 1), value=1)
    return padded[torch.where(target < 0, classes, target.clamp(max=classes))][:, None]
