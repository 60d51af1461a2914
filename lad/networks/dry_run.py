"""Run a detector on zero images to infer output shapes."""

from __future__ import annotations

from collections.abc import Iterable

from lad.base.capture import Outputs, capture
from lad.base.modes import evaluating
from lad.networks.channels import IMAGE_SIZE, zero_images
from lad.networks.forward import part_of, run_dense
from lad.networks.speed import uncompiled

import torch
from mmdet.models.detectors import BaseDetector

#: Height and width of the images of a dry run, in pixels.
DRY_RUN_SIZE = IMAGE_SIZE


@torch.no_grad()
def dry_run(model: BaseDetector, modules: Iterable[str], size: tuple[int, int] = DRY_RUN_SIZE) -> Outputs:
    """Run a detector on zero images to infer the output shapes of modules of backbone, neck and dense heads.

    The detector is as before: no statistics of a batch norm, no training flag and no random state change.
    """
    modules = tuple(modules)
    inputs = zero_images(model, size=size)
    with (
        evaluating(model),
        torch.random.fork_rng(devices=[]),
        capture(model, modules) as outputs,
        uncompiled(),
    ):
        run_dense(model, inputs, set(map(part_of, modules)))
    return outputs
