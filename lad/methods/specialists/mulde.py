"""MulDE: several teachers, each trusted where it agrees with the student and where its gates are open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

from lad.base.schedules import build_schedule
from lad.base.settings import check_numbers, checked_flag, is_whole
from lad.errors import ConfigError, UnsupportedError
from lad.losses import (
    attention_temperature,
    contrastive_attention,
    fuse_scores,
    gate_scores,
    known_divergence,
)
from lad.methods.base import Link, SeveralTeachersMethod, Step
from lad.methods.roi.heads import stages_of
from lad.methods.roi.two_stage import averaged_over_ranks
from lad.methods.settings import checked_classes, checked_loss_name
from lad.methods.specialists.cells import DenseQueries, check_dense
from lad.methods.specialists.classes import find_known_classes
from lad.methods.specialists.proposals import ProposalQueries, check_proposals
from lad.methods.specialists.queries import Queries, QuerySource
from lad.methods.specialists.weights import MeanWeights
from lad.networks.routes import SingleTeacher

import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor, nn

#: How the teachers of a candidate are weighed.
Attention = Literal["contrastive", "mean"]


@MODELS.register_module()
class MulDE(SeveralTeachersMethod):
    """Distillation from several teachers that may know other classes, weighed query by query.

    Wang et al., "MulDE: Multi-teacher Knowledge Distillation for Low-dimensional Knowledge Graph Embeddings", WWW 2021,
    arXiv 2010.07152, taken to detectors. With the scores J of the student and s_m of teacher m for the candidates of a
    query:

        s'_m = sigmoid(g_m) s_m
        w    = softmax over m of -KL(softmax(J) || softmax(s'_m)) / temperature of the attention
        s    = sum over m of w_m s'_m
        L    = own loss + BCE(s, y) + loss_weight T^2 KL(softmax(s / T) || softmax(J / T))

    BCE(s, y) is taken on the student's own labels and trains the gates g alone; the KL trains the student alone.

    *Dense heads* with sigmoid classes: a query is an image, and its candidates are the ``candidates`` cells (pairs of a
    prior and a class) with the student's highest logits. There is a gate for each teacher, level and class. *RoI heads*
    with a softmax: a query is a proposal of the student, which each teacher's RoI head scores; its candidates are the
    classes, scored by s_mc = z_mc - z_m,background, and the background with the score 0. There is a gate for each
    teacher, stage and class.

    A teacher is compared on the candidates whose class it knows, where the probabilities of both sides are normalised
    again, and a candidate's weights are those of the teachers that know it. In the log ``TEACHER.weight.CLASS`` is the
    mean weight of a teacher at the candidates of a class, ``TEACHER.weight`` at all.

    Args:
        classes: The student's class names, in its order; None: all teachers have its classes in its order.
        knows: Class names of teachers whose checkpoints record none, by the teacher's name.
        candidates: K, of dense heads.
        temperature: T.
        loss_weight: Factor of the KL, a number or a schedule (:func:`lad.base.schedules.build_schedule`).
        gate_weight: Factor of BCE(s, y).
        attention_epochs: The attention's temperature is e^floor(epoch / attention_epochs), and
        max_attention_temperature: at most this; below 1 a constant that makes it sharper. None: no bound, as in the
            authors' code, where by epoch 20 it is 55 and the attention is a plain mean.
        attention: ``'contrastive'``, or ``'mean'``: the teachers that know a candidate weigh alike.
        gated: Whether there are gates; without them s'_m = s_m, and no BCE(s, y). With ``attention='mean'`` what is
            left is distillation from the plain mean of the teachers that know a candidate, for comparison.
        log_classes: Whether the log has the weights of each class; None: of up to 20 classes.
        loss_name: What the KL is called.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is wrong.
        UnsupportedError, ConfigError: when it is bound: heads or classes do not fit.
    """

    loss_name: str
    source: QuerySource
    gates: Tensor

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        knows: Mapping[str, Sequence[str]] | None = None,
        candidates: int = 500,
        temperature: float = 1.0,
        loss_weight: float | dict = 0.5,
        gate_weight: float = 1.0,
        attention_epochs: int = 5,
        max_attention_temperature: float | None = math.e,
        attention: Attention = "contrastive",
        gated: bool = True,
        log_classes: bool | None = None,
        loss_name: str = "loss_mulde",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        for name, value, least in (("candidates", candidates, 2), ("attention_epochs", attention_epochs, 1)):
            if not is_whole(value) or value < least:
                raise ConfigError(
                    f"{owner}: {name} must be a whole number of at least {least}, got {value!r}."
                )
        self.temperature = build_schedule(temperature, f"{owner}: temperature", above=0)
        self.loss_weight = build_schedule(loss_weight, f"{owner}: loss_weight", minimum=0)
        self.gate_weight = build_schedule(gate_weight, f"{owner}: gate_weight", minimum=0)
        if max_attention_temperature is not None:
            check_numbers(owner, above=0, max_attention_temperature=max_attention_temperature)
        if attention not in get_args(Attention):
            raise ConfigError(
                f"{owner}: attention must be one of {', '.join(get_args(Attention))}, got {attention!r}."
            )
        if knows is not None and not isinstance(knows, Mapping):
            raise ConfigError(
                f"{owner}: knows must be like dict(TEACHER=['ring', 'trophozoite']), got {knows!r}."
            )
        self.classes = checked_classes(owner, classes)
        self.knows = {
            name: checked
            for name, names in (knows or {}).items()
            if (checked := checked_classes(owner, names, f"knows.{name}", "teacher")) is not None
        }
        self.candidates = candidates
        self.attention_epochs = attention_epochs
        self.max_attention_temperature = max_attention_temperature
        self.attention = attention
        self.gated = checked_flag(owner, "gated", gated)
        self.log_classes = None if log_classes is None else checked_flag(owner, "log_classes", log_classes)
        self.loss_name = checked_loss_name(owner, loss_name)
        self.gate_loss_name = f"{loss_name}_gates"

    @property
    def counts_epochs(self) -> dict[str, str]:
        """The epochs of the attention's temperature, where it rises."""
        maximum = self.max_attention_temperature
        if self.attention == "mean" or (maximum is not None and maximum <= 1):
            return {}
        return {"attention_epochs": "max_attention_temperature=1, or attention='mean'"}

    def bind_teachers(self, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
        """Refuse heads and classes that do not fit; make the gates."""
        owner = type(self).__name__
        is_two_stage = hasattr(student, "roi_head")
        check = check_proposals if is_two_stage else check_dense
        check(owner, student, teachers)
        counts = {name: _num_classes(teacher.model) for name, teacher in teachers.items()}
        num_classes = _num_classes(student)
        known = find_known_classes(owner, self.classes, num_classes, teachers, counts, self.knows)
        if is_two_stage:
            self.source = ProposalQueries(owner, student, teachers, known)
        else:
            self.source = DenseQueries(owner, student, teachers, known, self.candidates)
        self.student_modules = self.source.student_modules
        gates = torch.ones(len(teachers), self.source.num_groups, num_classes)
        if self.gated:
            # 1 as the authors have it: open by sigmoid(1) = 0.73.
            self.gates = nn.Parameter(gates)
        else:
            self.register_buffer("gates", torch.full_like(gates, torch.inf), persistent=False)
        log_classes = num_classes <= 20 if self.log_classes is None else self.log_classes
        self.mean_weights = MeanWeights(known, log_classes)

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """What is read of a teacher."""
        return self.source.modules_of_teacher(name)

    def links_of_teacher(self, name: str) -> list[Link]:
        """The modules that are compared, and the gates between them."""
        groups, classes = self.gates.shape[1:]
        text = f"gates {groups}x{classes}" if self.gated else ""
        return [Link(self.student_modules[0], module, text) for module in self.modules_of_teacher(name)]

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: the gates learn from the labels of the student's own loss."""
        raise UnsupportedError(
            "student_loss=False: MulDE needs the labels of the student's own loss; without labels "
            "SoftLabelDistillation trains a PAA head, RPNDistillation with RCNNDistillation a Faster R-CNN."
        )

    def loss_weights(self) -> dict[str, float]:
        """The factors of the terms, of a schedule the last."""
        weights = {self.loss_name: self.loss_weight.end, self.gate_loss_name: self.gate_weight.end}
        return weights if self.gated else {self.loss_name: self.loss_weight.end}

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels or proposals of the student's own loss."""
        with self.source.observe(step) as observed:
            step.observations[self] = observed
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The KL and BCE(s, y), of a cascade stage by stage, and the mean weights, which are only logged."""
        observed = step.observations[self]
        attention = self._attention_temperature(step)
        terms: dict[str, Tensor] = {}
        for queries in self.source.queries(step, observed, self.gates):
            gated = gate_scores(queries.teachers, queries.gates)
            weights = contrastive_attention(queries.student, gated, attention, queries.known)
            self.mean_weights.add(weights, queries)
            terms |= self._terms(step, queries, fuse_scores(gated, weights))
        for prefix, zero in self.source.terms_without_queries(step, observed).items():
            # Other processes may have queries here, and wait for this one's numbers.
            averaged_over_ranks(0, 0, like=zero)
            terms[f"{prefix}{self.loss_name}"] = zero
            if self.gated:
                terms[f"{prefix}{self.gate_loss_name}"] = 0 * self.gates.sum()
        return terms | self.mean_weights.logged()

    def _attention_temperature(self, step: Step) -> float:
        if self.attention == "mean":
            return math.inf
        return attention_temperature(
            step.progress.epoch, self.attention_epochs, self.max_attention_temperature
        )

    def _terms(self, step: Step, queries: Queries, fused: Tensor) -> dict[str, Tensor]:
        known = queries.known.any(dim=1)
        labelled = queries.labelled * known
        num_queries, num_labelled = averaged_over_ranks(
            queries.weight.sum(), labelled.sum(), like=queries.weight
        )
        divergence = known_divergence(queries.student, fused, known, self.temperature.at(step.progress))
        factors = [queries.factor * each.at(step.progress) for each in (self.loss_weight, self.gate_weight)]
        terms = {
            f"{queries.prefix}{self.loss_name}": factors[0]
            * (divergence * queries.weight).sum()
            / num_queries,
        }
        if self.gated:
            # Without gradient to the student: neither the weights nor the teachers' scores have one.
            mistakes = F.binary_cross_entropy_with_logits(fused, queries.targets, labelled, reduction="sum")
            terms[f"{queries.prefix}{self.gate_loss_name}"] = factors[1] * mistakes / num_labelled
        return terms


def _num_classes(model: BaseDetector) -> int:
    head = stages_of(model)[0] if hasattr(model, "roi_head") else model.bbox_head
    return head.num_classes
