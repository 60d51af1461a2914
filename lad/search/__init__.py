"""Search of a config's numbers, such as the weights of a method, by trainings on a part of the training images."""

from lad.search.space import Parameter, parse_parameter
from lad.search.study import Search, SearchSettings

__all__ = ["Parameter", "Search", "SearchSettings", "parse_parameter"]
