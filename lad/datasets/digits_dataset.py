"""MMDetection data set of the handwritten digits of the demo."""

from __future__ import annotations

from lad.datasets.coco_dataset import CocoDataset
from lad.datasets.digits import DIGIT_CLASSES

from mmdet.registry import DATASETS


@DATASETS.register_module()
class DigitsDataset(CocoDataset):
    """Handwritten digits on cards, as ``tools/dataset_converters/make_digits.py`` writes them.

    Takes the arguments of ``CocoDataset``. For ``data_root='data/digits/'``: ``ann_file='annotations/train.json'``
    with ``data_prefix=dict(img='images/train/')``, and the same with ``val``. Label n is the digit n.
    """

    METAINFO = {
        "classes": DIGIT_CLASSES,
        # RGB; matplotlib's ten default colours.
        "palette": [
            (31, 119, 180),
            (255, 127, 14),
            (44, 160, 44),
            (214, 39, 40),
            (148, 103, 189),
            (140, 86, 75),
            (227, 119, 194),
            (127, 127, 127),
            (188, 189, 34),
            (23, 190, 207),
        ],
    }
