"""Checks of feature distillation: modules, losses, and maps without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import find_module, levels_of, root_of, split_level
from lad.errors import ConfigError, UnsupportedError, nearest
from lad.methods.base import Step
from lad.methods.feature.pairs import Pair
from lad.networks.forward import DENSE_HEADS, MASK_FEATURES, dense_parts, part_of

import torch
from mmdet.models.detectors import BaseDetector, DetectionTransformer
from mmdet.registry import MODELS
from torch import Tensor

#: Parts of a detector that see the whole image.
WHOLE_IMAGE = ("backbone", "neck", *DENSE_HEADS)


def check_whole_image(owner: str, model: BaseDetector, names: Sequence[str]) -> None:
    """Refuse modules that do not see the whole image: those of two detectors do not correspond.

    Args:
        owner: The method, for the message.
        model: The detector.
        names: Names of its modules.

    Raises:
        ConfigError: there is no such module.
        UnsupportedError: it sees proposals or queries.
    """
    for name in names:
        find_module(model, name)
        has_queries = isinstance(model, DetectionTransformer) and root_of(name) in DENSE_HEADS
        if part_of(name) not in dense_parts(model) or has_queries:
            raise UnsupportedError(
                f"{owner}: {name!r} of {type(model).__name__} does not see the whole image, so two "
                f"detectors' features do not correspond; it works with modules of {', '.join(WHOLE_IMAGE)}, "
                f"{MASK_FEATURES}, and of a DETR's encoder."
            )


def find_feature_loss(owner: str, kind: str | type | None) -> type:
    """Find the class of a loss of two feature maps.

    Args:
        owner: The method, for the message.
        kind: What the config calls it.

    Raises:
        ConfigError: there is no such loss, or it is made for something else.
    """
    loss = MODELS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(loss, type):
        known = [key for key in MODELS.module_dict if key.endswith("Loss")]
        raise ConfigError(f"{owner}: there is no loss {kind!r}{nearest(str(kind), known)}.")
    if made_for := getattr(loss, "made_for", ""):
        raise ConfigError(
            f"{owner}: {loss.__name__} does not compare feature maps; it is made for {made_for}."
        )
    return loss


def check_gradients(owner: str, pairs: Sequence[Pair], maps: Sequence[Tensor], step: Step) -> None:
    """Refuse maps of the student that carry no gradient: training would go on and teach nothing.

    Reads some attributes a step, and more only where a map lacks a gradient.

    Args:
        owner: The method, for the message.
        pairs: The method's pairs.
        maps: The student's map of each pair.
        step: The step.

    Raises:
        UnsupportedError: names the module, and why it cannot learn.
    """
    if not torch.is_grad_enabled() or all(features.requires_grad for features in maps):
        return
    # In a phase in which all of the student rests, connectors may learn without it.
    if not any(parameter.requires_grad for parameter in step.student.parameters()):
        return
    for pair, features in zip(pairs, maps, strict=True):
        if features.requires_grad:
            continue
        name = split_level(pair.student)[0]
        captured = levels_of(step.outputs.calls(name))
        if has_trained_weights(step.student, name) and not any(other.requires_grad for other in captured):
            raise UnsupportedError(
                f"{owner}: the output of {name!r} has no gradient: a module inside of a checkpointed "
                "block (with_cp=True) cannot be taught; name the whole stage, such as 'backbone.layer3'."
            )
        frozen = pair.student if len(captured) > 1 else name
        raise UnsupportedError(
            f"{owner}: {frozen!r} of the student is frozen (frozen_stages) and cannot learn: name a "
            "later stage, such as 'backbone.layer3', or only the later maps, such as 'backbone[2]'."
        )


def has_trained_weights(model: BaseDetector, name: str) -> bool:
    """Whether a module has weights that train; a module without any (ReLU) is taken for the one that holds it."""
    parameters = list(find_module(model, name).parameters())
    if not parameters and "." in name:
        return has_trained_weights(model, name.rpartition(".")[0])
    return any(parameter.requires_grad for parameter in parameters)
