"""Detections of a file behind data pipelines: where the annotations are."""

import json
import pickle
from types import SimpleNamespace

from lad.datasets.detection_file import labels_of, read_detections
from lad.datasets.teacher_detections import (
    FIRST_ROW,
    AddTeacherDetections,
    DetectionsOfBatch,
    add_to_pipelines,
)
from lad.errors import ConfigError

import numpy as np
import pytest
import torch
from foreign_teachers import NAMES, RESIZE, dataset_of, entry, its, load, write
from helpers import small_paa
from mmdet.registry import DATASETS, MODELS
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub

PIPELINES = {
    "resized and flipped": [RESIZE, dict(type="RandomFlip", prob=1.0, direction=["horizontal", "diagonal"])],
    "cropped": [dict(type="RandomCrop", crop_size=(40, 40)), RESIZE],
    "cropped by overlap": [dict(type="MinIoURandomCrop"), RESIZE],
    "turned": [dict(type="Rotate", prob=1.0, level=6), RESIZE],
    "filtered": [RESIZE, dict(type="FilterAnnotations", min_gt_bbox_wh=(24, 24))],
    "mosaic, affine, mixed": [
        dict(type="CachedMosaic", img_scale=(80, 80), pad_val=114.0),
        dict(type="RandomAffine", scaling_ratio_range=(0.8, 1.2), border=(0, 0)),
        dict(type="CachedMixUp", img_scale=(80, 80), ratio_range=(1.0, 1.0), max_cached_images=3),
        RESIZE,
    ],
}


def attached(folder, steps, **settings):
    """A data set to whose images the detections are added, and what takes them out of a batch."""
    found = read_detections(str(folder / "found.json"), NAMES)
    dataset, of_batch = dataset_of(folder, steps, **settings), DetectionsOfBatch()
    labels = labels_of(found, dataset.metainfo["classes"], False, "x")
    first = of_batch.add("teacher", found, labels)
    add_to_pipelines(dataset, AddTeacherDetections(found, labels, first), "x")
    return dataset, of_batch


def preprocess(samples, of_batch=None, **settings):
    config = small_paa()
    config.data_preprocessor.update(settings)
    preprocessor = MODELS.build(config.data_preprocessor)
    if of_batch is not None:
        of_batch.register(preprocessor)
    return preprocessor(pseudo_collate(samples), True)["data_samples"]


@pytest.mark.parametrize("clips", [True, False])
def test_detections_outside_of_the_image_or_clipped_to_nothing_are_left_out(images, clips):
    found = json.loads((images / "found.json").read_text())
    outside = [(90, 10, 20, 20), (10, -30, 20, 30), (-20, 5, 15, 15), (10, 60, 5, 5)]
    # Less wide than a pixel of the resized image is: nothing is left of it in the accuracy of its coordinates.
    thin = (70, 10, 1e-7, 20)
    extra = [entry(number, 1, box, 0.95) for number in range(1, 5) for box in (*outside, thin)]
    write(images / "found.json", found + extra)
    steps = [dict(RESIZE, clip_object_border=clips)]
    dataset, of_batch = attached(images, steps)
    samples = preprocess(load(dataset, 0), of_batch)
    assert sum(len(its(sample)) for sample in samples) == len(found) * len(samples) / 4
    for sample in samples:
        boxes = its(sample).bboxes
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert its(sample).scores.max() < 0.95
        # What annotations ignore is as without the file.
        [plain] = [
            one
            for one in preprocess(load(dataset_of(images, steps), 0))
            if one.metainfo["img_id"] == sample.metainfo["img_id"]
        ]
        torch.testing.assert_close(sample.ignored_instances.bboxes, plain.ignored_instances.bboxes)


def test_image_of_whose_detections_none_has_an_area_has_none(images):
    write(images / "found.json", [entry(1, 1, (70, 10, 1e-7, 20), 0.9)])
    dataset, of_batch = attached(images, [RESIZE])
    for sample in preprocess(load(dataset, 0), of_batch):
        assert len(its(sample)) == 0
        assert (sample.ignored_instances.labels < FIRST_ROW).all()


