"""Distillation of a region proposal network."""

import copy
import math
from unittest import mock

from lad.errors import ConfigError, UnsupportedError
from lad.methods.roi.rpn import RPNDistillation, RPNPredictions, RPNTargets, sample_by_teacher

import pytest
import torch
from helpers import build, fake_cuda, make_batch, small_paa
from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from two_stage_detectors import RPN, distil, random_teacher, seeded_loss, total, two_stage

SOFTMAX = dict(rpn_head=dict(loss_cls=dict(use_sigmoid=False)))
DECODED = dict(
    rpn_head=dict(reg_decoded_bbox=True, loss_bbox=dict(_delete_=True, type="GIoULoss", loss_weight=1.0))
)
KINDS = dict(sigmoid={}, softmax=SOFTMAX, decoded=DECODED)


def rpn(**settings):
    return [dict(RPN, **settings)]


def good_teacher(scale=0.1, **overrides):
    return random_teacher(two_stage(base=16, **overrides), scale)


def by_hand(model, inputs, samples, mu=0.5, nu=0.5, margin=0.0, background=1.5):
    """Both terms anchor by anchor, on the anchors that MMDetection samples with the same seed."""
    student, teacher = model.student, model.teacher.model
    seen = {}
    original = RPNHead.get_targets

    def spy(self, anchors, *args, **kwargs):
        seen["anchors"], seen["targets"] = anchors, original(self, anchors, *args, **kwargs)
        return seen["targets"]

    plain = copy.deepcopy(student)
    with mock.patch.object(RPNHead, "get_targets", spy), torch.no_grad():
        seeded_loss(plain, inputs, samples)
        own = student.rpn_head(student.extract_feat(inputs))
        taught = teacher.rpn_head(teacher.extract_feat(inputs))
    labels, label_weights, box_targets, _, avg_factor = seen["targets"]
    coder = student.rpn_head.bbox_coder
    soft = bounded = 0.0
    for level in range(5):
        for image in range(len(samples)):

            def flat(maps, image=image, level=level):
                channels = maps[level].shape[1] // 3
                return maps[level][image].permute(1, 2, 0).reshape(-1, channels)

            def probability(logits):
                return logits.sigmoid() if logits.numel() == 1 else logits.softmax(0)[0]

            for anchor in torch.nonzero(label_weights[level][image])[:, 0].tolist():
                p_s = probability(flat(own[0])[anchor]).item()
                p_t = probability(flat(taught[0])[anchor]).item()
                soft -= p_t * math.log(p_s) + background * (1 - p_t) * math.log(1 - p_s)
                if labels[level][image][anchor] == 0:
                    truth = box_targets[level][image][anchor]
                    if student.rpn_head.reg_decoded_bbox:
                        prior = seen["anchors"][image][level][anchor]
                        truth = coder.encode(prior[None], truth[None])[0]
                    error = (flat(own[1])[anchor] - truth).square().sum().item()
                    bound = (flat(taught[1])[anchor] - truth).square().sum().item()
                    bounded += error if error + margin > bound else 0.0
    return (1 - mu) * soft / avg_factor, nu * bounded / avg_factor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objects", [(3, 0), (0, 0)])
def test_losses_equal_the_formulas_anchor_by_anchor(tmp_path, kind, objects):
    inputs, samples = make_batch(objects, size=(64, 96))
    settings = dict(mu=0.25, nu=0.75, margin=0.1, background_weight=2.0)
    model = distil(tmp_path, rpn(**settings), two_stage(**KINDS[kind]), good_teacher(**KINDS[kind]))
    for module in model.student.modules():  # the same batch norm in each of the forwards that are compared
        module.training = isinstance(module, RPNHead) or module is model.student
    expected = by_hand(model, inputs, samples, 0.25, 0.75, 0.1, 2.0)
    losses = seeded_loss(model, inputs, samples)
    assert losses["loss_rpn_cls_soft"].item() == pytest.approx(expected[0], rel=1e-4)
    assert losses["loss_rpn_bbox_bounded"].item() == pytest.approx(expected[1], rel=1e-4, abs=1e-7)
    assert (losses["loss_rpn_bbox_bounded"] > 0) == any(objects)


