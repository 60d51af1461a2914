"""Teachers that are no MMDetection detectors: models of dense features, and files of detections."""

from lad.networks.foreign.detection_file import DetectionFile
from lad.networks.foreign.feature_teacher import FeatureTeacher
from lad.networks.foreign.timm_features import TimmFeatures
from lad.networks.foreign.transformers_features import TransformersFeatures

__all__ = ["DetectionFile", "FeatureTeacher", "TimmFeatures", "TransformersFeatures"]
