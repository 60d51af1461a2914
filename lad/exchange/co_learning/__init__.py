"""Co-learning: heads of several networks trained on one shared label assignment."""

from lad.exchange.co_learning.base import CoLearning
from lad.exchange.co_learning.table import CO_LEARNING, find_co_learning

__all__ = ["CO_LEARNING", "CoLearning", "find_co_learning"]