@pytest.mark.parametrize("steps", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("seed", [0, 1])
def test_detections_follow_whatever_annotations_follow(images, steps, seed):
    """Those with the boxes of the annotations end up at the annotations, and carry their class and score."""
    dataset, of_batch = attached(images, steps)
    samples = preprocess(load(dataset, seed), of_batch)
    assert sum(len(sample.gt_instances) for sample in samples) > 0
    for sample in samples:
        found = its(sample)
        truth = sample.gt_instances
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        # The score tells the class: 0.9 for cats, 0.8 for dogs, 0.7 for cows.
        assert found.labels.tolist() == [round(9 - 10 * score) for score in found.scores.tolist()]
        own, taught = (
            sorted(
                (label, *box) for label, box in zip(each.labels.tolist(), each.bboxes.tolist(), strict=True)
            )
            for each in (truth, found)
        )
        assert taught == own


@pytest.mark.parametrize("steps", list(PIPELINES.values())[:1], ids=["resized and flipped"])
def test_annotations_are_as_without_a_file(images, steps):
    dataset, of_batch = attached(images, steps)
    samples, plain = preprocess(load(dataset, 0), of_batch), preprocess(load(dataset_of(images, steps), 0))
    assert sum(len(sample.ignored_instances) for sample in plain) == 1
    for sample, expected in zip(samples, plain, strict=True):
        for name in ("gt_instances", "ignored_instances"):
            own, other = sample.get(name), expected.get(name)
            assert torch.equal(own.bboxes, other.bboxes)
            assert torch.equal(own.labels, other.labels)


def test_a_flipped_and_resized_box_is_where_it_should_be(images):
    write(images / "found.json", [entry(n, 1, (10, 20, 30, 40), 0.9) for n in range(1, 5)])
    dataset, of_batch = attached(images, [RESIZE, dict(type="RandomFlip", prob=1.0)])
    sample = preprocess(load(dataset, 0), of_batch)[0]
    # x 10 .. 40 of 80 is 20 .. 80 of 160, mirrored 80 .. 140; y 20 .. 60 of 60 is 40 .. 120 of 120.
    assert its(sample).bboxes.tolist() == [[80.0, 40.0, 140.0, 120.0]]


def test_boxes_follow_batch_augmentations(images):
    dataset, of_batch = attached(images, [RESIZE])
    resize = dict(type="BatchSyncRandomResize", random_size_range=(160, 160), size_divisor=32)
    config = small_paa().data_preprocessor
    preprocessor = MODELS.build(dict(config, batch_augments=[resize]))
    of_batch.register(preprocessor)
    MessageHub.get_current_instance().update_info("iter", 0)
    preprocessor.batch_augments[0]._input_size = (64, 80)  # half of 128 x 160
    sample = preprocessor(pseudo_collate(load(dataset, 0)), True)["data_samples"][0]
    found = its(sample)
    torch.testing.assert_close(
        found.bboxes[found.labels.argsort()], sample.gt_instances.bboxes[sample.gt_instances.labels.argsort()]
    )
    assert float(found.bboxes.max()) <= 80


def test_a_batch_may_be_preprocessed_twice(images):
    dataset, of_batch = attached(images, [RESIZE])
    batch = load(dataset, 0)
    first, again = preprocess(batch, of_batch), preprocess(batch, of_batch)
    for one, other in zip(first, again, strict=True):
        assert len(its(one)) == 3
        assert torch.equal(its(one).bboxes, its(other).bboxes)
        assert len(one.ignored_instances) == len(other.ignored_instances)


def test_detections_are_clipped_to_the_image(images):
    content = json.loads((images / "found.json").read_text())
    for one in content:
        one["bbox"] = [-5, 2, 10_000, 20]
    write(images / "found.json", content)
    sample = load(attached(images, [])[0], 0)[0]["data_samples"]
    detections = sample.ignored_instances[sample.ignored_instances.labels >= FIRST_ROW].bboxes.tensor
    _, width = sample.ori_shape
    assert detections.tolist() == [[0, 2, width, 22]] * 3


def test_pipelines_that_load_masks_and_worker_processes_take_detections(images):
    dataset, of_batch = attached(images, [RESIZE])
    content = json.loads((images / "coco.json").read_text())
    for one in content["annotations"]:
        left, top, width, height = one["bbox"]
        one["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    write(images / "coco.json", content)
    masked = dataset_of(images, [RESIZE])
    masked.pipeline.transforms[1].with_mask = True
    masked.pipeline.transforms.insert(0, pickle.loads(pickle.dumps(dataset.pipeline.transforms[0])))
    for sample in preprocess(load(masked, 0), of_batch):
        assert len(sample.gt_instances.masks) == len(sample.gt_instances)
        assert len(sample.ignored_instances.masks) == len(sample.ignored_instances)
        assert len(its(sample)) == 3


def test_pipelines_that_cannot_take_detections_are_refused(images):
    found = read_detections(str(images / "found.json"), NAMES)
    transform = AddTeacherDetections(found, np.zeros(len(found), np.int64))
    dataset = dataset_of(images, [])
    del dataset.pipeline.transforms[1]
    with pytest.raises(ConfigError, match="loads none: add dict\\(type='LoadAnnotations'"):
        add_to_pipelines(dataset, transform, "x")
    copying = SimpleNamespace(
        dataset=dataset_of(images, []), pipeline=[DATASETS and type("CopyPaste", (), {})()]
    )
    with pytest.raises(ConfigError, match="CopyPaste copies annotated objects"):
        add_to_pipelines(copying, transform, "x")


def test_labels_are_far_from_any_class():
    assert FIRST_ROW > 1 << 20
    assert int(np.float64(FIRST_ROW + 12345)) == FIRST_ROW + 12345
