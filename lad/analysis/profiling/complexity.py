"""Parameters and multiply-adds of a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.modes import evaluating
from lad.networks.exits import Exit

import torch
import torchvision  # noqa: F401  -- registers its operators
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

# Torch's counter knows those of GPUs.
CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


@dataclass(frozen=True)
class Complexity:
    """Parameters of a network, and its operations for one image.

    Attributes:
        detector: Its type.
        parameters: Number of parameters.
        trainable: Number of trainable parameters.
        macs: Multiply-adds of one image, from the images to the outputs of the heads.
        weights: Where its weights come from.
    """

    detector: str
    parameters: int
    trainable: int
    macs: int
    weights: str


def complexity_of(
    model: BaseDetector, inputs: Tensor, data_samples: SampleList, weights: str = ""
) -> Complexity:
    """Count a detector's parameters, and its multiply-adds for one image (see :func:`count_macs`).

    Args:
        model: The detector.
        inputs: Normalised images, (N, C, H, W). Group norm refuses a single image whose coarsest map is one value.
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


@contextmanager
def sharing_backbone(exit_: Exit, network: BaseDetector, inputs: Tensor) -> Iterator[None]:
    """Within it an exit gets the maps that its network's backbone makes of images, so that its own work is counted."""
    with torch.no_grad(), evaluating(network):
        maps = network.backbone(inputs)
    with exit_.backbone.sharing(maps):
        yield


@torch.no_grad()
def count_macs(model: BaseDetector, inputs: Tensor, data_samples: SampleList) -> int:
    """Multiply-adds of an image: of convolutions, matrix products and attention.

    Counted by torch's ``FlopCounterMode`` while the detector's ``_forward`` runs (post-processing is no part of it, the
    proposals of a two-stage detector are). Whatever runs eagerly can be counted, DETRs and two-stage detectors too,
    where a count by tracing stops. Not counted: normalisation, activations, sums, interpolation, RoI and
    grid sampling. Deformable convolutions are counted where torchvision computes them, as it does for
    :mod:`lad.mmcv_ops`; those of a compiled mmcv are no operators of torch's. The detector is as before.
    """
    formulas: dict[Any, Callable[..., int]] = {torch.ops.torchvision.deform_conv2d: _deformable_flops}
    if hasattr(torch.ops.aten, CPU_ATTENTION):
        formulas[getattr(torch.ops.aten, CPU_ATTENTION)] = _attention_flops
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    # In evaluation torch answers for a whole attention layer by one fused operator, which its counter does not know.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), counter:
            model._forward(inputs, data_samples)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // (2 * len(inputs))


def _attention_flops(
    query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Similarities and weighted sums."""
    return sdpa_flop_count(query, key, value)


def _deformable_flops(x_shape: Any, w_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """A deformable convolution multiplies what an ordinary one does."""
    return conv_flop_count(x_shape, w_shape, out_shape)
