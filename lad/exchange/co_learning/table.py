"""Table of the kinds of heads that can share their label assignment."""

from __future__ import annotations

from lad.errors import UnsupportedError, listed
from lad.exchange.co_learning.assigner import AssignerCoLearning
from lad.exchange.co_learning.base import CoLearning
from lad.exchange.co_learning.paa import PAACoLearning
from lad.exchange.switching import Switch

from mmdet.models.detectors import BaseDetector

CO_LEARNING: tuple[CoLearning, ...] = (PAACoLearning(), AssignerCoLearning())


def find_co_learning(networks: dict[str, BaseDetector], switch: Switch) -> CoLearning:
    """Find how these detectors can share their label assignment.

    Raises:
        UnsupportedError: they cannot; names the networks and what works.
    """
    heads = [getattr(network, "bbox_head", None) for network in networks.values()]
    for co_learning in CO_LEARNING:
        if all(co_learning.fits(head) for head in heads):
            co_learning.check(heads, switch)
            return co_learning
    names = [
        f"{name}: {type(network).__name__} ({type(head).__name__ if head is not None else 'no bbox_head'})"
        for (name, network), head in zip(networks.items(), heads, strict=True)
    ]
    raise UnsupportedError(
        f"CoLearningAssignment does not fit {listed(names)}: networks that learn together must decide labels in the "
        f"same way, from their predictions; it works with {', '.join(kind.works_with for kind in CO_LEARNING)}."
    )
