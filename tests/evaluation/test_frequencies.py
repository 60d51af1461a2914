"""AP of rare, common and frequent classes by their training images."""

import json

from lad.datasets.tail import ClassCount, FrequencyBounds
from lad.errors import ConfigError, DataError
from lad.evaluation.frequencies import precision_by_frequency, read_class_counts

import numpy as np
import pytest
from test_coco import CLASSES, evaluate, recorded


def write_training(path, images):
    """A training file with each class in so many images, one object each, and one crowd that does not count."""
    annotations, number = [], 0
    for category, count in enumerate(images, 1):
        for _ in range(count):
            number += 1
            box = dict(bbox=[0, 0, 10, 10], area=100, category_id=category)
            annotations.append(dict(box, id=number, image_id=number, iscrowd=0))
    annotations.append(dict(annotations[0], id=number + 1, category_id=len(images), iscrowd=1))
    content = dict(
        images=[dict(id=k, file_name=f"{k}.jpg", width=20, height=20) for k in range(1, number + 1)],
        annotations=annotations,
        categories=[dict(id=k, name=name) for k, name in enumerate(CLASSES, 1)],
    )
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
@pytest.mark.parametrize("metric", ["bbox", "segm"])
def test_groups_of_one_class_have_that_classes_ap(tmp_path, backend, metric):
    content, samples = recorded(0, with_masks=metric == "segm")
    train = write_training(tmp_path / "train.json", [101, 11, 10])
    options = dict(metric=metric, classwise=True, backend=backend)
    plain = evaluate(content, samples, tmp_path, **options)
    found = evaluate(content, samples, tmp_path, frequencies=dict(ann_file=train), **options)
    names = dict(zip(("frequent", "common", "rare"), CLASSES, strict=True))
    for frequency, name in names.items():
        assert found.pop(f"coco/{metric}_AP_{frequency}") == plain[f"coco/{name}_precision"]
    assert found == plain  # and nothing else changes


def test_bounds_decide_and_a_group_is_the_mean_of_its_classes(tmp_path):
    content, samples = recorded(0)
    train = write_training(tmp_path / "train.json", [101, 11, 10])
    own = evaluate(content, samples, tmp_path, classwise=True, metric="bbox")
    classes = [own[f"coco/{name}_precision"] for name in CLASSES]
    frequencies = dict(ann_file=train, rare=11, common=100)
    found = evaluate(content, samples, tmp_path, frequencies=frequencies)
    assert found["coco/bbox_AP_frequent"] == classes[0]
    assert found["coco/bbox_AP_common"] == -1
    assert found["coco/bbox_AP_rare"] == pytest.approx(np.mean(classes[1:]), abs=1.1e-3)


def test_a_class_that_is_not_in_the_training_file_is_rare():
    precision = np.zeros((10, 101, 3, 4, 3))
    precision[:, :, 0] = 0.25
    precision[:, :, 1] = 0.75
    precision[:, :, 2] = -1
    counts = {"cell": ClassCount("cell", 500, 900)}
    found = precision_by_frequency(precision, CLASSES, counts, FrequencyBounds())
    assert found == dict(rare=0.75, common=-1.0, frequent=0.25)


def test_counts_are_of_images_and_objects_without_crowds(tmp_path):
    counts = read_class_counts(write_training(tmp_path / "train.json", [3, 2, 1]))
    assert [(count.images, count.objects) for count in counts.values()] == [(3, 3), (2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("frequencies", "says"),
    [("train.json", "frequencies must be like"), (dict(rare=3), "frequencies must be like"),
     (dict(ann_file="none.json"), "there is no annotation file none.json"),
     (dict(ann_file="train.json", many=3), "frequencies knows ann_file, common, rare"),
     (dict(ann_file="train.json", rare=20, common=10), "0 <= rare <= common"),
     (dict(ann_file="train.json", rare="ten"), "0 <= rare <= common")],
)  # fmt: skip
def test_wrong_frequencies_are_refused(tmp_path, monkeypatch, frequencies, says):
    monkeypatch.chdir(tmp_path)
    write_training(tmp_path / "train.json", [3, 2, 1])
    content, samples = recorded(0)
    with pytest.raises(ConfigError, match=says):
        evaluate(content, samples, tmp_path, frequencies=frequencies)


def test_training_file_that_is_no_coco_file_is_named(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"train.json: not a COCO annotation file"):
        read_class_counts(tmp_path / "train.json")
