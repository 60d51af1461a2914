"""Queries that a student and several teachers answer: where they come from, and their scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lad.methods.base import Step
from lad.methods.specialists.classes import KnownClasses

from torch import Tensor, nn


@dataclass(frozen=True)
class Queries:
    """Scores of K candidates of each of n queries by the student and M teachers.

    Attributes:
        student: (n, K) the student's scores.
        teachers: (n, M, K) the teachers'; anything where they do not know a candidate.
        gates: (n, M, K), or a shape that broadcasts to it: logits of the gates.
        known: (n, M, K) bool, whether a teacher knows a candidate.
        classes: (n, K) int64 class of each candidate, the number of classes for background.
        targets: (n, K) float32, 1 where a candidate is right by the student's own labels.
        labelled: (n, K) float32, 1 where these labels count, else 0.
        weight: (n,) float32 weight of each query.
        prefix: What the names of its losses begin with.
        factor: Of its losses.
    """

    student: Tensor
    teachers: Tensor
    gates: Tensor
    known: Tensor
    classes: Tensor
    targets: Tensor
    labelled: Tensor
    weight: Tensor
    prefix: str = ""
    factor: float = 1.0


class QuerySource(nn.Module):
    """Base of where queries come from.

    Attributes:
        student_modules: Modules of the student that it reads.
        num_groups: In how many groups of candidates of a class each teacher has a gate: levels or stages.
        known: Which of the student's classes each teacher knows.
    """

    student_modules: tuple[str, ...]
    num_groups: int
    known: KnownClasses

    @abstractmethod
    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """The modules of a teacher that it reads."""

    @abstractmethod
    def observe(self, step: Step) -> AbstractContextManager[Any]:
        """A context in which the student computes its own loss; what it gives is handed to :meth:`queries`."""

    @abstractmethod
    def queries(self, step: Step, observed: Any, gates: Tensor) -> Iterator[Queries]:
        """The queries of a step.

        Args:
            step: The step, after the student's own loss.
            observed: What :meth:`observe` gave.
            gates: (M, groups, C) logits of the gates.
        """

    def terms_without_queries(self, step: Step, observed: Any) -> Mapping[str, Tensor]:
        """Terms of 0 by their prefix, in place of queries that there are not in this step; by default none.

        They give their part of the student the gradient of 0 for which other processes wait.
        """
        return {}
