"""How well a pretraining without labels tells objects apart: a k-nearest-neighbour classifier after each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lad.base.modes import evaluating
from lad.base.settings import checked_flag, is_whole
from lad.detectors.self_supervised import SelfSupervisedPretraining
from lad.engine.model import detector_of
from lad.errors import ConfigError, DataError
from lad.evaluation.neighbours import knn_accuracy

import mmcv
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

#: Name of the accuracy in the logs.
NAME = "knn_accuracy"
#: Loads an image and its objects.
PIPELINE = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]


@dataclass(frozen=True)
class Crops:
    """Objects that are cut out of images.

    Attributes:
        images: (n, C, size, size) uint8.
        labels: (n,) classes.
        sources: (n,) number of the image that each is from.
    """

    images: Tensor
    labels: Tensor
    sources: Tensor


@HOOKS.register_module()
class KNNAccuracyHook(Hook):
    """Reports the accuracy of a k-nearest-neighbour classifier on objects of a labelled data set.

    Each object is cut out and scaled to a square, and classified by its nearest neighbours among the objects of *other
    images* of the same data set, by the pooled features of the network in training (before the projection). It is
    measured before the first step, which tells what random weights are worth, and after every ``interval`` epochs or
    iterations; it is in the log, and ``knn_accuracy`` in the visualizer's scalars, of several networks
    ``NETWORK.knn_accuracy`` of each. Training is bit for bit the same without it. Rank 0 does it.

    Args:
        dataset: Config of a labelled data set with ``bbox`` annotations, usually the validation set; its pipeline is
            set here. It must not share images with the training data.
        size: Height and width of the crops, in pixels.
        neighbours: How many vote.
        max_objects: At most so many objects, from the first images on.
        batch_size: Crops that pass the network at once.
        interval: Epochs or iterations between measurements.
        by_epoch: Whether ``interval`` counts epochs; False in runs that count iterations.

    Raises:
        ConfigError: a setting is wrong, or the model is no pretraining.
        DataError: fewer than two images have objects, or images are trained on.
    """

    def __init__(
        self,
        dataset: dict,
        size: int = 64,
        neighbours: int = 20,
        max_objects: int = 2000,
        batch_size: int = 64,
        interval: int = 1,
        by_epoch: bool = True,
    ) -> None:
        numbers = dict(
            size=size,
            neighbours=neighbours,
            max_objects=max_objects,
            batch_size=batch_size,
            interval=interval,
        )
        for name, value in numbers.items():
            if not is_whole(value) or value < 1:
                raise ConfigError(f"KNNAccuracyHook: {name} must be a positive whole number, got {value!r}.")
        if not isinstance(dataset, dict) or "type" not in dataset:
            raise ConfigError(f"KNNAccuracyHook: dataset must be a dict with a type, got {dataset!r:.60}.")
        self.dataset = dataset
        self.size, self.neighbours, self.max_objects = size, neighbours, max_objects
        self.batch_size, self.interval = batch_size, interval
        self.by_epoch = checked_flag("KNNAccuracyHook", "by_epoch", by_epoch)
        self.crops: Crops | None = None

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Cut out the objects; measure what the weights are worth before training."""
        model = detector_of(runner)
        if not isinstance(model, SelfSupervisedPretraining):
            raise ConfigError(
                f"KNNAccuracyHook looks at the features of a SelfSupervisedPretraining, and the model is a "
                f"{type(model).__name__}: take the hook out of custom_hooks."
            )
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError(
                "KNNAccuracyHook: interval counts epochs, and this run counts iterations: set by_epoch=False, and "
                "interval to a number of iterations."
            )
        dataset = self._build_dataset()
        if common := _paths(dataset) & _paths(runner.train_dataloader.dataset):
            raise DataError(
                f"KNNAccuracyHook: {len(common)} of its images are trained on, {min(common)} among them: give it the "
                "validation data."
            )
        self.crops = self._cut_out(dataset)
        # A resumed run has measured it before its first start.
        if runner.iter == 0:
            self._measure(runner)

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Measure."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._measure(runner, finished=runner.epoch + 1)

    @master_only
    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Measure."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._measure(runner, finished=runner.iter + 1)

    def accuracies(self, model: SelfSupervisedPretraining) -> dict[str, float]:
        """The accuracy by the features of each network of a pretraining, by its name.

        The objects are cut out when it is called for the first time. Outside of a training, nothing tells whether their
        images are trained on.
        """
        if self.crops is None:
            self.crops = self._cut_out(self._build_dataset())
        found = {}
        for name in model.trained_networks:
            with evaluating(model):
                features = torch.cat(
                    [self._features(model, name, part) for part in self.crops.images.split(self.batch_size)]
                )
            labels, sources = self.crops.labels.to(features.device), self.crops.sources.to(features.device)
            found[name] = knn_accuracy(features, labels, sources, self.neighbours)
        return found

    def _build_dataset(self) -> Any:
        return DATASETS.build(dict(self.dataset, pipeline=PIPELINE, test_mode=True))

    def _cut_out(self, dataset: Any) -> Crops:
        objects = (crop for number in range(len(dataset)) for crop in self._objects(dataset[number], number))
        crops = list(islice(objects, self.max_objects))
        sources = torch.tensor([source for _, _, source in crops])
        if len(sources.unique()) < 2:
            raise DataError(
                "KNNAccuracyHook: fewer than two images of its data set have objects to compare: give it more."
            )
        return Crops(
            torch.stack([image for image, _, _ in crops]),
            torch.tensor([label for _, label, _ in crops]),
            sources,
        )

    def _objects(self, data: dict, number: int) -> Iterator[tuple[Tensor, int, int]]:
        """The objects of one image: pixels (C, size, size), class and the image's number."""
        boxes = data["gt_bboxes"].tensor
        keep = ~torch.as_tensor(data["gt_ignore_flags"], dtype=torch.bool)
        for box, label in zip(boxes[keep], data["gt_bboxes_labels"][keep.numpy()], strict=True):
            cut = mmcv.imcrop(data["img"], box.numpy())
            if min(cut.shape[:2]) > 0:
                pixels = mmcv.imresize(cut, (self.size, self.size))
                yield (
                    torch.from_numpy(pixels).view(self.size, self.size, -1).permute(2, 0, 1),
                    int(label),
                    number,
                )

    def _measure(self, runner: Runner, finished: int = 0) -> None:
        model = detector_of(runner)
        unit = "epoch" if self.by_epoch else "iteration"
        when = f"after {unit} {finished}" if finished else "before training"
        several = len(model.trained_networks) > 1
        found = self.accuracies(model)
        assert self.crops is not None
        for name, accuracy in found.items():
            owner = f" of {name}" if several else ""
            objects = len(self.crops.labels)
            runner.logger.info(f"k-NN accuracy{owner} {when}: {accuracy:.3f} on {objects} objects.")
            runner.visualizer.add_scalar(f"{name}.{NAME}" if several else NAME, accuracy, step=finished)

    @staticmethod
    def _features(model: SelfSupervisedPretraining, name: str, crops: Tensor) -> Tensor:
        shape = tuple(crops.shape[-2:])
        samples = [DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape)) for _ in crops]
        # The one of a single view; batch augmentations are for training.
        data = model.data_preprocessor.data_preprocessor(
            dict(inputs=list(crops), data_samples=samples), False
        )
        return model.pooled(name, data["inputs"], data["data_samples"])


def _paths(dataset: Any) -> set[str]:
    """Absolute paths of the images of a data set, whatever wraps it."""
    parts = [*getattr(dataset, "datasets", ()), *([dataset.dataset] if hasattr(dataset, "dataset") else [])]
    if parts:
        return {path for part in parts for path in _paths(part)}
    infos = (dataset.get_data_info(number) for number in range(len(dataset)))
    return {str(Path(info["img_path"]).resolve()) for info in infos if "img_path" in info}
