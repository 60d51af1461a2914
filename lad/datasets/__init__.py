"""Data sets: the demo of handwritten digits, its making and its reading."""

from lad.datasets.digits import DIGIT_CLASSES, DigitsParameters, is_complete, make_digits
from lad.datasets.digits_dataset import DigitsDataset

__all__ = ["DIGIT_CLASSES", "DigitsDataset", "DigitsParameters", "is_complete", "make_digits"]
