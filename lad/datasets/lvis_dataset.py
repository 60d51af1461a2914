"""LVIS v1 without the package of its authors, which does not run on numpy 2."""

from __future__ import annotations

from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets import LVISV1Dataset as _LVISV1Dataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS

#: What image URLs of LVIS v1 begin with; the rest is a path such as ``train2017/000000391895.jpg``.
COCO_URL = "http://images.cocodataset.org/"


class LVISAnnotations(COCO):
    """Annotations of LVIS v1, whose images have a URL in the place of a file name."""

    def createIndex(self) -> None:  # noqa: N802 -- pycocotools' name
        """Name the images' files; then index the annotations."""
        for image in self.dataset.get("images", ()):
            if "coco_url" in image:
                image.setdefault("file_name", image["coco_url"].removeprefix(COCO_URL))
        super().createIndex()


# Under MMDetection's own name: configs change nothing.
@DATASETS.register_module(name="LVISV1Dataset", force=True)
class LVISV1Dataset(_LVISV1Dataset):
    """``LVISV1Dataset`` of MMDetection, read as its ``CocoDataset`` reads COCO's files.

    Args:
        args, kwargs: As for MMDetection's ``LVISV1Dataset``.
    """

    COCOAPI = LVISAnnotations

    def load_data_list(self) -> list[dict[str, Any]]:
        """The images with their objects."""
        return CocoDataset.load_data_list(self)
