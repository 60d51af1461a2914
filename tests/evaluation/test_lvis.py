"""LVIS metric: what is dropped, ignored and counted, worked out by hand; files of LVIS alone."""

import json
import sys

from lad.errors import ConfigError, DataError
from lad.evaluation.lvis import LVISMetric, best_detections

import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.evaluator import Evaluator

CLASSES = ("tomato", "tongs", "toolbox")
BOX = [10, 10, 50, 50]


def annotations(images, objects, frequencies="fcr"):
    """A file of LVIS.

    Args:
        images: (absent, not exhaustive) categories of each image.
        objects: (image, category) of each object; all have one box.
        frequencies: Of the categories.
    """
    return dict(
        images=[
            dict(
                id=number,
                coco_url=f"http://images.cocodataset.org/val2017/{number:012}.jpg",
                width=100,
                height=100,
                neg_category_ids=absent,
                not_exhaustive_category_ids=partial,
            )
            for number, (absent, partial) in enumerate(images, 1)
        ],
        categories=[
            dict(id=number, name=name, frequency=frequency)
            for number, (name, frequency) in enumerate(zip(CLASSES, frequencies, strict=True), 1)
        ],
        annotations=[
            dict(
                id=number,
                image_id=image,
                category_id=category,
                bbox=BOX,
                area=2500,
                segmentation=[[10, 10, 60, 10, 60, 60, 10, 60]],
            )
            for number, (image, category) in enumerate(objects, 1)
        ],
    )


def sample(image, *found, size=(100, 100)):
    """An image's detections: (label, score, whether it is on the object)."""
    boxes = [[10.0, 10.0, 60.0, 60.0] if hit else [60.0, 60.0, 95.0, 95.0] for _, _, hit in found]
    instances = dict(
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in found]),
        labels=torch.tensor([label for label, _, _ in found], dtype=torch.long),
    )
    return dict(img_id=image, ori_shape=size, pred_instances=instances)


def evaluate(content, samples, folder, classes=CLASSES, **options):
    path = folder / "lvis.json"
    path.write_text(json.dumps(content))
    evaluator = Evaluator(METRICS.build(dict(type="LVISMetric", ann_file=str(path), **options)))
    evaluator.dataset_meta = dict(classes=classes)
    for one in samples:
        evaluator.process([one])
    return evaluator.evaluate(len(samples))


def test_detections_of_classes_that_an_image_is_not_annotated_for_are_dropped(tmp_path):
    """Two wrong tomatoes have higher scores than the right one, on images that are not annotated for tomatoes."""
    content = annotations([([], []), ([], []), ([], [])], [(1, 1), (2, 2)])
    samples = [sample(1, (0, 0.5, True)), sample(2, (0, 0.9, False)), sample(3, (0, 0.8, False))]
    found = evaluate(content, samples, tmp_path)
    assert found["lvis/bbox_APf"] == 1.0
    assert found["lvis/bbox_APc"] == 0.0  # the tongs are not found
    assert found["lvis/bbox_APr"] == -1.0
    assert found["lvis/bbox_AP"] == 0.5


def test_detections_of_classes_that_are_not_on_an_image_are_wrong(tmp_path):
    """One of two detections so far is right when the tomato is found: precision 1/2 at every recall."""
    content = annotations([([], []), ([1], []), ([], [])], [(1, 1)])
    samples = [sample(1, (0, 0.5, True)), sample(2, (0, 0.9, False)), sample(3, (0, 0.8, False))]
    assert evaluate(content, samples, tmp_path)["lvis/bbox_AP"] == 0.5


def test_wrong_detections_of_classes_that_are_not_annotated_exhaustively_are_ignored(tmp_path):
    found = {}
    for partial in ([], [1]):
        content = annotations([([], partial)], [(1, 1)])
        found[bool(partial)] = evaluate(content, [sample(1, (0, 0.9, False), (0, 0.5, True))], tmp_path)
    assert found[False]["lvis/bbox_AP"] == 0.5
    assert found[True]["lvis/bbox_AP"] == 1.0


def test_groups_are_those_of_the_file_and_areas_those_of_the_objects(tmp_path):
    content = annotations([([], [])], [(1, 1), (1, 2), (1, 3)], "rcf")
    found = evaluate(content, [sample(1, (0, 0.9, True), (1, 0.8, True))], tmp_path)
    values = {name: found[f"lvis/bbox_{name}"] for name in ("AP", "APr", "APc", "APf", "AP50", "AP75")}
    assert values == dict(AP=0.667, APr=1.0, APc=1.0, APf=0.0, AP50=0.667, AP75=0.667)
    # 2,500 pixels.
    assert [found[f"lvis/bbox_{name}"] for name in ("APs", "APm", "APl")] == [-1.0, 0.667, -1.0]


