"""Features that a student's and several teachers' classifiers see: the inputs of their last layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lad.methods.base import Step

from torch import Tensor


@dataclass(frozen=True)
class ClassifierFeatures:
    """Features of n places of the images, of which those with an object count.

    Attributes:
        student: (n, C).
        teachers: (n, D), those of all teachers one after the other.
        weight: (n,) float32, how often a place counts: 0 without an object.
        connector: Number of the connector from C to D.
        prefix: What the name of the loss begins with.
        factor: Of the loss.
    """

    student: Tensor
    teachers: Tensor
    weight: Tensor
    connector: int = 0
    prefix: str = ""
    factor: float = 1.0


class FeatureSource(ABC):
    """Base of where features come from.

    Attributes:
        student_modules: Modules of the student that it reads.
        widths: (C, D) of each connector: channels of the student, and of all teachers together.
    """

    student_modules: tuple[str, ...]
    widths: list[tuple[int, int]]

    @abstractmethod
    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """The modules of a teacher that it reads."""

    @abstractmethod
    def compared(self, name: str) -> list[tuple[str, str]]:
        """The student's and a teacher's modules that are compared, for the dry-run report."""

    @abstractmethod
    def observe(self, step: Step) -> AbstractContextManager[Any]:
        """A context in which the student computes its own loss; what it gives is handed to :meth:`features`."""

    @abstractmethod
    def features(self, step: Step, observed: Any) -> Iterator[ClassifierFeatures]:
        """The features of a step, after the student's own loss."""

    def terms_without_features(self, step: Step, observed: Any) -> Mapping[tuple[str, int], Tensor]:
        """Terms of 0 by their prefix and the number of their connector, in place of features that there are not."""
        return {}
