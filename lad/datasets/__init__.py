"""Data sets: the handwritten digits of the demo, checks of annotations and images, loading of damaged images."""

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
