"""Parameters and multiply-adds of a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401  -- registers its operators
from mmdet.structures import SampleList
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


@dataclass(frozen=True)
class Complexity:
    """What a network is made of and what one image costs it.

    Attributes:
        detector: Its type.
        parameters: How many numbers it has learnt.
        trainable: How many of them training changes.
        macs: Multiply-adds of one image, from the images to the outputs of the heads.
        weights: Where its weights come from.
    """

    detector: str
    parameters: int
    trainable: int
    macs: int
    weights: str


def complexity_of(
    model: nn.Module, inputs: Tensor, data_samples: SampleList, weights: str = ""
) -> Complexity:
    """Count a detector's parameters, and its multiply-adds for one image (see :func:`count_macs`).

    Args:
        model: The detector.
        inputs: Normalised images, (N, 3, H, W). Group norm refuses a single image whose coarsest map is one value.
        data_samples: Their metadata.
        weights: Where its weights come from.
    """
    parameters = list(model.parameters())
    return Complexity(
        detector=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        macs=count_macs(model, inputs, data_samples),
        weights=weights,
    )


@torch.no_grad()
def count_macs(model: nn.Module, inputs: Tensor, data_samples: SampleList) -> int:
    """Multiply-adds of an image: of convolutions, deformable ones too, matrix products and attention.

    Counted by torch's ``FlopCounterMode`` while the detector's ``_forward`` runs (post-processing is no part of it, the
    proposals of a two-stage detector are). Whatever runs eagerly can be counted, DETRs and two-stage detectors too,
    where a count by tracing stops. Not counted: normalisation, activations, sums, interpolation, RoI and
    grid sampling. The detector is as before.
    """
    flags = {module: module.training for module in model.modules()}
    deformable = torch.ops.torchvision.deform_conv2d
    counter = FlopCounterMode(display=False, custom_mapping={deformable: _deformable_flops})
    try:
        for module in flags:
            module.training = False
        with counter:
            model._forward(inputs, data_samples)
    finally:
        for module, training in flags.items():
            module.training = training
    return counter.get_total_flops() // (2 * len(inputs))


def _deformable_flops(x_shape: Any, w_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """A deformable convolution multiplies what an ordinary one does."""
    return conv_flop_count(x_shape, w_shape, out_shape)
