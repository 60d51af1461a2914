"""Evaluation of an exported file by its config's own test set and metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lad.datasets.configured import datasets_of
from lad.datasets.image_folder import image_files
from lad.errors import ConfigError, DataError
from lad.export.detector import OnnxDetector

import mmcv
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData


def test_dataset(cfg: Config) -> BaseDataset:
    """The test data set of a config.

    Raises:
        ConfigError: it has none.
    """
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    if not dataset:
        raise ConfigError("the config has no test_dataloader.dataset.")
    return DATASETS.build(copy.deepcopy(dataset))


def read_image(path: str | Path) -> np.ndarray:
    """(h, w, 3) uint8 BGR, as ``LoadImageFromFile`` decodes it.

    Raises:
        DataError: it cannot be decoded.
    """
    image = mmcv.imread(str(path)) if Path(path).is_file() else None
    if image is None:
        raise DataError(f"{path} is not an image that can be read.")
    return image


def real_images(
    cfg: Config, source: str | Path | None, num: int, loader: str = "test_dataloader"
) -> list[np.ndarray]:
    """The first images of a folder, or of a data set of the config.

    Args:
        cfg: The config.
        source: A folder, or None for the config's data set.
        num: How many at most.
        loader: Whose data set is used without a folder.

    Raises:
        ConfigError, DataError: there are none.
    """
    if source is not None:
        return [read_image(Path(source) / file) for file in image_files(source)[:num]]
    return [read_image(path) for path in islice(_paths(cfg, loader), num)]


def _paths(cfg: Config, loader: str) -> Iterator[str]:
    configs = list(datasets_of((cfg.get(loader) or {}).get("dataset")))
    if not configs:
        raise ConfigError(f"the config has no {loader}.dataset: give a folder of images.")
    for config in configs:
        try:
            dataset = DATASETS.build(copy.deepcopy(config))
        except FileNotFoundError as error:
            raise DataError(
                f"the data set of {loader} is not there ({error}): give a folder of images with --images."
            ) from error
        for index in range(len(dataset)):
            yield dataset.get_data_info(index)["img_path"]


def evaluate(
    cfg: Config, detector: OnnxDetector, batch_size: int = 8, progress: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Metrics of an exported file by the config's ``test_evaluator``.

    Images are read, resized and padded as the file's metadata tell, not by the test pipeline, which only loads the
    annotations.

    Args:
        cfg: The config of the detector that was exported.
        detector: The file.
        batch_size: Images at once.
        progress: Called with the number of further images that are done.

    Raises:
        ConfigError: the config has no test data or no ``test_evaluator``.
    """
    if not cfg.get("test_evaluator"):
        raise ConfigError("the config has no test_evaluator.")
    dataset = test_dataset(cfg)
    evaluator = Evaluator(copy.deepcopy(cfg.test_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    for begin in range(0, len(dataset), batch_size):
        samples: list[DetDataSample] = [
            dataset[index]["data_samples"] for index in range(begin, min(begin + batch_size, len(dataset)))
        ]
        found = detector.detect([read_image(sample.img_path) for sample in samples])
        for sample, one in zip(samples, found, strict=True):
            fields: dict[str, Any] = dict(bboxes=one.boxes, scores=one.scores, labels=one.labels)
            sample.pred_instances = InstanceData(
                **{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()}
            )
        evaluator.process(data_samples=samples, data_batch=None)
        if progress is not None:
            progress(len(samples))
    return evaluator.evaluate(len(dataset))
