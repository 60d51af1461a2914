"""Distillation losses: a pure function and a thin registered module each.

Half precision is cast up: results are float32, or float64 where the student's tensor is.
"""

from lad.losses.activation_boundaries import ABLoss, activation_boundary_loss
from lad.losses.attention_transfer import ATLoss, attention_transfer_loss
from lad.losses.bounded_regression import BoundedRegressionLoss, bounded_regression_loss
from lad.losses.channel_wise import CWDLoss, channel_wise_divergence
from lad.losses.contrastive import nt_xent_loss
from lad.losses.cosine import CosineLoss, cosine_distance
from lad.losses.decoupled import DKDLoss, binary_decoupled_kd_loss, decoupled_kd_loss
from lad.losses.direction import direction_distance
from lad.losses.diversity import complementary_attention, complementary_features, diversity_loss
from lad.losses.factor_transfer import FTLoss, factor_transfer_loss
from lad.losses.feature import FeatureLoss, Objects
from lad.losses.feature_distance import FeatureDistanceLoss, feature_distance_loss
from lad.losses.focal_global import FGDLoss, focal_terms, object_masks
from lad.losses.focal_kl import FocalKLLoss, focal_kl_loss
from lad.losses.hint import HintLoss, hint_loss
from lad.losses.knowledge_distillation import KDLoss, binary_kl_divergence, kl_divergence
from lad.losses.localisation import LDLoss, localisation_distillation_loss
from lad.losses.masked_generation import MGDLoss, generation_loss
from lad.losses.multi_teacher import (
    attention_temperature,
    contrastive_attention,
    fuse_scores,
    gate_scores,
    known_divergence,
)
from lad.losses.not_true import binary_not_true_divergence, not_true_divergence
from lad.losses.overhaul import OFDLoss, negative_expectation, partial_l2_loss
from lad.losses.pearson import PKDLoss, pearson_distillation_loss
from lad.losses.probability_focal import ProbabilityFocalLoss, probability_focal_loss
from lad.losses.quality_kd import QualityKDLoss, quality_kd_loss
from lad.losses.relation_agreement import relation_agreement_loss
from lad.losses.relational import RKDLoss, relational_loss
from lad.losses.similarity import SimilarityPreservingLoss, similarity_preserving_loss
from lad.losses.similarity_divergence import similarity_divergence
from lad.losses.soft_cross_entropy import SoftCrossEntropyLoss, binary_soft_cross_entropy, soft_cross_entropy

__all__ = [
    "ABLoss",
    "ATLoss",
    "BoundedRegressionLoss",
    "CWDLoss",
    "CosineLoss",
    "DKDLoss",
    "FGDLoss",
    "FTLoss",
    "FeatureDistanceLoss",
    "FeatureLoss",
    "FocalKLLoss",
    "HintLoss",
    "KDLoss",
    "LDLoss",
    "MGDLoss",
    "OFDLoss",
    "Objects",
    "PKDLoss",
    "ProbabilityFocalLoss",
    "QualityKDLoss",
    "RKDLoss",
    "SimilarityPreservingLoss",
    "SoftCrossEntropyLoss",
    "activation_boundary_loss",
    "attention_temperature",
    "attention_transfer_loss",
    "binary_decoupled_kd_loss",
    "binary_kl_divergence",
    "binary_not_true_divergence",
    "binary_soft_cross_entropy",
    "bounded_regression_loss",
    "channel_wise_divergence",
    "complementary_attention",
    "complementary_features",
    "contrastive_attention",
    "cosine_distance",
    "decoupled_kd_loss",
    "direction_distance",
    "diversity_loss",
    "factor_transfer_loss",
    "feature_distance_loss",
    "focal_kl_loss",
    "focal_terms",
    "fuse_scores",
    "gate_scores",
    "generation_loss",
    "hint_loss",
    "kl_divergence",
    "known_divergence",
    "localisation_distillation_loss",
    "negative_expectation",
    "not_true_divergence",
    "nt_xent_loss",
    "object_masks",
    "partial_l2_loss",
    "pearson_distillation_loss",
    "probability_focal_loss",
    "quality_kd_loss",
    "relation_agreement_loss",
    "relational_loss",
    "similarity_divergence",
    "similarity_preserving_loss",
    "soft_cross_entropy",
]
