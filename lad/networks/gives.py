"""What a teacher can give, and what a method reads of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from lad.base.capture import root_of
from lad.errors import UnsupportedError

from mmdet.models.detectors import BaseDetector

#: Kinds of a teacher's outputs: maps of named modules, what its heads predict, and boxes with classes and scores.
Output = Literal["features", "predictions", "detections"]
FEATURES: Output = "features"
PREDICTIONS: Output = "predictions"
DETECTIONS: Output = "detections"

#: What a detector of MMDetection gives.
OF_DETECTORS: tuple[Output, ...] = (FEATURES, PREDICTIONS, DETECTIONS)
#: What a network gives that is trained in the same step: its detections would take a pass of its own.
OF_PEERS: tuple[Output, ...] = (FEATURES, PREDICTIONS)

_KINDS: dict[Output, str] = {
    FEATURES: "feature maps",
    PREDICTIONS: "what its heads predict",
    DETECTIONS: "boxes with classes and scores",
}
_WORKS: dict[Output, str] = {
    FEATURES: "FeatureDistillation, HintDistillation, RelationalDistillation and the other methods of features",
    PREDICTIONS: "any method",
    DETECTIONS: "DetectionDistillation",
}


class Source(Protocol):
    """A network that teaches, and what it gives."""

    @property
    def model(self) -> BaseDetector:
        """The network."""

    @property
    def gives(self) -> tuple[Output, ...]:
        """What can be read of it."""


def check_gives(owner: str, reads: Output, modules: Iterable[str], name: str, teacher: Source) -> None:
    """Refuse a method that reads of its teacher what the teacher does not give.

    Args:
        owner: The method.
        reads: What it reads.
        modules: Names of the teacher's modules that it names itself.
        name: The teacher's name in the config.
        teacher: The teacher.

    Raises:
        UnsupportedError: names what works with the teacher.
    """
    kind = type(teacher.model).__name__
    if reads not in teacher.gives:
        works = " and ".join(_WORKS[given] for given in teacher.gives)
        raise UnsupportedError(
            f"{owner} reads {_KINDS[reads]}, and teacher {name!r} ({kind}) gives "
            f"{' and '.join(_KINDS[given] for given in teacher.gives)} only: {works} can learn from it."
        )
    parts = [part for part, _ in teacher.model.named_children() if part != "data_preprocessor"]
    other = [module for module in modules if root_of(module) not in parts]
    if PREDICTIONS not in teacher.gives and other:
        raise UnsupportedError(
            f"{owner}: teacher {name!r} ({kind}) has {' and '.join(parts)} and no {root_of(other[0])!r}: set "
            f"teacher='{parts[0]}', or '{parts[0]}[0]' for the first of its maps."
        )
