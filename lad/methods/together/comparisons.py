"""Class logits of networks that learn from each other: of dense heads at every prior, of RoI heads on proposals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from lad.errors import UnsupportedError
from lad.exchange.labels import DenseLabels, LabelReader, reading_labels
from lad.heads.dense import class_logits, join_levels, level_sizes
from lad.methods.base import Step
from lad.methods.response.dense import (
    check_dense_heads,
    check_labels_known,
    check_same_count,
    labels_of,
    prior_count,
)
from lad.methods.response.logits import build_logit_loss, logit_loss
from lad.methods.roi.logits import RoILogitDistillation
from lad.networks.peer import PeerTeacher, PeerView

from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

#: A learner and its teacher.
Pair = tuple[str, str]


class Comparison(nn.Module):
    """Base of what compares the class logits of each of several learners with those of its teachers.

    Args:
        owner: The method, for messages.
        networks: Networks and exits by name.
        names: Name of the loss of each pair.
        loss: Config of a loss of (n, C) logits.

    Raises:
        UnsupportedError: a pair cannot be compared.
    """

    @abstractmethod
    def modules_of(self, learner: str) -> tuple[str, ...]:
        """The modules of a network whose outputs are read."""

    @abstractmethod
    def observe(self, step: Step) -> AbstractContextManager[Any]:
        """A context in which a learner computes its own loss; what it gives is handed to :meth:`losses`."""

    @abstractmethod
    def losses(self, steps: Mapping[str, Step], observed: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss of each pair by its name; gradients reach the learner only.

        Args:
            steps: The step as each network sees it.
            observed: What :meth:`observe` gave, by learner.
        """

    @abstractmethod
    def loss_weight(self) -> float:
        """The factor that the loss has of its own."""


class DenseComparison(Comparison):
    """Logits at every prior that counts in the learner's own loss, over what its head divides its class loss by.

    Each network's logits and labels are read once, however many pairs they are in, and a loss that can prepare them
    does so once.
    """

    def __init__(
        self, owner: str, networks: Mapping[str, BaseDetector], names: Mapping[Pair, str], loss: dict
    ) -> None:
        super().__init__()
        self.owner = owner
        self.names = dict(names)
        heads: dict[str, Any] = {
            name: getattr(network, "bbox_head", None) for name, network in networks.items()
        }
        for learner, teacher in names:
            found, models = ([each[learner], each[teacher]] for each in (heads, networks))
            check_dense_heads(pair_label(owner, learner, teacher), found, models)
            check_labels_known(pair_label(owner, learner, teacher), found[0])
        first = next(iter(heads.values()))
        self.loss = build_logit_loss(owner, loss, first.use_sigmoid_cls)

    def modules_of(self, learner: str) -> tuple[str, ...]:
        """Its dense head."""
        return ("bbox_head",)

    def observe(self, step: Step) -> AbstractContextManager[LabelReader]:
        """Record the labels of the learner's own loss."""
        return reading_labels(step.student.bbox_head)

    def losses(self, steps: Mapping[str, Step], observed: Mapping[str, LabelReader]) -> dict[str, Tensor]:
        """See :meth:`Comparison.losses`."""
        logits, labels, counts = {}, {}, {}
        for name, step in steps.items():
            head, outputs = step.student.bbox_head, step.outputs["bbox_head"]
            logits[name] = class_logits(head, outputs, join_levels)
            labels[name] = labels_of(head, outputs, observed[name]).joined(level_sizes(outputs[0]))
            counts[name] = prior_count(head, outputs)
        for learner, teacher in self.names:
            check_same_count(pair_label(self.owner, learner, teacher), counts[learner], counts[teacher])
        if prepare := getattr(self.loss, "prepare", None):
            own = taught = {name: prepare(of_network) for name, of_network in logits.items()}
        else:
            own, taught = logits, {name: of_network.detach() for name, of_network in logits.items()}
        return {
            name: _loss_over_labels(self.loss, own[learner], taught[teacher], labels[learner])
            for (learner, teacher), name in self.names.items()
        }

    def loss_weight(self) -> float:
        """See :meth:`Comparison.loss_weight`."""
        return getattr(self.loss, "loss_weight", 1.0)


