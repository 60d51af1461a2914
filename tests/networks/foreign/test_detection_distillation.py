"""The student's own loss on a teacher's detections."""

import copy

from lad.methods.response import detections

import pytest
import torch
from dense_detectors import dense
from detr_detectors import small_detr
from foreign_teachers import (
    DETECTION,
    distilled,
    entry,
    of_truth,
    taught_batch,
    write,
)
from helpers import build, make_batch, save_checkpoint, small_paa
from mask_detectors import segmentor
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from two_stage_detectors import two_stage, with_masks


@pytest.mark.parametrize(
    "family", ["paa", "rtmdet", "retinanet", "fcos", "gfl", "yolox", "tood", "ddod", "vfnet"]
)
def test_detections_at_the_annotations_give_the_students_own_loss(family, some_file):
    model = distilled(dense(family), some_file)
    losses = model.loss(*taught_batch(model, of_truth()))
    own = {
        name: value for name, value in losses.items() if name.startswith("loss_") and "detections" not in name
    }
    assert own
    for name, value in own.items():
        expected = sum(value) if isinstance(value, list) else value
        torch.testing.assert_close(losses[name.replace("loss", "loss_detections", 1)], expected)


@pytest.mark.parametrize(
    "student",
    [two_stage("faster"), two_stage("mask"), small_detr("one_stage")],
    ids=["Faster", "Mask", "DETR"],
)
def test_other_detectors_learn_from_features_computed_once(student, some_file):
    model = distilled(student, some_file)
    model.init_weights()
    calls = []
    model.student.backbone.register_forward_hook(lambda *_: calls.append(1))
    inputs, samples = taught_batch(model, of_truth())
    if getattr(model.student, "with_mask", False):
        with_masks(samples)
    losses = model.loss(inputs, samples)
    assert "loss_detections_mask" not in losses
    taught = {name: value for name, value in losses.items() if "detections" in name}
    assert any("cls" in name for name in taught)
    assert any("bbox" in name for name in taught)
    assert len(calls) == 1
    sum(taught.values()).backward()
    gradients = [p.grad for p in model.student.backbone.parameters() if p.grad is not None]
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_own_loss_is_plain_training_and_weight_scales_the_terms(some_file):
    single, double = (
        distilled(small_paa(), some_file, dict(DETECTION, loss_weight=weight)) for weight in (1.0, 2.0)
    )
    plain = build(small_paa()).train()
    expected = plain.loss(*make_batch())
    one, two = (model.loss(*taught_batch(model, of_truth())) for model in (single, double))
    for name, value in expected.items():
        torch.testing.assert_close(one[name], value)
        torch.testing.assert_close(two[name], value)
    torch.testing.assert_close(two["loss_detections_cls"], 2 * one["loss_detections_cls"])


def test_soft_targets_make_a_detection_an_object_as_often_as_its_score(some_file):
    method = distilled(small_paa(), some_file, dict(DETECTION, targets="soft")).methods[0]
    found = InstanceData(
        bboxes=torch.zeros(3, 4), labels=torch.arange(3), scores=torch.tensor([0.9, 0.6, 0.2])
    )
    torch.manual_seed(0)
    for count in (1, 3):
        counts = torch.tensor(
            [
                len(method.chosen(found, limit))
                for step in range(3000)
                for limit in method.thresholds(count, step)
            ]
        )
        often = torch.stack([(counts > number).float().mean() for number in range(3)])
        torch.testing.assert_close(often, found.scores, atol=0.03, rtol=0)
    method.targets, method.min_score = "hard", 0.6
    assert method.thresholds(2, 0) == [0.6, 0.6]
    assert method.chosen(found, 0.6).labels.tolist() == [0, 1]


def test_thresholds_of_a_batch_are_spread_over_the_whole_range(some_file):
    """Heads divide by the number of positives, of which a batch of high thresholds alone would have none."""
    method = distilled(small_paa(), some_file, dict(DETECTION, targets="soft", min_score=0.0)).methods[0]
    quarters = [[int(4 * limit) for limit in method.thresholds(4, step)] for step in range(200)]
    assert all(sorted(each) == [0, 1, 2, 3] for each in quarters)
    # Each of them falls to each image: the order of the data may be fixed.
    often = torch.nn.functional.one_hot(torch.tensor(quarters)).float().mean(0)
    torch.testing.assert_close(often, torch.full((4, 4), 0.25), atol=0.12, rtol=0)


def test_thresholds_of_all_processes_are_spread_over_the_whole_range(some_file, monkeypatch):
    """Heads divide by the number of positives of all; each process may have drawn other numbers before."""
    method = distilled(small_paa(), some_file, dict(DETECTION, targets="soft", min_score=0.0)).methods[0]
    monkeypatch.setattr(detections, "get_world_size", lambda: 3)
    for step in range(20):
        found = []
        for rank in range(3):
            monkeypatch.setattr(detections, "get_rank", lambda rank=rank: rank)
            torch.rand(rank + 1)
            found += method.thresholds(2, step)
        assert sorted(int(6 * limit) for limit in found) == [0, 1, 2, 3, 4, 5]


def test_rpn_runs_once_without_annotations(some_file):
    """In the loss on the detections, for which the features are captured."""
    model = distilled(two_stage(), some_file, student_loss=False)
    calls = []
    model.student.rpn_head.register_forward_hook(lambda *args: calls.append(args))
    model.loss(*taught_batch(model, of_truth()))
    assert len(calls) == 1


