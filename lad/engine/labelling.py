"""Detections of a trained detector as a COCO file of scored pseudo labels, resumable."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lad.base.paths import file_in_path
from lad.datasets.bad_images import check_image_loading
from lad.datasets.configured import datasets_of
from lad.engine.checkpoints import write_whole
from lad.engine.unfinished_labels import UNFINISHED, LabellingParameters, read_unfinished
from lad.errors import ConfigError, DataError, LadError

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from torch.utils.data import DataLoader, Dataset


def fingerprint(content: Any) -> str:
    """SHA-256 of plain data, or of a file."""
    if isinstance(content, Path):
        return hashlib.sha256(content.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def images_fingerprint(content: Mapping[str, Any], folder: Path) -> str:
    """SHA-256 of the list of images and classes, and of each file's size in bytes and time of change.

    Args:
        content: Of :func:`lad.datasets.image_folder.unlabelled_coco`.
        folder: The folder of the images.
    """
    states = [(folder / image["file_name"]).stat() for image in content["images"]]
    return fingerprint([content, [(state.st_size, state.st_mtime_ns) for state in states]])


def check_out(out: Path, force: bool) -> None:
    """Refuse a file that could not be written once all images are done.

    Raises:
        ConfigError: it exists and ``force`` is not set, it is a folder, or what should be its folder is a file.
    """
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file in it with --out.")
    if (blocked := file_in_path(out.parent)) is not None:
        raise ConfigError(f"{blocked} is a file, and {out} needs a folder there: give another --out.")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists: give another --out, or --force to replace it.")


def build_unlabelled(cfg: Config, content: dict, folder: Path, ann_file: Path) -> BaseDataset:
    """The images of a COCO file, through the test pipeline of a config without what loads annotations.

    Args:
        cfg: Of the detector.
        content: The file's content.
        folder: The folder of the images.
        ann_file: Where the content is written for the data set.

    Raises:
        ConfigError: the config has no test pipeline.
    """
    datasets = list(datasets_of((cfg.get("test_dataloader") or {}).get("dataset")))
    if not datasets or not datasets[0].get("pipeline"):
        raise ConfigError("the config has no test_dataloader.dataset.pipeline: it cannot detect on images.")
    pipeline = [
        copy.deepcopy(step)
        for step in datasets[0]["pipeline"]
        if not str(step["type"]).endswith(("LoadAnnotations", "LoadPanopticAnnotations"))
    ]
    check_image_loading(pipeline, "stop")
    write_whole(ann_file, json.dumps(content).encode())
    return DATASETS.build(
        dict(
            type="CocoDataset",
            ann_file=str(ann_file.resolve()),
            data_prefix=dict(img=str(folder.resolve())),
            metainfo=dict(classes=tuple(category["name"] for category in content["categories"])),
            test_mode=True,
            pipeline=pipeline,
        )
    )


def label_images(
    model: BaseDetector,
    dataset: BaseDataset,
    out: Path,
    parameters: LabellingParameters,
    *,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, list[dict]]:
    """Detect on the images that an earlier, interrupted run has not done.

    Each batch's detections are in the file beside ``out`` before the next batch begins, and a resumed run makes the
    same batches, so that its labels are those of an undisturbed one.

    Args:
        model: The detector, in eval mode, on its device.
        dataset: Of :func:`build_unlabelled`.
        out: The file that will be written.
        parameters: What the labels depend on.
        workers: Processes that load images.
        progress: Called with the number of further images that are done.

    Returns:
        :func:`detections` of each image by its id, in the order of the data set.

    Raises:
        ConfigError: the unfinished run had other parameters.
        DataError: its file is damaged, or an image cannot be prepared for the detector.
    """
    unfinished = out.with_name(out.name + UNFINISHED)
    done = read_unfinished(unfinished, parameters, [one["img_id"] for one in _entries(dataset)])
    if progress is not None and done:
        progress(len(done))
    loader = DataLoader(
        _Rest(dataset, len(done)),
        batch_size=parameters.batch_size,
        num_workers=workers,
        collate_fn=pseudo_collate,
    )
    try:
        with open(unfinished, "a", encoding="utf-8") as file:
            for batch in loader:
                with torch.no_grad():
                    samples = model.test_step(batch)
                found = [(sample.img_id, detections(sample, parameters)) for sample in samples]
                done.update(found)
                file.write(json.dumps(found) + "\n")
                file.flush()
                if progress is not None:
                    progress(len(samples))
    except LadError:
        if not done:  # nothing to go on with, and it would be in the way once the images are mended
            unfinished.unlink(missing_ok=True)
        raise
    return done


def detections(sample: DetDataSample, parameters: LabellingParameters) -> list[dict]:
    """A detector's boxes on an image, the best first, without those below one pixel.

    Returns:
        Parts of COCO annotations: ``bbox`` (left, top, width and height in pixels), ``category_id`` from 1, ``score``.
    """
    found = sample.pred_instances
    height, width = sample.ori_shape
    order = found.scores.argsort(descending=True)[: parameters.max_per_image]
    boxes = found.bboxes[order].clone()
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    annotations = []
    for (left, top, right, bottom), score, label in zip(
        boxes.tolist(), found.scores[order].tolist(), found.labels[order].tolist(), strict=True
    ):
        box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
        if score >= parameters.min_score and box[2] >= 1 and box[3] >= 1:
            annotations.append(dict(bbox=box, category_id=label + 1, score=round(score, 4)))
    return annotations


def coco_of(
    content: Mapping[str, Any], labels: Mapping[int, Sequence[dict]], info: Mapping[str, Any]
) -> dict[str, Any]:
    """Content of a COCO file with the labels as annotations, each with its ``score``.

    Args:
        content: The images and categories.
        labels: Of :func:`label_images`.
        info: What the file says of itself.
    """
    annotations: list[dict] = []
    for image, found in labels.items():
        for one in found:
            area = round(one["bbox"][2] * one["bbox"][3], 2)
            annotations.append(dict(one, id=len(annotations) + 1, image_id=image, area=area, iscrowd=0))
    return dict(content, info=dict(info), annotations=annotations)


class _Rest(Dataset):
    """The images of a data set from one on; what the pipeline makes of an image that it cannot handle names the image.

    Args:
        dataset: The data set.
        first: Its first image.
    """

    def __init__(self, dataset: BaseDataset, first: int) -> None:
        self.dataset = dataset
        self.first = first

    def __len__(self) -> int:
        return len(self.dataset) - self.first

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[self.first + index]
        except LadError:
            raise
        except Exception as error:  # transforms may raise anything
            info = self.dataset.get_data_info(self.first + index)
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"image {info['img_path']} ({info['width']} x {info['height']} pixels) cannot be brought into the form "
                f"that the detector takes: {reason}; take it out of the folder."
            ) from error


def _entries(dataset: BaseDataset) -> list[dict]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]
