"""Records of suites have the AP of rare, common and frequent classes where the evaluator reports it."""

import json

from lad.evaluation.detections import load_ground_truth
from suites.evaluate import metrics_of

import pytest


def write(path, images):
    """A COCO file whose class k (from 1) is in ``images[k - 1]`` images, an object in each image."""
    classes = [k for k, count in enumerate(images, 1) for _ in range(count)]
    box = dict(bbox=[10, 10, 40, 40], area=1600, iscrowd=0)
    content = dict(
        images=[dict(id=n, file_name=f"{n}.jpg", width=100, height=100) for n in range(len(classes))],
        annotations=[dict(box, id=n + 1, image_id=n, category_id=k) for n, k in enumerate(classes)],
        categories=[dict(id=k, name=f"class {k}") for k in range(1, len(images) + 1)],
    )
    path.write_text(json.dumps(content))
    return str(path)


def test_metrics_by_frequency_are_beside_the_others(tmp_path):
    """Of three classes with one object each, one in a validation image: the first and the last are found."""
    ground_truth = load_ground_truth(write(tmp_path / "val.json", [1, 1, 1]))
    frequencies = dict(ann_file=write(tmp_path / "train.json", [9, 5, 2]), rare=2, common=5)
    found = [
        dict(image_id=number, category_id=category, bbox=[10, 10, 40, 40], score=0.9)
        for number, category in ((0, 1), (2, 3))
    ]
    detections = tmp_path / "found.bbox.json"
    detections.write_text(json.dumps(found))
    # The ids in another order than the evaluation's.
    plain = metrics_of({}, ground_truth, detections, [3, 1, 2])
    assert round(plain["mAP"], 3) == 0.667
    metrics = metrics_of(dict(frequencies=frequencies), ground_truth, detections, [3, 1, 2])
    by_frequency = {name: metrics.pop(f"AP_{name}") for name in ("rare", "common", "frequent")}
    assert by_frequency == pytest.approx(dict(rare=1.0, common=0.0, frequent=1.0))
    assert metrics == plain
