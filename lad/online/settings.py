"""Settings of an online distillation, as a config's ``online`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lad.base.settings import is_number, is_whole
from lad.errors import ConfigError, nearest
from lad.online.controller import StrideRules

#: What a setting must be that may not be any number, and what to call it.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "norm_eval": (lambda value: isinstance(value, bool), "True or False"),
    **dict.fromkeys(("min_stride", "max_stride", "max_updates"), (is_whole, "a whole number")),
}


@dataclass(frozen=True)
class OnlineSettings:
    """How a student learns on a stream.

    Attributes:
        rules: When the teacher is asked, and how long a frame is trained on.
        teacher_score: Detections of the teacher that score less are no labels.
        student_score: Detections of the student that score less are not served, and count for nothing.
        object_weight: What priors in objects weigh in the class loss, relative to others; 1 for all alike.
        enlarged: By how much of its sides a box is enlarged for that.
        norm_eval: Whether batch norm keeps its running statistics and normalises by them. In training mode one frame's
            statistics replace them, and the student unlearns everything else.
        seed: Of the training steps.

    Raises:
        ConfigError: a number is out of range.
    """

    rules: StrideRules = field(default_factory=StrideRules)
    teacher_score: float = 0.5
    student_score: float = 0.5
    object_weight: float = 5.0
    enlarged: float = 0.15
    norm_eval: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("teacher_score", "student_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name)}.")
        if not (self.object_weight > 0 and self.enlarged >= 0):
            raise ConfigError(
                f"object_weight must be above 0 and enlarged at least 0, got {self.object_weight} and {self.enlarged}."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], seed: int = 0) -> OnlineSettings:
        """Read the settings of a config: ``online=dict(min_stride=8, teacher_score=0.5, ...)``.

        Args:
            config: The dict, without ``teacher``.
            seed: Of the training steps.

        Raises:
            ConfigError: there is no such setting, or its value is none.
        """
        of_rules = {one.name for one in fields(StrideRules)}
        own = {one.name for one in fields(cls)} - {"rules", "seed"}
        for name, value in config.items():
            if name not in of_rules | own:
                raise ConfigError(f"online has no setting {name!r}{nearest(name, of_rules | own)}.")
            is_kind, called = _KINDS.get(name, (is_number, "a number"))
            if not is_kind(value):
                raise ConfigError(f"online.{name} must be {called}, got {value!r}.")
        rules = StrideRules(**{name: value for name, value in config.items() if name in of_rules})
        return cls(rules, seed=seed, **{name: value for name, value in config.items() if name in own})
