"""Queries of DETRs: what of a query two decoders can share, and how a decoder is given it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from mmdet.models.detectors import DABDETR, DINO, BaseDetector, DeformableDETR
from mmdet.models.layers.transformer import inverse_sigmoid
from torch import Tensor


class Queries(NamedTuple):
    """Queries that two decoders can share; a tuple, so that tensors are found in it as in other outputs.

    Attributes:
        positions: Where the decoder starts, relative to the image: points (N, Q, 2) or boxes (N, Q, 4) cxcywh.
        contents: Learnt vectors (N, Q, D) by the argument of the decoder that takes them; none where a decoder makes
            them from the positions.
    """

    positions: Tensor
    contents: dict[str, Tensor]


@dataclass(frozen=True)
class DecoderFamily:
    """A kind of DETR, whose decoders can share queries.

    Attributes:
        name: For messages.
        contents: Arguments of the decoder that are learnt vectors of a query.
        num_coordinates: 2 where a query starts from a point, 4 from a box.
        read: The positions of queries, given the inputs of a decoder.
        place: The inputs of a detector's decoder for queries of its own width.
    """

    name: str
    contents: tuple[str, ...]
    num_coordinates: int
    read: Callable[[dict[str, Tensor]], Tensor]
    place: Callable[[BaseDetector, Queries], dict[str, Tensor | None]]

    def queries(self, inputs: dict[str, Tensor]) -> Queries:
        """The queries that a decoder is given, all of them.

        Args:
            inputs: Arguments of a detector's ``forward_decoder``.
        """
        return Queries(self.read(inputs), {name: inputs[name] for name in self.contents})


def _reference_points(inputs: dict[str, Tensor]) -> Tensor:
    return inputs["reference_points"]


def _place_one_stage(model: DeformableDETR, queries: Queries) -> dict[str, Tensor | None]:
    return dict(queries.contents, reference_points=queries.positions)


def _place_two_stage(model: DeformableDETR, queries: Queries) -> dict[str, Tensor | None]:
    """Content and position are both functions of the box, by weights of each network."""
    embedded = model.get_proposal_pos_embed(queries.positions.logit())
    query_pos, query = model.pos_trans_norm(model.pos_trans_fc(embedded)).chunk(2, dim=2)
    return dict(query=query, query_pos=query_pos, reference_points=queries.positions)


def _place_dino(model: DINO, queries: Queries) -> dict[str, Tensor | None]:
    # There are no denoising queries among them from which attention must be kept.
    return dict(queries.contents, reference_points=queries.positions, dn_mask=None)


def _place_dab(model: DABDETR, queries: Queries) -> dict[str, Tensor | None]:
    boxes = queries.positions
    content = boxes.new_zeros(*boxes.shape[:2], model.embed_dims)
    return dict(query=content, query_pos=inverse_sigmoid(boxes))


ONE_STAGE = DecoderFamily("DeformableDETR", ("query", "query_pos"), 2, _reference_points, _place_one_stage)
TWO_STAGE = DecoderFamily("two-stage DeformableDETR", (), 4, _reference_points, _place_two_stage)
DINO_FAMILY = DecoderFamily("DINO", ("query",), 4, _reference_points, _place_dino)
DAB = DecoderFamily("DABDETR", (), 4, lambda inputs: inputs["query_pos"].sigmoid(), _place_dab)
FAMILIES = (ONE_STAGE, TWO_STAGE, DINO_FAMILY, DAB)


def find_family(detector: BaseDetector) -> DecoderFamily | None:
    """The family of a detector; None if it is not known.

    Subclasses belong to it as long as they make and decode queries as their base does.
    """
    kind = type(detector)
    makes, decodes = (getattr(kind, name, None) for name in ("pre_decoder", "forward_decoder"))
    if (makes, decodes) == (DINO.pre_decoder, DINO.forward_decoder):
        return DINO_FAMILY
    if (makes, decodes) == (DeformableDETR.pre_decoder, DeformableDETR.forward_decoder):
        return TWO_STAGE if detector.as_two_stage else ONE_STAGE
    # Patterns are learnt contents of which each box has several.
    if (makes, decodes) == (DABDETR.pre_decoder, DABDETR.forward_decoder) and not detector.num_patterns:
        return DAB
    return None


def random_like(learnt: Queries, noise: Queries) -> Queries:
    """Random queries: positions as drawn, contents with the mean and the standard deviation of learnt ones.

    A decoder knows vectors of the size of learnt ones only.

    Args:
        learnt: Learnt queries of N images.
        noise: For each image positions from a uniform and contents from a standard normal distribution.
    """
    contents = {}
    for name, values in learnt.contents.items():
        deviation, mean = torch.std_mean(values.float(), dim=1, correction=0, keepdim=True)
        contents[name] = mean + deviation * noise.contents[name]
    return Queries(noise.positions, contents)
