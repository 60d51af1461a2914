"""CocoMetric with faster-coco-eval answers as with pycocotools."""

import json
import sys

from lad.compat import coco_evaluation_by
from lad.errors import ConfigError
from lad.evaluation.coco import CocoMetric, faster_evaluator

import mmdet.evaluation
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import METRICS
from mmengine.evaluator import Evaluator
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = ("cell", "plate", "clot")
SIZE = (480, 640)


def recorded(seed, images=12, with_masks=False):
    """Ground truth as COCO has it, and detections as a detector records them.

    There are images without objects, without detections and without both, crowds, objects of all of COCO's areas, of
    which an area beyond 1e10 is ignored in every range, equal scores, and a class that is never detected.
    """
    rng = np.random.default_rng(seed)
    annotations, samples = [], []
    for image in range(images):
        count = 0 if image % 5 == 0 else int(rng.integers(1, 9))
        extent = np.exp(rng.uniform(np.log(4), np.log(300), (count, 2))).round(2)
        corner = (rng.random((count, 2)) * (np.array(SIZE[::-1]) - extent)).round(2)
        labels = rng.integers(0, 3, count)
        for number in range(count):
            x, y, w, h = (float(v) for v in (*corner[number], *extent[number]))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(labels[number]) + 1,
                    bbox=[x, y, w, h],
                    area=2e10 if rng.random() < 0.05 else w * h * float(rng.uniform(0.4, 1)),
                    iscrowd=int(rng.random() < 0.15),
                    **(dict(segmentation=rle(x, y, w, h)) if with_masks else {}),
                )
            )
        boxes = np.concatenate([corner, corner + extent], 1).repeat(2, 0)
        boxes = boxes + rng.normal(0, 0.15, boxes.shape) * np.tile(extent, 2).repeat(2, 0)
        noise = rng.random((0 if image % 5 == 1 else 7, 2)) * 400
        boxes = np.concatenate([boxes, np.concatenate([noise, noise + 60], 1)])
        found = np.concatenate([labels.repeat(2), rng.integers(0, 3, len(noise))])
        kept = found != 2 if seed % 2 else np.ones(len(found), dtype=bool)
        kept &= image % 6 != 5
        instances = dict(
            bboxes=torch.from_numpy(boxes[kept]).float(),
            scores=torch.from_numpy(rng.integers(1, 20, kept.sum()) / 20.0),
            labels=torch.from_numpy(found[kept]),
        )
        if with_masks:
            instances["masks"] = [
                rle(x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)) for x1, y1, x2, y2 in boxes[kept]
            ]
        samples.append(dict(img_id=image, ori_shape=SIZE, pred_instances=instances))
    content = dict(
        info={},
        images=[dict(id=i, width=SIZE[1], height=SIZE[0], file_name=f"{i}.jpg") for i in range(images)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        annotations=annotations,
    )
    return content, samples


def rle(x, y, w, h):
    """A box as a mask, run by run."""
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[max(int(y), 0) : int(y + h) + 1, max(int(x), 0) : int(x + w) + 1] = 1
    encoded = mask_utils.encode(mask)
    return dict(size=list(SIZE), counts=encoded["counts"].decode())


def evaluate(content, samples, folder, **settings):
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type="CocoMetric", ann_file=str(path), **settings))
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(classes=CLASSES)
    evaluator.process([], [])
    metric.process({}, samples)
    return evaluator.evaluate(len(samples))


