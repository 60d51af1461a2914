"""Distillation methods, one a file."""

from lad.methods.assignment.co_learning import CoLearningAssignment
from lad.methods.assignment.label_assignment import LabelAssignmentDistillation
from lad.methods.base import DistillationMethod, JointMethod, SeveralTeachersMethod, Step
from lad.methods.feature.activation_boundaries import ActivationBoundaryDistillation
from lad.methods.feature.factor_transfer import FactorTransferDistillation
from lad.methods.feature.feature_distillation import FeatureDistillation
from lad.methods.feature.hint import HintDistillation
from lad.methods.feature.overhaul import OverhaulDistillation
from lad.methods.feature.relational import RelationalDistillation
from lad.methods.feature.similarity import SimilarityPreservingDistillation
from lad.methods.response.cross_head import CrossHeadDistillation
from lad.methods.response.dense_logits import DenseLogitDistillation
from lad.methods.response.detections import DetectionDistillation
from lad.methods.response.localisation import LocalisationDistillation
from lad.methods.response.not_true import NotTrueDistillation
from lad.methods.response.soft_label import SoftLabelDistillation
from lad.methods.roi.logits import RoILogitDistillation
from lad.methods.roi.masks import MaskLogitDistillation
from lad.methods.roi.rcnn import RCNNDistillation
from lad.methods.roi.rpn import RPNDistillation
from lad.methods.specialists.class_balanced import ClassBalancedDistillation
from lad.methods.specialists.mulde import MulDE
from lad.methods.together.feature_fusion import FeatureFusionSelfDistillation
from lad.methods.together.mutual import MutualLogitDistillation
from lad.methods.together.self_distillation import SelfDistillation
from lad.methods.transformers.matched_queries import MatchedQueryDistillation
from lad.methods.transformers.shared_queries import SharedQueryDistillation
from lad.methods.without_labels.contrastive import ContrastiveLearning
from lad.methods.without_labels.fedx import FedX
from lad.methods.without_labels.similarity import SimilarityDistillation

__all__ = [
    "ActivationBoundaryDistillation",
    "ClassBalancedDistillation",
    "CoLearningAssignment",
    "ContrastiveLearning",
    "CrossHeadDistillation",
    "DenseLogitDistillation",
    "DetectionDistillation",
    "DistillationMethod",
    "FactorTransferDistillation",
    "FeatureDistillation",
    "FeatureFusionSelfDistillation",
    "FedX",
    "HintDistillation",
    "JointMethod",
    "LabelAssignmentDistillation",
    "LocalisationDistillation",
    "MaskLogitDistillation",
    "MatchedQueryDistillation",
    "MulDE",
    "MutualLogitDistillation",
    "NotTrueDistillation",
    "OverhaulDistillation",
    "RCNNDistillation",
    "RPNDistillation",
    "RelationalDistillation",
    "RoILogitDistillation",
    "SelfDistillation",
    "SeveralTeachersMethod",
    "SharedQueryDistillation",
    "SimilarityDistillation",
    "SimilarityPreservingDistillation",
    "SoftLabelDistillation",
    "Step",
]
