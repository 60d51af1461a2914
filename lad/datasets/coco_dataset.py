"""COCO data set of MMDetection that can be read without its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lad.base.settings import checked_flag
from lad.datasets.coco_file import read_coco
from lad.datasets.image_folder import image_files, unlabelled_coco
from lad.errors import DataError

from mmdet.datasets import CocoDataset as _CocoDataset
from mmdet.registry import DATASETS
from mmengine.fileio import get_local_path


# Under MMDetection's own name: a config changes nothing but `labelled`.
@DATASETS.register_module(name="CocoDataset", force=True)
class CocoDataset(_CocoDataset):
    """``CocoDataset`` of MMDetection whose images can be used without labels.

    With ``labelled=False`` no annotation is read, whether the file has some or not: each image has no objects, and
    ``filter_cfg=dict(filter_empty_gt=True)`` leaves none out. The file then needs ``images`` alone. Without
    ``ann_file`` the images are those in the folder ``data_prefix['img']`` and its subfolders. There are no class names
    unless ``metainfo`` gives them.

    Args:
        args, kwargs: As for MMDetection's ``CocoDataset``.
        labelled: Whether the annotations are read.

    Raises:
        ConfigError: ``labelled`` is neither True nor False.
        DataError: without labels: the file is not readable or has no images, or the folder has none.
    """

    def __init__(self, *args: Any, labelled: bool = True, **kwargs: Any) -> None:
        self.labelled = checked_flag("CocoDataset", "labelled", labelled)
        if not labelled and type(self) is CocoDataset:
            # The names that MMDetection gives by default are those of COCO's labels.
            kwargs["metainfo"] = dict(classes=None) | dict(kwargs.get("metainfo") or {})
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """The images, with their objects if labelled."""
        if self.labelled:
            return super().load_data_list()
        if self.ann_file:
            with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
                content, problems = read_coco(path, annotated=False, labelled=False)
            if content is None:
                raise DataError(f"{self.ann_file}: {problems[0].message}.")
        else:
            folder = Path(self.data_prefix["img"])
            content = unlabelled_coco(folder, image_files(folder), ())
        images = [
            dict(raw_img_info=dict(image, img_id=image["id"]), raw_ann_info=[]) for image in content["images"]
        ]
        return [self.parse_data_info(image) for image in images]

    def filter_data(self) -> list[dict]:
        """Leave out what ``filter_cfg`` says; images without labels by their size alone."""
        if self.labelled:
            return super().filter_data()
        smallest = 0 if self.test_mode else (self.filter_cfg or {}).get("min_size", 0)
        return [info for info in self.data_list if min(info["width"], info["height"]) >= smallest]
