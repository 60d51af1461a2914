"""Data sets: the demo of handwritten digits, its making and its reading; what to do about bad data."""

from lad.datasets.bad_images import LoadCheckedImageFromFile
from lad.datasets.digits import DIGIT_CLASSES, DigitsParameters, is_complete, make_digits
from lad.datasets.digits_dataset import DigitsDataset

__all__ = [
    "DIGIT_CLASSES",
    "DigitsDataset",
    "DigitsParameters",
    "LoadCheckedImageFromFile",
    "is_complete",
    "make_digits",
]
