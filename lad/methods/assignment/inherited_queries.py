"""Queries of a DETR student inherited from its teacher, so that the matches of the two correspond."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from lad.base.capture import Outputs
from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.seams import Mode
from lad.exchange.seams.base import Seam
from lad.methods.base import Step
from lad.methods.transformers.decoding import answer_own, decode_own
from lad.networks.cache import hash_of
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import DINO, BaseDetector, DeformableDETR
from mmdet.structures import SampleList
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from torch import Tensor, nn

#: The entry of a checkpoint's metadata that records the origin of the student's queries.
ORIGIN = "queries_of"

#: Puts queries at reference boxes: student, inputs of its decoder, boxes (N, Q, 4) -> the inputs to be changed.
Placing = Callable[[nn.Module, dict[str, Tensor], Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class QueryFamily:
    """Modules and placement of the queries of a kind of DETR.

    Attributes:
        name: For messages.
        modules: The detector's modules whose weights make the queries.
        place: How queries are put at the teacher's reference boxes, where each network's encoder proposes its own for
            each image. None where reference points come from ``modules`` alone.
    """

    name: str
    modules: tuple[str, ...]
    place: Placing | None = None


def _place_dino(student: DINO, inputs: dict[str, Tensor], references: Tensor) -> dict[str, Tensor]:
    own = inputs["reference_points"]  # denoising queries first
    denoising = own[:, : own.shape[1] - references.shape[1]]
    return dict(reference_points=torch.cat([denoising, references.to(own.dtype)], dim=1))


def _place_two_stage(
    student: DeformableDETR, inputs: dict[str, Tensor], references: Tensor
) -> dict[str, Tensor]:
    """Content and position are both functions of the box."""
    references = references.to(inputs["reference_points"].dtype)
    embedded = student.get_proposal_pos_embed(references.logit())
    query_pos, query = student.pos_trans_norm(student.pos_trans_fc(embedded)).chunk(2, dim=2)
    return dict(query=query, query_pos=query_pos, reference_points=references)


ONE_STAGE = QueryFamily("DeformableDETR", ("query_embedding", "reference_points_fc"))
TWO_STAGE = QueryFamily("two-stage DeformableDETR", ("pos_trans_fc", "pos_trans_norm"), _place_two_stage)
DINO_QUERIES = QueryFamily("DINO", ("query_embedding",), _place_dino)


def find_family(detector: BaseDetector) -> QueryFamily | None:
    """The family of a detector's queries; None if it is not known.

    Subclasses belong to it as long as they make queries as their base does.
    """
    makes_queries = getattr(type(detector), "pre_decoder", None)
    if makes_queries is DINO.pre_decoder:
        return DINO_QUERIES
    if makes_queries is DeformableDETR.pre_decoder:
        return TWO_STAGE if detector.as_two_stage else ONE_STAGE
    return None


def decode(model: BaseDetector, outputs: Outputs, features: str, samples: SampleList) -> tuple[Tensor, ...]:
    """Decode the queries of a DETR.

    Args:
        model: The detector.
        outputs: Where its features are.
        features: By which name.
        samples: Sizes of the N images.

    Returns:
        Of L decoder layers and Q queries: class scores (L, N, Q, C), boxes (L, N, Q, 4) cxcywh relative to the image,
        and the reference points from which the first layer started, (N, Q, 2 or 4).
    """
    answers = answer_own(model, outputs, features, samples)
    return *answers, decode_own(model, outputs, features, samples)["references"][0]


class InheritedQueries(BaseModule):
    """The queries of a student that were its teacher's in the beginning.

    They are copied when it is built and after ``init_weights``, not when a training is resumed: a checkpoint's metadata
    records the origin of its queries, and only queries of another origin are replaced. There are no weights in
    here, so none are saved.

    Where reference boxes are proposals of each network's encoder (two-stage Deformable-DETR, DINO), the student's
    decoder starts from the teacher's proposals during training: its i-th proposal and the teacher's i-th are different
    places. Its encoder learns to propose by its own loss, as always; no gradient passes from the decoder to proposals
    in these detectors.

    Args:
        student: The student.
        teacher: The teacher.
        frozen: Whether the inherited weights stay as they are.

    Raises:
        UnsupportedError: the student cannot take over the teacher's queries.
    """

    def __init__(self, student: BaseDetector, teacher: Teacher, frozen: bool = False) -> None:
        super().__init__()
        self.family = _check(student, teacher.model)
        # In a tuple, so that it is not registered a second time as a module of this one.
        self._student = (student,)
        self._teacher = teacher
        self._features = "neck" if teacher.model.with_neck else "backbone"
        self.origin = hash_of(
            nn.ModuleDict({name: getattr(teacher.model, name) for name in self.family.modules})
        )
        self._register_state_dict_hook(_write_origin)
        for name in self.family.modules if frozen else ():
            getattr(student, name).requires_grad_(False)
        self.inherit()

    @property
    def teacher_modules(self) -> tuple[str, ...]:
        """The teacher's modules before its transformer."""
        return (self._features,)

    @torch.no_grad()
    def inherit(self) -> None:
        """Copy the teacher's queries into the student."""
        (student,) = self._student
        for name in self.family.modules:
            getattr(student, name).load_state_dict(getattr(self._teacher.model, name).state_dict())

    def init_weights(self) -> None:
        """Copy them again: MMEngine calls this after the student's own initialisation."""
        super().init_weights()
        self.inherit()
        if hasattr(self, "_params_init_info"):  # not when called for this module alone
            update_init_info(self._student[0], "Inherited from the teacher's queries")

    @contextmanager
    def replay(self, step: Step, seam: Seam, mode: Mode) -> Iterator[None]:
        """A context in which the student starts from the teacher's reference points and takes over its matches."""
        cls_scores, bbox_preds, references = step.teacher.evaluate(decode, self._features, step.data_samples)
        heads = step.student.bbox_head, step.teacher.model.bbox_head
        matches = seam.replay(*heads, lambda images: (cls_scores, bbox_preds), step.data_samples, mode)
        with self.starting_from(references), matches:
            yield

    def starting_from(self, references: Tensor) -> AbstractContextManager:
        """A context in which the student's decoder starts from reference boxes (N, Q, 4) cxcywh, if its family does.

        Denoising queries start where they would.
        """
        place = self.family.place
        if place is None:
            return nullcontext()
        (student,) = self._student
        pre_decoder = student.pre_decoder

        def placed(*args: Any, **kwargs: Any) -> tuple[dict, dict]:
            decoder_inputs, head_inputs = pre_decoder(*args, **kwargs)
            return decoder_inputs | place(student, decoder_inputs, references), head_inputs

        return replaced(student, "pre_decoder", placed)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any, **kwargs: Any
    ) -> None:
        # The student, a module before this one, has its weights already.
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)
        if local_metadata.get(ORIGIN) != self.origin:
            print_log(
                "The checkpoint's queries do not descend from this teacher's (a load_from, or another teacher): the "
                f"teacher's {', '.join(self.family.modules)} are copied into the student again.",
                logger="current",
                level=logging.WARNING,
            )
            self.inherit()


