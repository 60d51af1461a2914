"""Check before the first step that a teacher detects the objects of training images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from lad.base.modes import evaluating
from lad.detectors.inspection import frozen_teachers
from lad.engine.model import detector_of
from lad.engine.randomness import Draw, SeededItems
from lad.errors import ConfigError
from lad.networks.frozen import FrozenTeacher
from lad.networks.gives import PREDICTIONS
from lad.networks.mask_boxes import with_boxes
from lad.networks.snapshot import Snapshot

import numpy as np
import torch
from mmdet.evaluation.functional.mean_ap import average_precision, tpfp_default
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.data import Dataset

#: Objects of this many other images are what a teacher's detections are compared with to know what chance is worth.
SHUFFLES = 5
#: An AP50 below this is worth nothing, whatever chance is worth.
NOTHING = 0.01


def ap50(predictions: Sequence[InstanceData], objects: Sequence[InstanceData]) -> float:
    """Average precision at an IoU of 0.5, averaged over the classes that occur.

    Args:
        predictions: For each of the N images ``bboxes`` (P, 4), ``scores`` (P,) and ``labels`` (P,).
        objects: For each of them ``bboxes`` (G, 4) and ``labels`` (G,).

    Returns:
        0 to 1; 0 where there are no objects.
    """
    predicted = [
        (
            torch.cat([found.bboxes, found.scores[:, None]], dim=1).float().cpu().numpy(),
            found.labels.cpu().numpy(),
        )
        for found in predictions
    ]
    wanted = [(truth.bboxes.float().cpu().numpy(), truth.labels.cpu().numpy()) for truth in objects]
    precisions = []
    for label in sorted({int(label) for _, labels in wanted for label in labels}):
        scores, hits, count = [], [], 0
        for (boxes, labels), (truths, truth_labels) in zip(predicted, wanted, strict=True):
            boxes, truths = boxes[labels == label], truths[truth_labels == label]
            true_positive, _ = tpfp_default(boxes, truths, np.zeros((0, 4), np.float32))
            scores.append(boxes[:, 4])
            hits.append(true_positive[0])
            count += len(truths)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        found = np.cumsum(np.concatenate(hits)[order])
        precision = found / np.arange(1, len(found) + 1)
        precisions.append(average_precision(found / count, precision) if len(found) else 0.0)
    return float(np.mean(precisions)) if precisions else 0.0


def ap50_by_chance(predictions: Sequence[InstanceData], objects: Sequence[InstanceData]) -> float:
    """The best :func:`ap50` of the same detections on the objects of other images.

    A detector that ignores the image, or sees nothing in it, does as well on these as on its own.
    """
    shifts = range(1, min(SHUFFLES, len(objects) - 1) + 1)
    return max((ap50(predictions, [*objects[shift:], *objects[:shift]]) for shift in shifts), default=0.0)


def independent_copy(dataset: Dataset) -> Dataset:
    """A copy of a data set that shares its annotations but nothing that loading an image could change.

    Some transforms keep images between calls (``CachedMosaic``).
    """
    shared: dict[int, Any] = {}
    pending: list[Any] = [dataset]
    while pending:
        inner = pending.pop()
        for name in ("data_bytes", "data_address", "data_list"):
            value = getattr(inner, name, None)
            if value is not None:
                shared[id(value)] = value
        pending += [*getattr(inner, "datasets", ()), *([inner.dataset] if hasattr(inner, "dataset") else [])]
    return copy.deepcopy(dataset, shared)


def labelled_samples(dataset: Dataset, count: int, seed: int) -> list[dict]:
    """Up to ``count`` samples with objects from all over a data set, as its pipeline makes them.

    No random state changes.
    """
    load = SeededItems(independent_copy(dataset))
    samples = []
    # Images without objects are passed over, and where they are many, fewer are taken.
    number = len(dataset)  # type: ignore[arg-type]  # torch's Dataset has no length, map-style ones do
    for index in np.random.default_rng(seed).permutation(number)[: 4 * count]:
        (sample,) = load([Draw(int(index), (seed, int(index)))])
        if len(sample["data_samples"].gt_instances):
            samples.append(sample)
        if len(samples) == count:
            break
    return samples


@torch.no_grad()
def predictions_of(
    teacher: FrozenTeacher, preprocessor: nn.Module, samples: Sequence[dict]
) -> list[InstanceData]:
    """Detections of a teacher in images that are normalised for its student, as training shows them.

    Args:
        teacher: The teacher.
        preprocessor: The student's data preprocessor.
        samples: What the training pipeline made of the images; two at a time are looked at, so that narrow heads with
            group norm, which refuses groups of a single value, can be checked too.
    """
    found: list[InstanceData] = []
    for start in range(0, len(samples), 2):
        # Without batch augmentation, which has a state of its own.
        data = preprocessor(pseudo_collate(copy.deepcopy(list(samples[start : start + 2]))), False)
        inputs, data_samples = data["inputs"], data["data_samples"]
        with evaluating(teacher.model), teacher.speed.running(inputs.device):
            inputs = teacher.renormalisation(inputs, data_samples)
            results = teacher.model.predict(inputs, data_samples, rescale=False)
        found += [with_boxes(sample.pred_instances) for sample in results]
    return found


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Reports the teacher's AP50 on some training images before the first step, and warns where it is that of chance.

    A :class:`DistillationDetector`'s teacher detects the objects of ``images`` training images, cropped, flipped and
    normalised as training will show them. An AP50 no better than what the same detections reach on the objects of other
    images is a warning: an untrained teacher, one with another normalisation or with other labels. If the
    teacher's classes are not the data's, labels do not count. Training is bit for bit the same with and
    without it: random state, batch norm and the data set's caches are left alone. Rank 0 does it.

    Other models are passed over. ``default_hooks=dict(teacher_check=None)`` switches it off.

    Args:
        images: How many images. Each is predicted once.

    Raises:
        ConfigError: fewer than 2 images.
    """

    def __init__(self, images: int = 16) -> None:
        if images < 2:
            raise ConfigError(f"TeacherCheckHook: images must be at least 2, got {images}.")
        self.images = images

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Measure the AP50 of each frozen teacher."""
        model = detector_of(runner)
        if not any(map(_detects, frozen_teachers(model).values())):
            return
        try:
            self._check(runner, model)
        except Exception as error:
            # Any data set and any detector may come here; a check of the teacher must not end a run that works.
            reason = " ".join(str(error).split())[:200]
            runner.logger.warning(f"The teacher could not be checked: {type(error).__name__}: {reason}")

    def _check(self, runner: Runner, model: BaseDetector) -> None:
        dataset = runner.train_loop.dataloader.dataset
        samples = labelled_samples(dataset, self.images, seed=0)
        if len(samples) < 2:
            runner.logger.info(
                "The teacher was not checked: fewer than two training images with objects were found."
            )
            return
        objects = [_objects(sample["data_samples"]) for sample in samples]
        device = next(model.parameters()).device
        classes = tuple((getattr(dataset, "metainfo", None) or {}).get("classes") or ())
        for name, teacher in frozen_teachers(model).items():
            if not _detects(teacher):
                continue
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                found = predictions_of(teacher, model.data_preprocessor, samples)
            which = f" {name}" if len(frozen_teachers(model)) > 1 else ""
            self._judge(runner, which, found, objects, teacher.classes == classes)

    @staticmethod
    def _judge(
        runner: Runner,
        which: str,
        found: list[InstanceData],
        objects: list[InstanceData],
        same_classes: bool,
    ) -> None:
        """Report what one teacher found in the images."""
        if not same_classes:
            found, objects = _without_classes(found), _without_classes(objects)
        reached, chance = ap50(found, objects), ap50_by_chance(found, objects)
        about = "" if same_classes else " (whatever the class)"
        runner.logger.info(
            f"Teacher{which}: AP50 {reached:.3f}{about} on {len(objects)} training images as training shows them; its "
            f"detections reach {chance:.3f} on the objects of other images."
        )
        if reached <= max(2 * chance, NOTHING):
            runner.logger.warning(
                f"The teacher{which} is no better than chance: AP50 {reached:.3f}{about} on {len(objects)} training "
                f"images, {chance:.3f} on the objects of other images. Look whether its checkpoint is a trained one, "
                "whether its config has the mean, std and channel order that it was trained with, and whether the "
                "images are of its kind and size. default_hooks.teacher_check=None switches this check off."
            )


def _detects(teacher: FrozenTeacher) -> bool:
    """Whether a teacher is a detector, and not a copy of what is about to be trained."""
    return PREDICTIONS in teacher.gives and not isinstance(teacher, Snapshot)


def _without_classes(instances: list[InstanceData]) -> list[InstanceData]:
    return [
        InstanceData(**(dict(each.items()) | dict(labels=torch.zeros_like(each.labels))))
        for each in instances
    ]


def _objects(sample: DetDataSample) -> InstanceData:
    truth = sample.gt_instances
    boxes = truth.bboxes
    return InstanceData(bboxes=getattr(boxes, "tensor", boxes), labels=truth.labels)
