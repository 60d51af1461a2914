"""Detectors that carry several networks: distillation, and what is registered beside it."""

from lad.detectors.co_learning import CoLearningDetector
from lad.detectors.distillation import DistillationDetector
from lad.detectors.networks import NetworksDetector
from lad.detectors.self_supervised import SelfSupervisedPretraining
from lad.detectors.state import network_state
from lad.detectors.tta import SoftVoteTTAModel, soft_vote

__all__ = [
    "CoLearningDetector",
    "DistillationDetector",
    "NetworksDetector",
    "SelfSupervisedPretraining",
    "SoftVoteTTAModel",
    "network_state",
    "soft_vote",
]