def _write_origin(module: InheritedQueries, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    """State-dict hook: beside the versions of modules, which plain MMDetection passes over."""
    local_metadata[ORIGIN] = module.origin


def _check(student: BaseDetector, teacher: BaseDetector) -> QueryFamily:
    """The family of both."""
    family = find_family(student)
    if family is None or find_family(teacher) is not family:
        kinds = [
            known.name if (known := find_family(detector)) else type(detector).__name__
            for detector in (student, teacher)
        ]
        raise UnsupportedError(
            f"inherit_queries: a {kinds[0]} student cannot take over the queries of a {kinds[1]} teacher: it works for "
            f"two of the same kind out of {ONE_STAGE.name}, {TWO_STAGE.name} and {DINO_QUERIES.name}; leave out "
            "inherit_queries for heads without queries."
        )
    if student.num_queries != teacher.num_queries:
        raise UnsupportedError(
            f"inherit_queries: the student has {student.num_queries} queries and the teacher {teacher.num_queries}: "
            "set both num_queries alike."
        )
    for module in family.modules:
        own = getattr(student, module).state_dict()
        for name, value in getattr(teacher, module).state_dict().items():
            if own[name].shape != value.shape:
                raise UnsupportedError(
                    f"inherit_queries: the student's {module}.{name} is {tuple(own[name].shape)} and the teacher's "
                    f"{tuple(value.shape)}: give both transformers the same embed_dims."
                )
    return family