def test_a_student_learns_from_a_file_without_annotations(some_file):
    model = distilled(dense("rtmdet"), some_file, student_loss=False)
    inputs, samples = taught_batch(model, of_truth())
    for sample in samples:
        del sample.gt_instances
    losses = model.loss(inputs, samples)
    assert set(losses) == {"loss_detections_cls", "loss_detections_bbox"}
    sum(sum(value) if isinstance(value, list) else value for value in losses.values()).backward()
    assert all(p.grad is not None for p in model.student.parameters() if p.requires_grad)


def test_a_file_of_the_live_teachers_detections_gives_the_live_teachers_loss(tmp_path, some_file):
    """A box that travelled through JSON is the box."""
    student, teacher = small_paa(), small_paa(base=16)
    path = save_checkpoint(build(teacher, 1), tmp_path / "teacher.pth")
    config = dict(
        type="DistillationDetector",
        student=copy.deepcopy(student),
        teacher=dict(teacher, checkpoint=path),
        methods=[dict(DETECTION, min_score=0.3)],
    )
    live = MODELS.build(config)
    live.student.load_state_dict(build(student).state_dict())
    inputs, samples = make_batch()
    found = live.teachers["teacher"].view(inputs, samples, ()).detections
    assert sum(int((each.scores >= 0.3).sum()) for each in found) > 3
    flags = [module.training for module in live.teachers["teacher"].model.modules()]
    expected = live.loss(inputs, samples)
    assert [module.training for module in live.teachers["teacher"].model.modules()] == flags
    entries = [
        entry(number, int(label) + 1, (x1, y1, x2 - x1, y2 - y1), float(score))
        for number, each in enumerate(found)
        for (x1, y1, x2, y2), label, score in zip(
            each.bboxes.tolist(), each.labels.tolist(), each.scores.tolist(), strict=True
        )
    ]
    model = distilled(student, write(tmp_path / "live.json", entries), dict(DETECTION, min_score=0.3))
    read = model.teachers["teacher"].detections

    def of_file(sample):
        start, stop = read.rows[str(sample.img_id)]
        return InstanceData(
            bboxes=torch.from_numpy(read.boxes[start:stop]),
            labels=torch.from_numpy(read.classes[start:stop]),
            scores=torch.from_numpy(read.scores[start:stop]),
        )

    # The same class order: names by first appearance of their ids.
    losses = model.loss(*taught_batch(model, of_file))
    for name in ("loss_detections_cls", "loss_detections_bbox", "loss_detections_iou"):
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-4, atol=1e-5)


def live_teacher(teacher, folder):
    path = save_checkpoint(build(teacher, 1), folder / "teacher.pth")
    config = dict(
        type="DistillationDetector",
        student=small_paa(),
        teacher=dict(teacher, checkpoint=path),
        methods=[DETECTION],
    )
    return MODELS.build(config).teachers["teacher"]


def predicting(teacher, monkeypatch, **predictions):
    """The teacher's detections in a batch of two images, in each of which it predicts the same."""

    def predict(inputs, samples, rescale):
        for sample in samples:
            sample.pred_instances = InstanceData(**predictions)
        return samples

    monkeypatch.setattr(teacher.model, "predict", predict)
    return teacher.detect(*make_batch())


def test_boxes_without_area_are_no_detections(tmp_path, monkeypatch):
    boxes = torch.tensor(
        [[0.0, 5.0, 0.0, 9.0], [1.0, 1.0, 5.0, 5.0], [3.0, 7.0, 8.0, 7.0], [2.0, 2.0, 4.0, 9.0]]
    )
    scores, labels = torch.tensor([0.9, 0.2, 0.8, 0.7]), torch.tensor([0, 1, 2, 0])
    teacher = live_teacher(small_paa(base=16), tmp_path)
    for found in predicting(teacher, monkeypatch, bboxes=boxes, scores=scores, labels=labels):
        torch.testing.assert_close(found.bboxes, boxes[[3, 1]])
        assert found.labels.tolist() == [0, 1]
        torch.testing.assert_close(found.scores, scores[[3, 1]])


def test_detections_of_a_teacher_that_predicts_masks_alone_have_the_masks_boxes(tmp_path, monkeypatch):
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 3:8, 5:11] = True  # of the other nothing is left
    predictions = dict(bboxes=torch.zeros(2, 4), scores=torch.tensor([0.6, 0.9]), labels=torch.tensor([1, 0]))
    teacher = live_teacher(segmentor("solo"), tmp_path)
    for found in predicting(teacher, monkeypatch, masks=masks, **predictions):
        assert found.labels.tolist() == [1]
        torch.testing.assert_close(found.bboxes, torch.tensor([[5.0, 3.0, 11.0, 8.0]]))


@pytest.mark.parametrize("kind", ["mask", "cascade_mask"])
def test_masks_that_nobody_reads_are_not_predicted_and_boxes_are_the_same(kind, tmp_path):
    teacher = live_teacher(segmentor(kind), tmp_path)
    config = teacher.model.roi_head.test_cfg
    config.score_thr = 0.0
    heads = teacher.model.roi_head.mask_head
    calls = []
    for head in heads if isinstance(heads, torch.nn.ModuleList) else [heads]:
        head.register_forward_hook(lambda *_: calls.append(1))
    inputs, samples = make_batch()
    found = teacher.detect(inputs, samples)
    assert calls == []
    assert teacher.model.roi_head.mask_head is heads
    teacher.model.eval()
    with torch.no_grad():
        whole = teacher.model.predict(inputs, [sample.new() for sample in samples], rescale=False)
    assert calls
    for own, sample in zip(found, whole, strict=True):
        expected = sample.pred_instances
        areas = (expected.bboxes[:, 2:] > expected.bboxes[:, :2]).all(dim=1)
        assert len(own) == int(areas.sum()) > 0
        assert sorted(own.scores.tolist()) == sorted(expected.scores[areas].tolist())
