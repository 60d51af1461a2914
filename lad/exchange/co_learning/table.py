"""The table of heads that can learn together."""

from __future__ import annotations

from lad.errors import UnsupportedError, listed
from lad.exchange.co_learning.assigner import AssignerCoLearning
from lad.exchange.co_learning.base import CoLearning
from lad.exchange.co_learning.paa import PAACoLearning
from lad.exchange.switching import Switch

from torch import nn

CO_LEARNING: tuple[CoLearning, ...] = (PAACoLearning(), AssignerCoLearning())


def find_co_learning(networks: dict[str, nn.Module], switch: Switch) -> CoLearning:
    """The way in which these detectors can share their labels.

    Raises:
        UnsupportedError: there is none; names the networks and what works.
    """
    heads = [getattr(network, "bbox_head", None) for network in networks.values()]
    for way in CO_LEARNING:
        if all(way.fits(head) for head in heads):
            way.check(heads, switch)
            return way
    names = [
        f"{name}: {type(network).__name__} ({type(head).__name__ if head is not None else 'no bbox_head'})"
        for (name, network), head in zip(networks.items(), heads, strict=True)
    ]
    raise UnsupportedError(
        f"CoLearningDetector does not fit {listed(names)}: networks that learn together must decide labels in the same "
        f"way, from their predictions; it works with {', '.join(way.works_with for way in CO_LEARNING)}."
    )
