"""Distillation methods, one a file."""

from lad.methods.activation_boundaries import ActivationBoundaryDistillation
from lad.methods.base import DistillationMethod, Step
from lad.methods.cross_head import CrossHeadDistillation
from lad.methods.dense_logits import DenseLogitDistillation
from lad.methods.factor_transfer import FactorTransferDistillation
from lad.methods.feature import FeatureDistillation
from lad.methods.hint import HintDistillation
from lad.methods.label_assignment import LabelAssignmentDistillation
from lad.methods.localisation import LocalisationDistillation
from lad.methods.overhaul import OverhaulDistillation
from lad.methods.rcnn import RCNNDistillation
from lad.methods.relational import RelationalDistillation
from lad.methods.roi_logits import RoILogitDistillation
from lad.methods.rpn import RPNDistillation
from lad.methods.similarity import SimilarityPreservingDistillation
from lad.methods.soft_label import SoftLabelDistillation

__all__ = [
    "ActivationBoundaryDistillation",
    "CrossHeadDistillation",
    "DenseLogitDistillation",
    "DistillationMethod",
    "FactorTransferDistillation",
    "FeatureDistillation",
    "HintDistillation",
    "LabelAssignmentDistillation",
    "LocalisationDistillation",
    "OverhaulDistillation",
    "RCNNDistillation",
    "RPNDistillation",
    "RelationalDistillation",
    "RoILogitDistillation",
    "SimilarityPreservingDistillation",
    "SoftLabelDistillation",
    "Step",
]
