"""Detectors that learn from other detectors."""

from lad.detectors.co_learning import CoLearningDetector
from lad.detectors.distillation import DistillationDetector
from lad.detectors.tta import SoftVoteTTAModel, soft_vote

__all__ = ["CoLearningDetector", "DistillationDetector", "SoftVoteTTAModel", "soft_vote"]