def test_hard_losses_are_scaled_once_and_named_so(tmp_path):
    inputs, samples = make_batch((3, 1), size=(64, 64))
    plain = seeded_loss(build(two_stage()).train(), inputs, samples)
    losses = seeded_loss(distil(tmp_path, rpn(mu=0.25, reg_weight=3.0)), inputs, samples)
    assert set(losses) == {
        "loss_rpn_cls_hard", "loss_rpn_bbox_hard", "loss_rpn_cls_soft", "loss_rpn_bbox_bounded",
        "loss_cls", "loss_bbox", "acc",
    }  # fmt: skip
    torch.testing.assert_close(losses["loss_rpn_cls_hard"], 0.25 * plain["loss_rpn_cls"])
    torch.testing.assert_close(losses["loss_rpn_bbox_hard"], 3 * plain["loss_rpn_bbox"])
    torch.testing.assert_close(losses["loss_cls"], plain["loss_cls"])


def test_softmax_and_sigmoid_rpns_can_teach_each_other(tmp_path):
    """A softmax of (z, 0) is the sigmoid of z: a teacher with such weights says the same."""
    inputs, samples = make_batch((3,), size=(64, 64))
    sigmoid, softmax = random_teacher(), random_teacher(two_stage(base=16, **SOFTMAX))
    state = softmax.state_dict()
    for name, value in sigmoid.state_dict().items():
        if "rpn_cls" in name:
            state[name] = torch.stack([value, torch.zeros_like(value)], dim=1).flatten(0, 1)
        else:
            state[name] = value
    softmax.load_state_dict(state)
    results = []
    for network in (sigmoid, softmax):
        results.append(seeded_loss(distil(tmp_path, rpn(), teacher=network), inputs, samples))
    for name in ("loss_rpn_cls_soft", "loss_rpn_bbox_bounded"):
        torch.testing.assert_close(results[0][name], results[1][name])


def test_box_coders_in_other_units_are_converted(tmp_path):
    """Deltas divided by twice the deviations say the same boxes."""
    inputs, samples = make_batch((3,), size=(64, 64))
    results = []
    for scale in (1.0, 2.0):
        network = good_teacher(0.1 / scale, rpn_head=dict(bbox_coder=dict(target_stds=[scale] * 4)))
        results.append(seeded_loss(distil(tmp_path, rpn(), teacher=network), inputs, samples))
    torch.testing.assert_close(results[0]["loss_rpn_bbox_bounded"], results[1]["loss_rpn_bbox_bounded"])
    assert results[0]["loss_rpn_bbox_bounded"] > 0


def test_student_better_than_its_teacher_by_the_margin_has_no_bounded_loss(tmp_path):
    inputs, samples = make_batch((3,), size=(64, 64))
    network = good_teacher()
    with torch.no_grad():
        network.rpn_head.rpn_reg.bias += 100  # far from every truth
    for margin, positive in ((0.0, False), (1e6, True)):
        losses = seeded_loss(distil(tmp_path, rpn(margin=margin), teacher=network), inputs, samples)
        assert (losses["loss_rpn_bbox_bounded"] > 0) == positive


def test_without_labels_the_teacher_takes_their_place(tmp_path):
    inputs, samples = make_batch((3, 1), size=(64, 64))
    model = distil(tmp_path, [*rpn(), dict(type="RCNNDistillation")], student_loss=False)
    losses = seeded_loss(model, inputs, samples)
    assert {name for name in losses if "rpn" in name} == {"loss_rpn_cls_soft", "loss_rpn_bbox_soft"}
    for sample in samples:
        del sample.gt_instances
    again = seeded_loss(model, inputs, samples)
    assert all(torch.equal(again[name], value) for name, value in losses.items())
    total(losses).backward()
    assert model.rpn_head.rpn_reg.weight.grad.abs().sum() > 0
    assert model.rpn_head.rpn_cls.weight.grad.abs().sum() > 0


