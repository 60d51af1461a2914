"""How the methods on class logits build and call their losses."""

from __future__ import annotations

from lad.errors import ConfigError

from mmdet.registry import MODELS
from torch import Tensor, nn


def build_logit_loss(config: dict, use_sigmoid: bool) -> nn.Module:
    """A loss of two networks' logits from its config, in the form of a classifier.

    Args:
        config: A registered loss. ``use_sigmoid`` is filled in for those that have it, where the config does not say
            otherwise.
        use_sigmoid: Whether the classes are binary classifiers.

    Raises:
        ConfigError: it is no loss of the registry.
    """
    config = dict(config)
    kind = MODELS.get(config.get("type", ""))
    if kind is None:
        raise ConfigError(
            f"there is no loss {config.get('type')!r}: use KDLoss, DKDLoss, QualityKDLoss or SoftCrossEntropyLoss."
        )
    if "use_sigmoid" in kind.__init__.__code__.co_varnames:
        config.setdefault("use_sigmoid", use_sigmoid)
    return MODELS.build(config)


def logit_loss(
    loss: nn.Module, student: Tensor, teacher: Tensor, labels: Tensor, weight: Tensor, avg_factor: Tensor
) -> Tensor:
    """The value of a loss, which is handed the labels where it wants them (``needs_labels``).

    Args:
        loss: What :func:`build_logit_loss` built.
        student, teacher: (n, C) logits.
        labels: (n,) target classes; everything outside [0, C) has none.
        weight: (n,).
        avg_factor: What the weighted sum is divided by.
    """
    more = dict(labels=labels) if getattr(loss, "needs_labels", False) else {}
    return loss(student, teacher, weight=weight, avg_factor=avg_factor, **more)
