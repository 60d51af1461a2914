"""Similarity-preserving distillation: the similarities between the images of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from lad.methods.feature.feature_distillation import FeatureDistillation

from mmdet.registry import MODELS


@MODELS.register_module()
class SimilarityPreservingDistillation(FeatureDistillation):
    """Match the pairwise similarities of a batch's images in the student's and the teacher's features.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682. What is compared are
    similarities of images, so neither channels nor resolution need to agree, there is no connector, and tokens may be
    compared with maps. The paper takes the last layer of a classifier; the mean over the levels of a pyramid is ours.
    Each process compares its own images: with one image a process there is nothing to compare, and the loss is 0.

    Args:
        student: Name of the student's module, or several, as for :class:`FeatureDistillation`.
        teacher: The teacher's modules, one for each of the student's.
        loss_weight: Factor of the mean over the maps. The paper's gamma of 3000 is for classifiers and batches of 128;
            none is published for detectors.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.
    """

    def __init__(
        self,
        student: str | Sequence[str] = "neck",
        teacher: str | Sequence[str] = "neck",
        loss_weight: float = 10.0,
        loss_name: str = "loss_similarity",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            student,
            teacher,
            loss=dict(type="SimilarityPreservingLoss"),
            loss_weight=loss_weight,
            average=True,
            loss_name=loss_name,
            init_cfg=init_cfg,
        )