def test_without_labels_the_student_comes_to_the_teachers_boxes_and_scores(tmp_path):
    inputs, samples = make_batch((1, 1), size=(64, 64))
    model = distil(tmp_path, [*rpn(), dict(type="RCNNDistillation")], student_loss=False)
    optimizer = torch.optim.Adam(model.rpn_head.parameters(), lr=1e-2)
    first = seeded_loss(model, inputs, samples)
    for _ in range(30):
        optimizer.zero_grad()
        total(seeded_loss(model, inputs, samples)).backward()
        optimizer.step()
    last = seeded_loss(model, inputs, samples)
    assert last["loss_rpn_bbox_soft"] < 0.8 * first["loss_rpn_bbox_soft"]
    # Not to 0: to the entropy of the teacher's scores.
    assert last["loss_rpn_cls_soft"] < first["loss_rpn_cls_soft"]


def test_sampling_by_the_teacher_takes_objects_up_to_their_part_and_fills_with_others():
    torch.manual_seed(0)
    scores = torch.full((3, 40), 0.1)
    scores[0, :3] = 0.9  # fewer objects than their part
    scores[1, :20] = 0.5  # more
    valid = torch.ones(3, 40, dtype=torch.bool)
    valid[2, 5:] = False  # fewer anchors than wanted
    index, weight, objects = sample_by_teacher(scores, valid, num=10, pos_fraction=0.5)
    taken = [set(index[image][weight[image] > 0].tolist()) for image in range(3)]
    seen = [set(index[image][objects[image] > 0].tolist()) for image in range(3)]
    assert [len(image) for image in taken] == [10, 10, 5] == weight.sum(1).tolist()
    assert seen[0] == {0, 1, 2}
    assert len(seen[1]) == 5
    assert seen[1] < set(range(20))
    assert taken[1] - seen[1] <= set(range(20, 40))
    assert (seen[2], taken[2]) == (set(), set(range(5)))
    other, *_ = sample_by_teacher(scores, valid, num=10, pos_fraction=0.5)
    assert not torch.equal(index, other)


def test_other_anchors_are_refused_with_the_reason_and_what_works(tmp_path):
    teacher = two_stage(base=16, rpn_head=dict(anchor_generator=dict(scales=[4])))
    with pytest.raises(UnsupportedError) as caught:
        distil(tmp_path, rpn(), teacher=teacher)
    message = str(caught.value)
    assert "anchor by anchor" in message
    assert "different anchors" in message
    assert "leave RPNDistillation out" in message
    assert "\n" not in message


def test_feature_maps_of_other_sizes_are_found_at_the_first_batch(tmp_path):
    teacher = two_stage(base=16)
    teacher.neck.update(start_level=1, in_channels=[16, 32, 64, 128])  # coarser maps than the strides say
    with pytest.raises(UnsupportedError, match="their feature maps differ in size"):
        distil(tmp_path, rpn(), teacher=teacher).loss(*make_batch((1,), size=(64, 64)))


def test_detectors_without_an_rpn_and_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"student PAA \(no rpn_head\); it works with RPNHead"):
        distil(tmp_path, rpn(), student=small_paa())
    for settings, message in (
        (dict(mu=1.5), "mu must be between 0 and 1, got 1.5"),
        (dict(nu=-1), "nu must be at least 0, got -1"),
        (dict(temperature=0), "temperature must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            RPNDistillation(**settings)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_on_cuda_tensors_do_not_wait(tmp_path, kind):
    method = distil(tmp_path, rpn(), two_stage(**KINDS[kind]), two_stage(base=16, **KINDS[kind])).methods[0]
    with fake_cuda():
        with torch.device("cuda"):
            head = MODELS.build(dict(two_stage(**KINDS[kind]).rpn_head, num_classes=1))
        sizes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
        channels = 3 * head.cls_out_channels
        student, teacher = (
            RPNPredictions.from_levels(
                head,
                [torch.randn(2, channels, *size, device="cuda") for size in sizes],
                [torch.randn(2, 12, *size, device="cuda") for size in sizes],
            )
            for _ in range(2)
        )
        count = len(student.objectness)
        weights, boxes = torch.rand(count, device="cuda"), torch.rand(count, 4, device="cuda")
        targets = RPNTargets(weights, boxes, weights, 256, boxes)
        losses = method.losses_with_labels(head, student, teacher, targets)
        assert {value.device.type for value in losses.values()} == {"cuda"}
        scores, valid = weights.view(2, -1), torch.ones(2, count // 2, dtype=torch.bool, device="cuda")
        assert all(part.device.type == "cuda" for part in sample_by_teacher(scores, valid, 64, 0.5))
