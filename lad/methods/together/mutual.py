"""Mutual learning: networks that are trained at once learn from each other's class logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from lad.base.schedules import build_schedule
from lad.errors import ConfigError, UnsupportedError, listed
from lad.methods.base import JointMethod, Step
from lad.methods.response.dense import default_logit_loss
from lad.methods.settings import checked_loss_name
from lad.methods.together.comparisons import Comparison, DenseComparison, RoIComparison, check_same_classes
from lad.methods.together.pairs import mutual_pairs

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor

#: Which predictors learn from each other: the networks' main heads alone, or their exits too.
Predictors = Literal["output", "all"]


@MODELS.register_module()
class MutualLogitDistillation(JointMethod):
    """Networks trained at once, each of which learns the class logits of every other beside its own loss.

    With ``pairs='output'`` it is deep mutual learning (Zhang et al., CVPR 2018, arXiv 1706.00384), with ``pairs='all'``
    dense cross-layer mutual-distillation (DCM; Yao and Sun, ECCV 2020, arXiv 2008.07816): the loss is

        L = sum of the own losses + weight * sum over ordered pairs (i, j) of different networks of KL(p_j || p_i),

    where p_j is constant. Two networks with two exits each have 3 x 3 x 2 = 18 such pairs. No network needs to be
    pretrained. Backbones and the normalisation of images may differ; classes and priors must be the same. The forward
    pass of each network runs once a step.

    Dense heads: the loss at every prior that counts in the learner's own loss, over what its head divides its class
    loss by (for most heads the number of positives). RoI heads: the mean over the learner's own proposals, which the
    teacher's RoI head scores in one more pass.

    In the log the terms are called ``loss_mutual.LEARNER.TEACHER``: ``loss_mutual.a.early.b`` is what the exit
    ``early`` of ``a`` learns from ``b``, ``loss_mutual.a.b.early`` what ``a`` learns from the exit of ``b``.
    ``sum_mutual`` is their sum, before the method's ``factor``.

    Args:
        pairs: ``'output'``: main heads alone; ``'all'``: every predictor learns from every predictor of the other
            networks, exits too.
        loss: Config of a loss of (n, C) logits, as for ``DenseLogitDistillation``. By default ``QualityKDLoss`` for
            sigmoid classifiers of dense heads, ``KDLoss`` at a temperature of 1 for all others.
        weight: Factor of every term, a number or a schedule (:func:`lad.base.schedules.build_schedule`). Of K
            networks Zhang et al. take the mean over peers, a weight of 1 / (K - 1). With 0 nothing is compared.
        loss_name: What the names of the terms begin with.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is wrong, or there is no exit for ``pairs='all'``.
        UnsupportedError: networks cannot be compared.
    """

    loss_name: str

    def __init__(
        self,
        pairs: Predictors = "output",
        loss: dict | None = None,
        weight: float | dict = 1.0,
        loss_name: str = "loss_mutual",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        if pairs not in get_args(Predictors):
            raise ConfigError(f"{owner}: pairs must be 'output' or 'all', got {pairs!r}.")
        if loss is not None and not isinstance(loss, dict):
            raise ConfigError(f"{owner}: loss must be like dict(type='KDLoss'), got {loss!r}.")
        self.takes_exits = pairs == "all"
        self.loss_config = loss
        self.weight = build_schedule(weight, f"{owner}: weight", minimum=0)
        self.loss_name = checked_loss_name(owner, loss_name, begins=True)
        # What is called a loss would be added to the losses.
        self.sum_name = loss_name.replace("loss", "sum")

    def bind_together(self, networks: Mapping[str, BaseDetector]) -> None:
        """Refuse networks whose class logits cannot be compared."""
        owner = type(self).__name__
        kinds = {name: hasattr(network, "roi_head") for name, network in networks.items()}
        if len(set(kinds.values())) > 1:
            found = listed([f"{name} ({type(network).__name__})" for name, network in networks.items()], 5)
            raise UnsupportedError(
                f"{owner} compares dense heads with dense heads and RoI heads with RoI heads; among are {found}: name "
                "networks of one kind."
            )
        if self.takes_exits and not any("." in name for name in networks):
            hint = (
                "RoI heads have none, leave out pairs"
                if any(kinds.values())
                else "add exits=dict(NETWORK=dict(early=dict(levels=[1]))), or leave out pairs"
            )
            raise ConfigError(
                f"{owner}: pairs='all' compares exits too, and {listed(networks, 5)} have none: {hint}."
            )
        check_same_classes(owner, networks)
        self.names = {pair: f"{self.loss_name}.{name}" for pair, name in mutual_pairs(networks).items()}
        self.comparison: Comparison
        if any(kinds.values()):
            self.comparison = RoIComparison(
                owner, networks, self.names, self.loss_config or dict(type="KDLoss")
            )
        else:
            head = getattr(next(iter(networks.values())), "bbox_head", None)
            self.comparison = DenseComparison(
                owner, networks, self.names, self.loss_config or default_logit_loss(head)
            )

    def modules_of(self, learner: str) -> tuple[str, ...]:
        """What the comparison reads of a network."""
        return self.comparison.modules_of(learner)

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels or proposals of a learner's own loss."""
        if self.weight.is_zero:
            yield
            return
        with self.comparison.observe(step) as observed:
            step.observations.setdefault(self, {})[step.learner] = observed
            yield

    def joint_losses(self, steps: Mapping[str, Step]) -> dict[str, Tensor]:
        """A term for each pair, and ``sum_mutual``, which is only logged."""
        if self.weight.is_zero:
            return {}
        first = next(iter(steps.values()))
        weight = self.weight.at(first.progress)
        losses = self.comparison.losses(steps, first.observations[self])
        terms = {name: value * weight for name, value in losses.items()}
        return terms | {self.sum_name: torch.stack(list(terms.values())).detach().sum()}

    def loss_weights(self) -> dict[str, float]:
        """The factor of each term, of a schedule the last."""
        return dict.fromkeys(self.names.values(), self.weight.end * self.comparison.loss_weight())
