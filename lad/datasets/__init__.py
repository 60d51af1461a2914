"""Data sets: the handwritten digits of the demo, images without labels, checks, loading of damaged images."""

from lad.datasets.bad_images import LoadCheckedImageFromFile
from lad.datasets.class_aware_sampler import ClassAwareSampler
from lad.datasets.coco_dataset import CocoDataset
from lad.datasets.digits import DIGIT_CLASSES, DigitsParameters, is_complete, make_digits
from lad.datasets.digits_dataset import DigitsDataset
from lad.datasets.lvis_dataset import LVISV1Dataset
from lad.datasets.views import ViewsDataset

__all__ = [
    "DIGIT_CLASSES",
    "ClassAwareSampler",
    "CocoDataset",
    "DigitsDataset",
    "DigitsParameters",
    "LVISV1Dataset",
    "LoadCheckedImageFromFile",
    "ViewsDataset",
    "is_complete",
    "make_digits",
]
