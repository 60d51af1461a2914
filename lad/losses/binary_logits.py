"""Logits of binary classifiers, with the functions of them alone that several comparisons share."""

from __future__ import annotations

from dataclasses import dataclass

from lad.losses.logits import softplus
from lad.losses.precision import upcast

import torch
from torch import Tensor


@dataclass(frozen=True)
class BinaryLogits:
    """Logits z of binary classifiers and what a loss needs of them, whichever other ones it compares them with.

    Among networks that learn from each other each is in many comparisons, and the exponentials are the most of each.

    Attributes:
        logits: z, float32 or float64, with its gradient.
        probabilities: p = sigmoid(z), constant.
        softplus: log(1 + exp(z)), constant.
        slope: dp/dz = p (1 - p), constant.

    Example:
        >>> import torch
        >>> from lad.losses.binary_logits import BinaryLogits
        >>> BinaryLogits.of(torch.zeros(1)).slope
        tensor([0.2500])
    """

    logits: Tensor
    probabilities: Tensor
    softplus: Tensor
    slope: Tensor

    @classmethod
    def of(cls, logits: Tensor | BinaryLogits) -> BinaryLogits:
        """Compute them of logits of any shape and float dtype; what is computed already is returned as it is."""
        if isinstance(logits, BinaryLogits):
            return logits
        logits = upcast(logits)
        with torch.no_grad():
            probabilities = logits.sigmoid()
            slope = torch.addcmul(probabilities, probabilities, probabilities, value=-1)
            return cls(logits, probabilities, softplus(logits), slope)

    @property
    def shape(self) -> torch.Size:
        """That of the logits."""
        return self.logits.shape

    def __getitem__(self, index: slice) -> BinaryLogits:
        """Those of some rows."""
        return BinaryLogits(
            self.logits[index], self.probabilities[index], self.softplus[index], self.slope[index]
        )