@pytest.mark.parametrize(
    "options",
    [
        dict(metric="bbox"),
        dict(metric="bbox", classwise=True),
        dict(metric="bbox", metric_items=["mAP", "mAP_75", "AR@300", "AR_s@1000"]),
        dict(metric="bbox", iou_thrs=[0.3, 0.5, 0.75]),
        dict(metric="bbox", iou_thrs=0.5),
        dict(metric="bbox", proposal_nums=(1, 10, 100)),
        dict(metric="bbox", proposal_nums=(2, 3, 5)),
        dict(metric="proposal"),
        dict(metric="segm", classwise=True),
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
@pytest.mark.parametrize("seed", [0, 1])
def test_both_backends_give_the_same_metrics(options, seed, tmp_path):
    content, samples = recorded(seed, with_masks=options["metric"] == "segm")
    slow = evaluate(content, samples, tmp_path, **options)
    fast = evaluate(content, samples, tmp_path, backend="faster-coco-eval", **options)
    assert slow.keys() == fast.keys()
    np.testing.assert_allclose(list(fast.values()), list(slow.values()), rtol=0, atol=1e-6)
    assert max(slow.values()) > 0.05


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), use_cats=st.booleans())
def test_precision_recall_and_scores_agree_at_every_threshold_and_area(seed, use_cats):
    """What the metrics are averaged from, before MMDetection rounds to three decimals."""
    content, samples = recorded(seed)
    results = [
        dict(
            image_id=sample["img_id"],
            category_id=int(label) + 1,
            bbox=[float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            score=float(score),
        )
        for sample in samples
        for (x1, y1, x2, y2), score, label in zip(*sample["pred_instances"].values(), strict=True)
    ]
    evaluated = []
    for kind in (COCOeval, faster_evaluator()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        evaluation = kind(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.params.useCats = int(use_cats)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        evaluated.append(evaluation)
    slow, fast = evaluated
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(fast.eval[name], slow.eval[name], rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(fast.stats, slow.stats, rtol=0, atol=1e-6)


def test_ground_truth_that_comes_with_the_samples_is_evaluated_alike(tmp_path):
    _, samples = recorded(3)
    boxes = samples[1]["pred_instances"]["bboxes"]
    for sample in samples:
        sample["instances"] = [
            dict(bbox_label=0, bbox=box.tolist(), ignore_flag=number % 2)
            for number, box in enumerate(boxes[:4])
        ]
    values = []
    for backend in ("pycocotools", "faster-coco-eval"):
        metric = CocoMetric(backend=backend)
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, samples)
        values.append(metric.evaluate(len(samples)))
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_fast_recall_asks_no_evaluator(tmp_path):
    class Refusing:
        def __init__(self, *args):
            raise AssertionError("asked")

    # One object and one detection an image: MMDetection 3.3 counts no others with numpy >= 1.24.
    content, samples = recorded(0)
    content["annotations"] = [
        dict(id=i + 1, image_id=i, category_id=1, bbox=[10, 10, 50, 40], area=2000, iscrowd=0)
        for i in range(len(samples))
    ]
    for sample in samples:
        # IoU 40 / 50 = 0.8: found at 7 of the 10 thresholds from 0.5 to 0.95.
        found = dict(bboxes=torch.tensor([[10.0, 10.0, 50.0, 50.0]]), scores=torch.ones(1))
        sample["pred_instances"] = dict(found, labels=torch.zeros(1).long())
    with coco_evaluation_by(Refusing):
        for backend in ("pycocotools", "faster-coco-eval"):
            recall = evaluate(content, samples, tmp_path, metric="proposal_fast", backend=backend)
            assert recall["coco/AR@100"] == pytest.approx(0.7)
        with pytest.raises(AssertionError, match="asked"):
            evaluate(content, samples, tmp_path)


def test_without_a_backend_it_is_mmdetections_metric_with_pycocotools(tmp_path):
    content, samples = recorded(0)
    metric = METRICS.build(dict(type="mmdet.CocoMetric"))
    assert isinstance(metric, mmdet.evaluation.CocoMetric)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    original = mmdet.evaluation.CocoMetric(ann_file=str(path))
    original.dataset_meta = dict(classes=CLASSES)
    original.process({}, samples)
    assert evaluate(content, samples, tmp_path) == original.evaluate(len(samples))


def test_pycocotools_evaluates_again_after_an_error(tmp_path):
    content, samples = recorded(0)
    before = mmdet.evaluation.metrics.coco_metric.COCOeval
    with pytest.raises(KeyError, match="nonsense"):
        evaluate(content, samples, tmp_path, backend="faster-coco-eval", metric_items=["nonsense"])
    assert mmdet.evaluation.metrics.coco_metric.COCOeval is before is COCOeval


def test_a_missing_package_is_said_when_the_metric_is_built(monkeypatch):
    faster_evaluator.cache_clear()
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ConfigError, match="pip install faster-coco-eval") as raised:
        CocoMetric(backend="faster-coco-eval")
    assert "\n" not in str(raised.value)
    CocoMetric()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(backend="fast"), "must be 'pycocotools' or 'faster-coco-eval', got 'fast'"),
        (dict(backend="faster-coco-eval", use_mp_eval=True), "take out use_mp_eval"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message):
        CocoMetric(**settings)


@pytest.mark.parametrize(
    "options",
    [
        dict(metric=["bbox", "segm"], classwise=True),
        dict(metric="proposal"),
        dict(metric="bbox", use_mp_eval=True),
        dict(metric="bbox", backend="faster-coco-eval"),
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_a_detector_that_detects_nothing_has_an_map_of_zero(options, tmp_path):
    content, samples = recorded(0, with_masks=True)
    for one in samples:
        one["pred_instances"] = {name: value[:0] for name, value in one["pred_instances"].items()}
    found = evaluate(content, samples, tmp_path, **options)
    names = {name for name in found if "precision" not in name}
    assert len(names) == (12 if "segm" in options["metric"] else 6)
    assert {found[name] for name in names} == {0.0}


def test_a_detector_that_detects_nothing_has_an_ap_of_rare_classes_of_zero(tmp_path):
    content, samples = recorded(0)
    for one in samples:
        one["pred_instances"] = {name: value[:0] for name, value in one["pred_instances"].items()}
    (tmp_path / "train.json").write_text(json.dumps(content))
    found = evaluate(content, samples, tmp_path, frequencies=dict(ann_file=str(tmp_path / "train.json")))
    assert found["coco/bbox_AP_rare"] == found["coco/bbox_mAP"] == 0.0