def test_only_the_best_300_detections_of_an_image_count(tmp_path):
    content = annotations([([], [])], [(1, 1), (1, 2)])
    many = [(1, 0.9, False)] * 300
    assert evaluate(content, [sample(1, *many[1:], (0, 0.5, True))], tmp_path)["lvis/bbox_APf"] == 1.0
    assert evaluate(content, [sample(1, *many, (0, 0.5, True))], tmp_path)["lvis/bbox_APf"] == 0.0
    few = [dict(image_id=k % 2, score=k / 10) for k in range(6)]
    assert [own["score"] for own in best_detections(few, 2)] == [0.4, 0.2, 0.5, 0.3]


def test_labels_are_found_by_name(tmp_path):
    content = annotations([([], [])], [(1, 3)])
    samples = [sample(1, (0, 0.9, True))]
    assert evaluate(content, samples, tmp_path, classes=("toolbox", "tomato"))["lvis/bbox_APr"] == 1.0
    with pytest.raises(DataError, match=r"no category 'tool box'; nearest: toolbox; give"):
        evaluate(content, samples, tmp_path, classes=("tool box",))


def test_masks_are_evaluated_and_no_detection_at_all_has_an_ap_of_zero(tmp_path):
    from test_coco import rle

    content = annotations([([], [])], [(1, 1)])
    one = sample(1, (0, 0.9, True), size=(480, 640))
    content["images"][0].update(width=640, height=480)
    one["pred_instances"]["masks"] = [rle(10, 10, 50, 50)]
    found = evaluate(content, [one], tmp_path, metric=["bbox", "segm"])
    assert found["lvis/segm_AP"] == found["lvis/bbox_AP"] == 1.0
    nothing = evaluate(content, [sample(1)], tmp_path)
    assert (nothing["lvis/bbox_AP"], nothing["lvis/bbox_APr"]) == (0.0, -1.0)


@pytest.mark.parametrize(
    ("kind", "key", "says"),
    [
        ("images", "neg_category_ids", "image 1 has no 'neg_category_ids'"),
        ("images", "not_exhaustive_category_ids", "image 1 has no 'not_exhaustive_category_ids'"),
        ("categories", "frequency", "category 1 has no 'frequency'"),
    ],
)
def test_files_that_are_none_of_lvis_are_refused_in_one_line(tmp_path, kind, key, says):
    content = annotations([([], [])], [(1, 1)])
    del content[kind][0][key]
    with pytest.raises(DataError, match=f"is no annotation file of LVIS: {says}") as refused:
        evaluate(content, [], tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [(dict(metric="proposal"), "metric must be 'bbox', 'segm' or both, got 'proposal'"),
     (dict(classwise=True), "classwise is no setting of it")],
)  # fmt: skip
def test_wrong_settings_are_refused(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        evaluate(annotations([], []), [], tmp_path, **options)


def test_missing_package_and_unreadable_file_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.json").write_text("[]")
    with pytest.raises(DataError, match=r"text.json cannot be read as annotations of LVIS"):
        LVISMetric(str(tmp_path / "text.json"))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ConfigError, match="pip install faster-coco-eval"):
        LVISMetric("none.json")


def test_dataset_is_read_without_the_package_of_lvis(tmp_path):
    content = annotations([([], []), ([], [])], [(1, 1), (1, 3)])
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    dataset = DATASETS.build(
        dict(
            type="LVISV1Dataset",
            data_root=str(tmp_path),
            ann_file="lvis.json",
            data_prefix=dict(img="coco/"),
            metainfo=dict(classes=CLASSES),
            pipeline=[],
        )
    )
    info = dataset.get_data_info(0)
    assert info["img_path"] == f"{tmp_path}/coco/val2017/000000000001.jpg"
    assert [own["bbox_label"] for own in info["instances"]] == [0, 2]
    assert dataset.get_cat_ids(1) == []


def test_a_detector_that_detects_nothing_has_an_ap_of_zero(tmp_path):
    content = annotations([([], []), ([], []), ([], [])], [(1, 1), (2, 2)])
    samples = [sample(1, (0, 0.5, True)), sample(2, (0, 0.9, False))]
    for one in samples:
        one["pred_instances"] = {name: value[:0] for name, value in one["pred_instances"].items()}
    found = evaluate(content, samples, tmp_path)
    assert found["lvis/bbox_AP"] == found["lvis/bbox_APf"] == 0.0
    assert found["lvis/bbox_APr"] == -1.0
