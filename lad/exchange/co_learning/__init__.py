"""How heads that learn together decide their labels: one decision a batch, by whoever teaches."""

from lad.exchange.co_learning.base import CoLearning
from lad.exchange.co_learning.table import CO_LEARNING, find_co_learning

__all__ = ["CO_LEARNING", "CoLearning", "find_co_learning"]
