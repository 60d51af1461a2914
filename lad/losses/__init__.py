"""Distillation losses: a pure function and a thin registered module each."""

from lad.losses.bounded_regression import BoundedRegressionLoss, bounded_regression_loss
from lad.losses.focal_kl import FocalKLLoss, focal_kl_loss
from lad.losses.hint import HintLoss, hint_loss
from lad.losses.probability_focal import ProbabilityFocalLoss, probability_focal_loss
from lad.losses.soft_cross_entropy import (
    SoftCrossEntropyLoss,
    binary_soft_cross_entropy,
    soft_cross_entropy,
)

__all__ = [
    "BoundedRegressionLoss",
    "FocalKLLoss",
    "HintLoss",
    "ProbabilityFocalLoss",
    "SoftCrossEntropyLoss",
    "binary_soft_cross_entropy",
    "bounded_regression_loss",
    "focal_kl_loss",
    "hint_loss",
    "probability_focal_loss",
    "soft_cross_entropy",
]