class RoIComparison(Comparison):
    """Logits of the learner's own proposals, averaged over them.

    The teacher's RoI head scores them on the teacher's features: one more pass of it for each learner. Nothing else
    runs twice.
    """

    def __init__(
        self, owner: str, networks: Mapping[str, BaseDetector], names: Mapping[Pair, str], loss: dict
    ) -> None:
        super().__init__()
        methods: dict[Pair, RoILogitDistillation] = {}
        for (learner, teacher), name in names.items():
            methods[learner, teacher] = method = RoILogitDistillation(loss, loss_name=name)
            try:
                method.bind(networks[learner], PeerTeacher(networks[teacher]))
            except UnsupportedError as error:
                raise UnsupportedError(f"{pair_label(owner, learner, teacher)}: {error}") from error
        self.features = {learner: (method.student_features,) for (learner, _), method in methods.items()}
        self.by_pair = methods
        self.methods = nn.ModuleList(methods.values())

    def modules_of(self, learner: str) -> tuple[str, ...]:
        """What its RoI head pools."""
        return self.features[learner]

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the proposals of the learner's own loss, which its pairs' methods keep by themselves."""
        with ExitStack() as stack:
            for (learner, _), method in self.by_pair.items():
                if learner == step.learner:
                    stack.enter_context(method.observe(step))
            yield

    def losses(self, steps: Mapping[str, Step], observed: Mapping[str, None]) -> dict[str, Tensor]:
        """See :meth:`Comparison.losses`."""
        terms: dict[str, Tensor] = {}
        for (learner, teacher), method in self.by_pair.items():
            step, other = steps[learner], steps[teacher]
            view = PeerView(other.student, other.outputs, len(other.data_samples))
            terms |= method.losses(replace(step, teacher=view))
        return terms

    def loss_weight(self) -> float:
        """See :meth:`Comparison.loss_weight`."""
        return getattr(next(iter(self.by_pair.values())).loss, "loss_weight", 1.0)


def compare_dense(
    owner: str, loss: nn.Module, student: Tensor, teacher: Tensor, labels: DenseLabels
) -> Tensor:
    """A loss of logits at every prior that counts in the student's own loss, over what that loss is divided by.

    Args:
        owner: For messages.
        loss: What :func:`lad.methods.response.logits.build_logit_loss` built.
        student: (N, P, C) logits.
        teacher: Likewise; no gradient flows to them.
        labels: What the student's head trains on.

    Raises:
        UnsupportedError: the numbers of priors differ.
    """
    check_same_count(owner, student.shape[1], teacher.shape[1])
    return _loss_over_labels(loss, student, teacher.detach(), labels)


def _loss_over_labels(loss: nn.Module, student: Any, teacher: Any, labels: DenseLabels) -> Tensor:
    """A loss of logits, or of what it has prepared of them, in the order of the labels."""
    return logit_loss(
        loss,
        student,
        teacher,
        labels.labels,
        labels.counts.float(),
        avg_factor=labels.avg_factor,
    )


def check_same_classes(owner: str, networks: Mapping[str, BaseDetector]) -> None:
    """Refuse networks with other numbers of classes.

    Raises:
        UnsupportedError: names two of them.
    """
    counts = {
        name: count for name, network in networks.items() if (count := _num_classes(network)) is not None
    }
    for (first, number), (name, count) in pairwise(counts.items()):
        if count != number:
            raise UnsupportedError(
                f"{owner}: {first} has {number} classes and {name} {count}; networks that learn from each other need "
                "the same classes: set num_classes alike."
            )


def _num_classes(network: BaseDetector) -> int | None:
    """Number of classes of a detector's RoI head or dense head; None where it has neither."""
    head = getattr(getattr(network, "roi_head", network), "bbox_head", None)
    first = head[0] if isinstance(head, nn.ModuleList) else head  # of a cascade
    return getattr(first, "num_classes", None)


def pair_label(owner: str, learner: str, teacher: str) -> str:
    """How messages about a pair begin: 'OWNER (student a, teacher b)'."""
    return f"{owner} (student {learner}, teacher {teacher})"
