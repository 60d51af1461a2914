"""Detections of a trained detector as a COCO file of scored pseudo labels, resumable."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lad.datasets.bad_images import check_image_loading
from lad.datasets.configured import datasets_of
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from torch.utils.data import DataLoader, Subset

#: Ending of the file in which an unfinished run keeps its detections, a line of JSON for each batch.
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class LabellingParameters:
    """What the labels depend on besides the images; a run is resumed with the same ones only.

    Attributes:
        config: Path of the detector's config.
        checkpoint: Its SHA-256.
        images: SHA-256 of the list of images and their sizes.
        min_score: Detections below are left out.
        max_per_image: The best so many detections of an image are kept.
        batch_size: Images that are detected on at once; they are padded to one size.
    """

    config: str
    checkpoint: str
    images: str
    min_score: float
    max_per_image: int
    batch_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must be from 0 to 1, got {self.min_score}.")
        if self.max_per_image < 1 or self.batch_size < 1:
            raise ConfigError(
                "max_per_image and batch_size must be at least 1, got "
                f"{self.max_per_image} and {self.batch_size}."
            )


def fingerprint(content: Any) -> str:
    """SHA-256 of plain data, or of a file."""
    if isinstance(content, Path):
        return hashlib.sha256(content.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
    """
    unfinished = out.with_name(out.name + UNFINISHED)
    done = _read_unfinished(unfinished, parameters)
    if progress is not None and done:
        progress(len(done))
    left = range(len(done), len(dataset))
    loader = DataLoader(
        Subset(dataset, left),
        batch_size=parameters.batch_size,
        num_workers=workers,
        collate_fn=pseudo_collate,
    )
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


def _read_unfinished(path: Path, parameters: LabellingParameters) -> dict[int, list[dict]]:
    """Detections of an interrupted run by image id; the file is begun where there is none."""
    header = json.dumps(asdict(parameters))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        write_whole(path, (header + "\n").encode())
        return {}
    if lines[0] != header:
        raise ConfigError(
            f"{path} is of a run with another checkpoint, other images or options: finish that one, or delete the file."
        )
    # The last line is empty, or was being written when the run was killed.
    write_whole(path, "".join(line + "\n" for line in lines[:-1]).encode())
    try:
        return {number: found for line in lines[1:-1] for number, found in json.loads(line)}
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): delete it to begin anew.") from error
